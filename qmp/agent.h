// SPDX-License-Identifier: LGPL-2.1-or-later
// A client of the QEMU guest agent (qemu-ga): freezes and thaws the guest's file systems.
//
// The agent runs inside the guest and is reached by a unix socket on the host, behind which a
// virtio-serial port leads into the guest; vs_qmp_find_agent_socket() (qmp/agent-channel.h) finds
// it. One client at a time: QEMU lets a second one wait without a word.
//
// Each call iterates the context that was the thread's default when the agent was connected, until
// it is answered or its deadline has passed; one call at a time, and the agent must not be freed
// below one. Each call first synchronises with the agent (guest-sync-delimited), so nothing that
// was said to an earlier client or comes too late is taken for its answer, and it makes a
// connection that has broken again. A call that has failed therefore leaves the agent usable.
//
// **Who freezes must thaw, whatever happened**: also where freezing failed. After a deadline,
// cancellation or hang-up the guest may have frozen, or may do so later.
//
// Errors are VS_QMP_ERROR: _CONNECT, _TAKEN (the socket's queue is full), _TIMEOUT (also: nobody is
// behind the socket, or another client holds it), _CLOSED, _PROTOCOL, and _COMMAND for the agent's
// own answer; or G_IO_ERROR_CANCELLED. The guest is not trusted: its words come into a message
// without control characters and cut to a bounded length. Source: qga/qapi-schema.json of QEMU.
#pragma once

#include "qmp/client.h"

G_BEGIN_DECLS

// How long a running agent may take to answer at all; it looks for requests several times a second.
#define VS_QMP_AGENT_SYNC_TIMEOUT_MS 5000u

typedef struct _VsQmpAgent VsQmpAgent;

// Connects and synchronises: succeeds only where an agent answers. timeout_ms covers both,
// VS_QMP_AGENT_SYNC_TIMEOUT_MS fits.
VsQmpAgent *vs_qmp_agent_connect(const char *socket_path, unsigned timeout_ms,
                                 GCancellable *cancellable,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Closes the connection. Does not thaw. NULL is ignored.
void vs_qmp_agent_free(VsQmpAgent *agent);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsQmpAgent, vs_qmp_agent_free)

// guest-fsfreeze-freeze: flushes and freezes every file system of the guest that can be frozen.
// *filesystems is their number; 0, where there is none, is a success that froze nothing. Freezing
// writes the guest's dirty pages: timeout_ms must allow for that. The command is sent only to an
// agent that has answered just before (within VS_QMP_AGENT_SYNC_TIMEOUT_MS), so that it can't lie
// in the channel of a dead one and freeze the guest when the agent starts. Agents refuse it while
// frozen (_COMMAND).
bool vs_qmp_agent_freeze(VsQmpAgent *agent, unsigned *filesystems, unsigned timeout_ms,
                         GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// guest-fsfreeze-thaw: *filesystems (may be NULL) is the number of those that were thawed, 0 where
// none was frozen, which is no error. The command is sent without waiting for an earlier one: even
// where this ends with a deadline it stands in the channel behind a freeze that the agent may still
// be at, as long as the connection stays. Usually cancellable is NULL, since a guest must be thawed
// also when its snapshot is cancelled.
bool vs_qmp_agent_thaw(VsQmpAgent *agent, unsigned *filesystems, unsigned timeout_ms,
                       GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// guest-fsfreeze-status: what the agent has last done, whoever told it to.
bool vs_qmp_agent_status(VsQmpAgent *agent, bool *frozen, unsigned timeout_ms,
                         GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
