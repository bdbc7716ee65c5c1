// SPDX-License-Identifier: LGPL-2.1-or-later
// A point in time of a running QEMU's disks: scratch space, the transaction, its end.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/qmp-guard.h"

static void
capture_clear(VsQmpCapture *capture)
{
    vs_qmp_names_clear(&capture->names);
    g_free(capture->frozen);
    g_free(capture->device_path);
    g_free(capture->node);
    vs_pull_free(capture->probe);
    // A paused QEMU keeps its descriptor open till it runs again: give the space back all the same,
    // once no node uses it.
    if (capture->scratch && !capture->has_file && ftruncate(capture->scratch->fd, 0) < 0)
        g_debug("truncating a scratch file: %s", g_strerror(errno));
    vs_scratch_free(capture->scratch);
    if (capture->inherited >= 0)
        close(capture->inherited);
    g_strfreev(capture->command);
}

static void
forget_captures(VsQmpDriver *driver)
{
    for (unsigned i = 0; i < driver->capture_count; i++)
        capture_clear(&driver->captures[i]);
    g_clear_pointer(&driver->captures, g_free);
    driver->capture_count = 0;
}

// Events ----------------------------------------------------------------------------------------

static const char *
get_event_string(struct json_object *data, const char *key)
{
    struct json_object *member;
    return data && json_object_object_get_ex(data, key, &member) ? json_object_get_string(member)
                                                                 : NULL;
}

static void
ignore_reply(struct json_object *result, const GError *error, gpointer user_data)
{
}

// The scratch file has come near its reservation: reserve more, or give the snapshot up before a
// guest write fails. QEMU tells once, before a write: what a fast guest writes meanwhile may have
// left the next threshold behind already.
static void
on_threshold(VsQmpDriver *driver, VsQmpCapture *capture)
{
    GError **lost = driver->lost ? NULL : &driver->lost;
    if (!vs_scratch_grow(capture->scratch, lost) || !vs_scratch_keep_up(capture->scratch, lost))
        return;
    VsQmpCommand again = {.name = "block-set-write-threshold",
                          .arguments = vs_qmp_args(
                              "node-name", vs_qmp_str(capture->names.file_node), "write-threshold",
                              vs_qmp_int(vs_scratch_threshold(capture->scratch)), NULL)};
    vs_qmp_client_send(driver->client, &again, NULL, ignore_reply, NULL);
}

static void
on_io_error(VsQmpDriver *driver, VsQmpCapture *capture, struct json_object *data)
{
    const char *action = get_event_string(data, "action");
    capture->was_paused |= g_strcmp0(action, "stop") == 0;
    if (!driver->lost)
        g_set_error(&driver->lost, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
                    "keeping old blocks of disk '%s': a write to the scratch space in '%s' failed",
                    capture->disk->disk->target, capture->scratch->folder);
}

void
vs_qmp_driver_on_event(const char *name, struct json_object *data, gpointer user_data)
{
    VsQmpDriver *driver = user_data;
    if (!name && driver->captures && !driver->lost)
        g_set_error(&driver->lost, VS_QMP_ERROR, VS_QMP_ERROR_CLOSED,
                    "QEMU ended, or closed its monitor '%s'", driver->socket_path);
    if (!name)
        return;
    const char *node = get_event_string(data, "node-name");
    for (unsigned i = 0; i < driver->capture_count; i++) {
        VsQmpCapture *capture = &driver->captures[i];
        if (g_str_equal(name, "BLOCK_WRITE_THRESHOLD") &&
            g_strcmp0(node, capture->names.file_node) == 0)
            on_threshold(driver, capture);
        else if (g_str_equal(name, "BLOCK_IO_ERROR") && capture->guard == VS_QMP_GUARD_NONE &&
                 g_strcmp0(node, capture->names.filter_node) == 0)
            on_io_error(driver, capture, data);
    }
}

// Before the point in time ----------------------------------------------------------------------

