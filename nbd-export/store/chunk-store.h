// SPDX-License-Identifier: LGPL-2.1-or-later
// Objects by digest: chunks and nodes, deduplicated, in packs, found through an index.
//
// put: digest → known? → compress → current pack; a full pack goes to a background thread, which
// makes it durable. get: index → range of a pack → decode → digest verified. A location that has
// gone (a pack that prune has rewritten) is looked up again after reloading the index, then in
// packs that no index covers.
//
// Any number of threads may put and get at once, each through a VsChunkAccess of its own. A failed
// write is sticky: every later put and flush fails with it. Memory: three packs (one filled, one
// waiting, one being written), the small index segments, and the not yet indexed entries (bounded:
// at VS_CHUNK_STORE_SEGMENT_ENTRIES they become an index segment on disk).
//
// Lock order: the store's one mutex (a pthread one, so that ThreadSanitizer sees it) is a leaf; no
// callback is called under it.
#pragma once

#include "nbd-export/store/codec.h"
#include "nbd-export/store/object-store.h"
#include "nbd-export/store/pack.h"
#include "nbd-export/store/tree.h"

G_BEGIN_DECLS

#define VS_CHUNK_STORE_ERROR (vs_chunk_store_error_quark())
GQuark vs_chunk_store_error_quark(void);

typedef enum {
    VS_CHUNK_STORE_ERROR_MISSING, // no pack holds it
    VS_CHUNK_STORE_ERROR_CORRUPT, // it is there, but damaged
} VsChunkStoreError;

#define VS_CHUNK_STORE_SEGMENT_ENTRIES (1u << 16)

typedef struct _VsChunkStore VsChunkStore;

// objects is borrowed and must outlive the store. Reads the index segments' headers only.
VsChunkStore *vs_chunk_store_open(VsObjectStore *objects, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// What was put and not flushed is dropped.
void vs_chunk_store_free(VsChunkStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsChunkStore, vs_chunk_store_free)

// A thread's access to the store: one per thread. Store and codec are borrowed.
typedef struct {
    VsChunkStore *store;
    VsCodec *codec;
    uint64_t added_bytes; // what puts through it have made the packs grow by
} VsChunkAccess;

// Makes sure that the object will be there after the next flush. *digest is set. An object that was
// known adds no bytes. Zero content is the caller's affair (never put a chunk of zeroes).
bool vs_chunk_store_put(VsChunkAccess *access, VsObjectType type, const void *raw,
                        size_t raw_length, VsDigest *digest,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Waits until everything put so far is durable and indexed.
bool vs_chunk_store_flush(VsChunkStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Reads an object whose raw length is known (a chunk) into raw.
bool vs_chunk_store_get(VsChunkAccess *access, VsObjectType type, const VsDigest *digest, void *raw,
                        size_t raw_length, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Reads an object of at most *length bytes (a node), which becomes its raw length.
bool vs_chunk_store_get_upto(VsChunkAccess *access, VsObjectType type, const VsDigest *digest,
                             void *raw, size_t *length, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// A tree's nodes as objects of the store. access is borrowed.
VsTreeIo vs_chunk_access_tree_io(VsChunkAccess *access);

// Where an object is: its pack and entry. False with error where nowhere.
bool vs_chunk_store_locate(VsChunkStore *store, const VsDigest *digest, VsPackId *pack,
                           VsPackEntry *entry, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Maintenance, under the repository's exclusive lock: ---------------------------------------------

typedef struct {
    uint64_t removed_packs;
    uint64_t rewritten_packs;
    uint64_t freed_bytes;
} VsCompactResult;

// Keeps the objects for which keep() is true: packs without any are removed, packs with less than
// 3/4 live bytes are rewritten, the index is made anew. Safe to be killed at any time: objects are
// copied and durable, then the new index is, then old files go.
typedef bool (*VsKeepFunc)(const VsDigest *digest, gpointer user_data);
bool vs_chunk_store_compact(VsChunkStore *store, VsKeepFunc keep, gpointer user_data,
                            VsCompactResult *result, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Reads and verifies every object of every pack (percent: of the objects, chosen at random, 100 =
// all); bad() is called for each that is damaged, with the pack's name and a text; digest is NULL
// where a whole pack can't be read.
typedef void (*VsDamageFunc)(const VsDigest *digest, const char *pack, const char *what,
                             gpointer user_data);
typedef struct {
    uint64_t objects; // read, damaged ones among them
    uint64_t bytes;   // of them, as stored
} VsVerifyResult;
bool vs_chunk_store_verify(VsChunkStore *store, double percent, VsDamageFunc bad,
                           gpointer user_data, VsVerifyResult *result,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Bytes of all packs.
bool vs_chunk_store_size(VsChunkStore *store, uint64_t *bytes, uint64_t *packs,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
