// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/call.h"

#include <string.h>

// QEMU accepts 16 descriptors in one message; no command of ours needs more than this.
#define MAX_FDS 8u

static bool
encode_message(VsQmpCall *call, const VsQmpCommand *request, GError **error)
{
    struct json_object *message = json_object_new_object();

    json_object_object_add(message, "execute", json_object_new_string(request->name));
    if (request->arguments != NULL)
        json_object_object_add(message, "arguments", json_object_get(request->arguments));
    json_object_object_add(message, "id", json_object_new_int64(call->id));

    const char *text = json_object_to_json_string_ext(message, JSON_C_TO_STRING_PLAIN |
                                                                   JSON_C_TO_STRING_NOSLASHESCAPE);
    // QEMU would answer what is not UTF-8 without an id.
    bool is_utf8 = g_utf8_validate(text, -1, NULL);
    if (is_utf8) {
        char *line = g_strconcat(text, "\n", NULL);
        call->bytes = g_bytes_new_take(line, strlen(line));
    } else {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                            "its arguments are not UTF-8");
    }
    json_object_put(message);
    return is_utf8;
}

static bool
duplicate_fds(VsQmpCall *call, const VsQmpCommand *request, GError **error)
{
    if (request->fd_count > MAX_FDS) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "%u file descriptors, at most %u are possible", request->fd_count, MAX_FDS);
        return false;
    }
    if (request->fd_count > 0)
        call->fds = g_unix_fd_list_new();
    for (unsigned i = 0; i < request->fd_count; i++) {
        if (g_unix_fd_list_append(call->fds, request->fds[i], error) < 0)
            return false;
    }
    return true;
}

VsQmpCall *
vs_qmp_call_new(int64_t id, const VsQmpCommand *request, GCancellable *cancellable)
{
    VsQmpCall *call = g_new0(VsQmpCall, 1);

    call->id = id;
    call->name = g_strdup(request->name);
    call->timeout_ms = request->timeout_ms != 0 ? request->timeout_ms : VS_QMP_COMMAND_TIMEOUT_MS;
    if (!g_cancellable_set_error_if_cancelled(cancellable, &call->refused) &&
        encode_message(call, request, &call->refused))
        (void)duplicate_fds(call, request, &call->refused);
    json_object_put(request->arguments);
    return call;
}

static gboolean
on_timer(gpointer user_data)
{
    VsQmpCall *call = user_data;
    g_autoptr(GError) cause = call->refused != NULL
                                  ? g_error_copy(call->refused)
                                  : g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT,
                                                "no reply within %u ms", call->timeout_ms);

    call->given_up(call, cause);
    return G_SOURCE_REMOVE;
}

static gboolean
on_cancelled(GCancellable *cancellable, gpointer user_data)
{
    VsQmpCall *call = user_data;
    g_autoptr(GError) cause = NULL;

    if (g_cancellable_set_error_if_cancelled(cancellable, &cause))
        call->given_up(call, cause);
    return G_SOURCE_REMOVE;
}

void
vs_qmp_call_watch(VsQmpCall *call, GMainContext *context, GCancellable *cancellable)
{
    call->timer =
        call->refused != NULL ? g_idle_source_new() : g_timeout_source_new(call->timeout_ms);
    g_source_set_priority(call->timer, G_PRIORITY_DEFAULT);
    g_source_set_callback(call->timer, on_timer, call, NULL);
    g_source_attach(call->timer, context);
    if (cancellable != NULL && call->refused == NULL) {
        call->cancelled = g_cancellable_source_new(cancellable);
        g_source_set_callback(call->cancelled, G_SOURCE_FUNC(on_cancelled), call, NULL);
        g_source_attach(call->cancelled, context);
    }
}

static void
clear_source(GSource **source)
{
    if (*source != NULL) {
        g_source_destroy(*source);
        g_clear_pointer(source, g_source_unref);
    }
}

void
vs_qmp_call_unwatch(VsQmpCall *call)
{
    clear_source(&call->timer);
    clear_source(&call->cancelled);
}

void
vs_qmp_call_free(VsQmpCall *call)
{
    if (call == NULL)
        return;
    vs_qmp_call_unwatch(call);
    g_clear_pointer(&call->bytes, g_bytes_unref);
    g_clear_object(&call->fds);
    g_clear_error(&call->refused);
    g_free(call->name);
    g_free(call);
}
