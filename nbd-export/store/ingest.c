// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/ingest.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// One turn in the order of spans: a span, or a run of zeroes (then span.data is NULL).
typedef struct {
    VsSpan span; // first, so that the caller's VsSpan is the slot
    uint64_t zero_length;
    uint64_t sequence;
    VsDigest *digests; // one per chunk of the span
    bool *known;       // whether the chunk has been dealt with at all
} Slot;

struct _VsIngest {
    VsRepository *repository;
    uint64_t size_bytes;
    uint32_t chunk_bytes;
    uint32_t span_bytes;
    bool has_base;
    VsTree base;

    // Guards everything below but the builder, which `order` guards. Lock order: order, then mutex.
    pthread_mutex_t mutex;
    pthread_cond_t work_cond; // something to do, or stop
    pthread_cond_t free_cond; // a slot came free, or failure
    GQueue free_slots;        // of Slot *, with buffers
    GQueue todo;              // submitted
    GHashTable *done;         // sequence → Slot *, finished out of turn
    GHashTable *slots;        // all Slot *, owned, wherever they are just now
    unsigned slots_made;
    unsigned slots_max;
    uint64_t next_sequence;
    GError *error;
    bool stop;
    uint64_t added_bytes; // by workers that have ended

    pthread_mutex_t order;
    uint64_t next_in_order;
    VsTreeBuilder *builder;
    VsChunkAccess tree_access; // the builder's; owns its codec

    pthread_t *threads;
    unsigned thread_count;
    unsigned workers;
};

// What a worker thread needs of its own.
typedef struct {
    VsIngest *ingest;
    VsChunkAccess access;
    VsTreeCursor *base_cursor; // NULL without a base
    uint8_t *base_chunk;
} Worker;

static void
slot_free(gpointer data)
{
    Slot *slot = data;
    g_free(slot->span.data);
    g_free(slot->digests);
    g_free(slot->known);
    if (slot->span.parts)
        g_array_unref(slot->span.parts);
    g_free(slot);
}

static void
fail(VsIngest *ingest, GError *error)
{
    pthread_mutex_lock(&ingest->mutex);
    if (ingest->error)
        g_error_free(error);
    else
        ingest->error = error;
    pthread_cond_broadcast(&ingest->free_cond);
    pthread_cond_broadcast(&ingest->work_cond);
    pthread_mutex_unlock(&ingest->mutex);
}

static bool
has_failed(VsIngest *ingest)
{
    pthread_mutex_lock(&ingest->mutex);
    bool failed = ingest->error != NULL;
    pthread_mutex_unlock(&ingest->mutex);
    return failed;
}

// Bytes of the span's chunk that lie within the disk: only those need to be covered.
static uint32_t
chunk_length_on_disk(const VsIngest *ingest, uint64_t chunk_offset)
{
    return MIN((uint64_t)ingest->chunk_bytes, ingest->size_bytes - chunk_offset);
}

static bool
load_base_chunk(Worker *worker, uint64_t index, GError **error)
{
    VsIngest *ingest = worker->ingest;
    VsDigest digest = VS_DIGEST_ZERO;
    if (worker->base_cursor && index < ingest->base.chunk_count &&
        !vs_tree_cursor_get(worker->base_cursor, index, &digest, error))
        return false;
    if (vs_digest_is_zero(&digest)) {
        memset(worker->base_chunk, 0, ingest->chunk_bytes);
        return true;
    }
    return vs_chunk_store_get(&worker->access, VS_OBJECT_CHUNK, &digest, worker->base_chunk,
                              ingest->chunk_bytes, error);
}

// How a chunk is covered by its span's parts.
typedef struct {
    uint32_t data_bytes;
    uint32_t zero_bytes;
} Coverage;

// Sums up the parts within [start, start + length) and writes their zeroes into the buffer.
static Coverage
cover(const VsSpan *span, uint32_t start, uint32_t length)
{
    Coverage coverage = {0};
    for (unsigned i = 0; i < span->parts->len; i++) {
        const VsSpanPart *part = &g_array_index(span->parts, VsSpanPart, i);
        uint32_t from = MAX(part->offset, start);
        uint32_t to = MIN(part->offset + part->length, start + length);
        if (from >= to)
            continue;
        if (part->zero) {
            memset(span->data + from, 0, to - from);
            coverage.zero_bytes += to - from;
        } else {
            coverage.data_bytes += to - from;
        }
    }
    return coverage;
}

