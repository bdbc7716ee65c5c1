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
    const char *id = invocation->arguments[0];
    g_autoptr(GPtrArray) snapshots = vs_context_find(context, id, error);
    if (snapshots == NULL)
        return false;
    vs_output_found(snapshots, vs_context_is_group(id), &invocation->document, invocation->text);
    return true;
}