static bool
add_nodes(VsQmpDriver *driver, VsQmpCapture *capture, GCancellable *cancellable, GError **error)
{
    VsQmpClient *client = driver->client;
    const VsQmpNames *names = &capture->names;
    if (!vs_qmp_fdset_add(client, capture->scratch->fd, names->label, &capture->fdset, cancellable,
                          error))
        return false;
    capture->has_fdset = true;
    g_autofree char *filename = g_strdup_printf("/dev/fdset/%" G_GINT64_FORMAT, capture->fdset);
    struct json_object *file =
        vs_qmp_args("driver", vs_qmp_str("file"), "node-name", vs_qmp_str(names->file_node),
                    "filename", vs_qmp_str(filename), NULL);
    if (!vs_qmp_node_add(client, file, cancellable, error))
        return false;
    capture->has_file = true;
    const char *backing = capture->disk->staged ? NULL : capture->disk->disk->node;
    struct json_object *fleece =
        vs_qmp_args("driver", vs_qmp_str("qcow2"), "node-name", vs_qmp_str(names->fleece_node),
                    "file", vs_qmp_str(names->file_node), "backing", vs_qmp_str(backing), NULL);
    if (!vs_qmp_node_add(client, fleece, cancellable, error))
        return false;
    capture->has_fleece = true;
    return vs_qmp_set_write_threshold(client, names->file_node,
                                      vs_scratch_threshold(capture->scratch), cancellable, error) &&
           vs_qmp_mark_make(client, capture, cancellable, error);
}

static bool
prepare(VsQmpDriver *driver, VsQmpCapture *capture, VsPointDisk *disk,
        const VsScratchOptions *scratch, GError **error)
{
    capture->disk = disk;
    capture->inherited = -1;
    vs_qmp_names_init(&capture->names, driver->owner, disk->snapshot_id, capture->node);
    if (disk->old_bitmap)
        capture->frozen = g_strconcat(disk->bitmap, ".frozen", NULL);
    for (unsigned i = 0; i < disk->disk->bitmaps->len; i++) {
        const VsQmpBitmap *bitmap = g_ptr_array_index(disk->disk->bitmaps, i);
        if (g_strcmp0(bitmap->name, disk->old_bitmap) == 0)
            capture->granularity_bytes = bitmap->granularity_bytes;
    }
    capture->scratch = vs_scratch_new(scratch->folder, scratch->most_bytes, error);
    return capture->scratch &&
           vs_scratch_format(capture->scratch, disk->disk->virtual_size_bytes, error) &&
           vs_scratch_grow(capture->scratch, error);
}

// The point in time -----------------------------------------------------------------------------

// The frozen copy of the old bitmap is what will be read; the old one keeps recording until the
// snapshot is accomplished.
static void
add_bitmap_actions(VsQmpTransaction *transaction, const VsQmpCapture *capture)
{
    const VsPointDisk *disk = capture->disk;
    const char *node = disk->disk->node;
    vs_qmp_transaction_bitmap_add(transaction,
                                  &(VsQmpBitmapAdd){.node = node,
                                                    .name = disk->bitmap,
                                                    .persistent = disk->disk->persistent_bitmaps});
    if (capture->guard == VS_QMP_GUARD_FILTER) // whose point in time has been
        vs_qmp_transaction_bitmap_merge(transaction, node, disk->bitmap, capture->names.filter_node,
                                        VS_QMP_GUARD_BITMAP);
    if (capture->has_mark) {
        g_autofree char *end = vs_bitmap_end_name(disk->bitmap);
        vs_qmp_transaction_bitmap_add(
            transaction, &(VsQmpBitmapAdd){.node = node,
                                           .name = end,
                                           .granularity_bytes = VS_MARK_GRANULARITY,
                                           .persistent = disk->disk->persistent_bitmaps,
                                           .disabled = true});
        vs_qmp_transaction_bitmap_merge(transaction, node, end, capture->names.mark_node,
                                        VS_MARK_BITMAP);
    }
    if (!capture->frozen)
        return;
    vs_qmp_transaction_bitmap_add(transaction,
                                  &(VsQmpBitmapAdd){.node = node,
                                                    .name = capture->frozen,
                                                    .granularity_bytes = capture->granularity_bytes,
                                                    .disabled = true});
    vs_qmp_transaction_bitmap_merge(transaction, node, capture->frozen, node, disk->old_bitmap);
}