// Copies what no part covers from the base chunk.
static void
fill_gaps(const VsSpan *span, uint32_t start, uint32_t length, const uint8_t *base_chunk)
{
    uint32_t at = start;
    for (unsigned i = 0; i <= span->parts->len; i++) {
        uint32_t from = start + length, to = from;
        if (i < span->parts->len) {
            const VsSpanPart *part = &g_array_index(span->parts, VsSpanPart, i);
            from = CLAMP(part->offset, start, start + length);
            to = CLAMP(part->offset + part->length, start, start + length);
        }
        if (from > at)
            memcpy(span->data + at, base_chunk + (at - start), from - at);
        at = MAX(at, to);
    }
}

static bool
is_all_zero(const uint8_t *data, size_t length)
{
    // Comparing the buffer with itself, shifted, lets memcmp's vector code do the work.
    return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

static bool
ingest_chunk(Worker *worker, Slot *slot, unsigned number, GError **error)
{
    VsIngest *ingest = worker->ingest;
    VsSpan *span = &slot->span;
    uint32_t start = number * ingest->chunk_bytes;
    uint64_t offset = span->offset + start;
    uint32_t length = chunk_length_on_disk(ingest, offset);
    uint8_t *data = span->data + start;

    Coverage coverage = cover(span, start, length);
    slot->known[number] = coverage.data_bytes + coverage.zero_bytes > 0;
    if (!slot->known[number])
        return true;
    if (coverage.data_bytes + coverage.zero_bytes < length) {
        if (!load_base_chunk(worker, offset / ingest->chunk_bytes, error))
            return false;
        fill_gaps(span, start, length, worker->base_chunk);
    }
    memset(data + length, 0, ingest->chunk_bytes - length);

    slot->digests[number] = VS_DIGEST_ZERO;
    return coverage.zero_bytes == length || is_all_zero(data, ingest->chunk_bytes) ||
           vs_chunk_store_put(&worker->access, VS_OBJECT_CHUNK, data, ingest->chunk_bytes,
                              &slot->digests[number], error);
}

static bool
build_slot(VsIngest *ingest, const Slot *slot, GError **error)
{
    uint64_t first = slot->span.offset / ingest->chunk_bytes;
    if (!slot->span.data) {
        uint64_t count = slot->zero_length / ingest->chunk_bytes;
        for (uint64_t i = 0; i < count; i++)
            if (!vs_tree_builder_set(ingest->builder, first + i, &VS_DIGEST_ZERO, error))
                return false;
        return true;
    }
    for (unsigned i = 0; i < slot->span.length / ingest->chunk_bytes; i++)
        if (slot->known[i] &&
            !vs_tree_builder_set(ingest->builder, first + i, &slot->digests[i], error))
            return false;
    return true;
}

// Gives the slot's buffer back to the pool.
static void
recycle(VsIngest *ingest, Slot *slot)
{
    pthread_mutex_lock(&ingest->mutex);
    if (slot->span.data)
        g_queue_push_tail(&ingest->free_slots, slot);
    else
        g_hash_table_remove(ingest->slots, slot);
    pthread_cond_signal(&ingest->free_cond);
    pthread_mutex_unlock(&ingest->mutex);
}

static Slot *
take_next_in_order(VsIngest *ingest)
{
    pthread_mutex_lock(&ingest->mutex);
    Slot *slot = g_hash_table_lookup(ingest->done, &ingest->next_in_order);
    if (slot)
        g_hash_table_steal(ingest->done, &ingest->next_in_order);
    pthread_mutex_unlock(&ingest->mutex);
    return slot;
}

// Notes the slot as finished, then feeds the tree with all that are next in turn.
static void
complete(VsIngest *ingest, Slot *finished)
{
    pthread_mutex_lock(&ingest->mutex);
    g_hash_table_insert(ingest->done, &finished->sequence, finished);
    pthread_mutex_unlock(&ingest->mutex);

    pthread_mutex_lock(&ingest->order);
    Slot *slot;
    while ((slot = take_next_in_order(ingest))) {
        GError *error = NULL;
        if (!has_failed(ingest) && !build_slot(ingest, slot, &error))
            fail(ingest, error);
        recycle(ingest, slot);
        pthread_mutex_lock(&ingest->mutex);
        ingest->next_in_order++;
        pthread_cond_signal(&ingest->free_cond);
        pthread_mutex_unlock(&ingest->mutex);
    }
    pthread_mutex_unlock(&ingest->order);
}

static Slot *
next_todo(VsIngest *ingest)
{
    pthread_mutex_lock(&ingest->mutex);
    while (!ingest->stop && g_queue_is_empty(&ingest->todo))
        pthread_cond_wait(&ingest->work_cond, &ingest->mutex);
    Slot *slot = ingest->stop ? NULL : g_queue_pop_head(&ingest->todo);
    pthread_mutex_unlock(&ingest->mutex);
    return slot;
}

static void *
worker_main(void *user_data)
{
    VsIngest *ingest = user_data;
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    g_autofree uint8_t *base_chunk = g_malloc(ingest->chunk_bytes);
    Worker worker = {
        .ingest = ingest,
        .access = {vs_repository_chunks(ingest->repository), codec, 0},
        .base_chunk = base_chunk,
    };
    const VsTreeIo io = vs_chunk_access_tree_io(&worker.access);
    g_autoptr(VsTreeCursor) cursor =
        ingest->has_base ? vs_tree_cursor_new(&io, &ingest->base) : NULL;
    worker.base_cursor = cursor;

    Slot *slot;
    while ((slot = next_todo(ingest))) {
        unsigned chunks = slot->span.data ? slot->span.length / ingest->chunk_bytes : 0;
        GError *error = NULL;
        for (unsigned i = 0; i < chunks && !error && !has_failed(ingest); i++)
            if (!ingest_chunk(&worker, slot, i, &error))
                fail(ingest, g_steal_pointer(&error));
        complete(ingest, slot);
    }
    pthread_mutex_lock(&ingest->mutex);
    ingest->added_bytes += worker.access.added_bytes;
    pthread_mutex_unlock(&ingest->mutex);
    return NULL;
}

VsIngest *
vs_ingest_new(VsRepository *repository, const VsTree *base, uint64_t size_bytes, unsigned workers)
{
    VsIngest *ingest = g_new0(VsIngest, 1);
    ingest->repository = repository;
    ingest->size_bytes = size_bytes;
    ingest->chunk_bytes = vs_repository_chunk_size(repository);
    ingest->span_bytes = MAX(ingest->chunk_bytes, VS_SPAN_BYTES);
    ingest->slots_max = MAX(4u, VS_INGEST_POOL_BYTES / ingest->span_bytes);
    ingest->has_base = base != NULL;
    if (base)
        ingest->base = *base;
    ingest->workers = workers ? workers : g_get_num_processors();
    ingest->done = g_hash_table_new(g_int64_hash, g_int64_equal);
    ingest->slots = g_hash_table_new_full(NULL, NULL, slot_free, NULL);
    g_queue_init(&ingest->free_slots);
    g_queue_init(&ingest->todo);

    pthread_mutex_init(&ingest->mutex, NULL);
    pthread_mutex_init(&ingest->order, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&ingest->work_cond, &attributes);
    pthread_cond_init(&ingest->free_cond, &attributes);
    pthread_condattr_destroy(&attributes);

    ingest->tree_access.store = vs_repository_chunks(repository);
    ingest->tree_access.codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    VsTreeIo io = vs_chunk_access_tree_io(&ingest->tree_access);
    ingest->builder =
        vs_tree_builder_new(&io, base, vs_repository_chunk_count(repository, size_bytes));
    return ingest;
}

static void
stop_workers(VsIngest *ingest)
{
    pthread_mutex_lock(&ingest->mutex);
    ingest->stop = true;
    pthread_cond_broadcast(&ingest->work_cond);
    pthread_mutex_unlock(&ingest->mutex);
    for (unsigned i = 0; i < ingest->thread_count; i++)
        pthread_join(ingest->threads[i], NULL);
    g_clear_pointer(&ingest->threads, g_free);
    ingest->thread_count = 0;
}

void
vs_ingest_free(VsIngest *ingest)
{
    if (!ingest)
        return;
    stop_workers(ingest);
    g_queue_clear(&ingest->free_slots);
    g_queue_clear(&ingest->todo);
    g_hash_table_unref(ingest->done);
    g_hash_table_unref(ingest->slots);
    vs_tree_builder_free(ingest->builder);
    vs_codec_free(ingest->tree_access.codec);
    g_clear_error(&ingest->error);
    pthread_mutex_destroy(&ingest->mutex);
    pthread_mutex_destroy(&ingest->order);
    pthread_cond_destroy(&ingest->work_cond);
    pthread_cond_destroy(&ingest->free_cond);
    g_free(ingest);
}

uint32_t
vs_ingest_span_bytes(const VsIngest *ingest)
{
    return ingest->span_bytes;
}

// The workers are started with the first work, so that a snapshot without changes costs no thread.
static bool
start_workers(VsIngest *ingest, GError **error)
{
    if (ingest->threads)
        return true;
    ingest->threads = g_new0(pthread_t, ingest->workers);
    for (unsigned i = 0; i < ingest->workers; i++) {
        int rc = pthread_create(&ingest->threads[i], NULL, worker_main, ingest);
        if (rc != 0) {
            g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, "starting a worker thread: %s",
                        g_strerror(rc));
            return false;
        }
        ingest->thread_count++;
    }
    return true;
}

