// SPDX-License-Identifier: LGPL-2.1-or-later
// A repository: its configuration, its snapshots, and what keeps them true.
//
//   config        what it is: a sealed JSON document (sealed-json.h); written last by init, so that
//                 a half-made one is not a repository
//   packs/        chunks and nodes (chunk-store.h)
//   index/        where they are
//   snapshots/ID  a manifest each: what exists
//   bases/ID      manifests of deleted snapshots that are their disk's newest: the hidden base of
//                 the next incremental
//   commits/ID    ("c-…") a commit of several manifests under way, all of them or none: from when
//                 it is there they exist, whether or not they are in snapshots/ yet; layout in
//                 repository-commit.c. Left by a process that died, it is completed by the next one
//                 that locks
//   locks/        empty files for flock(2): use, publish
//
// config's members: format (1), id ("r-…"), chunk_size (bytes), fanout (64), digest ("sha256"),
// compression ("zstd"), encryption (null), created_at (RFC 3339). A value of format, fanout,
// digest, compression or encryption that a reader doesn't know is refused.
//
// Lock "use": shared by everything that writes objects or deletes manifests for as long as it does,
// exclusive by prune. Lock "publish": exclusive, for the moment in which snapshots/, bases/ or
// commits/ change, taken inside "use". flock(2) goes with its process. A reader takes no lock. Not
// for several threads at once, but for vs_repository_chunks().
#pragma once

#include "nbd-export/store/chunk-store.h"
#include "nbd-export/store/manifest.h"

G_BEGIN_DECLS

#define VS_REPOSITORY_ERROR (vs_repository_error_quark())
GQuark vs_repository_error_quark(void);

typedef enum {
    VS_REPOSITORY_ERROR_MISSING,     // no repository there
    VS_REPOSITORY_ERROR_FOREIGN,     // a directory with something else in it, or a damaged
                                     // configuration
    VS_REPOSITORY_ERROR_UNSUPPORTED, // of a newer format
    VS_REPOSITORY_ERROR_EXISTS,      // init where one is
    VS_REPOSITORY_ERROR_NOT_FOUND,   // no such snapshot
    VS_REPOSITORY_ERROR_BUSY,        // the lock is held by another process
} VsRepositoryError;

#define VS_REPOSITORY_FORMAT 1
#define VS_CHUNK_SIZE_MIN (64u << 10)
#define VS_CHUNK_SIZE_MAX (4u << 20)
#define VS_CHUNK_SIZE_DEFAULT (64u << 10)

typedef struct _VsRepository VsRepository;

// chunk_size_bytes: a power of two within the bounds. The directory is made; it must be absent or
// empty.
bool vs_repository_init(const char *path, uint32_t chunk_size_bytes,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Opens for reading: works on a read-only file system, takes no lock, writes nothing.
VsRepository *vs_repository_open(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_repository_free(VsRepository *repository);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsRepository, vs_repository_free)

typedef enum {
    VS_REPOSITORY_SHARED,
    VS_REPOSITORY_EXCLUSIVE,
} VsRepositoryLock;
// Takes the "use" lock till the repository is freed and completes commits found under way (what
// can't be completed now, on a full disk, is left for the next one, and exists all the same). BUSY
// where it can't be had within timeout_ms, VS_OBJECT_STORE_ERROR_READ_ONLY where the repository
// can't be written. Reopens the chunk store: what vs_repository_chunks() gave before is gone, so
// lock first. Once locked, locking again is nothing; shared to exclusive is a programming error.
bool vs_repository_lock(VsRepository *repository, VsRepositoryLock lock, unsigned timeout_ms,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

const char *vs_repository_path(const VsRepository *repository);
const char *vs_repository_id(const VsRepository *repository); // r-…
uint32_t vs_repository_chunk_size(const VsRepository *repository);
// Never NULL; owned by the repository, replaced by vs_repository_lock().
VsChunkStore *vs_repository_chunks(VsRepository *repository);
VsObjectStore *vs_repository_objects(VsRepository *repository);

// Number of chunks of a disk of that size. Every chunk has the chunk size: the last one is filled
// up with zeroes.
uint64_t vs_repository_chunk_count(const VsRepository *repository, uint64_t size_bytes);

// Snapshots -----------------------------------------------------------------------------------

// Ids of the snapshots that exist (char *), no order; damaged ones too.
GPtrArray *vs_repository_list(VsRepository *repository, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Errors: NOT_FOUND (also for what is no id); VS_MANIFEST_ERROR; the object store's.
VsManifest *vs_repository_load(VsRepository *repository, const char *id,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The same, of a snapshot that may have become a hidden base (*hidden tells): the fast way to what
// the next snapshot builds on, for who knows its id.
VsManifest *vs_repository_load_base(VsRepository *repository, const char *id, bool *hidden,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The newest snapshot of a disk (highest generation) that a next one may build on, visible or
// hidden; NULL without error: none. *hidden (may be NULL) tells. The first call reads every
// manifest, later ones those that are new. A damaged manifest is passed over.
VsManifest *vs_repository_newest(VsRepository *repository, const char *disk_id, bool *hidden,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Makes the snapshots exist, all or none (manifests: VsManifest *, at least one). Flushes the chunk
// store first. The hidden bases that they were built on (their parents) are removed. On failure
// none exists, unless even taking back failed, which the error says. Needs a lock.
bool vs_repository_commit(VsRepository *repository, GPtrArray *manifests,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Replaces the stored manifest's disk_chain_identity by that of the one given: the files have
// changed, but what they hold has not. Needs a lock.
bool vs_repository_reidentify(VsRepository *repository, const VsManifest *manifest,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Replaces the stored manifest's labels (name, description, expiry) by those of the one given.
// Needs a lock.
bool vs_repository_relabel(VsRepository *repository, const VsManifest *manifest,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Removes a snapshot. If it is its disk's newest, its manifest becomes the hidden base, without its
// files. Its space is freed by prune. One whose manifest is damaged is just removed, and so is a
// damaged hidden base of that id. NOT_FOUND. Needs a lock.
bool vs_repository_delete(VsRepository *repository, const char *id,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Maintenance -----------------------------------------------------------------------------------

// Frees what no snapshot, hidden base or commit reaches. Removes nothing where any manifest or node
// can't be read: the error names it. Memory: 43 to 86 bytes for each live object. Needs the
// exclusive lock.
bool vs_repository_prune(VsRepository *repository, VsCompactResult *result,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    GPtrArray *problems; // char *: one line each; names object, snapshots and disks hurt
    uint64_t objects;    // verified
    uint64_t bytes;
    uint64_t snapshots; // whose trees were walked
} VsCheckResult;
void vs_check_result_clear(VsCheckResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VsCheckResult, vs_check_result_clear)

// Verifies all (percent of the) objects, and that every snapshot's trees (its disk's, its files')
// are whole. Takes no lock; beside a prune it may find missing what has just been removed. True
// where it could be done, whatever it found. progress (may be NULL) is called now and then with a
// fraction 0..1.
typedef void (*VsProgressFunc)(double fraction, gpointer user_data);
bool vs_repository_check(VsRepository *repository, double percent, VsProgressFunc progress,
                         gpointer user_data, VsCheckResult *result,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    uint64_t snapshots;
    uint64_t logical_bytes;    // sum of the snapshots' virtual sizes
    uint64_t referenced_bytes; // stored bytes of what is reachable, each object once
    uint64_t stored_bytes;     // all packs
    uint64_t packs;
} VsUsage;
// Damaged manifests are passed over; a node that can't be read is an error. Memory as for prune.
bool vs_repository_usage(VsRepository *repository, VsUsage *usage,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
