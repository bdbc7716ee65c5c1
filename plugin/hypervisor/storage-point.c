// SPDX-License-Identifier: LGPL-2.1-or-later
// A point in time of images that nothing runs on: begin, sources, the end.
//
// What takes long (the daemon's start, file times) comes before the images are opened for
// writing, and what can be looked at afterwards comes after.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/image-lock.h"
#include "plugin/hypervisor/qemu-nbd.h"
#include "plugin/hypervisor/storage-driver-private.h"
#include "qmp/job.h"

// Preparing -------------------------------------------------------------------------------------

static bool
prepare_read(const VsStorageDriver *driver, VsPointDisk *disk, unsigned index, GError **error)
{
    VsStorageRead *read = &driver->reads[index];
    read->disk = disk;
    read->node = g_strdup_printf("vs-disk-%u", index);
    read->fd = vs_image_lock_open(disk->disk->source);
    if (read->fd < 0) {
        int code = errno;
        g_set_error(error, VS_ERROR, VS_ERROR_DISK_STATUS, "opening image '%s' of disk '%s': %s",
                    disk->disk->source, disk->disk->target, g_strerror(code));
        return false;
    }
    if (vs_image_lock_is_written(read->fd)) {
        g_set_error(error, VS_ERROR,
                    driver->owner.check_stopped ? VS_ERROR_INSTANCE_STATUS : VS_ERROR_DISK_STATUS,
                    "image '%s' of disk '%s' is in use by a running QEMU", disk->disk->source,
                    disk->disk->target);
        return false;
    }
    disk->dirty_bytes = disk->disk->virtual_size_bytes;
    disk->is_estimate = false;
    return vs_storage_read_stamp(read, error);
}

static bool
prepare(VsStorageDriver *driver, VsPoint *point, GCancellable *cancellable, GError **error)
{
    if (point->freeze_timeout_ms > 0) {
        g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                    "no guest runs that could freeze its file systems; do without --quiesce");
        return false;
    }
    if (!vs_storage_driver_check_stopped(driver, error))
        return false;
    bool tracks = false;
    for (unsigned i = 0; i < point->count; i++)
        tracks |= point->disks[i].bitmap != NULL;
    if (tracks && !vs_storage_driver_need_daemon(driver, cancellable, error))
        return false;
    for (unsigned i = 0; i < point->count; i++)
        if (!prepare_read(driver, &point->disks[i], i, error))
            return false;
    return true;
}

// While the images are open for writing ---------------------------------------------------------

static bool
open_images(VsStorageDriver *driver, VsStorageMode mode, GError **error)
{
    for (unsigned i = 0; i < driver->read_count; i++) {
        VsStorageRead *read = &driver->reads[i];
        const VsDisk *disk = read->disk->disk;
        GError *failure = NULL;
        if (!read->disk->bitmap)
            continue;
        if (!vs_storage_daemon_open(driver->daemon, read->node, disk->source, mode, &failure)) {
            vs_storage_driver_set_open_error(driver, disk, failure, error);
            return false;
        }
        read->is_open = true;
    }
    return true;
}

// Closes all that it can; the first failure is reported.
static bool
close_images(VsStorageDriver *driver, GError **error)
{
    GError *first = NULL;
    for (unsigned i = 0; i < driver->read_count; i++) {
        VsStorageRead *read = &driver->reads[i];
        if (!read->is_open)
            continue;
        read->is_open = false;
        if (!vs_storage_daemon_close(driver->daemon, read->node, first ? NULL : &first))
            g_debug("closing '%s' in the storage daemon failed", read->node);
    }
    if (first)
        g_propagate_error(error, first);
    return first == NULL;
}

static bool
distrust(const VsPointDisk *disk, const char *why, GError **error)
{
    g_set_error(error, VS_ERROR, VS_ERROR_BITMAP_DISTRUSTED,
                "the dirty bitmap '%s' of disk '%s' can't be trusted: %s", disk->old_bitmap,
                disk->disk->target, why);
    return false;
}

// An ".end" that has lost its bit tells of a disk that was shorter meanwhile. Only the QMP driver's
// bitmaps have one; for the others the engine has its own way (vs_pull_check).
static bool
check_old_bitmap(const VsPointDisk *disk, const VsQmpNode *node, GError **error)
{
    const VsQmpBitmap *old = vs_qmp_find_bitmap(node, disk->old_bitmap);
    g_autofree char *end_name = vs_bitmap_end_name(disk->old_bitmap);
    const VsQmpBitmap *end = vs_qmp_find_bitmap(node, end_name);
    if (!old)
        return distrust(disk, "it is not there any more", error);
    if (old->inconsistent)
        return distrust(disk, "it is inconsistent: QEMU did not end in order", error);
    if (!old->recording || old->busy)
        return distrust(disk, "it has not been recording", error);
    if (end && (end->inconsistent || end->count_bytes == 0))
        return distrust(disk, "the disk has been shorter meanwhile", error);
    return true;
}

