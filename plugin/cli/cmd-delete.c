// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"
#include "plugin/error.h"

// What the ids mean, each snapshot once; nothing where one of them means nothing.
static GPtrArray *
find_all(VsContext *context, char *const *ids, GError **error)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)vs_snapshot_free);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (; *ids != NULL; ids++) {
        g_autoptr(GPtrArray) found = vs_context_find(context, *ids, error);
        if (found == NULL)
            return NULL;
        for (guint i = 0; i < found->len; i++) {
            VsSnapshot *snapshot = g_ptr_array_index(found, i);
            // g_hash_table_add() would put the new key, soon to be freed, into the old one's place.
            if (g_hash_table_contains(seen, snapshot->manifest->id))
                continue;
            g_hash_table_add(seen, snapshot->manifest->id);
            g_ptr_array_add(all, g_steal_pointer(&g_ptr_array_index(found, i)));
        }
    }
    return g_steal_pointer(&all);
}

// Another member of a group may have taken this one along, or it may just have ended: either way it
// is no longer in progress.
static bool
stop(VsContext *context, const char *id, GError **error)
{
    g_autoptr(GError) cause = NULL;
    g_autoptr(VsSnapshot) stopped = vs_context_cancel(context, id, &cause);
    if (stopped != NULL)
        return true;
    g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(context->catalogue, id, error);
    if (snapshot != NULL && snapshot->status == VS_STATUS_PROGRESSING)
        g_propagate_error(error, g_steal_pointer(&cause));
    return snapshot != NULL && snapshot->status != VS_STATUS_PROGRESSING;
}

// A failed row may have a manifest, one that can't be read.
static bool
has_manifest(VsContext *context, const char *id)
{
    static const char *const folders[] = {"snapshots", "bases"};
    bool has = false;
    for (size_t i = 0; i < G_N_ELEMENTS(folders) && !has; i++) {
        g_autofree char *name = g_strdup_printf("%s/%s", folders[i], id);
        uint64_t size;
        has =
            vs_object_store_get_size(vs_repository_objects(context->repository), name, &size, NULL);
    }
    return has;
}

// Somebody else may have been faster.
static bool
delete_manifest(VsContext *context, const char *id, GError **error)
{
    g_autoptr(GError) cause = NULL;
    if (!vs_context_lock(context, error))
        return false;
    if (vs_repository_delete(context->repository, id, &cause) ||
        g_error_matches(cause, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_NOT_FOUND))
        return true;
    g_propagate_error(error, g_steal_pointer(&cause));
    return false;
}

static bool
delete_one(VsContext *context, const VsSnapshot *snapshot, GError **error)
{
    const char *id = snapshot->manifest->id;
    if (snapshot->status == VS_STATUS_PROGRESSING && !stop(context, id, error))
        return false;
    bool stored = snapshot->status == VS_STATUS_ACCOMPLISHED || has_manifest(context, id);
    if (stored && !delete_manifest(context, id, error))
        return false;
    return vs_catalogue_forget(context->catalogue, id, error);
}

bool
vs_cmd_delete(VsInvocation *invocation, GError **error)
{
    gboolean force = FALSE;
    const GOptionEntry options[] = {
        {"force", 0, 0, G_OPTION_ARG_NONE, &force, "Even if disks have been made from it", NULL},
        VS_OPTION_END,
    };
    if (!vs_options_parse(invocation, options, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open_to_write(invocation, error);
    if (context == NULL)
        return false;
    g_autoptr(GPtrArray) snapshots = find_all(context, invocation->arguments, error);
    if (snapshots == NULL)
        return false;
    invocation->document = json_object_new_object();
    struct json_object *deleted = json_object_new_array();
    json_object_object_add(invocation->document, "deleted", deleted);
    for (guint i = 0; i < snapshots->len; i++) {
        const VsSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        if (!delete_one(context, snapshot, error))
            return false;
        json_object_array_add(deleted, vs_output_string(snapshot->manifest->id));
        g_string_append_printf(invocation->text, "Deleted %s.\n", snapshot->manifest->id);
    }
    return true;
}
