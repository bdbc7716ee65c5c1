// SPDX-License-Identifier: LGPL-2.1-or-later
// The subcommands, one function each (cmd-*.c); see VsCommand for how they answer.
#pragma once

#include "plugin/cli/options.h"

G_BEGIN_DECLS

bool vs_cmd_repo_init(VsInvocation *invocation, GError **error);
bool vs_cmd_repo_check(VsInvocation *invocation, GError **error);
bool vs_cmd_repo_prune(VsInvocation *invocation, GError **error);
bool vs_cmd_repo_usage(VsInvocation *invocation, GError **error);
bool vs_cmd_instances(VsInvocation *invocation, GError **error);
bool vs_cmd_disks(VsInvocation *invocation, GError **error);
bool vs_cmd_create(VsInvocation *invocation, GError **error);
bool vs_cmd_list(VsInvocation *invocation, GError **error);
bool vs_cmd_show(VsInvocation *invocation, GError **error);
bool vs_cmd_modify(VsInvocation *invocation, GError **error);
bool vs_cmd_cancel(VsInvocation *invocation, GError **error);
bool vs_cmd_delete(VsInvocation *invocation, GError **error);
bool vs_cmd_recover(VsInvocation *invocation, GError **error);
bool vs_cmd_restore(VsInvocation *invocation, GError **error);
bool vs_cmd_diff(VsInvocation *invocation, GError **error);

// End of a list of options.
#define VS_OPTION_END                                                                              \
    {                                                                                              \
        NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL                                            \
    }

G_END_DECLS
