// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/agent.h"

#include "qmp/agent-stream.h"
#include "qmp/connection.h"

#define READ_BUFFER_BYTES 4096u
// Of the guest's own words in an error.
#define DESCRIPTION_MAX_CHARACTERS 300u

struct _VsQmpAgent {
    GMainContext *context;
    char *path;
    GSocket *socket; // NULL: broken, the next call connects again
    VsQmpAgentStream *stream;
    bool busy; // a call is iterating the context
};

// What ends a call without an answer.
typedef struct {
    int64_t deadline_us; // g_get_monotonic_time()
    GCancellable *cancellable;
} Limit;

// A request of a call.
typedef struct {
    const char *command; // NULL: synchronise only
    // Not before the agent has shown that it is alive.
    bool only_if_alive;
    unsigned timeout_ms;
} Request;

static void
close_socket(VsQmpAgent *agent)
{
    if (agent->socket != NULL)
        (void)g_socket_close(agent->socket, NULL);
    g_clear_object(&agent->socket);
}

static bool
fail_closed(VsQmpAgent *agent, const GError *cause, GError **error)
{
    close_socket(agent);
    g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_CLOSED, "QEMU hung up%s%s",
                cause != NULL ? ": " : "", cause != NULL ? cause->message : "");
    return false;
}

static gboolean
on_ready(GSocket *socket, GIOCondition condition, gpointer user_data)
{
    *(bool *)user_data = true;
    return G_SOURCE_REMOVE;
}

static gboolean
on_time(gpointer user_data)
{
    return G_SOURCE_REMOVE;
}

static gboolean
on_cancelled(GCancellable *cancellable, gpointer user_data)
{
    return G_SOURCE_REMOVE;
}

static void
attach(GSource *source, GSourceFunc func, gpointer user_data, GMainContext *context)
{
    g_source_set_callback(source, func, user_data, NULL);
    g_source_attach(source, context);
}

static void
detach(GSource *source)
{
    g_source_destroy(source);
    g_source_unref(source);
}

// Iterates the context until the socket is ready. The deadline is looked at first, so that an agent
// that talks without end does not hold us.
static bool
wait_for_socket(VsQmpAgent *agent, GIOCondition condition, const Limit *limit, GError **error)
{
    bool ready = false;
    int64_t left_us = MAX(limit->deadline_us - g_get_monotonic_time(), 0);
    GSource *socket = g_socket_create_source(agent->socket, condition, NULL);
    GSource *timer = g_timeout_source_new((guint)(left_us / 1000 + 1));
    GSource *cancelled = g_cancellable_source_new(limit->cancellable);

    attach(socket, G_SOURCE_FUNC(on_ready), &ready, agent->context);
    attach(timer, on_time, NULL, agent->context);
    attach(cancelled, G_SOURCE_FUNC(on_cancelled), NULL, agent->context);
    while (!ready && g_get_monotonic_time() < limit->deadline_us &&
           !g_cancellable_is_cancelled(limit->cancellable))
        g_main_context_iteration(agent->context, TRUE);
    detach(socket);
    detach(timer);
    detach(cancelled);
    if (g_cancellable_set_error_if_cancelled(limit->cancellable, error))
        return false;
    if (!ready)
        g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT, "no answer in time");
    return ready;
}

static bool
send_text(VsQmpAgent *agent, const char *text, const Limit *limit, GError **error)
{
    gsize length = strlen(text);

    while (length > 0) {
        g_autoptr(GError) cause = NULL;
        gssize sent = g_socket_send(agent->socket, text, length, NULL, &cause);
        if (sent >= 0) {
            text += sent;
            length -= (gsize)sent;
        } else if (!g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
            return fail_closed(agent, cause, error);
        } else if (!wait_for_socket(agent, G_IO_OUT, limit, error)) {
            return false;
        }
    }
    return true;
}

static bool
read_once(VsQmpAgent *agent, const Limit *limit, GError **error)
{
    char buffer[READ_BUFFER_BYTES];
    g_autoptr(GError) cause = NULL;

    if (!wait_for_socket(agent, G_IO_IN, limit, error))
        return false;
    gssize length = g_socket_receive(agent->socket, buffer, sizeof buffer, NULL, &cause);
    if (length < 0 && g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK))
        return true;
    if (length <= 0)
        return fail_closed(agent, cause, error);
    return vs_qmp_agent_stream_push(agent->stream, buffer, (size_t)length, error);
}

