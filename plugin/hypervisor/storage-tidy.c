// SPDX-License-Identifier: LGPL-2.1-or-later
// Removes the bitmaps of this repository that nobody needs. An image that has none is not opened
// for writing.
#include <string.h>

#include "plugin/error.h"
#include "plugin/hypervisor/image-info.h"
#include "plugin/hypervisor/image-lock.h"
#include "plugin/hypervisor/storage-driver-private.h"
#include "qmp/job.h"

#define TIDY_NODE "vs-tidy"

// The names of the bitmaps of an image that are ours, but not kept.
static GPtrArray *
find_stale(const VsStorageDriver *driver, const VsKeptBitmap *kept, GError **error)
{
    g_autoptr(GPtrArray) chain =
        vs_image_info_run(kept->disk->source, kept->disk->format, VS_IMAGE_INFO_TOP, NULL, error);
    if (!chain)
        return NULL;
    g_autofree char *end = kept->bitmap ? vs_bitmap_end_name(kept->bitmap) : NULL;
    GPtrArray *stale = g_ptr_array_new_with_free_func(g_free);
    const VsImageInfo *top = g_ptr_array_index(chain, 0);
    for (unsigned i = 0; i < top->bitmaps->len; i++) {
        const char *name = ((VsQmpBitmap *)g_ptr_array_index(top->bitmaps, i))->name;
        if (vs_bitmap_is_of(name, driver->repository_id) && g_strcmp0(name, kept->bitmap) != 0 &&
            g_strcmp0(name, end) != 0)
            g_ptr_array_add(stale, g_strdup(name));
    }
    return stale;
}

static bool
remove_bitmaps(VsStorageDriver *driver, const VsDisk *disk, const GPtrArray *names, GError **error)
{
    g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
    for (unsigned i = 0; i < names->len; i++)
        vs_qmp_transaction_bitmap_remove(transaction, TIDY_NODE, g_ptr_array_index(names, i));
    GError *failure = NULL;
    if (!vs_storage_daemon_open(driver->daemon, TIDY_NODE, disk->source, VS_STORAGE_WRITE,
                                &failure)) {
        vs_storage_driver_set_open_error(driver, disk, failure, error);
        return false;
    }
    bool is_removed =
        vs_qmp_transaction_run(transaction, vs_storage_daemon_client(driver->daemon), NULL, error);
    bool is_closed = vs_storage_daemon_close(driver->daemon, TIDY_NODE, is_removed ? error : NULL);
    return is_removed && is_closed;
}

static bool
tidy_disk(VsStorageDriver *driver, const VsKeptBitmap *kept, GError **error)
{
    const VsDisk *disk = kept->disk;
    if (!kept->is_locked || !disk->persistent_bitmaps)
        return true;
    g_autoptr(GPtrArray) stale = find_stale(driver, kept, error);
    if (!stale || stale->len == 0)
        return stale != NULL;
    bool ok = vs_storage_driver_need_daemon(driver, NULL, error) &&
              remove_bitmaps(driver, disk, stale, error);
    if (!ok)
        g_prefix_error(error, "removing dirty bitmaps that are not needed any more: ");
    return ok;
}

static bool
tell_owner(const VsStorageDriver *driver, const VsKeptBitmap *kept, unsigned count, GError **error)
{
    const VsStorageOwner *owner = &driver->owner;
    if (!owner->tidied)
        return true;
    g_autoptr(VsInstance) instance = owner->describe(owner->user_data, error);
    return instance && owner->tidied(instance, kept, count, owner->user_data, error);
}

bool
vs_storage_driver_tidy(VsDriver *base, const VsKeptBitmap *kept, unsigned count, GError **error)
{
    VsStorageDriver *driver = (VsStorageDriver *)base;
    GError *first = NULL;
    for (unsigned i = 0; i < count; i++)
        if (!tidy_disk(driver, &kept[i], first ? NULL : &first))
            g_debug("tidying disk '%s' failed", kept[i].disk->target);
    if (!driver->reads)
        g_clear_pointer(&driver->daemon, vs_storage_daemon_stop);
    if (!first)
        return tell_owner(driver, kept, count, error);
    g_propagate_error(error, first);
    return false;
}