static void
add_backup_action(VsQmpTransaction *transaction, const VsQmpCapture *capture)
{
    bool staged = capture->disk->staged;
    vs_qmp_transaction_backup(transaction,
                              &(VsQmpBackup){.job_id = capture->names.job,
                                             .device = capture->disk->disk->node,
                                             .target = capture->names.fleece_node,
                                             .sync = !staged           ? "none"
                                                     : capture->frozen ? "bitmap"
                                                                       : "full",
                                             .bitmap = staged ? capture->frozen : NULL,
                                             .filter_node = capture->names.filter_node,
                                             .on_cbw_error = capture->guard == VS_QMP_GUARD_JOB
                                                                 ? "break-snapshot"
                                                                 : NULL});
}

// Whether filters without jobs hold the disks still, and not the transaction's jobs.
static bool
is_filtered(const VsQmpDriver *driver)
{
    return driver->captures[0].guard == VS_QMP_GUARD_FILTER;
}

// Unless QEMU says that it failed, it may have taken place, or may yet: then all of it counts as
// there.
static bool
run_transaction(VsQmpDriver *driver, VsQmpTransaction *transaction, GError **error)
{
    GError *failure = NULL;
    bool ok = vs_qmp_transaction_run(transaction, driver->client, NULL, &failure);
    if (!g_error_matches(failure, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND))
        for (unsigned i = 0; i < driver->capture_count; i++)
            driver->captures[i].has_job = !is_filtered(driver);
    // "Node 'X' is busy: block device is in use by block job: mirror"
    if (g_error_matches(failure, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND) &&
        strstr(failure->message, " is busy: ")) {
        g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                    "another job has a disk: wait for it, or cancel it: %s", failure->message);
        g_error_free(failure);
    } else if (failure) {
        g_propagate_error(error, failure);
    }
    return ok;
}

static VsQmpTransaction *
make_transaction(VsQmpDriver *driver)
{
    VsQmpTransaction *transaction = vs_qmp_transaction_new();
    for (unsigned i = 0; i < driver->capture_count; i++)
        add_bitmap_actions(transaction, &driver->captures[i]);
    for (unsigned i = 0; i < driver->capture_count && !is_filtered(driver); i++)
        add_backup_action(transaction, &driver->captures[i]);
    return transaction;
}

// The point in time itself. Where filters make it, the bitmaps come later: the disks' old ones go
// on recording, and each filter has recorded since.
static bool
take(VsQmpDriver *driver, VsQmpTransaction *transaction, GError **error)
{
    return is_filtered(driver) ? vs_qmp_guard_attach(driver, error)
                               : run_transaction(driver, transaction, error);
}

static bool
start(VsQmpDriver *driver, VsPoint *point, GCancellable *cancellable, GError **error)
{
    g_autoptr(VsQmpTransaction) transaction = make_transaction(driver);
    if (is_filtered(driver))
        vs_qmp_guard_write_back(driver);
    int64_t from_us = g_get_monotonic_time();
    if (g_cancellable_set_error_if_cancelled(cancellable, error) ||
        !vs_qmp_driver_freeze(driver, point->freeze_timeout_ms, cancellable, error))
        return false;
    // Not cancellable: whether it took place must be known.
    point->at_us = g_get_real_time();
    bool ok = take(driver, transaction, error);
    g_autoptr(GError) frozen = NULL;
    bool thawed = vs_qmp_driver_thaw(driver, &frozen);
    if (!thawed && ok)
        g_propagate_error(error, g_steal_pointer(&frozen));
    else if (!thawed)
        g_prefix_error(error, "(and %s) ", frozen->message);
    point->frozen_us = point->freeze_timeout_ms ? g_get_monotonic_time() - from_us : 0;
    return ok && thawed && (!is_filtered(driver) || run_transaction(driver, transaction, error));
}

