// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/client.h"

#include <gio/gunixfdlist.h>

#include "qmp/connection.h"

// QEMU accepts 16 descriptors in one message; no command of ours needs more than this.
#define MAX_FDS 8u

// Reference-counted (g_rc_box): one reference is the owner's, each command in flight and each
// function on the stack that calls back holds another. So a callback may free the client.
struct _VsQmpClient {
    GMainContext *context;
    VsQmpConnection *connection;
    pid_t peer_pid;
    unsigned qemu_version;
    bool greeted;
    GError *closed;        // why; NULL while open
    GHashTable *commands;  // in flight: int64 id -> Command *
    GQueue unsent;         // of Command *, held back behind fd_command_id
    int64_t fd_command_id; // the command with descriptors that QEMU has not answered yet; 0: none
    int64_t last_command_id;
    GArray *subscribers; // of Subscriber
    unsigned last_subscriber;
};

typedef struct {
    unsigned handle;
    VsQmpEventFunc func;
    gpointer user_data;
} Subscriber;

typedef struct {
    VsQmpClient *client;
    int64_t id;
    char *name;
    unsigned timeout_ms;
    VsQmpReplyFunc func;
    gpointer user_data;
    GBytes *bytes;    // until handed to the connection
    GUnixFDList *fds; // with bytes
    GError *refused;  // it can't be sent, for this reason
    GCancellable *cancellable;
    GSource *timer; // deadline, or the call back of a refused command
    GSource *cancelled;
} Command;

GQuark
vs_qmp_error_quark(void)
{
    return g_quark_from_static_string("vs-qmp-error-quark");
}

static void
client_finalize(VsQmpClient *client)
{
    g_hash_table_unref(client->commands);
    g_queue_clear(&client->unsent);
    g_array_unref(client->subscribers);
    g_clear_error(&client->closed);
    g_main_context_unref(client->context);
}

static void
client_unref(VsQmpClient *client)
{
    g_rc_box_release_full(client, (GDestroyNotify)client_finalize);
}

static void
clear_source(GSource **source)
{
    if (*source != NULL) {
        g_source_destroy(*source);
        g_clear_pointer(source, g_source_unref);
    }
}

static void
command_free(Command *command)
{
    clear_source(&command->timer);
    clear_source(&command->cancelled);
    g_clear_pointer(&command->bytes, g_bytes_unref);
    g_clear_object(&command->fds);
    g_clear_object(&command->cancellable);
    g_clear_error(&command->refused);
    g_free(command->name);
    client_unref(command->client);
    g_free(command);
}

// Calls back and frees the command. Exactly one of result and error.
static void
complete(Command *command, struct json_object *result, const GError *error)
{
    VsQmpClient *client = command->client;

    g_hash_table_remove(client->commands, &command->id);
    g_queue_remove(&client->unsent, command);
    clear_source(&command->timer);
    clear_source(&command->cancelled);
    command->func(result, error, command->user_data);
    command_free(command);
}

// The same, for a failure that is ours and not QEMU's answer: the message names the command.
static void
complete_with_cause(Command *command, const GError *cause)
{
    g_autoptr(GError) error = g_error_copy(cause);

    g_prefix_error(&error, "QMP command '%s': ", command->name);
    complete(command, NULL, error);
}

static void
complete_all(VsQmpClient *client, const GError *cause)
{
    g_autoptr(GList) commands = g_hash_table_get_values(client->commands);

    // A callback may send another (refused) command, but completes none of these.
    for (GList *item = commands; item != NULL; item = item->next) {
        Command *command = item->data;
        g_hash_table_remove(client->commands, &command->id);
        clear_source(&command->timer);
        clear_source(&command->cancelled);
    }
    for (GList *item = commands; item != NULL; item = item->next)
        complete_with_cause(item->data, cause);
}

static void
emit(VsQmpClient *client, const char *name, struct json_object *data)
{
    g_autoptr(GArray) now = g_array_copy(client->subscribers);

    for (guint i = 0; i < now->len; i++) {
        const Subscriber *wanted = &g_array_index(now, Subscriber, i);
        for (guint j = 0; j < client->subscribers->len; j++) {
            Subscriber current = g_array_index(client->subscribers, Subscriber, j);
            if (current.handle == wanted->handle) {
                current.func(name, data, current.user_data);
                break;
            }
        }
    }
}

