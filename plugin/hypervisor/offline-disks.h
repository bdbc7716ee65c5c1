// SPDX-License-Identifier: LGPL-2.1-or-later
// Disks of a QEMU that has ended in order while a point in time of them was read, and that are read
// on from their images and fleeces: whether that is sound.
//
// Somebody may start the machine again at any moment, also before we have noticed its end. Then
// what the fleece lacks is lost, and the snapshot is given up. The proof is that everything that
// the new bitmap has is in the fleece (offline-fleece.h), asked before and after the reading; a
// bitmap that is in use is not believed. Meanwhile the lock which a QEMU that may write holds on
// the image, and the files' times and sizes, tell it sooner, and of the backing files.
//
// Not for images that can't store a bitmap (raw); nor where the machine does not show its guest
// what the image shows by itself (a part of a file, an encrypted one, another backing chain than
// the one in the headers).
#pragma once

#include <gio/gio.h>

#include "plugin/hypervisor/driver.h"

G_BEGIN_DECLS

typedef struct _VsOfflineDisks VsOfflineDisks;

VsOfflineDisks *vs_offline_disks_new(void) G_GNUC_WARN_UNUSED_RESULT;
// NULL is ignored.
void vs_offline_disks_free(VsOfflineDisks *offline);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsOfflineDisks, vs_offline_disks_free)

// Looks at the disk and watches its files from now on. point (borrowed): of the QEMU that had it
// open; fleece: a descriptor, which stays the caller's, and open. False with
// VS_ERROR_INSTANCE_STATUS where it can't be read on: see above; or the bitmaps, old and new, are
// not stored in its image. May iterate the default context.
bool vs_offline_disks_add(VsOfflineDisks *offline, const VsPointDisk *point, int fleece,
                          GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Whether somebody has opened one of the images since, or changed its files; once true, always
// true. Sets error.
bool vs_offline_disks_is_lost(VsOfflineDisks *offline, GError **error);
// All has been read: the proof. False with VS_ERROR_INSTANCE_STATUS.
bool vs_offline_disks_confirm(VsOfflineDisks *offline, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