// The next message, a new reference.
static struct json_object *
receive(VsQmpAgent *agent, const Limit *limit, GError **error)
{
    struct json_object *message = NULL;

    while (vs_qmp_agent_stream_next(agent->stream, &message, error)) {
        if (message != NULL)
            return message;
        if (!read_once(agent, limit, error))
            return NULL;
    }
    return NULL;
}

static bool
is_sync_answer(struct json_object *message, int64_t id)
{
    struct json_object *result = NULL;

    return json_object_object_get_ex(message, "return", &result) &&
           json_object_is_type(result, json_type_int) && json_object_get_int64(result) == id;
}

// Waits for the answer to our guest-sync-delimited. Before it may stand anything, also what an
// earlier client's was answered by.
static bool
await_sync(VsQmpAgent *agent, int64_t id, const Limit *limit, GError **error)
{
    for (;;) {
        g_autoptr(GError) cause = NULL;
        struct json_object *message = receive(agent, limit, &cause);
        bool synchronised = message != NULL && is_sync_answer(message, id);

        json_object_put(message);
        if (synchronised)
            return true;
        if (cause != NULL && !g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL)) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
        vs_qmp_agent_stream_realign(agent->stream);
    }
}

static char *
printable(const char *text)
{
    GString *result = g_string_new(NULL);

    for (unsigned count = 0; *text != '\0'; text = g_utf8_next_char(text)) {
        if (++count > DESCRIPTION_MAX_CHARACTERS) {
            g_string_append(result, "…");
            break;
        }
        gunichar character = g_utf8_get_char(text);
        g_string_append_unichar(result, g_unichar_isprint(character) ? character : '?');
    }
    return g_string_free(result, FALSE);
}

// The "return" member, a new reference; the agent's error as _COMMAND.
static struct json_object *
read_answer(struct json_object *message, const char *command, GError **error)
{
    struct json_object *member = NULL;
    struct json_object *description = NULL;

    if (json_object_object_get_ex(message, "return", &member) && member != NULL)
        return json_object_get(member);
    if (json_object_object_get_ex(message, "error", &member) &&
        json_object_is_type(member, json_type_object) &&
        json_object_object_get_ex(member, "desc", &description) &&
        json_object_is_type(description, json_type_string)) {
        g_autofree char *words = printable(json_object_get_string(description));
        g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND, "%s: %s", command, words);
    } else {
        g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL,
                    "%s: its answer has neither a result nor an error's description", command);
    }
    return NULL;
}

// A wait's deadline says nothing of what was waited for.
static void
explain_timeout(GError *cause, const char *what, unsigned timeout_ms, const char *hint)
{
    if (!g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT))
        return;
    g_free(cause->message);
    cause->message = g_strdup_printf("%s was not answered within %u ms%s", what, timeout_ms, hint);
}

static char *
sync_request(int64_t id)
{
    // The sentinel makes the agent forget half a request that it may have got before.
    return g_strdup_printf(
        "%c{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" G_GINT64_FORMAT "}}\n",
        VS_QMP_AGENT_SENTINEL, id);
}

static bool
synchronise(VsQmpAgent *agent, const Request *request, const char *behind, const Limit *limit,
            GError **error)
{
    g_autoptr(GError) cause = NULL;
    unsigned timeout_ms = request->timeout_ms;
    Limit sync_limit = *limit;
    int64_t id = g_random_int();
    g_autofree char *sync = sync_request(id);
    g_autofree char *text = g_strconcat(sync, behind, NULL);

    if (request->only_if_alive && timeout_ms > VS_QMP_AGENT_SYNC_TIMEOUT_MS) {
        timeout_ms = VS_QMP_AGENT_SYNC_TIMEOUT_MS;
        sync_limit.deadline_us =
            MIN(limit->deadline_us, g_get_monotonic_time() + (int64_t)timeout_ms * 1000);
    }
    vs_qmp_agent_stream_realign(agent->stream);
    if (send_text(agent, text, &sync_limit, &cause) && await_sync(agent, id, &sync_limit, &cause))
        return true;
    explain_timeout(
        cause, "guest-sync-delimited", timeout_ms,
        " (no agent runs in the guest, it is stuck, or another client holds its socket)");
    g_propagate_error(error, g_steal_pointer(&cause));
    return false;
}

static bool
open_socket(VsQmpAgent *agent, const Limit *limit, GError **error)
{
    if (agent->socket == NULL)
        agent->socket = vs_qmp_socket_connect(agent->path, agent->context, limit->deadline_us,
                                              limit->cancellable, error);
    return agent->socket != NULL;
}

