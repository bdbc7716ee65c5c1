// SPDX-License-Identifier: LGPL-2.1-or-later
// Whether what is read is what the images held at the point in time.
#include <string.h>

#include "plugin/error.h"
#include "plugin/hypervisor/image-lock.h"
#include "plugin/hypervisor/storage-driver-private.h"

// Asking the owner costs more than looking at a lock.
#define OWNER_INTERVAL_US (500 * G_TIME_SPAN_MILLISECOND)

static bool
check_lock(const VsStorageRead *read, GError **error)
{
    if (!vs_image_lock_is_written(read->fd))
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                "image '%s' of disk '%s' was opened for writing while it was read (has its "
                "machine been started?): the snapshot is given up%s",
                read->disk->disk->source, read->disk->disk->target,
                read->disk->bitmap ? "; no change is missed by the next one" : "");
    return false;
}

static bool
check_owner(VsStorageDriver *driver, int64_t interval_us, GError **error)
{
    int64_t now_us = g_get_monotonic_time();
    if (now_us - driver->checked_us < interval_us)
        return true;
    driver->checked_us = now_us;
    if (vs_storage_driver_check_stopped(driver, error))
        return true;
    g_prefix_error(error, "the snapshot is given up: ");
    return false;
}

// Once lost, always lost.
static bool
look(VsStorageDriver *driver, int64_t interval_us)
{
    for (unsigned i = 0; i < driver->read_count && !driver->lost; i++)
        if (check_lock(&driver->reads[i], &driver->lost) &&
            !vs_storage_read_check_stamps(&driver->reads[i], &driver->lost))
            g_assert(driver->lost);
    if (!driver->lost && driver->reads && !check_owner(driver, interval_us, &driver->lost))
        g_assert(driver->lost);
    return driver->lost != NULL;
}

static bool
report_lost(VsStorageDriver *driver, int64_t interval_us, GError **error)
{
    if (!look(driver, interval_us))
        return false;
    g_propagate_error(error, g_error_copy(driver->lost));
    return true;
}

bool
vs_storage_driver_is_lost(VsDriver *base, GError **error)
{
    return report_lost((VsStorageDriver *)base, OWNER_INTERVAL_US, error);
}

char *
vs_storage_read_find_fault(const VsStorageRead *read, const GPtrArray *nodes)
{
    const VsPointDisk *disk = read->disk;
    if (!disk->bitmap)
        return NULL;
    const VsQmpNode *node = vs_qmp_find_node(nodes, read->node);
    const VsQmpBitmap *bitmap = node ? vs_qmp_find_bitmap(node, disk->bitmap) : NULL;
    if (!bitmap)
        return g_strdup("the dirty bitmap of the point in time is not there");
    if (bitmap->inconsistent)
        return g_strdup("the dirty bitmap of the point in time is inconsistent");
    if (!bitmap->recording)
        return g_strdup("the dirty bitmap of the point in time does not record");
    if (bitmap->count_bytes > 0 || node->virtual_size_bytes != disk->disk->virtual_size_bytes)
        return g_strdup("it has been written to");
    return NULL;
}

// Opened in a way that fails where somebody may write: so the bitmap that is seen is up to date.
static bool
confirm_disk(VsStorageDriver *driver, const VsStorageRead *read, GError **error)
{
    const VsDisk *disk = read->disk->disk;
    GError *failure = NULL;
    if (!vs_storage_daemon_open(driver->daemon, read->node, disk->source, VS_STORAGE_READ_LOCKED,
                                &failure)) {
        vs_storage_driver_set_open_error(driver, disk, failure, error);
        return false;
    }
    g_autoptr(GPtrArray) nodes =
        vs_qmp_query_nodes(vs_storage_daemon_client(driver->daemon), NULL, error);
    bool is_closed = vs_storage_daemon_close(driver->daemon, read->node, nodes ? error : NULL);
    if (!nodes || !is_closed)
        return false;
    g_autofree char *fault = vs_storage_read_find_fault(read, nodes);
    if (fault)
        g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                    "image '%s' of disk '%s' has changed while it was read, and the snapshot is "
                    "given up: %s",
                    disk->source, disk->target, fault);
    return fault == NULL;
}

bool
vs_storage_driver_confirm(VsDriver *base, GError **error)
{
    VsStorageDriver *driver = (VsStorageDriver *)base;
    if (report_lost(driver, 0, error))
        return false;
    for (unsigned i = 0; i < driver->read_count; i++) {
        const VsStorageRead *read = &driver->reads[i];
        if (read->disk->bitmap && (!vs_storage_driver_need_daemon(driver, NULL, error) ||
                                   !confirm_disk(driver, read, error)))
            return false;
    }
    return true;
}