static void
on_closed(const GError *reason, gpointer user_data)
{
    VsQmpClient *client = g_rc_box_acquire(user_data);

    client->closed = g_error_copy(reason);
    complete_all(client, reason);
    emit(client, NULL, NULL);
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
    struct json_object *qmp = member(message, "QMP", json_type_object);
    struct json_object *version = qmp ? member(qmp, "version", json_type_object) : NULL;
    struct json_object *qemu = version ? member(version, "qemu", json_type_object) : NULL;
    static const char *const parts[] = {"major", "minor", "micro"};

    client->qemu_version = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        struct json_object *part = qemu ? member(qemu, parts[i], json_type_int) : NULL;
        int64_t number = part != NULL ? json_object_get_int64(part) : -1;
        if (number < 0 || number > 999) {
            fail_protocol(client, "its first message is not a greeting with a version");
            return;
        }
        client->qemu_version = client->qemu_version * 1000 + (unsigned)number;
    }
    client->greeted = true;
}

// Hands commands over in their order. QEMU keeps the descriptors of one message only, until a
// command takes them: a command with descriptors waits until the one before it is answered.
static void
send_commands(VsQmpClient *client)
{
    Command *command = NULL;

    while ((command = g_queue_peek_head(&client->unsent)) != NULL) {
        if (command->fds != NULL && client->fd_command_id != 0)
            return;
        if (command->fds != NULL)
            client->fd_command_id = command->id;
        g_queue_pop_head(&client->unsent);
        vs_qmp_connection_send(client->connection, g_steal_pointer(&command->bytes), command->fds);
        g_clear_object(&command->fds);
    }
}

static void
handle_reply(VsQmpClient *client, struct json_object *message)
{
    struct json_object *id_member = member(message, "id", json_type_int);
    struct json_object *error_member = NULL;
    int64_t id = id_member != NULL ? json_object_get_int64(id_member) : 0;

    if (id < 1 || id > client->last_command_id) {
        fail_protocol(client, "a reply to a command that was never sent");
        return;
    }
    if (id == client->fd_command_id) {
        client->fd_command_id = 0;
        send_commands(client);
    }
    // A reply that comes after its command's deadline or cancellation is of no interest.
    Command *command = g_hash_table_lookup(client->commands, &id);
    if (command == NULL)
        return;

    g_autoptr(GError) error = NULL;
    struct json_object *result = NULL;
    if (json_object_object_get_ex(message, "error", &error_member)) {
        struct json_object *desc = json_object_is_type(error_member, json_type_object)
                                       ? member(error_member, "desc", json_type_string)
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
                    command->name);
    complete(command, result, error);
}

static void
on_message(struct json_object *message, gpointer user_data)
{
    VsQmpClient *client = g_rc_box_acquire(user_data);
    struct json_object *event = NULL;

    if (!client->greeted) {
        handle_greeting(client, message);
    } else if (json_object_object_get_ex(message, "event", &event)) {
        if (json_object_is_type(event, json_type_string))
            emit(client, json_object_get_string(event), member(message, "data", json_type_object));
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

static gboolean
on_deadline(gpointer user_data)
{
    Command *command = user_data;
    g_autoptr(GError) cause = command->refused != NULL
                                  ? g_error_copy(command->refused)
                                  : g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT,
                                                "no reply within %u ms", command->timeout_ms);

    complete_with_cause(command, cause);
    return G_SOURCE_REMOVE;
}

static gboolean
on_cancelled(GCancellable *cancellable, gpointer user_data)
{
    g_autoptr(GError) cause = NULL;

    if (g_cancellable_set_error_if_cancelled(cancellable, &cause))
        complete_with_cause(user_data, cause);
    return G_SOURCE_REMOVE;
}

// Fills in the command's bytes and descriptors. False with error where it can't be sent.
static bool
encode(Command *command, const VsQmpCommand *request, GError **error)
{
    VsQmpClient *client = command->client;
    struct json_object *message = json_object_new_object();
    bool is_utf8 = false;

    if (request->fd_count > MAX_FDS) {
        json_object_put(message);
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "%u file descriptors, at most %u are possible", request->fd_count, MAX_FDS);
        return false;
    }
    json_object_object_add(message, "execute", json_object_new_string(request->name));
    if (request->arguments != NULL)
        json_object_object_add(message, "arguments", json_object_get(request->arguments));
    json_object_object_add(message, "id", json_object_new_int64(command->id));
    const char *text = json_object_to_json_string_ext(message, JSON_C_TO_STRING_PLAIN |
                                                                   JSON_C_TO_STRING_NOSLASHESCAPE);
    is_utf8 = g_utf8_validate(text, -1, NULL);
    if (is_utf8) {
        char *line = g_strconcat(text, "\n", NULL);
        command->bytes = g_bytes_new_take(line, strlen(line));
    }
    json_object_put(message);
    if (!is_utf8) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                            "its arguments are not UTF-8");
        return false;
    }
    if (client->closed != NULL) {
        g_propagate_error(error, g_error_copy(client->closed));
        return false;
    }
    if (request->fd_count > 0)
        command->fds = g_unix_fd_list_new();
    for (unsigned i = 0; i < request->fd_count; i++) {
        if (g_unix_fd_list_append(command->fds, request->fds[i], error) < 0)
            return false;
    }
    return true;
}

