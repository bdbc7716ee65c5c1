// SPDX-License-Identifier: LGPL-2.1-or-later
// Finds the socket of a VM's guest agent by asking its QEMU.
#pragma once

#include "qmp/client.h"

G_BEGIN_DECLS

// The path of the unix socket behind the virtserialport named org.qemu.guest_agent.0, absolute
// where QEMU's working directory can be known; owned by the caller. VS_QMP_ERROR_CONNECT where the
// VM has no such port, it isn't behind a listening unix socket, or nothing in the guest has opened
// the port, which means that no agent runs; VS_QMP_ERROR_TAKEN where another client is connected to
// the socket. Both are what QEMU says at this instant: connecting may still meet a deadline.
char *vs_qmp_find_agent_socket(VsQmpClient *client, GCancellable *cancellable,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
