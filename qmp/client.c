// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/client.h"

#include "qmp/call.h"
#include "qmp/connection.h"
#include "qmp/event-list.h"
#include "qmp/greeting.h"

// Reference-counted (g_rc_box): one reference is the owner's, each command in flight and each
// function on the stack that calls back holds another. So a callback may free the client.
struct _VsQmpClient {
    GMainContext *context;
    VsQmpConnection *connection; // NULL once freed by the owner
    pid_t peer_pid;
    unsigned qemu_version;
    bool greeted;
    bool is_silent;     // the newest deadline passed without any message since
    GError *closed;     // why; NULL while open
    GHashTable *calls;  // in flight: int64 id -> VsQmpCall *
    GQueue unsent;      // of VsQmpCall *, held back behind fd_call_id
    int64_t fd_call_id; // the command with descriptors that QEMU has not answered yet; 0: none
    int64_t last_call_id;
    VsQmpEventList events;
};

GQuark
vs_qmp_error_quark(void)
{
    return g_quark_from_static_string("vs-qmp-error-quark");
}

static void
client_finalize(VsQmpClient *client)
{
    g_hash_table_unref(client->calls);
    g_queue_clear(&client->unsent);
    vs_qmp_event_list_clear(&client->events);
    g_clear_error(&client->closed);
    g_main_context_unref(client->context);
}

static void
client_unref(VsQmpClient *client)
{
    g_rc_box_release_full(client, (GDestroyNotify)client_finalize);
}

// From now on nothing but complete() ends the call.
static void
forget(VsQmpCall *call)
{
    g_hash_table_remove(call->client->calls, &call->id);
    g_queue_remove(&call->client->unsent, call);
    vs_qmp_call_unwatch(call);
}

// Hands commands over in their order. QEMU keeps the descriptors that came last until a command
// takes them: so a command with descriptors waits until the one before it is answered.
static void
send_calls(VsQmpClient *client)
{
    VsQmpCall *call = NULL;

    while ((call = g_queue_peek_head(&client->unsent)) != NULL) {
        if (call->fds != NULL && client->fd_call_id != 0)
            return;
        if (call->fds != NULL)
            client->fd_call_id = call->id;
        g_queue_pop_head(&client->unsent);
        vs_qmp_connection_send(client->connection, g_steal_pointer(&call->bytes), call->fds);
        g_clear_object(&call->fds);
    }
}

// Calls back, with exactly one of result and error, and frees the call.
static void
complete(VsQmpCall *call, struct json_object *result, const GError *error)
{
    VsQmpClient *client = call->client;

    forget(call);
    if (client->closed == NULL)
        send_calls(client); // it may have held back others
    call->func(result, error, call->user_data);
    vs_qmp_call_free(call);
    client_unref(client);
}

// The same, for a failure that is not QEMU's answer: the message names the command.
static void
complete_with_cause(VsQmpCall *call, const GError *cause)
{
    g_autoptr(GError) error = g_error_copy(cause);

    if (g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT) &&
        call->timeout_ms >= VS_QMP_SILENT_TIMEOUT_MS)
        call->client->is_silent = true;
    g_prefix_error(&error, "QMP command '%s': ", call->name);
    complete(call, NULL, error);
}

static void
complete_all(VsQmpClient *client, const GError *cause)
{
    g_autoptr(GList) calls = g_hash_table_get_values(client->calls);

    // What a callback does, sending more commands or iterating the context, must not end these.
    for (GList *item = calls; item != NULL; item = item->next)
        forget(item->data);
    for (GList *item = calls; item != NULL; item = item->next)
        complete_with_cause(item->data, cause);
}

static void
on_closed(const GError *reason, gpointer user_data)
{
    VsQmpClient *client = g_rc_box_acquire(user_data);

    client->closed = g_error_copy(reason);
    complete_all(client, reason);
    vs_qmp_event_list_emit(&client->events, NULL, NULL);
    client_unref(client);
}

static void
fail_protocol(VsQmpClient *client, const char *cause)
{
    vs_qmp_connection_fail(
        client->connection,
        g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL, "the peer does not speak QMP: %s", cause));
}

static struct json_object *
member(struct json_object *object, const char *key, enum json_type type)
{
    struct json_object *value = NULL;

    return json_object_object_get_ex(object, key, &value) && json_object_is_type(value, type)
               ? value
               : NULL;
}

static void
handle_greeting(VsQmpClient *client, struct json_object *message)
{
    GError *reason = NULL;

    client->greeted = vs_qmp_greeting_parse(message, &client->qemu_version, &reason);
    if (!client->greeted)
        vs_qmp_connection_fail(client->connection, reason);
}

static void
handle_answer(VsQmpCall *call, struct json_object *message)
{
    g_autoptr(GError) error = NULL;
    struct json_object *result = NULL;
    struct json_object *refusal = NULL;

    if (json_object_object_get_ex(message, "error", &refusal)) {
        struct json_object *desc = json_object_is_type(refusal, json_type_object)
                                       ? member(refusal, "desc", json_type_string)
                                       : NULL;
        if (desc != NULL)
            g_set_error_literal(&error, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND,
                                json_object_get_string(desc));
    } else {
        (void)json_object_object_get_ex(message, "return", &result);
    }
    if (error == NULL && result == NULL)
        g_set_error(&error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL,
                    "QMP command '%s': its reply has neither a result nor an error's description",
                    call->name);
    complete(call, result, error);
}