static struct timespec
deadline_after(unsigned timeout_ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += timeout_ms / 1000;
    at.tv_nsec += (timeout_ms % 1000) * 1000000L;
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    return at;
}

// With the mutex held, like everything that touches the set of slots.
static Slot *
slot_new(VsIngest *ingest)
{
    Slot *slot = g_new0(Slot, 1);
    unsigned chunks = ingest->span_bytes / ingest->chunk_bytes;
    slot->span.data = g_malloc(ingest->span_bytes);
    slot->span.parts = g_array_new(FALSE, FALSE, sizeof(VsSpanPart));
    slot->digests = g_new(VsDigest, chunks);
    slot->known = g_new(bool, chunks);
    g_hash_table_add(ingest->slots, slot);
    return slot;
}

// A slot with a buffer, NULL where the pool is used up till the deadline. With the mutex held.
static Slot *
wait_for_slot(VsIngest *ingest, unsigned timeout_ms)
{
    struct timespec deadline = deadline_after(timeout_ms);
    while (!ingest->error && g_queue_is_empty(&ingest->free_slots) &&
           ingest->slots_made == ingest->slots_max)
        if (pthread_cond_timedwait(&ingest->free_cond, &ingest->mutex, &deadline) == ETIMEDOUT)
            return NULL;
    if (ingest->error)
        return NULL;
    if (!g_queue_is_empty(&ingest->free_slots))
        return g_queue_pop_head(&ingest->free_slots);
    ingest->slots_made++;
    return slot_new(ingest);
}

