// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/storage-driver.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/image-info.h"
#include "plugin/hypervisor/image-lock.h"
#include "plugin/hypervisor/qmp-disks.h"
#include "plugin/hypervisor/storage-driver-private.h"

// Describing ------------------------------------------------------------------------------------

// The companions of a bitmap say nothing by themselves: what an ".end" holds is seen only in an
// open image, at the point in time.
static bool
is_companion(const char *name)
{
    return g_str_has_suffix(name, ".end") || g_str_has_suffix(name, ".frozen");
}

// libvirt goes on with a bitmap of the same name in an overlay that it adds: then the top image's
// has only a part of the changes.
static bool
is_split(const GPtrArray *chain, const char *name)
{
    for (unsigned i = 1; i < chain->len; i++) {
        const VsImageInfo *lower = g_ptr_array_index(chain, i);
        for (unsigned j = 0; j < lower->bitmaps->len; j++)
            if (g_strcmp0(((VsQmpBitmap *)g_ptr_array_index(lower->bitmaps, j))->name, name) == 0)
                return true;
    }
    return false;
}

static void
take_bitmaps(VsDisk *disk, const GPtrArray *chain)
{
    const VsImageInfo *info = g_ptr_array_index(chain, 0);
    for (unsigned i = 0; i < info->bitmaps->len; i++) {
        VsQmpBitmap *bitmap = g_ptr_array_index(info->bitmaps, i);
        if (is_companion(bitmap->name) || is_split(chain, bitmap->name))
            continue;
        VsQmpBitmap *copy = g_memdup2(bitmap, sizeof *bitmap);
        copy->name = g_strdup(bitmap->name);
        g_ptr_array_add(disk->bitmaps, copy);
    }
}

static void
fill_disk(VsDisk *disk, const GPtrArray *chain)
{
    VsImageInfo *top = g_ptr_array_index(chain, 0);
    if (!disk->unavailable)
        disk->unavailable = vs_storage_find_difference(disk, chain);
    g_ptr_array_set_size(disk->chain, 0);
    for (unsigned i = 0; i < chain->len; i++) {
        const VsImageInfo *info = g_ptr_array_index(chain, i);
        g_ptr_array_add(disk->chain, vs_qmp_image_name(info->filename, NULL));
        if (info->is_encrypted && !disk->unavailable)
            disk->unavailable = g_strdup_printf(
                "its image '%s' is encrypted, which only its machine can read", info->filename);
    }
    g_free(disk->source);
    disk->source = g_strdup(g_ptr_array_index(disk->chain, 0));
    disk->virtual_size_bytes = top->virtual_size_bytes;
    disk->persistent_bitmaps = g_str_equal(top->format, "qcow2") &&
                               g_strcmp0(top->compat, "0.10") != 0 && top->virtual_size_bytes > 0 &&
                               access(disk->source, W_OK) == 0;
    disk->can_track = disk->persistent_bitmaps;
    take_bitmaps(disk, chain);
}

static bool
is_local(const VsDisk *disk)
{
    return disk->source && g_path_is_absolute(disk->source);
}

// Why a local image can't be read, NULL: nothing is known against it.
static char *
find_obstacle(const VsDisk *disk)
{
    int fd = vs_image_lock_open(disk->source);
    if (fd < 0)
        return g_strdup_printf("opening its image '%s': %s", disk->source, g_strerror(errno));
    bool is_written = vs_image_lock_is_written(fd);
    close(fd);
    return is_written ? g_strdup_printf("its image '%s' is in use by a running QEMU", disk->source)
                      : NULL;
}

static GPtrArray *
read_chain(VsDisk *disk, GCancellable *cancellable, GError **error)
{
    VsImageInfoScope scope = vs_disk_is_cut_off(disk) ? VS_IMAGE_INFO_TOP : VS_IMAGE_INFO_CHAIN;
    g_autofree char *real = vs_qmp_image_name(disk->source, NULL);
    g_autoptr(GPtrArray) images =
        vs_image_info_run(disk->source, disk->format, scope, cancellable, error);
    if (!images || images->len == 1 || g_str_equal(real, disk->source))
        return g_steal_pointer(&images);
    // The machine goes by the definition's link; what we read is the image by its own name.
    g_autoptr(GPtrArray) own = vs_image_info_run(real, disk->format, scope, cancellable, error);
    if (own && !disk->unavailable)
        disk->unavailable = vs_storage_find_link(disk, images, own);
    return g_steal_pointer(&own);
}

