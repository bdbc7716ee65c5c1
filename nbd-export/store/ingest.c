// SPDX-License-Identifier: LGPL-2.1-or-later
// The ingest as its caller sees it: buffers, order of turns, the threads' life.
#include <errno.h>
#include <string.h>
#include <time.h>

#include "nbd-export/store/ingest-internal.h"

uint8_t *
vs_ingest_buffer_new(const VsIngest *ingest)
{
    return g_aligned_alloc(1, ingest->span_bytes, VS_SPOOL_ALIGNMENT);
}

void
vs_ingest_buffer_free(gpointer buffer)
{
    g_aligned_free(buffer);
}

static void
slot_free(gpointer data)
{
    VsSlot *slot = data;
    vs_ingest_buffer_free(slot->span.data);
    g_free(slot->digests);
    g_free(slot->known);
    if (slot->span.parts)
        g_array_unref(slot->span.parts);
    g_free(slot);
}

void
vs_ingest_fail(VsIngest *ingest, GError *error)
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

VsIngest *
vs_ingest_new(VsRepository *repository, const VsTree *base, uint64_t size_bytes, unsigned workers)
{
    VsIngest *ingest = g_new0(VsIngest, 1);
    ingest->repository = repository;
    ingest->size_bytes = size_bytes;
    ingest->chunk_bytes = vs_repository_chunk_size(repository);
    ingest->span_bytes = MAX(ingest->chunk_bytes, VS_SPAN_BYTES);
    ingest->buffers_max = MAX(4u, VS_INGEST_POOL_BYTES / ingest->span_bytes);
    ingest->free_buffers = g_ptr_array_new_with_free_func(vs_ingest_buffer_free);
    ingest->has_base = base != NULL;
    if (base)
        ingest->base = *base;
    ingest->workers = workers ? workers : g_get_num_processors();
    ingest->done = g_hash_table_new(g_int64_hash, g_int64_equal);
    ingest->slots = g_hash_table_new_full(NULL, NULL, slot_free, NULL);
    g_queue_init(&ingest->todo);
    g_queue_init(&ingest->to_spool);
    g_queue_init(&ingest->spooled);

    pthread_mutex_init(&ingest->mutex, NULL);
    pthread_mutex_init(&ingest->order, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&ingest->work_cond, &attributes);
    pthread_cond_init(&ingest->spool_cond, &attributes);
    pthread_cond_init(&ingest->spare_cond, &attributes);
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
stop_threads(VsIngest *ingest)
{
    pthread_mutex_lock(&ingest->mutex);
    ingest->stop = true;
    pthread_cond_broadcast(&ingest->work_cond);
    pthread_cond_broadcast(&ingest->spool_cond);
    pthread_cond_broadcast(&ingest->spare_cond);
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
    stop_threads(ingest);
    g_queue_clear(&ingest->todo);
    g_queue_clear(&ingest->to_spool);
    g_queue_clear(&ingest->spooled);
    g_hash_table_unref(ingest->done);
    g_hash_table_unref(ingest->slots);
    g_ptr_array_unref(ingest->free_buffers);
    vs_spool_free(ingest->spool);
    vs_tree_builder_free(ingest->builder);
    vs_codec_free(ingest->tree_access.codec);
    g_clear_error(&ingest->error);
    pthread_mutex_destroy(&ingest->mutex);
    pthread_mutex_destroy(&ingest->order);
    pthread_cond_destroy(&ingest->work_cond);
    pthread_cond_destroy(&ingest->spool_cond);
    pthread_cond_destroy(&ingest->spare_cond);
    pthread_cond_destroy(&ingest->free_cond);
    g_free(ingest);
}

uint32_t
vs_ingest_span_bytes(const VsIngest *ingest)
{
    return ingest->span_bytes;
}

void
vs_ingest_set_spool(VsIngest *ingest, VsSpool *spool)
{
    g_assert(!ingest->threads && !ingest->spool);
    ingest->spool = spool;
    ingest->is_held = true;
}

void
vs_ingest_add_spare(VsIngest *ingest)
{
    g_assert(!ingest->threads);
    ingest->has_spare = true;
}

static bool
start_thread(VsIngest *ingest, void *(*main)(void *), GError **error)
{
    int rc = pthread_create(&ingest->threads[ingest->thread_count], NULL, main, ingest);
    if (rc != 0) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_FAILED, "starting a worker thread: %s",
                    g_strerror(rc));
        return false;
    }
    ingest->thread_count++;
    return true;
}

// With the first work, so that a snapshot without changes costs no thread.
static bool
start_threads(VsIngest *ingest, GError **error)
{
    if (ingest->threads)
        return true;
    ingest->threads = g_new0(pthread_t, ingest->workers + 2);
    for (unsigned i = 0; i < ingest->workers; i++)
        if (!start_thread(ingest, vs_ingest_worker_main, error))
            return false;
    return (!ingest->has_spare || start_thread(ingest, vs_ingest_spare_main, error)) &&
           (!ingest->spool || start_thread(ingest, vs_ingest_spooler_main, error));
}

