// SPDX-License-Identifier: LGPL-2.1-or-later
// What the ingest's two halves share: the caller's side (ingest.c) and the threads
// (ingest-worker.c).
#pragma once

#include <pthread.h>

#include "nbd-export/store/ingest.h"

// One turn in the order of spans: a span, or a run of zeroes (zero_length > 0). It has a buffer
// from take until it has been dealt with, or is in the spool.
typedef struct {
    VsSpan span; // first, so that the caller's VsSpan is the slot
    uint64_t zero_length;
    uint64_t sequence;
    uint64_t record;   // in the spool
    VsDigest *digests; // one per chunk of the span, once it has been dealt with
    bool *known;       // whether the chunk has been dealt with at all
} VsSlot;

struct _VsIngest {
    VsRepository *repository;
    uint64_t size_bytes;
    uint32_t chunk_bytes;
    uint32_t span_bytes;
    bool has_base;
    VsTree base;
    VsSpool *spool; // NULL: what has no buffer waits

    // Guards everything below but the builder, which `order` guards. Lock order: order, then mutex.
    pthread_mutex_t mutex;
    pthread_cond_t work_cond;  // something to do, or stop
    pthread_cond_t spool_cond; // something to spool, or stop
    pthread_cond_t spare_cond; // stop
    pthread_cond_t free_cond;  // a buffer came free, a turn has come, or failure
    GPtrArray *free_buffers;
    unsigned buffers_made;
    unsigned buffers_max;
    GQueue todo;       // submitted: of VsSlot *
    GQueue to_spool;   // submitted while many waited
    GQueue spooled;    // without a buffer now
    GHashTable *done;  // sequence → VsSlot *, finished out of turn
    GHashTable *slots; // all VsSlot *, owned, wherever they are just now
    uint64_t next_sequence;
    uint64_t waiting_bytes;
    GError *error;
    bool is_held; // the workers wait
    bool is_all;  // nothing will be taken any more
    bool stop;
    uint64_t added_bytes; // by workers that have ended

    pthread_mutex_t order;
    uint64_t next_in_order;
    VsTreeBuilder *builder;
    VsChunkAccess tree_access; // the builder's; owns its codec

    pthread_t *threads;
    unsigned thread_count;
    unsigned workers;
    bool has_spare;
};

void *vs_ingest_worker_main(void *ingest);
void *vs_ingest_spare_main(void *ingest);
void *vs_ingest_spooler_main(void *ingest);

// For waiting on the conditions.
struct timespec vs_ingest_deadline(unsigned timeout_ms);
uint8_t *vs_ingest_buffer_new(const VsIngest *ingest);
void vs_ingest_buffer_free(gpointer buffer);