// Synchronises, sends the command and gives its "return" member, NULL without a command.
static bool
exchange(VsQmpAgent *agent, const Request *request, const Limit *limit, struct json_object **result,
         GError **error)
{
    g_autoptr(GError) cause = NULL;
    g_autofree char *text = request->command != NULL
                                ? g_strdup_printf("{\"execute\":\"%s\"}\n", request->command)
                                : g_strdup("");

    *result = NULL;
    if (!open_socket(agent, limit, error) ||
        !synchronise(agent, request, request->only_if_alive ? "" : text, limit, error))
        return false;
    if (request->command == NULL)
        return true;

    struct json_object *message = NULL;
    if (!request->only_if_alive || send_text(agent, text, limit, &cause))
        message = receive(agent, limit, &cause);
    if (message == NULL) {
        explain_timeout(cause, request->command, request->timeout_ms, "");
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    *result = read_answer(message, request->command, error);
    json_object_put(message);
    return *result != NULL;
}

static bool
run(VsQmpAgent *agent, const Request *request, GCancellable *cancellable,
    struct json_object **result, GError **error)
{
    const Limit limit = {g_get_monotonic_time() + (int64_t)request->timeout_ms * 1000, cancellable};
    g_autoptr(GError) cause = NULL;
    bool done = false;

    *result = NULL;
    if (agent->busy) {
        g_set_error_literal(&cause, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN, "another call is under way");
    } else {
        agent->busy = true;
        done = exchange(agent, request, &limit, result, &cause);
        agent->busy = false;
    }
    if (!done)
        g_propagate_prefixed_error(error, g_steal_pointer(&cause),
                                   "guest agent at '%s': ", agent->path);
    return done;
}

static bool
fail_answer(const VsQmpAgent *agent, const char *command, GError **error)
{
    g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL,
                "guest agent at '%s': %s: its answer makes no sense", agent->path, command);
    return false;
}

// Runs a command that is answered by a number of file systems.
static bool
run_counted(VsQmpAgent *agent, const Request *request, unsigned *count, GCancellable *cancellable,
            GError **error)
{
    struct json_object *result = NULL;

    if (!run(agent, request, cancellable, &result, error))
        return false;
    int64_t number =
        json_object_is_type(result, json_type_int) ? json_object_get_int64(result) : -1;
    json_object_put(result);
    if (number < 0 || number > G_MAXINT)
        return fail_answer(agent, request->command, error);
    if (count != NULL)
        *count = (unsigned)number;
    return true;
}

VsQmpAgent *
vs_qmp_agent_connect(const char *socket_path, unsigned timeout_ms, GCancellable *cancellable,
                     GError **error)
{
    const Request request = {NULL, false, timeout_ms};
    g_autoptr(VsQmpAgent) agent = g_new0(VsQmpAgent, 1);
    struct json_object *nothing = NULL;

    agent->context = g_main_context_ref_thread_default();
    agent->path = g_strdup(socket_path);
    agent->stream = vs_qmp_agent_stream_new();
    return run(agent, &request, cancellable, &nothing, error) ? g_steal_pointer(&agent) : NULL;
}

void
vs_qmp_agent_free(VsQmpAgent *agent)
{
    if (agent == NULL)
        return;
    close_socket(agent);
    vs_qmp_agent_stream_free(agent->stream);
    g_main_context_unref(agent->context);
    g_free(agent->path);
    g_free(agent);
}

bool
vs_qmp_agent_freeze(VsQmpAgent *agent, unsigned *filesystems, unsigned timeout_ms,
                    GCancellable *cancellable, GError **error)
{
    const Request request = {"guest-fsfreeze-freeze", true, timeout_ms};

    return run_counted(agent, &request, filesystems, cancellable, error);
}

bool
vs_qmp_agent_thaw(VsQmpAgent *agent, unsigned *filesystems, unsigned timeout_ms,
                  GCancellable *cancellable, GError **error)
{
    const Request request = {"guest-fsfreeze-thaw", false, timeout_ms};

    return run_counted(agent, &request, filesystems, cancellable, error);
}

bool
vs_qmp_agent_status(VsQmpAgent *agent, bool *frozen, unsigned timeout_ms, GCancellable *cancellable,
                    GError **error)
{
    const Request request = {"guest-fsfreeze-status", false, timeout_ms};
    struct json_object *result = NULL;

    if (!run(agent, &request, cancellable, &result, error))
        return false;
    const char *word =
        json_object_is_type(result, json_type_string) ? json_object_get_string(result) : "";
    bool known = g_str_equal(word, "frozen") || g_str_equal(word, "thawed");
    *frozen = g_str_equal(word, "frozen");
    json_object_put(result);
    return known || fail_answer(agent, request.command, error);
}