struct timespec
vs_ingest_deadline(unsigned timeout_ms)
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

// A buffer, NULL where the pool is used up till the deadline. With the mutex held.
static uint8_t *
wait_for_buffer(VsIngest *ingest, unsigned timeout_ms)
{
    struct timespec deadline = vs_ingest_deadline(timeout_ms);
    while (!ingest->error && ingest->free_buffers->len == 0 &&
           ingest->buffers_made == ingest->buffers_max)
        if (pthread_cond_timedwait(&ingest->free_cond, &ingest->mutex, &deadline) == ETIMEDOUT)
            return NULL;
    if (ingest->error)
        return NULL;
    if (ingest->free_buffers->len > 0)
        return g_ptr_array_steal_index_fast(ingest->free_buffers, ingest->free_buffers->len - 1);
    ingest->buffers_made++;
    return vs_ingest_buffer_new(ingest);
}

// The next turn. With the mutex held.
static VsSlot *
slot_new(VsIngest *ingest, uint64_t offset)
{
    VsSlot *slot = g_new0(VsSlot, 1);
    slot->span.offset = offset;
    slot->sequence = ingest->next_sequence++;
    g_hash_table_add(ingest->slots, slot);
    return slot;
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
    if (!start_threads(ingest, error))
        return NULL;
    uint64_t chunks = vs_repository_chunk_count(ingest->repository, ingest->size_bytes);
    VsSlot *slot = NULL;
    pthread_mutex_lock(&ingest->mutex);
    uint8_t *buffer = wait_for_buffer(ingest, timeout_ms);
    if (buffer)
        slot = slot_new(ingest, offset);
    else
        pass_error(ingest, error);
    pthread_mutex_unlock(&ingest->mutex);
    if (!slot)
        return NULL;
    slot->span.data = buffer;
    slot->span.length = MIN(ingest->span_bytes, chunks * ingest->chunk_bytes - offset);
    slot->span.parts = g_array_sized_new(FALSE, FALSE, sizeof(VsSpanPart), 1);
    return &slot->span;
}

// How many buffers may wait for the workers; with more of them the rest goes through the spool:
// those the caller soon gets back. While the workers wait themselves it is as many as a small
// snapshot needs, so that the pool is there for the way to the spool.
static unsigned
most_waiting(const VsIngest *ingest)
{
    return ingest->buffers_max / (ingest->is_held ? 8 : 2);
}

void
vs_ingest_submit(VsIngest *ingest, VsSpan *span)
{
    pthread_mutex_lock(&ingest->mutex);
    bool is_for_spool = ingest->spool && g_queue_get_length(&ingest->todo) >= most_waiting(ingest);
    ingest->waiting_bytes += span->length;
    g_queue_push_tail(is_for_spool ? &ingest->to_spool : &ingest->todo, span);
    pthread_cond_signal(is_for_spool ? &ingest->spool_cond : &ingest->work_cond);
    pthread_mutex_unlock(&ingest->mutex);
}

bool
vs_ingest_zero(VsIngest *ingest, uint64_t offset, uint64_t length, GError **error)
{
    g_assert(offset % ingest->span_bytes == 0 && length % ingest->span_bytes == 0);
    if (!ingest->has_base)
        return true; // what is not set is zero
    if (!start_threads(ingest, error))
        return false;
    pthread_mutex_lock(&ingest->mutex);
    VsSlot *slot = slot_new(ingest, offset);
    slot->zero_length = length;
    g_queue_push_tail(&ingest->todo, slot);
    pthread_cond_signal(&ingest->work_cond);
    bool failed = pass_error(ingest, error);
    pthread_mutex_unlock(&ingest->mutex);
    return !failed;
}

uint64_t
vs_ingest_waiting_bytes(VsIngest *ingest)
{
    pthread_mutex_lock(&ingest->mutex);
    uint64_t bytes = ingest->waiting_bytes;
    pthread_mutex_unlock(&ingest->mutex);
    return bytes;
}

// All that is coming has come: the workers may begin, and buffers that come free aren't wanted.
static void
close_intake(VsIngest *ingest)
{
    ingest->is_all = true;
    ingest->is_held = false;
    g_ptr_array_set_size(ingest->free_buffers, 0);
    pthread_cond_broadcast(&ingest->work_cond);
}

bool
vs_ingest_finish(VsIngest *ingest, VsIngestResult *result, GError **error)
{
    pthread_mutex_lock(&ingest->mutex);
    close_intake(ingest);
    while (!ingest->error && ingest->next_in_order < ingest->next_sequence)
        pthread_cond_wait(&ingest->free_cond, &ingest->mutex);
    bool failed = pass_error(ingest, error);
    pthread_mutex_unlock(&ingest->mutex);
    stop_threads(ingest);
    if (failed || !vs_tree_builder_finish(ingest->builder, &result->tree, error))
        return false;
    result->new_bytes = ingest->added_bytes + ingest->tree_access.added_bytes;
    return true;
}
