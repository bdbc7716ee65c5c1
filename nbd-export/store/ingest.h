// SPDX-License-Identifier: LGPL-2.1-or-later
// From a disk's bytes to a tree: the writing half of the data plane.
//
// The caller (the pull) takes a span, an aligned piece of the disk with a buffer from a bounded
// pool, fills in what it has, says which parts those are, and submits it. Worker threads complete
// partly filled chunks from the base, digest, compress and store them; the results go to the tree
// builder in the order in which spans were taken, so the tree needs one node per level of memory
// however big the disk is.
//
//   take → (fill) → submit ─────────────→ worker: base, digest, put → in order: tree
//                     └→ (spool: disk) ───┘
//
// Workers are slower than reading. Where somebody suffers as long as the disk is read (a guest,
// whose writes copy what they overwrite), a spool takes what the pool has no room for, and the
// workers wait until all is taken, or the spool is full: so the reading ends as soon as it can.
//
// Threads: take, zero, submit and finish from one thread; the workers are the ingest's own, at
// lower priority for processor and disk, since the machine is there for others. The first failure
// is kept, wakes everybody, and is what take and finish return.
#pragma once

#include "nbd-export/store/repository.h"
#include "nbd-export/store/spool.h"

G_BEGIN_DECLS

#define VS_SPAN_BYTES (512u << 10)       // or one chunk, where that is more
#define VS_INGEST_POOL_BYTES (16u << 20) // of all spans together

// A part of a span that is known: data (in the buffer) or zeroes. Ascending, not overlapping.
typedef struct {
    uint32_t offset; // in the span
    uint32_t length;
    bool zero;
} VsSpanPart;

typedef struct {
    uint64_t offset; // in the disk; a multiple of the span size
    uint32_t length; // whole chunks; the last span ends with the chunk that holds the disk's end
    uint8_t *data;
    GArray *parts;    // of VsSpanPart, added by the caller
    unsigned pending; // the caller's count of reads under way
} VsSpan;

typedef struct _VsIngest VsIngest;

// base: the tree that stands for what is not filled in (NULL: zeroes), of a disk of any size.
// workers: 0 for one per core.
VsIngest *vs_ingest_new(VsRepository *repository, const VsTree *base, uint64_t size_bytes,
                        unsigned workers);
// Stops the workers and forgets what is under way, if finish has not been called.
void vs_ingest_free(VsIngest *ingest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsIngest, vs_ingest_free)

uint32_t vs_ingest_span_bytes(const VsIngest *ingest);

// Before the first take: one worker more, which works only while a processor has nothing else to
// do.
void vs_ingest_add_spare(VsIngest *ingest);

// Before the first take. The spool is taken over; its records are spans.
void vs_ingest_set_spool(VsIngest *ingest, VsSpool *spool);

// Takes the span at offset (ascending from call to call), waiting up to timeout_ms for a free one:
// NULL without error if there was none.
VsSpan *vs_ingest_take(VsIngest *ingest, uint64_t offset, unsigned timeout_ms,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Hands the filled span over.
void vs_ingest_submit(VsIngest *ingest, VsSpan *span);
// Says that whole spans from offset (a multiple of the span size) on are zeroes; costs no buffer.
// Ordered like take.
bool vs_ingest_zero(VsIngest *ingest, uint64_t offset, uint64_t length,
                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    VsTree tree;
    uint64_t new_bytes; // what packs grew by
} VsIngestResult;

// How much has been submitted, in whole spans, that no worker has dealt with. From any thread.
uint64_t vs_ingest_waiting_bytes(VsIngest *ingest);
// Makes take and finish return this error soon, unless another came first. Takes it over; from any
// thread.
void vs_ingest_fail(VsIngest *ingest, GError *error);

// Waits for everything submitted. Objects are durable only after vs_chunk_store_flush().
bool vs_ingest_finish(VsIngest *ingest, VsIngestResult *result,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
