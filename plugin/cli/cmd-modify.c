// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"
#include "plugin/cli/validate.h"
#include "plugin/error.h"

typedef struct {
    char *name;        // NULL: as it is, "": none any more
    char *description; // the same
    char *retain;
    char **tag;
    char **untag;
    char *speed_limit;

    int64_t retain_us;
    uint64_t speed_limit_bytes;
    GHashTable *tags;
} Change;

static void
change_clear(Change *change)
{
    g_free(change->name);
    g_free(change->description);
    g_free(change->retain);
    g_strfreev(change->tag);
    g_strfreev(change->untag);
    g_free(change->speed_limit);
    g_clear_pointer(&change->tags, g_hash_table_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Change, change_clear)

// Of what the snapshot is, and stays.
static bool
changes_label(const Change *change)
{
    return change->name != NULL || change->description != NULL || change->retain != NULL ||
           change->tag != NULL || change->untag != NULL;
}

// The one change is for snapshots in progress, the others are for those that are not.
static bool
validate_choice(const Change *change, GError **error)
{
    if (changes_label(change) != (change->speed_limit != NULL))
        return true;
    g_set_error_literal(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER,
                        change->speed_limit != NULL
                            ? "modify: --speed-limit is for a snapshot in progress, of which "
                              "nothing else can be changed: give it alone"
                            : "modify: nothing to change: see 'virtsnap modify --help'");
    return false;
}

static bool
validate(Change *change, GError **error)
{
    if (!validate_choice(change, error))
        return false;
    if (change->speed_limit != NULL && !g_str_equal(change->speed_limit, "0") &&
        !vs_parse_size("--speed-limit", change->speed_limit, &change->speed_limit_bytes, error))
        return false;
    if (change->name != NULL && *change->name != '\0' && !vs_validate_name(change->name, error))
        return false;
    if (change->description != NULL && !vs_validate_description(change->description, error))
        return false;
    if (change->retain != NULL && !vs_parse_retention(change->retain, &change->retain_us, error))
        return false;
    for (char **key = change->untag; key != NULL && *key != NULL; key++) {
        if (!vs_validate_tag_key(*key, error))
            return false;
    }
    change->tags = vs_parse_tags(change->tag, error);
    return change->tags != NULL;
}

static void
replace_text(char **member, const char *text)
{
    if (text == NULL)
        return;
    g_free(*member);
    *member = *text != '\0' ? g_strdup(text) : NULL;
}

static bool
apply(const Change *change, VsSnapshot *snapshot, GError **error)
{
    VsManifest *manifest = snapshot->manifest;
    replace_text(&manifest->name, change->name);
    replace_text(&manifest->description, change->description);
    if (change->retain != NULL)
        manifest->expires_at_us =
            change->retain_us > 0 ? manifest->created_at_us + change->retain_us : 0;
    for (char **key = change->untag; key != NULL && *key != NULL; key++)
        g_hash_table_remove(snapshot->tags, *key);
    GHashTableIter iter;
    gpointer key;
    gpointer value;
    g_hash_table_iter_init(&iter, change->tags);
    while (g_hash_table_iter_next(&iter, &key, &value))
        g_hash_table_replace(snapshot->tags, g_strdup(key), g_strdup(value));
    if (g_hash_table_size(snapshot->tags) <= VS_TAGS_MAX)
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER,
                "snapshot %s: it would have %u tags: at most %d: remove some with --untag",
                manifest->id, g_hash_table_size(snapshot->tags), VS_TAGS_MAX);
    return false;
}

// The manifest is the truth; the row follows it, and is read again if we die in between.
static bool
store(VsContext *context, const VsSnapshot *snapshot, GError **error)
{
    const char *id = snapshot->manifest->id;
    if (snapshot->status == VS_STATUS_ACCOMPLISHED &&
        (!vs_context_lock(context, error) ||
         !vs_catalogue_expect_change(context->catalogue, id, error) ||
         !vs_repository_relabel(context->repository, snapshot->manifest, error)))
        return false;
    return vs_catalogue_relabel(context->catalogue, snapshot, error);
}

// All are seen to be changeable before the first one is changed.
static bool
modify(VsContext *context, const GPtrArray *snapshots, const Change *change, GError **error)
{
    for (guint i = 0; i < snapshots->len; i++) {
        VsSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        if (snapshot->status == VS_STATUS_PROGRESSING) {
            g_set_error(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS,
                        "snapshot %s: modify: it is in progress: wait for it, or cancel it",
                        snapshot->manifest->id);
            return false;
        }
        if (!apply(change, snapshot, error))
            return false;
    }
    for (guint i = 0; i < snapshots->len; i++) {
        if (!store(context, g_ptr_array_index(snapshots, i), error))
            return false;
    }
    return true;
}

// The process that makes them looks several times a second.
static bool
change_speed(VsContext *context, const GPtrArray *snapshots, const Change *change, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    for (guint i = 0; i < snapshots->len; i++)
        g_ptr_array_add(ids, ((VsSnapshot *)g_ptr_array_index(snapshots, i))->manifest->id);
    return vs_catalogue_request_speed(context->catalogue, ids, change->speed_limit_bytes, error);
}

static bool
run(VsContext *context, const GPtrArray *snapshots, const Change *change, GError **error)
{
    return change->speed_limit != NULL ? change_speed(context, snapshots, change, error)
                                       : modify(context, snapshots, change, error);
}

bool
vs_cmd_modify(VsInvocation *invocation, GError **error)
{
    g_auto(Change) change = {NULL};
    const GOptionEntry options[] = {
        {"name", 0, 0, G_OPTION_ARG_FILENAME, &change.name, "A new name; '' for none", "S"},
        {"description", 0, 0, G_OPTION_ARG_FILENAME, &change.description,
         "A new description; '' for none", "S"},
        {"retain", 0, 0, G_OPTION_ARG_FILENAME, &change.retain,
         "Keep it so long from its creation: Nd (1 to 65536 days) or forever", "Nd|forever"},
        {"tag", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &change.tag, "Add or replace a tag; repeatable",
         "K=V"},
        {"untag", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &change.untag, "Remove a tag; repeatable",
         "K"},
        {"speed-limit", 0, 0, G_OPTION_ARG_FILENAME, &change.speed_limit,
         "Go on at N bytes a second, 0 for no limit: only while it is in progress", "N"},
        VS_OPTION_END,
    };
    if (!vs_options_parse(invocation, options, error) || !validate(&change, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open_to_write(invocation, error);
    if (context == NULL)
        return false;
    const char *id = invocation->arguments[0];
    g_autoptr(GPtrArray) snapshots = vs_context_find(context, id, error);
    if (snapshots == NULL || !run(context, snapshots, &change, error))
        return false;
    vs_output_found(snapshots, vs_context_is_group(id), &invocation->document, invocation->text);
    return true;
}
