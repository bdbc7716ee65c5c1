// SPDX-License-Identifier: LGPL-2.1-or-later
// A stream socket that carries QMP messages, without knowing what they mean: connecting without
// ever blocking, an output queue, file descriptors, and the peer's hanging up.
//
// Internal to qmp/. Belongs to one GMainContext and the thread that iterates it; callbacks run
// there, and may iterate the context themselves (then later messages are delivered inside), close
// or release the connection.
#pragma once

#include <gio/gio.h>
#include <gio/gunixfdlist.h>
#include <json-c/json.h>
#include <stdbool.h>

G_BEGIN_DECLS

// Connects a non-blocking socket to socket_path. A listener whose queue is full (a monitor whose
// one client slot is taken) is tried again until deadline_us (g_get_monotonic_time()), then
// VS_QMP_ERROR_TAKEN. Iterates context meanwhile.
GSocket *vs_qmp_socket_connect(const char *socket_path, GMainContext *context, int64_t deadline_us,
                               GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct _VsQmpConnection VsQmpConnection;

typedef struct {
    // A message came; borrowed.
    void (*message)(struct json_object *message, gpointer user_data);
    // The connection has closed by itself, once, with VS_QMP_ERROR_CLOSED or _PROTOCOL. Nothing is
    // called afterwards.
    void (*closed)(const GError *error, gpointer user_data);
} VsQmpConnectionFuncs;

// Takes a reference to socket. Sources are attached to context at once.
VsQmpConnection *vs_qmp_connection_new(GSocket *socket, GMainContext *context,
                                       const VsQmpConnectionFuncs *funcs, gpointer user_data);

// Closes without calling back, and releases the connection.
void vs_qmp_connection_free(VsQmpConnection *connection);

// Queues bytes (consumed); fds (borrowed, may be NULL) travel with the first of them. Written from
// the main loop. After closing: nothing.
void vs_qmp_connection_send(VsQmpConnection *connection, GBytes *bytes, GUnixFDList *fds);

// Closes for the reason given (consumed) and calls closed, unless it is closed already.
void vs_qmp_connection_fail(VsQmpConnection *connection, GError *reason);

G_END_DECLS
