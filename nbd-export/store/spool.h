// SPDX-License-Identifier: LGPL-2.1-or-later
// A spool: records of one size that wait on disk for their turn, in a file of the caller's.
//
// Between a reader that must not wait and workers that are slower than it. The file is written past
// the page cache where the file system allows: the records are wanted once, and fresh pages for
// them would be taken from the guest whose disk is read. It never takes more than half of what the
// file system has free without it, and a record that has been got makes room for another.
//
// Threads: put from one, get from any.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

// Of a record's data in memory, and what record_bytes is a multiple of.
#define VS_SPOOL_ALIGNMENT 4096u

typedef struct _VsSpool VsSpool;

// fd: an empty file, taken over; -1: there is none, and no record is kept. most_bytes: of all
// records at a time; 0: no bound but the file system's.
VsSpool *vs_spool_new(int fd, uint32_t record_bytes, uint64_t most_bytes);
void vs_spool_free(VsSpool *spool);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsSpool, vs_spool_free)

// Whether the record is kept; its number is what gets it back. False is no error: there is no room
// just now, or the file can't be written.
bool vs_spool_put(VsSpool *spool, const uint8_t *data, uint64_t *number) G_GNUC_WARN_UNUSED_RESULT;
// Gets the record, once.
bool vs_spool_get(VsSpool *spool, uint64_t number, uint8_t *data,
                  GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
