// SPDX-License-Identifier: LGPL-2.1-or-later
// The chunk store's inside, for its own files: chunk-store.c (put, flush), -writer.c (packs and
// segments out), -index.c and -reindex.c (the set of segments), -read.c, -compact.c, -verify.c.
//
// The way of an object: reserved in the session's table → in the current pack → pack full: waiting
// → being written → durable → its entries frozen and written as a segment → forgotten, found
// through the index.
#pragma once

#include "nbd-export/store/chunk-store.h"
#include "nbd-export/store/entry-table.h"
#include "nbd-export/store/pack-index-writer.h"
#include "nbd-export/store/pack-table.h"

#include <pthread.h>

G_BEGIN_DECLS

// A pack that this process made and no segment covers yet.
typedef struct {
    VsPackId id;
    VsPackBuilder *builder; // NULL: durable
} VsSessionPack;

// The segments in use: constant, shared by reference.
typedef struct {
    gint references;     // atomic
    GPtrArray *segments; // of VsPackIndex *
} VsIndexSet;

// Packs that no segment covers, met when a read missed.
typedef struct {
    pthread_mutex_t mutex; // held while reading tables; taken before the store's mutex
    gint64 listed_at_us;   // monotonic; 0: never
    GArray *packs;         // not covered, of VsPackId
    GHashTable *loaded;    // those whose entries are in the table
    VsEntryTable *table;   // slot's pack: a key of loaded
} VsStrayPacks;

struct _VsChunkStore {
    VsObjectStore *objects;

    pthread_mutex_t mutex; // a leaf, never held over I/O; guards what follows
    pthread_cond_t changed;
    GError *failure; // sticky

    VsEntryTable *session;    // what is not indexed yet; slot's pack: VsSessionPack, NULL: reserved
    VsEntryTable *frozen;     // what is being indexed just now, NULL: nothing
    GPtrArray *session_packs; // owns them
    unsigned reserved;        // slots of session without a pack
    unsigned draining;        // flushes that wait for reserved to become 0: no new reservations
    bool indexing;            // a thread is writing segments

    VsSessionPack *current; // gets objects
    VsSessionPack *waiting; // full, for the writer thread
    bool writing;           // the writer thread is at one
    bool stop;
    bool has_thread;
    pthread_t thread;
    VsPackBuilder *spare; // to be used again

    VsIndexSet *index;
    GHashTable *bad_segments;  // names of those that are damaged
    GHashTable *known_packs;   // set of VsPackId: put has seen that they are sound, with the
                               // repository's lock held
    GHashTable *unsound_packs; // set of VsPackId: put does not rely on them
    GHashTable *located_packs; // set of VsPackId: locate has seen them, with whatever lock
    bool index_doubtful;       // there may be packs that the index should cover and does not

    VsStrayPacks stray;
};

// -writer.c --------------------------------------------------------------------------------------

// Adds a coded object to the current pack, into slot digest of session, and starts writing the pack
// when it is full. May block for the writer. Under the mutex.
bool vs_chunk_store_add_locked(VsChunkStore *store, VsPackEntry *entry, const void *stored);
// Writes everything put so far.
bool vs_chunk_store_write_out(VsChunkStore *store, GError **error);
// Writes a segment for what is durable; merges segments where they have become many.
bool vs_chunk_store_index_durable(VsChunkStore *store, GError **error);
void vs_chunk_store_stop_writer(VsChunkStore *store);
void vs_session_pack_free(gpointer pack);
// Remembers error (taken) as the failure. Under the mutex.
void vs_chunk_store_fail_locked(VsChunkStore *store, GError *error);
// False with a copy of the failure. Under the mutex.
bool vs_chunk_store_check_locked(VsChunkStore *store, GError **error);

// -index.c ---------------------------------------------------------------------------------------

VsIndexSet *vs_index_set_new(void);
VsIndexSet *vs_index_set_ref(VsIndexSet *set);
void vs_index_set_unref(VsIndexSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsIndexSet, vs_index_set_unref)
// A reference to the store's set of now.
VsIndexSet *vs_chunk_store_index_set(VsChunkStore *store);
// Takes segments out of the store's set and puts others in (both of VsPackIndex *, NULL: none).
void vs_chunk_store_exchange(VsChunkStore *store, GPtrArray *out, GPtrArray *in);
// Lists index/ again, opens what is new, drops what is gone. Damaged segments are left out; false
// with error only where index/ can't be listed.
bool vs_chunk_store_reload_index(VsChunkStore *store, GError **error);
// All entries of the digest in set. Segments that turn out to be damaged or gone are left out of
// the store's set from then on.
unsigned vs_chunk_store_find(VsChunkStore *store, VsIndexSet *set, const VsDigest *digest,
                             VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES]);
// Reads all segments through; the damaged ones are left out from then on. True: there was one.
bool vs_chunk_store_distrust_index(VsChunkStore *store);
// Whether the pack exists. What was seen once is remembered in seen, one of the store's two sets.
bool vs_chunk_store_has_pack(VsChunkStore *store, GHashTable *seen, const VsPackId *id);
// Set of the VsPackId that the store's segments cover.
GHashTable *vs_chunk_store_covered_packs(VsChunkStore *store);
// Writes segments for packs that none covers, then removes damaged segments.
bool vs_chunk_store_reindex(VsChunkStore *store, GError **error);
// Merges some segments where there are more than VS_CHUNK_STORE_MAX_SEGMENTS. What fails is left as
// it is.
void vs_chunk_store_merge_segments(VsChunkStore *store);

#define VS_CHUNK_STORE_MAX_SEGMENTS 8

// -read.c ----------------------------------------------------------------------------------------

// Decodes and verifies the object that the entry describes. stored is only read; raw has room for
// entry->raw_length.
bool vs_chunk_store_decode(VsCodec *codec, const VsPackEntry *entry, const void *stored, void *raw,
                           GError **error);
// Reads and verifies the object at one place. raw has room for place->entry.raw_length.
bool vs_chunk_store_read_at(VsChunkStore *store, VsCodec *codec, const VsIndexEntry *place,
                            void *raw, GError **error);
void vs_stray_packs_init(VsStrayPacks *stray);
void vs_stray_packs_clear(VsStrayPacks *stray);

G_END_DECLS