static void
handle_reply(VsQmpClient *client, struct json_object *message)
{
    struct json_object *id_member = member(message, "id", json_type_int);
    int64_t id = id_member != NULL ? json_object_get_int64(id_member) : 0;

    if (id < 1 || id > client->last_call_id) {
        fail_protocol(client, "a reply to a command that was never sent");
        return;
    }
    if (id == client->fd_call_id) {
        client->fd_call_id = 0;
        send_calls(client);
    }
    // A reply that comes after its command's deadline or cancellation is of no interest.
    VsQmpCall *call = g_hash_table_lookup(client->calls, &id);
    if (call != NULL)
        handle_answer(call, message);
}

static void
on_message(struct json_object *message, gpointer user_data)
{
    VsQmpClient *client = g_rc_box_acquire(user_data);
    struct json_object *event = NULL;

    client->is_silent = false;
    if (!client->greeted) {
        handle_greeting(client, message);
    } else if (json_object_object_get_ex(message, "event", &event)) {
        if (json_object_is_type(event, json_type_string))
            vs_qmp_event_list_emit(&client->events, json_object_get_string(event),
                                   member(message, "data", json_type_object));
        else
            fail_protocol(client, "an event whose name is not a string");
    } else if (json_object_object_get_ex(message, "return", NULL) ||
               json_object_object_get_ex(message, "error", NULL)) {
        handle_reply(client, message);
    } else {
        fail_protocol(client, "a message that is neither a reply nor an event");
    }
    client_unref(client);
}

void
vs_qmp_client_send(VsQmpClient *client, const VsQmpCommand *command, GCancellable *cancellable,
                   VsQmpReplyFunc func, gpointer user_data)
{
    VsQmpCall *call = vs_qmp_call_new(++client->last_call_id, command, cancellable);

    call->client = g_rc_box_acquire(client);
    call->func = func;
    call->user_data = user_data;
    call->given_up = complete_with_cause;
    if (client->is_silent)
        call->timeout_ms = MIN(call->timeout_ms, VS_QMP_SILENT_TIMEOUT_MS);
    if (call->refused == NULL && client->closed != NULL)
        call->refused = g_error_copy(client->closed);
    g_hash_table_insert(client->calls, &call->id, call);
    vs_qmp_call_watch(call, client->context, cancellable);
    if (call->refused == NULL) {
        g_queue_push_tail(&client->unsent, call);
        send_calls(client);
    }
}

typedef struct {
    bool done;
    struct json_object *result;
    GError *error;
} Outcome;

static void
keep_outcome(struct json_object *result, const GError *error, gpointer user_data)
{
    Outcome *outcome = user_data;

    outcome->done = true;
    outcome->result = json_object_get(result);
    outcome->error = error != NULL ? g_error_copy(error) : NULL;
}

struct json_object *
vs_qmp_client_run(VsQmpClient *client, const VsQmpCommand *command, GCancellable *cancellable,
                  GError **error)
{
    Outcome outcome = {false, NULL, NULL};
    // The client itself may be freed while its context is iterated.
    g_autoptr(GMainContext) context = g_main_context_ref(client->context);

    vs_qmp_client_send(client, command, cancellable, keep_outcome, &outcome);
    while (!outcome.done)
        g_main_context_iteration(context, TRUE);
    if (outcome.error != NULL)
        g_propagate_error(error, outcome.error);
    return outcome.result;
}

struct json_object *
vs_qmp_client_call(VsQmpClient *client, const char *name, struct json_object *arguments,
                   GCancellable *cancellable, GError **error)
{
    const VsQmpCommand command = {.name = name, .arguments = arguments};

    return vs_qmp_client_run(client, &command, cancellable, error);
}

bool
vs_qmp_client_do(VsQmpClient *client, const char *name, struct json_object *arguments,
                 GCancellable *cancellable, GError **error)
{
    struct json_object *result = vs_qmp_client_call(client, name, arguments, cancellable, error);

    json_object_put(result);
    return result != NULL;
}

unsigned
vs_qmp_client_subscribe(VsQmpClient *client, VsQmpEventFunc func, gpointer user_data)
{
    return vs_qmp_event_list_add(&client->events, func, user_data);
}

void
vs_qmp_client_unsubscribe(VsQmpClient *client, unsigned handle)
{
    vs_qmp_event_list_remove(&client->events, handle);
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

// Why waiting has to end without success; NULL: it does not.
static GError *
reason_to_stop(const VsQmpClient *client, GCancellable *cancellable, bool expired,
               unsigned timeout_ms)
{
    GError *reason = NULL;

    if (g_cancellable_set_error_if_cancelled(cancellable, &reason))
        return reason;
    if (client->closed != NULL)
        return g_error_copy(client->closed);
    if (expired)
        return g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT,
                           "what was waited for did not happen within %u ms", timeout_ms);
    return NULL;
}