// A disk that can't be read is no failure: the others can. Only a cancellation is one.
static bool
examine(VsDisk *disk, GCancellable *cancellable, GError **error)
{
    g_autoptr(GError) failure = NULL;
    g_autoptr(GPtrArray) chain = NULL;
    if (!disk->unavailable && disk->live_only)
        disk->unavailable = g_strdup(disk->live_only);
    if (!disk->unavailable && is_local(disk)) {
        disk->unavailable = find_obstacle(disk);
        chain = read_chain(disk, cancellable, &failure);
        if (!chain && !disk->unavailable)
            disk->unavailable = g_strdup(failure->message);
    } else if (!disk->unavailable) {
        disk->unavailable = g_strdup_printf("'%s' is not a file or block device of this host: it "
                                            "can be snapshotted only while its machine runs",
                                            disk->source ? disk->source : "");
    }
    if (g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return false;
    }
    if (chain)
        fill_disk(disk, chain);
    else if (disk->source && disk->chain->len == 0)
        g_ptr_array_add(disk->chain, vs_qmp_image_name(disk->source, NULL));
    return true;
}

// Of two disks with one image only one can be opened for its bitmaps.
static void
mark_twins(const GPtrArray *disks)
{
    for (unsigned i = 0; i < disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(disks, i);
        if (!vs_disk_has_twin(disk, disks))
            continue;
        disk->is_shared = true;
        disk->can_track = false;
    }
}

static VsInstance *
describe(VsDriver *base, GCancellable *cancellable, GError **error)
{
    VsStorageDriver *driver = (VsStorageDriver *)base;
    g_autoptr(VsInstance) instance = driver->owner.describe(driver->owner.user_data, error);
    for (unsigned i = 0; instance && i < instance->disks->len; i++)
        if (!examine(g_ptr_array_index(instance->disks, i), cancellable, error))
            return NULL;
    if (instance)
        mark_twins(instance->disks);
    return g_steal_pointer(&instance);
}

// Shared by the other files ---------------------------------------------------------------------

bool
vs_storage_driver_need_daemon(VsStorageDriver *driver, GCancellable *cancellable, GError **error)
{
    if (driver->daemon && vs_qmp_client_is_open(vs_storage_daemon_client(driver->daemon)))
        return true;
    g_clear_pointer(&driver->daemon, vs_storage_daemon_stop);
    driver->daemon = vs_storage_daemon_start(cancellable, error);
    return driver->daemon != NULL;
}

bool
vs_storage_driver_check_stopped(const VsStorageDriver *driver, GError **error)
{
    return !driver->owner.check_stopped ||
           driver->owner.check_stopped(driver->owner.user_data, error);
}

void
vs_storage_driver_set_open_error(const VsStorageDriver *driver, const VsDisk *disk, GError *failure,
                                 GError **error)
{
    bool is_run = vs_image_lock_is_path_written(disk->source);
    bool has_owner = driver->owner.check_stopped != NULL;
    g_set_error(error, VS_ERROR,
                is_run && has_owner ? VS_ERROR_INSTANCE_STATUS : VS_ERROR_DISK_STATUS,
                "opening image '%s' of disk '%s'%s: %s", disk->source, disk->target,
                is_run ? ", which a running QEMU has in use" : "", failure->message);
    g_error_free(failure);
}

// The vtable ------------------------------------------------------------------------------------

// What an interrupted run had has ended with it, but for bitmaps.
static bool
recover(VsDriver *base, const VsOwnerCheck *check, GCancellable *cancellable, GError **error)
{
    return true;
}

static void
driver_free(VsDriver *base)
{
    VsStorageDriver *driver = (VsStorageDriver *)base;
    g_assert(!driver->reads);
    vs_storage_daemon_stop(driver->daemon);
    if (driver->owner.free)
        driver->owner.free(driver->owner.user_data);
    g_clear_error(&driver->lost);
    g_free(driver->repository_id);
    g_free(driver);
}

static const VsDriverOps storage_ops = {
    .free = driver_free,
    .describe = describe,
    .recover = recover,
    .tidy = vs_storage_driver_tidy,
    .begin = vs_storage_driver_begin,
    .open_source = vs_storage_driver_open_source,
    .detach_source = vs_storage_driver_detach_source,
    .close_source = vs_storage_driver_close_source,
    .confirm = vs_storage_driver_confirm,
    .settle = vs_storage_driver_settle,
    .is_lost = vs_storage_driver_is_lost,
};

VsDriver *
vs_storage_driver_new(const VsStorageOwner *owner, const char *repository_id)
{
    VsStorageDriver *driver = g_new0(VsStorageDriver, 1);
    driver->base.ops = &storage_ops;
    driver->owner = *owner;
    driver->repository_id = g_strdup(repository_id);
    return &driver->base;
}
