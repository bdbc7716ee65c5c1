// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/export.h"

#include <string.h>

#include "qmp/args.h"
#include "qmp/reply.h"

// The listening socket's name in QEMU until the server takes it.
#define LISTENER_NAME "virtsnap-nbd"
// At the latest after this time the list of exports is asked for again.
#define ASK_AGAIN_MS 500u

bool
vs_qmp_nbd_server_start(VsQmpClient *client, int listen_fd, GCancellable *cancellable,
                        GError **error)
{
    const VsQmpCommand pass = {.name = "getfd",
                               .arguments = vs_qmp_args("fdname", vs_qmp_str(LISTENER_NAME), NULL),
                               .fds = &listen_fd,
                               .fd_count = 1};
    struct json_object *passed = vs_qmp_client_run(client, &pass, cancellable, error);
    json_object_put(passed);
    if (passed == NULL) {
        g_prefix_error(error, "passing the NBD server its socket: ");
        return false;
    }

    struct json_object *address =
        vs_qmp_args("type", vs_qmp_str("fd"), "data",
                    vs_qmp_args("str", vs_qmp_str(LISTENER_NAME), NULL), NULL);
    if (vs_qmp_client_do(client, "nbd-server-start", vs_qmp_args("addr", address, NULL),
                         cancellable, error))
        return true;
    g_prefix_error(error, "starting QEMU's NBD server: ");
    // QEMU keeps the descriptor where it did not get as far as taking it. The first error is the
    // one that counts.
    (void)!vs_qmp_client_do(client, "closefd",
                            vs_qmp_args("fdname", vs_qmp_str(LISTENER_NAME), NULL), NULL, NULL);
    return false;
}

bool
vs_qmp_nbd_server_stop(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    g_autoptr(GPtrArray) exports = vs_qmp_query_exports(client, cancellable, error);

    if (exports != NULL && exports->len > 0) {
        g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_IN_USE,
                    "stopping QEMU's NBD server: %u exports are still there, the first is '%s'",
                    exports->len, (const char *)g_ptr_array_index(exports, 0));
        return false;
    }
    if (exports != NULL && vs_qmp_client_do(client, "nbd-server-stop", NULL, cancellable, error))
        return true;
    g_prefix_error(error, "stopping QEMU's NBD server: ");
    return false;
}

bool
vs_qmp_export_add(VsQmpClient *client, const VsQmpExport *description, GCancellable *cancellable,
                  GError **error)
{
    struct json_object *bitmaps = NULL;

    if (description->bitmap != NULL) {
        bitmaps = json_object_new_array();
        json_object_array_add(bitmaps, vs_qmp_args("node", vs_qmp_str(description->bitmap_node),
                                                   "name", vs_qmp_str(description->bitmap), NULL));
    }
    struct json_object *arguments =
        vs_qmp_args("type", vs_qmp_str("nbd"), "id", vs_qmp_str(description->id), "node-name",
                    vs_qmp_str(description->node), "name", vs_qmp_str(description->name),
                    "writable", vs_qmp_bool(false), "bitmaps", bitmaps, NULL);
    if (vs_qmp_client_do(client, "block-export-add", arguments, cancellable, error))
        return true;
    g_prefix_error(error, "exporting node '%s': ", description->node);
    return false;
}

typedef enum { ABSENT, PRESENT, SHUTTING_DOWN } ExportState;

// Tells the state of the export wanted (NULL: of none) and adds all ids to ids (NULL: doesn't).
static bool
query_exports(VsQmpClient *client, const char *wanted, ExportState *state, GPtrArray *ids,
              GCancellable *cancellable, GError **error)
{
    VsQmpReader reader = {.command = "query-block-exports"};
    struct json_object *reply =
        vs_qmp_client_call(client, reader.command, NULL, cancellable, error);
    if (reply == NULL)
        return false;

    *state = ABSENT;
    for (size_t i = 0; i < vs_qmp_reader_array_length(&reader, reply); i++) {
        struct json_object *export = vs_qmp_reader_element(&reader, reply, i);
        g_autofree char *id = vs_qmp_reader_string(&reader, export, "id");
        bool shutting_down = vs_qmp_reader_bool(&reader, export, "shutting-down");
        if (g_strcmp0(id, wanted) == 0)
            *state = shutting_down ? SHUTTING_DOWN : PRESENT;
        if (ids != NULL && id != NULL)
            g_ptr_array_add(ids, g_steal_pointer(&id));
    }
    json_object_put(reply);
    return vs_qmp_reader_finish(&reader, error);
}

GPtrArray *
vs_qmp_query_exports(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    ExportState ignored = ABSENT;

    return query_exports(client, NULL, &ignored, ids, cancellable, error) ? g_steal_pointer(&ids)
                                                                          : NULL;
}

bool
vs_qmp_export_begin_delete(VsQmpClient *client, const char *id, GCancellable *cancellable,
                           GError **error)
{
    g_autoptr(GError) cause = NULL;
    ExportState state = PRESENT;
    struct json_object *arguments =
        vs_qmp_args("id", vs_qmp_str(id), "mode", vs_qmp_str("hard"), NULL);

    if (vs_qmp_client_do(client, "block-export-del", arguments, cancellable, &cause))
        return true;
    // QEMU refuses with one error class whatever the reason: only the list tells that there is
    // nothing (more) to do.
    if (g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND) &&
        query_exports(client, id, &state, NULL, cancellable, NULL) && state != PRESENT)
        return true;
    g_propagate_prefixed_error(error, g_steal_pointer(&cause), "deleting export '%s': ", id);
    return false;
}

typedef struct {
    const char *id;
    bool deleted;
} Deletion;

static void
on_event(const char *name, struct json_object *data, gpointer user_data)
{
    Deletion *deletion = user_data;
    struct json_object *id = NULL;

    if (g_strcmp0(name, "BLOCK_EXPORT_DELETED") == 0 &&
        json_object_object_get_ex(data, "id", &id) &&
        g_strcmp0(json_object_get_string(id), deletion->id) == 0)
        deletion->deleted = true;
}

static bool
is_deleted(gpointer user_data, GError **error)
{
    return ((const Deletion *)user_data)->deleted;
}

static bool
wait_deleted(VsQmpClient *client, Deletion *deletion, int64_t deadline_us,
             GCancellable *cancellable, GError **error)
{
    for (;;) {
        g_autoptr(GError) cause = NULL;
        ExportState state = PRESENT;
        if (!query_exports(client, deletion->id, &state, NULL, cancellable, error))
            return false;
        if (state == ABSENT)
            return true;

        int64_t left_ms = (deadline_us - g_get_monotonic_time()) / 1000;
        if (vs_qmp_client_wait(client, is_deleted, deletion,
                               (unsigned)CLAMP(left_ms, 0, ASK_AGAIN_MS), cancellable, &cause)) {
            deletion->deleted = false; // ask; another export of this name may have come
        } else if (!g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT) || left_ms <= 0) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
    }
}

bool
vs_qmp_export_wait_deleted(VsQmpClient *client, const char *id, unsigned timeout_ms,
                           GCancellable *cancellable, GError **error)
{
    Deletion deletion = {.id = id, .deleted = false};
    unsigned subscription = vs_qmp_client_subscribe(client, on_event, &deletion);
    bool gone = wait_deleted(client, &deletion, g_get_monotonic_time() + (int64_t)timeout_ms * 1000,
                             cancellable, error);

    vs_qmp_client_unsubscribe(client, subscription);
    if (!gone)
        g_prefix_error(error, "waiting for export '%s' to be gone: ", id);
    return gone;
}
