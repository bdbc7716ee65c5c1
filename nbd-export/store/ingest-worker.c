// SPDX-License-Identifier: LGPL-2.1-or-later
// The ingest's threads: workers that digest and store, and the one that spools.
#include <linux/ioprio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "nbd-export/store/idle-processor.h"
#include "nbd-export/store/ingest-internal.h"

// Of a worker beside whatever else is the machine's work; the I/O priority is the lowest that still
// gets its share (ioprio_set(2): 0 to 7 in the best-effort class).
#define WORKER_NICE 10
#define WORKER_IO_PRIORITY 7

// What a worker thread needs of its own.
typedef struct {
    VsIngest *ingest;
    VsChunkAccess access;
    VsTreeCursor *base_cursor; // NULL without a base
    uint8_t *base_chunk;
    uint8_t *unspooled; // a span's buffer, once it is needed
    bool is_spare;
    VsIdleProcessor processor;
} Worker;

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
ingest_chunk(Worker *worker, VsSlot *slot, unsigned number, GError **error)
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
build_slot(VsIngest *ingest, const VsSlot *slot, GError **error)
{
    uint64_t first = slot->span.offset / ingest->chunk_bytes;
    if (slot->zero_length > 0) {
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

// The buffer goes back to the pool.
static void
release_buffer(VsIngest *ingest, uint8_t *buffer)
{
    pthread_mutex_lock(&ingest->mutex);
    if (ingest->is_all)
        vs_ingest_buffer_free(buffer);
    else
        g_ptr_array_add(ingest->free_buffers, buffer);
    pthread_cond_signal(&ingest->free_cond);
    pthread_mutex_unlock(&ingest->mutex);
}

static VsSlot *
take_next_in_order(VsIngest *ingest)
{
    pthread_mutex_lock(&ingest->mutex);
    VsSlot *slot = g_hash_table_lookup(ingest->done, &ingest->next_in_order);
    if (slot)
        g_hash_table_steal(ingest->done, &ingest->next_in_order);
    pthread_mutex_unlock(&ingest->mutex);
    return slot;
}

// Notes the slot as finished, then feeds the tree with all that are next in turn.
static void
complete(VsIngest *ingest, VsSlot *finished)
{
    pthread_mutex_lock(&ingest->mutex);
    g_hash_table_insert(ingest->done, &finished->sequence, finished);
    pthread_mutex_unlock(&ingest->mutex);

    pthread_mutex_lock(&ingest->order);
    VsSlot *slot;
    while ((slot = take_next_in_order(ingest))) {
        GError *error = NULL;
        if (!has_failed(ingest) && !build_slot(ingest, slot, &error))
            vs_ingest_fail(ingest, error);
        pthread_mutex_lock(&ingest->mutex);
        g_hash_table_remove(ingest->slots, slot);
        ingest->next_in_order++;
        pthread_cond_signal(&ingest->free_cond);
        pthread_mutex_unlock(&ingest->mutex);
    }
    pthread_mutex_unlock(&ingest->order);
}

// The older one of those that are first in their queues, so that the tree has its turns soon. With
// the mutex held.
static GQueue *
older_queue(VsIngest *ingest)
{
    const VsSlot *buffered = g_queue_peek_head(&ingest->todo);
    const VsSlot *spooled = g_queue_peek_head(&ingest->spooled);
    return spooled && (!buffered || spooled->sequence < buffered->sequence) ? &ingest->spooled
                                                                            : &ingest->todo;
}

// With the mutex held.
static bool
may_take(Worker *worker)
{
    VsIngest *ingest = worker->ingest;
    return !ingest->is_held &&
           !(g_queue_is_empty(&ingest->todo) && g_queue_is_empty(&ingest->spooled)) &&
           (!worker->is_spare || vs_idle_processor_look(&worker->processor));
}

// The spare worker must not be woken in another's place: it may find that it is not its turn.
static void
wait_for_turn(Worker *worker)
{
    VsIngest *ingest = worker->ingest;
    struct timespec next_look = vs_ingest_deadline(VS_IDLE_LOOK_US / 1000);
    if (worker->is_spare)
        pthread_cond_timedwait(&ingest->spare_cond, &ingest->mutex, &next_look);
    else
        pthread_cond_wait(&ingest->work_cond, &ingest->mutex);
}

static VsSlot *
next_todo(Worker *worker)
{
    VsIngest *ingest = worker->ingest;
    pthread_mutex_lock(&ingest->mutex);
    while (!ingest->stop && !may_take(worker))
        wait_for_turn(worker);
    VsSlot *slot = ingest->stop ? NULL : g_queue_pop_head(older_queue(ingest));
    pthread_mutex_unlock(&ingest->mutex);
    return slot;
}

static bool
unspool(Worker *worker, VsSlot *slot, GError **error)
{
    VsIngest *ingest = worker->ingest;
    if (!worker->unspooled)
        worker->unspooled = vs_ingest_buffer_new(ingest);
    if (!vs_spool_get(ingest->spool, slot->record, worker->unspooled, error))
        return false;
    slot->span.data = worker->unspooled;
    return true;
}

// Digests and stores a span's chunks.
static bool
ingest_span(Worker *worker, VsSlot *slot, GError **error)
{
    VsIngest *ingest = worker->ingest;
    unsigned chunks = slot->span.length / ingest->chunk_bytes;
    slot->digests = g_new(VsDigest, chunks);
    slot->known = g_new0(bool, chunks);
    bool ok = !has_failed(ingest) && (slot->span.data || unspool(worker, slot, error));
    for (unsigned i = 0; i < chunks && ok; i++)
        ok = !has_failed(ingest) && ingest_chunk(worker, slot, i, error);
    uint8_t *buffer = g_steal_pointer(&slot->span.data);
    if (buffer && buffer != worker->unspooled)
        release_buffer(ingest, buffer);
    return ok;
}

static void
ingest_slot(Worker *worker, VsSlot *slot)
{
    VsIngest *ingest = worker->ingest;
    GError *error = NULL;
    if (slot->zero_length == 0 && !ingest_span(worker, slot, &error) && error)
        vs_ingest_fail(ingest, error);
    pthread_mutex_lock(&ingest->mutex);
    ingest->waiting_bytes -= slot->span.length;
    pthread_mutex_unlock(&ingest->mutex);
    complete(ingest, slot);
}

// Linux keeps both for each thread. A machine that refuses is worked on as it is.
static void
lower_priority(void)
{
    if (setpriority(PRIO_PROCESS, 0, WORKER_NICE) < 0 ||
        syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0,
                IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, WORKER_IO_PRIORITY)) < 0)
        g_debug("a worker runs at full priority");
}

