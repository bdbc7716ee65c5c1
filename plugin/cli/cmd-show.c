// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"

bool
vs_cmd_show(VsInvocation *invocation, GError **error)
{
    if (!vs_options_parse(invocation, NULL, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    if (context == NULL)
        return false;
    g_autoptr(VsSnapshot) snapshot =
        vs_catalogue_get(context->catalogue, invocation->arguments[0], error);
    if (snapshot == NULL)
        return false;
    invocation->document = vs_output_snapshot(snapshot);
    vs_output_snapshot_lines(snapshot, invocation->text);
    return true;
}
