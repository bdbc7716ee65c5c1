// SPDX-License-Identifier: LGPL-2.1-or-later
// A fleece whose QEMU has ended: with the disk's image below it, it is the disk at the point in
// time, if whatever was written to the image since was first copied to the fleece.
//
// That is not believed but compared. The new bitmap, stored in the image, has every block that was
// written since the point in time, whoever wrote it; each of them must be in the fleece. Then it
// does not matter how QEMU ended, whether the fleece's last tables were written, whether its job
// was ended before, or whether the machine has run again meanwhile: what is not in the fleece was
// not written to.
#pragma once

#include <glib.h>

#include "plugin/hypervisor/instance.h"

G_BEGIN_DECLS

// Whether every block that the bitmap of the disk's image calls dirty is in the fleece: a qcow2
// file, by its descriptor. VS_ERROR_INSTANCE_STATUS where one is not,
// VS_PULL_ERROR where that can't be told. Blocks; gives up when a server is silent for
// VS_OFFLINE_SILENCE_MS.
bool vs_offline_fleece_covers(int fd, const VsDisk *disk, const char *bitmap,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
#define VS_OFFLINE_SILENCE_MS 2000

// Command line of qemu-nbd for VsPullSource.command, as in qemu-nbd.h: the fleece, by a
// descriptor without close-on-exec, above the disk's image, which is read without any lock. bitmap:
// one of the image's, NULL for none.
char **vs_offline_fleece_command(int fd, const VsDisk *disk,
                                 const char *bitmap) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