static void *
work(VsIngest *ingest, bool is_spare)
{
    lower_priority();
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    g_autofree uint8_t *base_chunk = g_malloc(ingest->chunk_bytes);
    Worker worker = {
        .ingest = ingest,
        .access = {vs_repository_chunks(ingest->repository), codec, 0},
        .base_chunk = base_chunk,
        .is_spare = is_spare,
    };
    const VsTreeIo io = vs_chunk_access_tree_io(&worker.access);
    g_autoptr(VsTreeCursor) cursor =
        ingest->has_base ? vs_tree_cursor_new(&io, &ingest->base) : NULL;
    worker.base_cursor = cursor;

    VsSlot *slot;
    while ((slot = next_todo(&worker)))
        ingest_slot(&worker, slot);
    vs_ingest_buffer_free(worker.unspooled);
    pthread_mutex_lock(&ingest->mutex);
    ingest->added_bytes += worker.access.added_bytes;
    pthread_mutex_unlock(&ingest->mutex);
    return NULL;
}

void *
vs_ingest_worker_main(void *ingest)
{
    return work(ingest, false);
}

void *
vs_ingest_spare_main(void *ingest)
{
    return work(ingest, true);
}

// Spooling --------------------------------------------------------------------------------------

static VsSlot *
next_to_spool(VsIngest *ingest)
{
    pthread_mutex_lock(&ingest->mutex);
    while (!ingest->stop && g_queue_is_empty(&ingest->to_spool))
        pthread_cond_wait(&ingest->spool_cond, &ingest->mutex);
    VsSlot *slot = ingest->stop ? NULL : g_queue_pop_head(&ingest->to_spool);
    pthread_mutex_unlock(&ingest->mutex);
    return slot;
}

// Where the spool has no room the pool must do: now the workers are waited for.
static void
spool_slot(VsIngest *ingest, VsSlot *slot)
{
    bool is_kept = vs_spool_put(ingest->spool, slot->span.data, &slot->record);
    uint8_t *buffer = is_kept ? g_steal_pointer(&slot->span.data) : NULL;
    pthread_mutex_lock(&ingest->mutex);
    g_queue_push_tail(is_kept ? &ingest->spooled : &ingest->todo, slot);
    ingest->is_held &= is_kept;
    pthread_cond_broadcast(&ingest->work_cond);
    pthread_mutex_unlock(&ingest->mutex);
    if (buffer)
        release_buffer(ingest, buffer);
}

void *
vs_ingest_spooler_main(void *user_data)
{
    VsIngest *ingest = user_data;
    VsSlot *slot;
    while ((slot = next_to_spool(ingest)))
        spool_slot(ingest, slot);
    return NULL;
}
