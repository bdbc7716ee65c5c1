// SPDX-License-Identifier: LGPL-2.1-or-later
// An index segment: an immutable, sorted file that tells where objects are. Layout in FORMAT.md.
//
// Derived data: whatever it says is checked where it is used (an object by its digest, a pack by
// its existence), and it can be made again from the packs' tables. A segment of at most
// VS_PACK_INDEX_RESIDENT_BYTES is held in memory once it is first asked; of a larger one only the
// fan-out table is, and a look-up reads a block or two. Digests are evenly distributed, so a cache
// of blocks would not hit.
//
// Any thread; the segment's own mutex guards its loading only and is taken with no other held.
#pragma once

#include "nbd-export/store/object-store.h"
#include "nbd-export/store/pack.h"

G_BEGIN_DECLS

#define VS_PACK_INDEX_ERROR (vs_pack_index_error_quark())
GQuark vs_pack_index_error_quark(void);

typedef enum {
    VS_PACK_INDEX_ERROR_CORRUPT,
} VsPackIndexError;

#define VS_PACK_INDEX_HEADER_BYTES 64
#define VS_PACK_INDEX_ENTRY_BYTES 64
#define VS_PACK_INDEX_TAIL_BYTES 96
#define VS_PACK_INDEX_MAX_FANOUT_BITS 16
#define VS_PACK_INDEX_MAX_PACKS (1u << 24)
#define VS_PACK_INDEX_RESIDENT_BYTES (4u << 20)
#define VS_PACK_INDEX_MAX_MATCHES 32 // of one digest in one look-up; more are of no use

typedef struct {
    VsPackEntry entry;
    VsPackId pack;
} VsIndexEntry;

void vs_index_entry_encode(const VsIndexEntry *entry, uint8_t bytes[VS_PACK_INDEX_ENTRY_BYTES]);
// False: it is none that any writer makes.
bool vs_index_entry_decode(const uint8_t bytes[VS_PACK_INDEX_ENTRY_BYTES], VsIndexEntry *entry);
// By digest, then by pack: the order of a segment.
int vs_index_entry_compare(const VsIndexEntry *a, const VsIndexEntry *b);

typedef struct _VsPackIndex VsPackIndex;

// name: in index/. Reads the tail only. objects is borrowed.
VsPackIndex *vs_pack_index_open(VsObjectStore *objects, const char *name,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
VsPackIndex *vs_pack_index_ref(VsPackIndex *index);
void vs_pack_index_unref(VsPackIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsPackIndex, vs_pack_index_unref)

const char *vs_pack_index_name(const VsPackIndex *index);
uint64_t vs_pack_index_count(const VsPackIndex *index); // of entries

// Appends the entries of that digest to found, of which *count are in use and at most
// VS_PACK_INDEX_MAX_MATCHES ever will be.
bool vs_pack_index_find(VsPackIndex *index, const VsDigest *digest, VsIndexEntry *found,
                        unsigned *count, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Appends the packs that the segment covers (VsPackId) to packs. Reads them anew each time.
bool vs_pack_index_read_packs(VsPackIndex *index, GArray *packs,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Reads size entries from the one at first on, as they are in the file; all within the segment's.
bool vs_pack_index_read_entries(VsPackIndex *index, uint64_t first, uint32_t count, uint8_t *bytes,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Reads all entries once and sees that they are what was written.
bool vs_pack_index_verify(VsPackIndex *index, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// What the digest of all its entries' bytes must be.
const VsDigest *vs_pack_index_entries_digest(const VsPackIndex *index);

G_END_DECLS