static bool
pass_error(VsIngest *ingest, GError **error)
{
    if (!ingest->error)
        return false;
    g_propagate_error(error, g_error_copy(ingest->error));
    return true;
}

VsSpan *
vs_ingest_take(VsIngest *ingest, uint64_t offset, unsigned timeout_ms, GError **error)
{
    g_assert(offset % ingest->span_bytes == 0 && offset < ingest->size_bytes);
    if (!start_workers(ingest, error))
        return NULL;
    pthread_mutex_lock(&ingest->mutex);
    Slot *slot = wait_for_slot(ingest, timeout_ms);
    if (slot)
        slot->sequence = ingest->next_sequence++;
    else
        pass_error(ingest, error);
    pthread_mutex_unlock(&ingest->mutex);
    if (!slot)
        return NULL;

    uint64_t chunks = vs_repository_chunk_count(ingest->repository, ingest->size_bytes);
    slot->span.offset = offset;
    slot->span.length = MIN(ingest->span_bytes, chunks * ingest->chunk_bytes - offset);
    slot->span.pending = 0;
    g_array_set_size(slot->span.parts, 0);
    memset(slot->known, 0, ingest->span_bytes / ingest->chunk_bytes);
    return &slot->span;
}

static void
enqueue(VsIngest *ingest, Slot *slot)
{
    pthread_mutex_lock(&ingest->mutex);
    g_queue_push_tail(&ingest->todo, slot);
    pthread_cond_signal(&ingest->work_cond);
    pthread_mutex_unlock(&ingest->mutex);
}

void
vs_ingest_submit(VsIngest *ingest, VsSpan *span)
{
    enqueue(ingest, (Slot *)span);
}

bool
vs_ingest_zero(VsIngest *ingest, uint64_t offset, uint64_t length, GError **error)
{
    g_assert(offset % ingest->span_bytes == 0 && length % ingest->span_bytes == 0);
    if (!ingest->has_base)
        return true; // what is not set is zero
    if (!start_workers(ingest, error))
        return false;
    Slot *slot = g_new0(Slot, 1);
    slot->span.offset = offset;
    slot->zero_length = length;
    pthread_mutex_lock(&ingest->mutex);
    slot->sequence = ingest->next_sequence++;
    g_hash_table_add(ingest->slots, slot);
    bool failed = pass_error(ingest, error);
    pthread_mutex_unlock(&ingest->mutex);
    enqueue(ingest, slot);
    return !failed;
}

bool
vs_ingest_finish(VsIngest *ingest, VsIngestResult *result, GError **error)
{
    pthread_mutex_lock(&ingest->mutex);
    while (!ingest->error && ingest->next_in_order < ingest->next_sequence)
        pthread_cond_wait(&ingest->free_cond, &ingest->mutex);
    bool failed = pass_error(ingest, error);
    pthread_mutex_unlock(&ingest->mutex);
    stop_workers(ingest);
    if (failed || !vs_tree_builder_finish(ingest->builder, &result->tree, error))
        return false;
    result->new_bytes = ingest->added_bytes + ingest->tree_access.added_bytes;
    return true;
}
