// SPDX-License-Identifier: LGPL-2.1-or-later
// Whether a QEMU may write to an image: seen in the locks that it holds, without taking any.
//
// A QEMU that has a node with the permission to write (or resize) holds a shared lock on the byte
// 100 + log2(permission) of the file: 101 for BLK_PERM_WRITE, 103 for BLK_PERM_RESIZE. A reader
// holds 100 only, and 201, 203 where it does not want others to write. With locking=off, and with a
// migration's destination before it takes over, there are no locks. Source: block/file-posix.c,
// include/block/block-common.h of QEMU 7.2.
#pragma once

#include <glib.h>
#include <stdbool.h>

G_BEGIN_DECLS

// Opens the image for asking: read-only, close-on-exec. -1 with errno.
int vs_image_lock_open(const char *path) G_GNUC_WARN_UNUSED_RESULT;

// Costs a system call or two. False too where the file system knows no locks.
bool vs_image_lock_is_written(int fd);

// Whether a QEMU has the image open, to read or to write. As above.
bool vs_image_lock_is_held(int fd);

// Whether a QEMU may write to an image by name; false where it can't be opened.
bool vs_image_lock_is_path_written(const char *path);

G_END_DECLS
