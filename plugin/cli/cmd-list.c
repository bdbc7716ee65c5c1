// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"
#include "plugin/cli/validate.h"
#include "plugin/hypervisor/reach.h"

typedef struct {
    char *instance;
    char *disk;
    char *group;
    char *status;
    char **tags;

    GHashTable *tag_table; // what tags say
} Given;

static void
given_clear(Given *given)
{
    g_free(given->instance);
    g_free(given->disk);
    g_free(given->group);
    g_free(given->status);
    g_strfreev(given->tags);
    g_clear_pointer(&given->tag_table, g_hash_table_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Given, given_clear)

static bool
resolve_instance(Given *given, const char *connect_uri, GError **error)
{
    // A socket may be written in several ways, and snapshots bear no UUID; the instance has one id.
    // A domain's name is on its snapshots, so that libvirt need not be asked.
    bool is_uuid = given->instance != NULL && g_uuid_string_is_valid(given->instance);
    if (given->instance == NULL || (!is_uuid && !g_str_has_prefix(given->instance, "qmp:")))
        return true;
    g_auto(VsReach) reach = {0};
    if (!vs_reach_find(&reach, connect_uri, given->instance, error))
        return false;
    g_free(given->instance);
    given->instance = g_steal_pointer(&reach.instance_id);
    return true;
}

static bool
make_filter(Given *given, const char *connect_uri, VsSnapshotFilter *filter, GError **error)
{
    if (!resolve_instance(given, connect_uri, error))
        return false;
    VsStatus status = VS_STATUS_PROGRESSING;
    if (given->status != NULL && !vs_parse_status(given->status, &status, error))
        return false;
    given->tag_table = vs_parse_tags(given->tags, error);
    if (given->tag_table == NULL)
        return false;
    *filter = (VsSnapshotFilter){.instance = given->instance,
                                 .disk = given->disk,
                                 .group = given->group,
                                 .status = given->status != NULL ? (int)status : -1};
    return true;
}

static bool
has_tags(const VsSnapshot *snapshot, GHashTable *wanted)
{
    GHashTableIter iter;
    gpointer key;
    gpointer value;
    g_hash_table_iter_init(&iter, wanted);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        if (g_strcmp0(g_hash_table_lookup(snapshot->tags, key), value) != 0)
            return false;
    }
    return true;
}

// The catalogue's filter knows one tag only.
static void
keep_tagged(GPtrArray *snapshots, GHashTable *wanted)
{
    for (guint i = snapshots->len; i > 0; i--) {
        if (!has_tags(g_ptr_array_index(snapshots, i - 1), wanted))
            g_ptr_array_remove_index(snapshots, i - 1);
    }
}

bool
vs_cmd_list(VsInvocation *invocation, GError **error)
{
    g_auto(Given) given = {NULL};
    const GOptionEntry options[] = {
        {"instance", 0, 0, G_OPTION_ARG_FILENAME, &given.instance,
         "Only of this instance: domain, qmp:SOCKET or i-...", "I"},
        {"disk", 0, 0, G_OPTION_ARG_FILENAME, &given.disk, "Only of this disk: its target or d-...",
         "D"},
        {"group", 0, 0, G_OPTION_ARG_FILENAME, &given.group, "Only of this group: ssg-...", "G"},
        {"status", 0, 0, G_OPTION_ARG_FILENAME, &given.status,
         "Only of this status: progressing, accomplished or failed", "S"},
        {"tag", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &given.tags,
         "Only with this tag; repeatable: all must match", "K=V"},
        VS_OPTION_END,
    };
    VsSnapshotFilter filter;
    if (!vs_options_parse(invocation, options, error) ||
        !make_filter(&given, invocation->connect, &filter, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    if (context == NULL)
        return false;
    g_autoptr(GPtrArray) snapshots = vs_catalogue_list(context->catalogue, &filter, error);
    if (snapshots == NULL)
        return false;
    keep_tagged(snapshots, given.tag_table);
    invocation->document = vs_output_snapshots(snapshots);
    vs_output_snapshot_table(snapshots, invocation->text);
    return true;
}