bool
vs_qmp_client_wait(VsQmpClient *client, VsQmpConditionFunc condition, gpointer user_data,
                   unsigned timeout_ms, GCancellable *cancellable, GError **error)
{
    bool expired = timeout_ms == 0;
    bool reached = false;
    g_autoptr(GError) reason = NULL;
    GSource *timer = g_timeout_source_new(timeout_ms);
    GSource *cancelled = g_cancellable_source_new(cancellable);

    (void)g_rc_box_acquire(client);
    g_source_set_callback(timer, set_flag, &expired, NULL);
    g_source_set_callback(cancelled, G_SOURCE_FUNC(wake_up), NULL, NULL);
    g_source_attach(timer, client->context);
    g_source_attach(cancelled, client->context);
    while (!(reached = condition(user_data, &reason)) && reason == NULL) {
        reason = reason_to_stop(client, cancellable, expired, timeout_ms);
        if (reason != NULL)
            break;
        g_main_context_iteration(client->context, TRUE);
    }
    g_source_destroy(timer);
    g_source_unref(timer);
    g_source_destroy(cancelled);
    g_source_unref(cancelled);
    client_unref(client);
    if (reason != NULL)
        g_propagate_error(error, g_steal_pointer(&reason));
    return reached;
}

pid_t
vs_qmp_client_peer_pid(const VsQmpClient *client)
{
    return client->peer_pid;
}

unsigned
vs_qmp_client_qemu_version(const VsQmpClient *client)
{
    return client->qemu_version;
}

bool
vs_qmp_client_is_open(const VsQmpClient *client)
{
    return client->closed == NULL;
}

void
vs_qmp_client_free(VsQmpClient *client)
{
    if (client == NULL)
        return;
    vs_qmp_event_list_remove_all(&client->events);
    if (client->closed == NULL)
        client->closed = g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_CLOSED, "the client was closed");
    vs_qmp_connection_free(g_steal_pointer(&client->connection));
    complete_all(client, client->closed);
    client_unref(client);
}

static VsQmpClient *
client_new(GMainContext *context, GSocket *socket)
{
    static const VsQmpConnectionFuncs funcs = {.message = on_message, .closed = on_closed};
    VsQmpClient *client = g_rc_box_new0(VsQmpClient);
    g_autoptr(GCredentials) credentials = g_socket_get_credentials(socket, NULL);
    pid_t pid = credentials != NULL ? g_credentials_get_unix_pid(credentials, NULL) : 0;

    client->context = g_main_context_ref(context);
    client->peer_pid = MAX(pid, 0);
    client->calls = g_hash_table_new(g_int64_hash, g_int64_equal);
    g_queue_init(&client->unsent);
    vs_qmp_event_list_init(&client->events);
    client->connection = vs_qmp_connection_new(socket, context, &funcs, client);
    return client;
}

static bool
is_greeted(gpointer user_data, GError **error)
{
    return ((const VsQmpClient *)user_data)->greeted;
}

// Milliseconds until the deadline, at least 1.
static unsigned
remaining_ms(int64_t deadline_us)
{
    return (unsigned)MAX((deadline_us - g_get_monotonic_time()) / 1000, 1);
}

static VsQmpClient *
connect_until(const char *socket_path, int64_t deadline_us, GCancellable *cancellable,
              GError **error)
{
    g_autoptr(GMainContext) context = g_main_context_ref_thread_default();
    g_autoptr(GSocket) socket =
        vs_qmp_socket_connect(socket_path, context, deadline_us, cancellable, error);
    if (socket == NULL)
        return NULL;

    g_autoptr(VsQmpClient) client = client_new(context, socket);
    g_autoptr(GError) cause = NULL;
    if (!vs_qmp_client_wait(client, is_greeted, client, remaining_ms(deadline_us), cancellable,
                            &cause)) {
        if (g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT))
            cause->code = VS_QMP_ERROR_TAKEN;
        g_propagate_error(error, g_steal_pointer(&cause));
        return NULL;
    }

    const VsQmpCommand command = {.name = "qmp_capabilities",
                                  .timeout_ms = remaining_ms(deadline_us)};
    struct json_object *result = vs_qmp_client_run(client, &command, cancellable, error);
    json_object_put(result);
    return result != NULL ? g_steal_pointer(&client) : NULL;
}

VsQmpClient *
vs_qmp_client_connect(const char *socket_path, unsigned timeout_ms, GCancellable *cancellable,
                      GError **error)
{
    g_autoptr(GError) cause = NULL;
    int64_t deadline_us = g_get_monotonic_time() + (int64_t)timeout_ms * 1000;
    VsQmpClient *client = connect_until(socket_path, deadline_us, cancellable, &cause);

    if (client != NULL)
        return client;
    if (g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN))
        g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN,
                    "connecting to QMP socket '%s': no greeting within %u ms (another client holds "
                    "this monitor?)",
                    socket_path, timeout_ms);
    else
        g_propagate_prefixed_error(error, g_steal_pointer(&cause),
                                   "connecting to QMP socket '%s': ", socket_path);
    return NULL;
}
