// SPDX-License-Identifier: LGPL-2.1-or-later
// Command lines of qemu-nbd for VsPullSource.command: it serves one connection's time and ends with
// it, or with the thread that started it: one that nobody ever connects to would wait for ever, and
// keep a scratch file's space.
#pragma once

#include "plugin/hypervisor/instance.h"

G_BEGIN_DECLS

// A qcow2 staging file, by a descriptor without close-on-exec. bitmap: NULL for none.
char **vs_qemu_nbd_staged(int fd, const char *bitmap) G_GNUC_WARN_UNUSED_RESULT;
// The same, with the allocation told (qemu:allocation-depth) in the place of a bitmap.
char **vs_qemu_nbd_allocation(int fd) G_GNUC_WARN_UNUSED_RESULT;
// An image by name, read without taking any lock. bitmap: NULL for none. source: a local path, or a
// URI that QEMU knows.
char **vs_qemu_nbd_image(const char *source, const char *format,
                         const char *bitmap) G_GNUC_WARN_UNUSED_RESULT;
// The same for a disk's image, of which its guest sees no backing file where vs_disk_is_cut_off().
char **vs_qemu_nbd_disk(const VsDisk *disk, const char *bitmap) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
