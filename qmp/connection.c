// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/connection.h"

#include <gio/gunixfdmessage.h>
#include <gio/gunixsocketaddress.h>
#include <string.h>
#include <sys/un.h>

#include "qmp/client.h"
#include "qmp/framing.h"

// How often connect() is tried again while the listener's queue is full.
#define CONNECT_RETRY_MS 20u
#define READ_BUFFER_BYTES (64u << 10)
// Reads after the peer has stopped taking our bytes: more than a socket's buffer holds.
#define LAST_READS 64u

typedef struct {
    GBytes *bytes;
    gsize written;
    GUnixFDList *fds; // until the first byte is out; may be NULL
} Output;

// Reference-counted (g_rc_box), so that a callback may free the connection that is calling it.
struct _VsQmpConnection {
    GSocket *socket;
    GMainContext *context;
    GSource *readable;
    GSource *writable; // only while output is not empty
    GQueue output;     // of Output *
    VsQmpFramer *framer;
    VsQmpConnectionFuncs funcs;
    gpointer user_data;
    bool closed;
};

static void
output_free(Output *output)
{
    g_bytes_unref(output->bytes);
    g_clear_object(&output->fds);
    g_free(output);
}

static void
clear_source(GSource **source)
{
    if (*source != NULL) {
        g_source_destroy(*source);
        g_clear_pointer(source, g_source_unref);
    }
}

static gboolean
set_flag(gpointer user_data)
{
    *(bool *)user_data = true;
    return G_SOURCE_REMOVE;
}

static gboolean
wake_up(GCancellable *cancellable, gpointer user_data)
{
    return G_SOURCE_REMOVE;
}

// Iterates context for duration_ms, or less when cancelled.
static void
iterate_for(GMainContext *context, unsigned duration_ms, GCancellable *cancellable)
{
    bool elapsed = false;
    GSource *timer = g_timeout_source_new(duration_ms);
    GSource *cancelled = g_cancellable_source_new(cancellable);

    g_source_set_callback(timer, set_flag, &elapsed, NULL);
    g_source_set_callback(cancelled, G_SOURCE_FUNC(wake_up), NULL, NULL);
    g_source_attach(timer, context);
    g_source_attach(cancelled, context);
    while (!elapsed && !g_cancellable_is_cancelled(cancellable))
        g_main_context_iteration(context, TRUE);
    clear_source(&timer);
    clear_source(&cancelled);
}

GSocket *
vs_qmp_socket_connect(const char *socket_path, GMainContext *context, int64_t deadline_us,
                      GCancellable *cancellable, GError **error)
{
    struct sockaddr_un longest;

    // GUnixSocketAddress would cut a longer one and reach another socket.
    if (strlen(socket_path) >= sizeof longest.sun_path) {
        g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_CONNECT,
                    "a socket's path has at most %zu bytes", sizeof longest.sun_path - 1);
        return NULL;
    }

    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(socket_path);
    g_autoptr(GSocket) socket =
        g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, error);
    if (socket == NULL)
        return NULL;
    g_socket_set_blocking(socket, FALSE);

    for (;;) {
        g_autoptr(GError) cause = NULL;
        if (g_cancellable_set_error_if_cancelled(cancellable, error))
            return NULL;
        if (g_socket_connect(socket, address, NULL, &cause))
            return g_steal_pointer(&socket);
        if (!g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
            g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_CONNECT, cause->message);
            return NULL;
        }
        if (g_get_monotonic_time() >= deadline_us) {
            g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN,
                                "its queue of clients is full");
            return NULL;
        }
        iterate_for(context, CONNECT_RETRY_MS, cancellable);
    }
}

static void
close_connection(VsQmpConnection *connection)
{
    connection->closed = true;
    clear_source(&connection->readable);
    clear_source(&connection->writable);
    g_queue_clear_full(&connection->output, (GDestroyNotify)output_free);
    (void)g_socket_close(connection->socket, NULL);
}

static void
finalize(VsQmpConnection *connection)
{
    g_object_unref(connection->socket);
    g_main_context_unref(connection->context);
    vs_qmp_framer_free(connection->framer);
}

static void
release(VsQmpConnection *connection)
{
    g_rc_box_release_full(connection, (GDestroyNotify)finalize);
}

void
vs_qmp_connection_fail(VsQmpConnection *connection, GError *reason)
{
    if (!connection->closed) {
        close_connection(connection);
        connection->funcs.closed(reason, connection->user_data);
    }
    g_error_free(reason);
}

// Hands over every complete message. A callback may close the connection or, by iterating the
// context, take later messages itself.
static void
deliver(VsQmpConnection *connection)
{
    while (!connection->closed) {
        struct json_object *message = NULL;
        GError *reason = NULL;
        if (!vs_qmp_framer_next(connection->framer, &message, &reason)) {
            vs_qmp_connection_fail(connection, reason);
            return;
        }
        if (message == NULL)
            return;
        connection->funcs.message(message, connection->user_data);
        json_object_put(message);
    }
}