static bool
look_at_old(VsStorageDriver *driver, GError **error)
{
    g_autoptr(GPtrArray) nodes =
        vs_qmp_query_nodes(vs_storage_daemon_client(driver->daemon), NULL, error);
    for (unsigned i = 0; nodes && i < driver->read_count; i++) {
        VsPointDisk *disk = driver->reads[i].disk;
        const VsQmpNode *node = vs_qmp_find_node(nodes, driver->reads[i].node);
        if (!disk->bitmap)
            continue;
        if (!node || node->virtual_size_bytes != disk->disk->virtual_size_bytes) {
            g_set_error(error, VS_ERROR, VS_ERROR_DISK_STATUS,
                        "disk '%s' has changed its size just now; try again", disk->disk->target);
            return false;
        }
        if (!disk->old_bitmap)
            continue;
        if (!check_old_bitmap(disk, node, error))
            return false;
        disk->dirty_bytes = vs_qmp_find_bitmap(node, disk->old_bitmap)->count_bytes;
    }
    return nodes != NULL;
}

// Unless the daemon says that it failed, it may have taken place.
static bool
start_bitmaps(VsStorageDriver *driver, VsPoint *point, GError **error)
{
    g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
    for (unsigned i = 0; i < driver->read_count; i++) {
        const VsStorageRead *read = &driver->reads[i];
        if (read->disk->bitmap)
            vs_qmp_transaction_bitmap_add(transaction, &(VsQmpBitmapAdd){.node = read->node,
                                                                         .name = read->disk->bitmap,
                                                                         .persistent = true});
    }
    point->at_us = g_get_real_time();
    GError *failure = NULL;
    bool ok = vs_qmp_transaction_run(transaction, vs_storage_daemon_client(driver->daemon), NULL,
                                     &failure);
    bool has_failed = g_error_matches(failure, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND);
    for (unsigned i = 0; i < driver->read_count && !has_failed; i++)
        driver->reads[i].has_bitmap = driver->reads[i].disk->bitmap != NULL;
    if (failure)
        g_propagate_error(error, failure);
    return ok;
}

static bool
take_point(VsStorageDriver *driver, VsPoint *point, GError **error)
{
    point->at_us = g_get_real_time();
    point->frozen_us = 0;
    if (!driver->daemon)
        return true; // no bitmaps: nothing has to be done to hold still what stands still
    int64_t from_us = g_get_monotonic_time();
    bool ok = open_images(driver, VS_STORAGE_WRITE, error) && look_at_old(driver, error) &&
              start_bitmaps(driver, point, error) && close_images(driver, error);
    g_debug("images were open for writing for %" G_GINT64_FORMAT " us",
            g_get_monotonic_time() - from_us);
    return ok;
}

// Afterwards ------------------------------------------------------------------------------------

// Bitmaps are stored when an image is closed, which can fail without an answer that says so.
static bool
look_at_new(VsStorageDriver *driver, GError **error)
{
    g_autoptr(GPtrArray) nodes =
        vs_qmp_query_nodes(vs_storage_daemon_client(driver->daemon), NULL, error);
    for (unsigned i = 0; nodes && i < driver->read_count; i++) {
        const VsStorageRead *read = &driver->reads[i];
        g_autofree char *fault = vs_storage_read_find_fault(read, nodes);
        if (!fault)
            continue;
        g_autofree char *said = vs_storage_daemon_said(driver->daemon);
        g_set_error(error, VS_ERROR, VS_ERROR_FAILED,
                    "starting the dirty bitmap of disk '%s' in its image '%s': %s (%s)",
                    read->disk->disk->target, read->disk->disk->source, fault, said);
        return false;
    }
    return nodes != NULL;
}

static bool
check_stored(VsStorageDriver *driver, GError **error)
{
    if (!driver->daemon)
        return true;
    bool ok = open_images(driver, VS_STORAGE_READ_SHARED, error) && look_at_new(driver, error);
    bool is_closed = close_images(driver, ok ? error : NULL);
    return ok && is_closed;
}

