// SPDX-License-Identifier: LGPL-2.1-or-later
// An asynchronous QMP client on GLib's main loop.
//
// One VsQmpClient is one connection to one QMP monitor. It belongs to the GMainContext that was the
// thread's default when it was connected, and is used only from the thread that iterates that
// context; callbacks run there. Any number of commands may be in flight; replies are matched by id.
//
// Nothing here waits for ever: connecting has a deadline that covers the greeting (a socket that
// another client holds gives none), each command has a deadline, and the peer's hanging up fails
// everything in flight with VS_QMP_ERROR_CLOSED. Messages are bounded by VS_QMP_MESSAGE_MAX_BYTES
// (qmp/framing.h).
//
// Source: docs/interop/qmp-spec.rst of QEMU.
#pragma once

#include <gio/gio.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

#define VS_QMP_ERROR (vs_qmp_error_quark())
GQuark vs_qmp_error_quark(void);

typedef enum {
    VS_QMP_ERROR_CONNECT, // no such socket, refused, no permission
    VS_QMP_ERROR_TAKEN, // connected, but no greeting came in time: another client holds the monitor
    VS_QMP_ERROR_PROTOCOL, // the peer does not speak QMP: garbage, an endless line, a wrong shape
    VS_QMP_ERROR_CLOSED,   // the peer hung up
    VS_QMP_ERROR_TIMEOUT,  // no reply within the command's deadline
    VS_QMP_ERROR_COMMAND,  // QEMU answered with an error; the message is QEMU's `desc`
    VS_QMP_ERROR_IN_USE,   // not sent: it would do harm now
} VsQmpError;

// Deadline of a command that states none; block commands may drain slow storage.
#define VS_QMP_COMMAND_TIMEOUT_MS 30000u
// No command's deadline is longer once one of at least this has passed, until the peer says
// anything again: whoever undoes ten things would wait ten times. What is sent is done all the same
// by a peer that wakes up.
#define VS_QMP_SILENT_TIMEOUT_MS 2000u

typedef struct _VsQmpClient VsQmpClient;

// Connects to the unix socket at socket_path, reads the greeting, negotiates capabilities. Iterates
// the default context meanwhile. timeout_ms covers all of it. Cancellation gives
// G_IO_ERROR_CANCELLED.
VsQmpClient *vs_qmp_client_connect(const char *socket_path, unsigned timeout_ms,
                                   GCancellable *cancellable,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Closes the connection; commands in flight are called back with VS_QMP_ERROR_CLOSED before it
// returns, what was not yet written is dropped, and subscribers are not called. Safe in every
// callback of this client, also below vs_qmp_client_run() or _wait(), which then fail with
// VS_QMP_ERROR_CLOSED; afterwards the client must not be used. NULL is ignored.
void vs_qmp_client_free(VsQmpClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsQmpClient, vs_qmp_client_free)

// Process id of the socket's listener (SO_PEERCRED), 0 where unknown.
pid_t vs_qmp_client_peer_pid(const VsQmpClient *client);

// QEMU's version from the greeting: major * 1000000 + minor * 1000 + micro.
unsigned vs_qmp_client_qemu_version(const VsQmpClient *client);

// False once the peer has hung up or broken the protocol.
bool vs_qmp_client_is_open(const VsQmpClient *client);

// Called once per command. Exactly one of result ("return" member, borrowed) and error is not NULL.
// A failure that is not QEMU's answer (deadline, hang-up, cancellation, arguments that are not
// UTF-8) names the command in its message. May use the client, also vs_qmp_client_run().
typedef void (*VsQmpReplyFunc)(struct json_object *result, const GError *error, gpointer user_data);

// One command to send.
typedef struct {
    const char *name;
    struct json_object *arguments; // consumed; may be NULL
    const int *fds;                // passed with the command (SCM_RIGHTS), borrowed
    unsigned fd_count;             // at most 8
    unsigned timeout_ms;           // 0: VS_QMP_COMMAND_TIMEOUT_MS
} VsQmpCommand;

// Sends a command; commands reach QEMU in the order of the calls, one with file descriptors only
// after the one with descriptors before it is answered (QEMU keeps only those that came last). func
// is called later from the main loop, also when sending fails or cancellable is cancelled (a late
// reply is then ignored).
void vs_qmp_client_send(VsQmpClient *client, const VsQmpCommand *command, GCancellable *cancellable,
                        VsQmpReplyFunc func, gpointer user_data);

// The same, iterating the context until the reply is there. Returns the "return" member, a new
// reference for the caller to json_object_put(), or NULL with error.
struct json_object *vs_qmp_client_run(VsQmpClient *client, const VsQmpCommand *command,
                                      GCancellable *cancellable,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

// vs_qmp_client_run() of a plain command with default deadline, arguments consumed.
struct json_object *vs_qmp_client_call(VsQmpClient *client, const char *name,
                                       struct json_object *arguments, GCancellable *cancellable,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The same, where the answer says nothing more than success.
bool vs_qmp_client_do(VsQmpClient *client, const char *name, struct json_object *arguments,
                      GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// An event's name and data (borrowed; data may be NULL). NULL name: the connection has closed
// (once).
typedef void (*VsQmpEventFunc)(const char *name, struct json_object *data, gpointer user_data);

// Calls func for every event that comes from now on; returns a handle for unsubscribing (never 0).
// A subscriber may unsubscribe itself or others from within func.
unsigned vs_qmp_client_subscribe(VsQmpClient *client, VsQmpEventFunc func, gpointer user_data);
void vs_qmp_client_unsubscribe(VsQmpClient *client, unsigned handle);

// Iterates the context until condition(user_data) is true (checked at first and after each event or
// reply); condition may set error to give up. False with VS_QMP_ERROR_TIMEOUT (a timeout_ms
// of 0: unless it is true already), the reason why the connection has closed (_CLOSED, _PROTOCOL),
// or G_IO_ERROR_CANCELLED.
typedef bool (*VsQmpConditionFunc)(gpointer user_data, GError **error);
bool vs_qmp_client_wait(VsQmpClient *client, VsQmpConditionFunc condition, gpointer user_data,
                        unsigned timeout_ms, GCancellable *cancellable,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