// Reads once and delivers. False where there was nothing to read, or the connection is closed now.
static bool
read_once(VsQmpConnection *connection)
{
    g_autofree char *buffer = g_malloc(READ_BUFFER_BYTES);
    g_autoptr(GError) cause = NULL;
    GError *reason = NULL;

    if (connection->closed)
        return false;
    gssize length = g_socket_receive(connection->socket, buffer, READ_BUFFER_BYTES, NULL, &cause);
    if (length < 0 && g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK))
        return false;
    if (length <= 0) {
        reason = g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_CLOSED, "the peer hung up%s%s",
                             cause != NULL ? ": " : "", cause != NULL ? cause->message : "");
    } else if (vs_qmp_framer_push(connection->framer, buffer, (size_t)length, &reason)) {
        deliver(connection);
        return !connection->closed;
    }
    vs_qmp_connection_fail(connection, reason);
    return false;
}

static gboolean
on_readable(GSocket *socket, GIOCondition condition, gpointer user_data)
{
    VsQmpConnection *connection = g_rc_box_acquire(user_data);

    (void)read_once(connection);
    release(connection);
    return G_SOURCE_CONTINUE; // closing has destroyed the source
}

// Writes what the socket takes now. False with error where the peer takes no more.
static bool
write_output(VsQmpConnection *connection, GError **error)
{
    Output *output = NULL;

    while ((output = g_queue_peek_head(&connection->output)) != NULL) {
        gsize size = 0;
        const char *bytes = g_bytes_get_data(output->bytes, &size);
        GOutputVector vector = {bytes + output->written, size - output->written};
        g_autoptr(GSocketControlMessage) rights =
            output->fds != NULL ? g_unix_fd_message_new_with_fd_list(output->fds) : NULL;
        g_autoptr(GError) cause = NULL;

        gssize sent =
            g_socket_send_message(connection->socket, NULL, &vector, 1, &rights,
                                  rights != NULL ? 1 : 0, G_SOCKET_MSG_NONE, NULL, &cause);
        if (sent < 0 && g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK))
            return true;
        if (sent < 0) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
        if (sent > 0)
            g_clear_object(&output->fds);
        output->written += (gsize)sent;
        if (output->written == size)
            output_free(g_queue_pop_head(&connection->output));
    }
    return true;
}

static gboolean
on_writable(GSocket *socket, GIOCondition condition, gpointer user_data)
{
    VsQmpConnection *connection = g_rc_box_acquire(user_data);
    g_autoptr(GError) cause = NULL;

    if (!write_output(connection, &cause)) {
        // What the peer said before it hung up still counts; one that takes nothing but talks on
        // doesn't.
        for (unsigned reads = 0; reads < LAST_READS && read_once(connection); reads++)
            continue;
        vs_qmp_connection_fail(connection, g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_CLOSED,
                                                       "the peer hung up: %s", cause->message));
    } else if (g_queue_is_empty(&connection->output)) {
        clear_source(&connection->writable);
    }
    release(connection);
    return G_SOURCE_CONTINUE;
}

// Attaches a source that may be dispatched while it is being dispatched, since callbacks iterate
// the context.
static GSource *
watch(VsQmpConnection *connection, GIOCondition condition, GSocketSourceFunc func)
{
    GSource *source = g_socket_create_source(connection->socket, condition, NULL);

    g_source_set_can_recurse(source, TRUE);
    g_source_set_callback(source, G_SOURCE_FUNC(func), connection, NULL);
    g_source_attach(source, connection->context);
    return source;
}

VsQmpConnection *
vs_qmp_connection_new(GSocket *socket, GMainContext *context, const VsQmpConnectionFuncs *funcs,
                      gpointer user_data)
{
    VsQmpConnection *connection = g_rc_box_new0(VsQmpConnection);

    connection->socket = g_object_ref(socket);
    connection->context = g_main_context_ref(context);
    connection->framer = vs_qmp_framer_new(VS_QMP_MESSAGE_MAX_BYTES);
    connection->funcs = *funcs;
    connection->user_data = user_data;
    g_queue_init(&connection->output);
    connection->readable = watch(connection, G_IO_IN, on_readable);
    return connection;
}

void
vs_qmp_connection_free(VsQmpConnection *connection)
{
    if (connection == NULL)
        return;
    close_connection(connection);
    release(connection);
}

void
vs_qmp_connection_send(VsQmpConnection *connection, GBytes *bytes, GUnixFDList *fds)
{
    if (connection->closed) {
        g_bytes_unref(bytes);
        return;
    }

    Output *output = g_new0(Output, 1);
    output->bytes = bytes;
    output->fds = fds != NULL ? g_object_ref(fds) : NULL;
    g_queue_push_tail(&connection->output, output);
    if (connection->writable == NULL)
        connection->writable = watch(connection, G_IO_OUT, on_writable);
}
