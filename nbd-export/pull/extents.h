// SPDX-License-Identifier: LGPL-2.1-or-later
// Extents: what of a disk has to be read. Pure: lists in, lists out.
//
// NBD answers a block-status request with a list of (length, flags) per meta context, which may end
// early, and whose last entry may reach beyond what was asked. Source: NBD protocol,
// NBD_CMD_BLOCK_STATUS; flags of base:allocation are NBD_STATE_HOLE (1) and NBD_STATE_ZERO (2), of
// qemu:dirty-bitmap bit 0 is "dirty"; of qemu:allocation-depth they are a number, 0 where no image
// of the chain holds the extent, n where the nth does (QEMU's docs/interop/nbd.txt).
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct {
    uint64_t offset;
    uint64_t length;
    uint32_t flags;
} VsExtent;

#define VS_STATE_ZERO 2u   // NBD_STATE_ZERO of base:allocation
#define VS_EXTENT_DIRTY 1u // what vs_extents_mark() leaves

// Lists are GArrays of VsExtent: ascending, contiguous, neighbours with equal flags joined.
GArray *vs_extents_new(void);

// Adds one reply's entries (pairs of length and flags) for a request that began where the list
// ends, clamped to end. False where they make no progress (no entry, a length of 0): the server is
// broken.
bool vs_extents_append(GArray *list, uint64_t start, uint64_t end, const uint32_t *entries,
                       size_t entry_count) G_GNUC_WARN_UNUSED_RESULT;

// Reduces a context's flags to VS_EXTENT_DIRTY where they share a bit with mask, else 0, so that
// contexts with different values can be dealt with alike.
void vs_extents_mark(GArray *list, uint32_t mask);

// The extent that holds offset, which must be within the list's range.
const VsExtent *vs_extents_at(const GArray *list, uint64_t offset);

// Sets the flags of all of the list from offset `from` on.
void vs_extents_set_from(GArray *list, uint64_t from, uint32_t flags);

#define VS_PIECE_ZERO 1u // in the flags of a piece: reads as zeroes

// The pieces to deal with: where dirty's flags are set (NULL: everywhere), VS_PIECE_ZERO where both
// allocation lists say "zero". Two lists, asked one after the other, because a live fleece may
// answer "zero" wrongly for a cluster that the guest discards in the very moment of asking; the
// second answer then finds the old data in the fleece. NULL: all data. All lists cover the same
// range. Pieces are ascending and need not be contiguous.
GArray *vs_extents_pieces(const GArray *dirty, const GArray *allocation, const GArray *again);

G_END_DECLS
