// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"
#include "plugin/error.h"

// The one to ask for: its maker ends the whole group. Where none is in progress any will do, to be
// refused.
static const VsSnapshot *
choose(const GPtrArray *snapshots)
{
    for (guint i = 0; i < snapshots->len; i++) {
        const VsSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        if (snapshot->status == VS_STATUS_PROGRESSING)
            return snapshot;
    }
    return g_ptr_array_index(snapshots, 0);
}

// What is cancelled of what the id means, after that.
static GPtrArray *
cancel(VsContext *context, const char *id, GError **error)
{
    g_autoptr(GPtrArray) before = vs_context_find(context, id, error);
    if (before == NULL)
        return NULL;
    g_autoptr(VsSnapshot) one = vs_context_cancel(context, choose(before)->manifest->id, error);
    if (one == NULL) {
        if (vs_context_is_group(id))
            g_prefix_error(error, "group %s: ", id);
        return NULL;
    }
    if (one->status != VS_STATUS_ACCOMPLISHED)
        return vs_context_find(context, id, error);
    g_set_error(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS,
                "snapshot %s: cancel: it was accomplished before it could be cancelled",
                one->manifest->id);
    return NULL;
}

bool
vs_cmd_cancel(VsInvocation *invocation, GError **error)
{
    if (!vs_options_parse(invocation, NULL, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open_to_write(invocation, error);
    if (context == NULL)
        return false;
    const char *id = invocation->arguments[0];
    g_autoptr(GPtrArray) snapshots = cancel(context, id, error);
    if (snapshots == NULL)
        return false;
    invocation->document = vs_context_is_group(id)
                               ? vs_output_snapshots(snapshots)
                               : vs_output_snapshot(g_ptr_array_index(snapshots, 0));
    for (guint i = 0; i < snapshots->len; i++) {
        const VsSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        g_string_append_printf(invocation->text, "Cancelled %s.\n", snapshot->manifest->id);
    }
    return true;
}
