// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/offline-disks.h"

#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/chain-identity.h"
#include "plugin/hypervisor/image-info.h"
#include "plugin/hypervisor/image-lock.h"
#include "plugin/hypervisor/offline-fleece.h"
#include "plugin/hypervisor/qmp-disks.h"

typedef struct {
    const VsPointDisk *point; // the caller's
    int fd;                   // for asking for locks
    int fleece;               // the caller's
    GPtrArray *files;         // char *: borrowed; none, then the disk's chain
    char *stamp;              // of these files
} OfflineDisk;

struct _VsOfflineDisks {
    GPtrArray *disks; // of OfflineDisk *
    GError *lost;
};

static void
disk_free(gpointer element)
{
    OfflineDisk *disk = element;
    if (disk->fd >= 0)
        close(disk->fd);
    g_ptr_array_unref(disk->files);
    g_free(disk->stamp);
    g_free(disk);
}

VsOfflineDisks *
vs_offline_disks_new(void)
{
    VsOfflineDisks *offline = g_new0(VsOfflineDisks, 1);
    offline->disks = g_ptr_array_new_with_free_func(disk_free);
    return offline;
}

void
vs_offline_disks_free(VsOfflineDisks *offline)
{
    if (!offline)
        return;
    g_ptr_array_unref(offline->disks);
    g_clear_error(&offline->lost);
    g_free(offline);
}

static bool
refuse(const VsPointDisk *point, const char *why, GError **error)
{
    g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS, "disk '%s' can't be read on: %s",
                point->disk->target, why);
    return false;
}

// What is written ---------------------------------------------------------------------------------

// A chain's identity holds times and sizes of all but the first: so the image itself is no first.
static GPtrArray *
files_of(const VsDisk *disk)
{
    GPtrArray *files = g_ptr_array_new();
    g_ptr_array_add(files, (gpointer) "");
    for (unsigned i = 0; i < disk->chain->len; i++)
        g_ptr_array_add(files, g_ptr_array_index(disk->chain, i));
    return files;
}

static bool
check_untouched(const OfflineDisk *disk, GError **error)
{
    if (vs_image_lock_is_written(disk->fd))
        return refuse(disk->point,
                      "its image was opened for writing (has its machine been started again?)",
                      error);
    g_autofree char *stamp = vs_chain_identity(disk->files, false);
    return g_strcmp0(stamp, disk->stamp) == 0 ||
           refuse(disk->point, "its image was written to (has its machine been started again?)",
                  error);
}

static bool
start_watch(OfflineDisk *disk, GError **error)
{
    const VsDisk *described = disk->point->disk;
    disk->fd = g_path_is_absolute(described->source) ? vs_image_lock_open(described->source) : -1;
    if (disk->fd < 0)
        return refuse(disk->point, "its image is no local file, or is gone", error);
    disk->stamp = vs_chain_identity(disk->files, false);
    g_autofree char *identity = vs_chain_identity(described->chain, false);
    if (!identity || !disk->stamp || g_strcmp0(identity, described->chain_identity) != 0)
        return refuse(disk->point, "its image's files are not those that QEMU had open", error);
    return check_untouched(disk, error);
}

// What is in the images ---------------------------------------------------------------------------

static bool
has_bitmap(const VsImageInfo *info, const char *name)
{
    for (unsigned i = 0; i < info->bitmaps->len; i++) {
        const VsQmpBitmap *bitmap = g_ptr_array_index(info->bitmaps, i);
        if (g_str_equal(bitmap->name, name))
            return bitmap->recording && !bitmap->inconsistent;
    }
    return false;
}

// The machine may have been told another chain than the one in the headers.
static const char *
find_difference(const VsDisk *disk, const GPtrArray *images)
{
    if (images->len != disk->chain->len)
        return "its machine had another backing chain than the one in the images' headers";
    for (unsigned i = 0; i < images->len; i++) {
        const VsImageInfo *info = g_ptr_array_index(images, i);
        g_autofree char *name = vs_qmp_image_name(info->filename, NULL);
        const char *format =
            i < disk->chain_formats->len ? g_ptr_array_index(disk->chain_formats, i) : NULL;
        if (!g_str_equal(name, g_ptr_array_index(disk->chain, i)) ||
            (format && !g_str_equal(format, info->format)))
            return "its machine had another backing chain than the one in the images' headers";
        if (info->is_encrypted)
            return "its image is encrypted, which only its machine can read";
    }
    return NULL;
}

static const char *
find_fault(const VsPointDisk *point, const GPtrArray *images)
{
    const VsDisk *disk = point->disk;
    const VsImageInfo *top = g_ptr_array_index(images, 0);
    if (disk->live_only)
        return disk->live_only;
    if (top->virtual_size_bytes != disk->virtual_size_bytes)
        return "its image has another size than its machine had";
    if (!point->bitmap || !disk->persistent_bitmaps)
        return "its image can't store which blocks were written to";
    if (!has_bitmap(top, point->bitmap) ||
        (point->old_bitmap && !has_bitmap(top, point->old_bitmap)))
        return "its dirty bitmaps were not stored: QEMU did not end in order, or its machine runs "
               "again";
    return find_difference(disk, images);
}

// The bitmaps that are seen are up to date: whoever may write has marked them.
static bool
check_images(const OfflineDisk *disk, GCancellable *cancellable, GError **error)
{
    const VsDisk *described = disk->point->disk;
    VsImageInfoScope scope =
        vs_disk_is_cut_off(described) ? VS_IMAGE_INFO_TOP : VS_IMAGE_INFO_CHAIN;
    g_autoptr(GPtrArray) images =
        vs_image_info_run(described->source, described->format, scope, cancellable, error);
    const char *fault = images ? find_fault(disk->point, images) : NULL;
    if (fault)
        return refuse(disk->point, fault, error);
    return images && vs_offline_fleece_covers(disk->fleece, described, disk->point->bitmap, error);
}

bool
vs_offline_disks_add(VsOfflineDisks *offline, const VsPointDisk *point, int fleece,
                     GCancellable *cancellable, GError **error)
{
    OfflineDisk *disk = g_new0(OfflineDisk, 1);
    *disk =
        (OfflineDisk){.point = point, .fd = -1, .fleece = fleece, .files = files_of(point->disk)};
    if (start_watch(disk, error) && check_images(disk, cancellable, error)) {
        g_ptr_array_add(offline->disks, disk);
        return true;
    }
    disk_free(disk);
    return false;
}

bool
vs_offline_disks_is_lost(VsOfflineDisks *offline, GError **error)
{
    for (unsigned i = 0; i < offline->disks->len && !offline->lost; i++)
        if (!check_untouched(g_ptr_array_index(offline->disks, i), &offline->lost))
            g_assert(offline->lost);
    if (!offline->lost)
        return false;
    g_propagate_error(error, g_error_copy(offline->lost));
    return true;
}

bool
vs_offline_disks_confirm(VsOfflineDisks *offline, GError **error)
{
    if (vs_offline_disks_is_lost(offline, error))
        return false;
    for (unsigned i = 0; i < offline->disks->len; i++)
        if (!check_images(g_ptr_array_index(offline->disks, i), NULL, error))
            return false;
    return !vs_offline_disks_is_lost(offline, error);
}
