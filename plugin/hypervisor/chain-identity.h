// SPDX-License-Identifier: LGPL-2.1-or-later
// What tells whether the files of a backing chain are still the same ones, and not just named so.
//
// A bitmap lives in an image, and images can be exchanged or copied under their names: those of two
// disks of one group even hold bitmaps of the same name. And no bitmap at all records what is
// written into a backing file in place, or into an external data file.
#pragma once

#include <glib.h>
#include <stdbool.h>

G_BEGIN_DECLS

// chain: char *, absolute paths or URIs, top first. JSON text: an array with one element for each.
//   top, a file            its inode number
//   below, a file          "inode:size:time of the last write in ns": nobody should write it
//   below, a block device  "number:boot:writes:sectors written:discards:sectors discarded", as the
//                          kernel has counted since it booted (Documentation/block/stat.rst there)
//   else                   null: a server's, or not there for us; taken for the same
// Files are followed through symbolic links. The caller's.
//
// NULL where it can't be told: an image with an external data file; in_use (a running machine has
// the files open), a backing file that no QEMU has open under this name, while the top one is. A
// file system that changes inode numbers from mount to mount costs a full read each time.
char *vs_chain_identity(const GPtrArray *chain, bool in_use);

G_END_DECLS