static bool
count_dirty(VsQmpDriver *driver, GCancellable *cancellable, GError **error)
{
    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(driver->client, cancellable, error);
    if (!nodes)
        return false;
    for (unsigned i = 0; i < driver->capture_count; i++) {
        VsQmpCapture *capture = &driver->captures[i];
        capture->disk->dirty_bytes = capture->disk->disk->virtual_size_bytes;
        if (!capture->frozen)
            continue;
        const VsQmpNode *node = vs_qmp_find_node(nodes, capture->disk->disk->node);
        const VsQmpBitmap *frozen = node ? vs_qmp_find_bitmap(node, capture->frozen) : NULL;
        if (!frozen) {
            g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL,
                        "capturing disk '%s': the bitmap '%s' that was made is not there",
                        capture->disk->disk->target, capture->frozen);
            return false;
        }
        capture->disk->dirty_bytes = frozen->count_bytes;
    }
    return true;
}

bool
vs_qmp_driver_begin(VsDriver *base, VsPoint *point, GCancellable *cancellable, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    unsigned count = point->count;
    g_assert(!driver->captures);
    driver->captures = g_new0(VsQmpCapture, count);
    driver->capture_count = count;
    for (unsigned i = 0; i < count; i++)
        driver->captures[i].inherited = -1;
    bool ok =
        (point->freeze_timeout_ms == 0 || vs_qmp_driver_find_agent(driver, cancellable, error)) &&
        vs_qmp_guard_choose(driver, point, cancellable, error);
    for (unsigned i = 0; i < count && ok; i++)
        ok = prepare(driver, &driver->captures[i], &point->disks[i], &point->scratch, error) &&
             add_nodes(driver, &driver->captures[i], cancellable, error);
    ok = ok && vs_qmp_guard_prepare(driver, cancellable, error) &&
         start(driver, point, cancellable, error) && count_dirty(driver, cancellable, error);
    for (unsigned i = 0; i < count && ok; i++)
        ok = vs_qmp_mark_remove(driver->client, &driver->captures[i], error) &&
             vs_qmp_guard_open(driver, &driver->captures[i], cancellable, error);
    if (!ok) {
        g_autoptr(GError) undo = NULL;
        point->is_something_left = !vs_qmp_driver_settle(base, &undo);
        if (point->is_something_left && error && *error)
            g_prefix_error(error, "(and undoing it failed: %s; the next create will do it) ",
                           undo->message);
    }
    return ok;
}

// The end ---------------------------------------------------------------------------------------

static void
keep_first(GError **first, GError **failure)
{
    if (*failure && !*first)
        *first = g_steal_pointer(failure);
    g_clear_error(failure);
}

bool
vs_qmp_driver_settle(VsDriver *base, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    VsQmpCapture *captures = driver->captures;
    unsigned count = driver->capture_count;
    GError *first = NULL, *failure = NULL;
    bool is_open = vs_qmp_client_is_open(driver->client);
    for (unsigned i = 0; i < count && is_open; i++) {
        if (captures[i].names.label)
            vs_qmp_capture_remove(driver->client, &captures[i], &failure);
        keep_first(&first, &failure);
        if (captures[i].was_paused && !captures[i].has_job &&
            !vs_qmp_driver_resume(driver, &failure))
            keep_first(&first, &failure);
    }
    if (is_open && !vs_qmp_driver_stop_server(driver, &failure))
        keep_first(&first, &failure);
    driver->has_server = false;
    vs_qmp_driver_forget_server(driver);
    forget_captures(driver);
    g_clear_pointer(&driver->agent, vs_qmp_agent_free);
    if (first)
        g_propagate_error(error, first);
    return first == NULL;
}