// Those of the new bitmaps that came to be stored.
static bool
add_removals(VsQmpTransaction *transaction, VsQmpClient *client, const VsStorageRead *read,
             GError **error)
{
    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(client, NULL, error);
    const VsQmpNode *node = nodes ? vs_qmp_find_node(nodes, read->node) : NULL;
    if (node && vs_qmp_find_bitmap(node, read->disk->bitmap))
        vs_qmp_transaction_bitmap_remove(transaction, read->node, read->disk->bitmap);
    return nodes != NULL;
}

// Removes the new bitmap again. The daemon may be gone, and somebody else have the image open.
// Leaves the image open.
static bool
take_back(VsStorageDriver *driver, VsStorageRead *read, GError **error)
{
    g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
    if (!vs_storage_driver_need_daemon(driver, NULL, error))
        return false;
    if (!read->is_open &&
        !vs_storage_daemon_open(driver->daemon, read->node, read->disk->disk->source,
                                VS_STORAGE_WRITE, error))
        return false;
    read->is_open = true;
    VsQmpClient *client = vs_storage_daemon_client(driver->daemon);
    return add_removals(transaction, client, read, error) &&
           vs_qmp_transaction_run(transaction, client, NULL, error);
}

// Whether nothing is left.
static bool
undo(VsStorageDriver *driver, GError **error)
{
    g_autoptr(GError) failure = NULL;
    for (unsigned i = 0; i < driver->read_count; i++) {
        VsStorageRead *read = &driver->reads[i];
        if (read->has_bitmap && !take_back(driver, read, failure ? NULL : &failure))
            g_debug("a new bitmap of disk '%s' stays", read->disk->disk->target);
    }
    if (close_images(driver, failure ? NULL : &failure) && !failure)
        return true;
    g_prefix_error(error, "(and undoing it failed: %s; the next create will do it) ",
                   failure->message);
    return false;
}

bool
vs_storage_driver_begin(VsDriver *base, VsPoint *point, GCancellable *cancellable, GError **error)
{
    VsStorageDriver *driver = (VsStorageDriver *)base;
    g_assert(!driver->reads);
    g_clear_error(&driver->lost);
    driver->reads = g_new0(VsStorageRead, point->count);
    driver->read_count = point->count;
    for (unsigned i = 0; i < point->count; i++)
        driver->reads[i].fd = -1;
    bool ok = prepare(driver, point, cancellable, error) &&
              !g_cancellable_set_error_if_cancelled(cancellable, error) &&
              take_point(driver, point, error) && check_stored(driver, error);
    if (ok)
        return true;
    point->is_something_left = !undo(driver, error);
    g_autoptr(GError) ending = NULL;
    if (!vs_storage_driver_settle(base, &ending))
        g_debug("ending a point in time that was not taken: %s", ending->message);
    return false;
}

// Sources ---------------------------------------------------------------------------------------

bool
vs_storage_driver_open_source(VsDriver *base, unsigned index, VsPullSource *source,
                              const VsStageReport *report, GCancellable *cancellable,
                              GError **error)
{
    VsStorageDriver *driver = (VsStorageDriver *)base;
    VsStorageRead *read = &driver->reads[index];
    const VsPointDisk *disk = read->disk;
    g_clear_pointer(&read->command, g_strfreev);
    read->command = vs_qemu_nbd_disk(disk->disk, disk->old_bitmap);
    *source = (VsPullSource){.socket = -1,
                             .command = (const char *const *)read->command,
                             .export_name = "",
                             .bitmap = disk->old_bitmap};
    return true;
}

// The server is the client's own child: it may go in any order.
bool
vs_storage_driver_detach_source(VsDriver *base, unsigned index, GError **error)
{
    return true;
}

bool
vs_storage_driver_close_source(VsDriver *base, unsigned index, GError **error)
{
    VsStorageDriver *driver = (VsStorageDriver *)base;
    g_clear_pointer(&driver->reads[index].command, g_strfreev);
    return true;
}

// The end ---------------------------------------------------------------------------------------

bool
vs_storage_driver_settle(VsDriver *base, GError **error)
{
    VsStorageDriver *driver = (VsStorageDriver *)base;
    for (unsigned i = 0; i < driver->read_count; i++) {
        VsStorageRead *read = &driver->reads[i];
        if (read->fd >= 0)
            close(read->fd);
        g_clear_pointer(&read->stamps, g_ptr_array_unref);
        g_strfreev(read->command);
        g_free(read->node);
    }
    g_clear_pointer(&driver->reads, g_free);
    driver->read_count = 0;
    g_clear_pointer(&driver->daemon, vs_storage_daemon_stop);
    return true;
}
