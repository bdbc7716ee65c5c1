// SPDX-License-Identifier: LGPL-2.1-or-later
// Images that no QEMU runs on: the disks of a stopped domain, and unattached images.
//
// What is there stands still, so no old block has to be kept. The images are opened for writing
// only for the moments in which bitmaps change (a private qemu-storage-daemon: one transaction
// starts the new ones: the point in time), and read without any lock (force-share), so that the
// domain can be started meanwhile. Then the snapshot is given up: what was read may be torn. That
// is noticed
//   * while reading, by the lock that a QEMU which may write holds on the image (its byte 101:
//     QEMU's RAW_LOCK_PERM_BASE + BLK_PERM_WRITE), asked for several times a second, and by the
//     owner's word;
//   * afterwards, by the new bitmap, which is not empty or not consistent any more, and by the
//     image's times and size (raw images have no bitmap).
// The old bitmap goes on recording throughout, as it is enabled in the image: the chain is kept.
//
// The daemon ends with this process, in order (bitmaps are stored), also when it is killed.
#pragma once

#include "plugin/hypervisor/driver.h"

G_BEGIN_DECLS

// Whose disks they are. All members but free are NULL for an image without an owner.
typedef struct {
    // The definition's disks: target, source, format, is_shared, live_only, unavailable, and what
    // it says of the chain; and name, files, kind, definition. Sizes, chains and bitmaps are read
    // from the images.
    VsInstance *(*describe)(gpointer user_data, GError **error);
    // False with VS_ERROR_INSTANCE_STATUS if it runs now (or that can't be found out).
    bool (*check_stopped)(gpointer user_data, GError **error);
    // The bitmaps in the images are those that are kept: what else keeps book of them learns so.
    bool (*tidied)(const VsInstance *instance, const VsKeptBitmap *kept, unsigned count,
                   gpointer user_data, GError **error);
    gpointer user_data;
    GDestroyNotify free; // of user_data, may be NULL
} VsStorageOwner;

// The owner is copied; its user_data is freed with the driver, also on failure.
VsDriver *vs_storage_driver_new(const VsStorageOwner *owner,
                                const char *repository_id) G_GNUC_WARN_UNUSED_RESULT;

// The owner of an unattached image: one disk, target "image"; instance without id and kind, named
// "file:PATH", status "stopped". path: absolute. defined: copied, with source and format: what is
// known of the disk by its definition. The image itself isn't asked for its format, since a guest
// may have written into its raw disk what looks like another.
void vs_storage_image_owner(VsStorageOwner *owner, const char *path, const VsDisk *defined);

G_END_DECLS
