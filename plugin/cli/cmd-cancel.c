// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"
#include "plugin/error.h"

bool
vs_cmd_cancel(VsInvocation *invocation, GError **error)
{
    if (!vs_options_parse(invocation, NULL, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    if (context == NULL)
        return false;
    g_autoptr(VsSnapshot) snapshot = vs_context_cancel(context, invocation->arguments[0], error);
    if (snapshot == NULL)
        return false;
    if (snapshot->status == VS_STATUS_ACCOMPLISHED) {
        g_set_error(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS,
                    "snapshot %s: cancel: it was accomplished before it could be cancelled",
                    snapshot->manifest->id);
        return false;
    }
    invocation->document = vs_output_snapshot(snapshot);
    g_string_append_printf(invocation->text, "Cancelled %s.\n", snapshot->manifest->id);
    return true;
}
