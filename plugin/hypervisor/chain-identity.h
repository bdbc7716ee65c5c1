// SPDX-License-Identifier: LGPL-2.1-or-later
// What tells whether the files of a backing chain are still the same ones, and not just named so.
//
// A bitmap lives in an image, and images can be exchanged or copied under their names: those of two
// disks of one group even hold bitmaps of the same name. And no bitmap at all records what is
// written into a backing file in place.
#pragma once

#include <glib.h>

G_BEGIN_DECLS

// chain: char *, absolute paths or URIs, top first. JSON text: an array with one element for each.
// The top's is its inode number; those below, which nobody should write, have "inode:size:time of
// the last write in ns"; null is what is not a regular file here (a device, a server's). Files are
// followed through symbolic links. The caller's.
//
// A file system that changes inode numbers from mount to mount costs a full read each time.
char *vs_chain_identity(const GPtrArray *chain);

G_END_DECLS