static void
watch_command(Command *command)
{
    GMainContext *context = command->client->context;

    command->timer =
        command->refused != NULL ? g_idle_source_new() : g_timeout_source_new(command->timeout_ms);
    g_source_set_priority(command->timer, G_PRIORITY_DEFAULT);
    g_source_set_callback(command->timer, on_deadline, command, NULL);
    g_source_attach(command->timer, context);
    if (command->cancellable != NULL && command->refused == NULL) {
        command->cancelled = g_cancellable_source_new(command->cancellable);
        g_source_set_callback(command->cancelled, G_SOURCE_FUNC(on_cancelled), command, NULL);
        g_source_attach(command->cancelled, context);
    }
}

void
vs_qmp_client_send(VsQmpClient *client, const VsQmpCommand *request, GCancellable *cancellable,
                   VsQmpReplyFunc func, gpointer user_data)
{
    Command *command = g_new0(Command, 1);

    command->client = g_rc_box_acquire(client);
    command->id = ++client->last_command_id;
    command->name = g_strdup(request->name);
    command->timeout_ms =
        request->timeout_ms != 0 ? request->timeout_ms : VS_QMP_COMMAND_TIMEOUT_MS;
    command->func = func;
    command->user_data = user_data;
    command->cancellable = cancellable != NULL ? g_object_ref(cancellable) : NULL;
    if (!g_cancellable_set_error_if_cancelled(cancellable, &command->refused))
        (void)encode(command, request, &command->refused);
    json_object_put(request->arguments);

    g_hash_table_insert(client->commands, &command->id, command);
    watch_command(command);
    if (command->refused == NULL) {
        g_queue_push_tail(&client->unsent, command);
        send_commands(client);
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
    const Subscriber subscriber = {++client->last_subscriber, func, user_data};

    g_array_append_val(client->subscribers, subscriber);
    return subscriber.handle;
}

void
vs_qmp_client_unsubscribe(VsQmpClient *client, unsigned handle)
{
    for (guint i = 0; i < client->subscribers->len; i++) {
        if (g_array_index(client->subscribers, Subscriber, i).handle == handle) {
            g_array_remove_index(client->subscribers, i);
            return;
        }
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

bool
vs_qmp_client_wait(VsQmpClient *client, VsQmpConditionFunc condition, gpointer user_data,
                   unsigned timeout_ms, GCancellable *cancellable, GError **error)
{
    bool expired = timeout_ms == 0;
    g_autoptr(GError) failure = NULL;
    GSource *timer = g_timeout_source_new(timeout_ms);
    GSource *cancelled = g_cancellable_source_new(cancellable);
    bool reached = false;

    (void)g_rc_box_acquire(client);
    g_source_set_callback(timer, set_flag, &expired, NULL);
    g_source_set_callback(cancelled, G_SOURCE_FUNC(wake_up), NULL, NULL);
    g_source_attach(timer, client->context);
    g_source_attach(cancelled, client->context);
    while (!(reached = condition(user_data, &failure)) && failure == NULL) {
        if (g_cancellable_set_error_if_cancelled(cancellable, &failure))
            break;
        if (client->closed != NULL)
            failure = g_error_copy(client->closed);
        else if (expired)
            failure = g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT,
                                  "what was waited for did not happen within %u ms", timeout_ms);
        else
            g_main_context_iteration(client->context, TRUE);
        if (failure != NULL)
            break;
    }
    clear_source(&timer);
    clear_source(&cancelled);
    client_unref(client);
    if (failure != NULL)
        g_propagate_error(error, g_steal_pointer(&failure));
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
    g_array_set_size(client->subscribers, 0);
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
    client->commands = g_hash_table_new(g_int64_hash, g_int64_equal);
    client->subscribers = g_array_new(FALSE, FALSE, sizeof(Subscriber));
    g_queue_init(&client->unsent);
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
            g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN, "it gave none");
        else
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
    VsQmpClient *client = connect_until(
        socket_path, g_get_monotonic_time() + (int64_t)timeout_ms * 1000, cancellable, &cause);

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
