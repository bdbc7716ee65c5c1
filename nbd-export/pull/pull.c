// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/pull/pull-internal.h"

#include <libnbd.h>

// Pieces ----------------------------------------------------------------------------------------

// What is to be done in [start, end). twice: ask twice where the source is live.
static GArray *
get_pieces(VsPull *pull, uint64_t start, uint64_t end, bool twice, GError **error)
{
    g_autoptr(GArray) dirty = vs_extents_new();
    g_autoptr(GArray) allocation = vs_extents_new();
    g_autoptr(GArray) dirty_again = vs_extents_new();
    g_autoptr(GArray) again = vs_extents_new();
    if (!pull->dirty_context && !pull->has_allocation) {
        VsExtent all = {start, end - start, 0};
        g_array_append_val(allocation, all);
        return vs_extents_pieces(NULL, allocation, NULL);
    }
    if (!vs_pull_get_extents(pull, start, end, dirty, allocation, error) ||
        (twice && !vs_pull_get_extents(pull, start, end, dirty_again, again, error)))
        return NULL;
    if (pull->dirty_context)
        vs_extents_set_from(dirty, pull->options.dirty_from, VS_EXTENT_DIRTY);
    return vs_extents_pieces(pull->dirty_context ? dirty : NULL,
                             pull->has_allocation ? allocation : NULL, twice ? again : NULL);
}

static bool
count_bytes(VsPull *pull, GError **error)
{
    uint64_t total = 0;
    for (uint64_t at = 0; at < pull->size_bytes; at += VS_PULL_WINDOW_BYTES) {
        uint64_t end = MIN(at + VS_PULL_WINDOW_BYTES, pull->size_bytes);
        g_autoptr(GArray) pieces = get_pieces(pull, at, end, false, error);
        if (!pieces)
            return false;
        for (unsigned i = 0; i < pieces->len; i++) {
            const VsExtent *piece = &g_array_index(pieces, VsExtent, i);
            total += piece->flags & VS_PIECE_ZERO ? 0 : piece->length;
        }
    }
    atomic_store(&pull->total_bytes, total);
    return true;
}

// Reading ---------------------------------------------------------------------------------------

// Drops one of the span's holds; the last one hands it over.
static void
release_span(VsPull *pull, VsSpan *span)
{
    if (--span->pending == 0)
        vs_ingest_submit(pull->ingest, span);
}

typedef struct {
    VsPull *pull;
    VsSpan *span;
    uint32_t length;
} Read;

static int
on_read_done(void *user_data, int *error)
{
    Read *read = user_data;
    vs_pull_end_request(read->pull, *error);
    if (!*error) {
        atomic_fetch_add(&read->pull->read_bytes, read->length);
        release_span(read->pull, read->span);
    }
    return 1;
}

// For what goes into an integer: 30 years.
#define WAIT_MOST_US 1e15

// Makes the limit that is wanted the one that holds. Counted from here, so that neither a burst nor
// a pause follows from the one before; nothing is in flight where there is a limit.
static void
pace(VsPull *pull)
{
    uint64_t limit = atomic_load(&pull->speed_limit_bytes);
    if (limit == pull->paced_limit)
        return;
    pull->paced_limit = limit;
    pull->paced_from_bytes = atomic_load(&pull->read_bytes);
    pull->paced_from_us = g_get_monotonic_time();
}

// Microseconds to wait until another read keeps the rate below the limit.
static int64_t
throttle_us(VsPull *pull)
{
    pace(pull);
    if (pull->paced_limit == 0)
        return 0;
    uint64_t read_bytes = atomic_load(&pull->read_bytes) - pull->paced_from_bytes;
    double due_us = (double)read_bytes / pull->paced_limit * G_USEC_PER_SEC;
    return (int64_t)MIN(due_us, WAIT_MOST_US) - (g_get_monotonic_time() - pull->paced_from_us);
}

static unsigned
most_requests(VsPull *pull)
{
    return atomic_load(&pull->speed_limit_bytes) ? 1 : VS_PULL_REQUESTS;
}

static bool
wait_for_turn(VsPull *pull, GError **error)
{
    while (pull->in_flight >= most_requests(pull))
        if (!vs_pull_poll(pull, VS_PULL_POLL_MS, error))
            return false;
    for (int64_t wait_us = throttle_us(pull); wait_us > 0; wait_us = throttle_us(pull))
        if (!vs_pull_poll(pull, CLAMP(wait_us / 1000, 1, VS_PULL_POLL_MS), error))
            return false;
    return true;
}

static bool
read_part(VsPull *pull, VsSpan *span, const VsSpanPart *part, GError **error)
{
    if (!wait_for_turn(pull, error))
        return false;
    Read *read = g_new(Read, 1);
    *read = (Read){pull, span, part->length};
    vs_pull_begin_request(pull);
    span->pending++;
    if (nbd_aio_pread(
            pull->nbd, span->data + part->offset, part->length, span->offset + part->offset,
            (nbd_completion_callback){.callback = on_read_done, .user_data = read, .free = g_free},
            0) == -1) {
        pull->in_flight--;
        vs_pull_set_nbd_error(error, VS_PULL_ERROR_SERVER, "reading over NBD");
        return false;
    }
    return true;
}

static void
close_span(VsPull *pull)
{
    if (pull->span)
        release_span(pull, g_steal_pointer(&pull->span));
}

// Makes the span at offset the current one, waiting for a free buffer while replies come in.
static bool
open_span(VsPull *pull, uint64_t offset, GError **error)
{
    if (pull->span && pull->span->offset == offset)
        return true;
    close_span(pull);
    for (;;) {
        GError *failure = NULL;
        pull->span =
            vs_ingest_take(pull->ingest, offset, pull->in_flight ? 0 : VS_PULL_POLL_MS, &failure);
        if (failure) {
            g_propagate_error(error, failure);
            return false;
        }
        if (pull->span)
            break;
        if (!vs_pull_poll(pull, pull->in_flight ? VS_PULL_POLL_MS : 0, error))
            return false;
    }
    pull->span->pending = 1; // ours, until it is closed
    return true;
}

// Deals with a range within one span.
static bool
pull_part(VsPull *pull, uint64_t offset, uint64_t length, bool zero, GError **error)
{
    uint64_t start = offset - offset % vs_ingest_span_bytes(pull->ingest);
    if (!open_span(pull, start, error))
        return false;
    VsSpanPart part = {offset - start, length, zero};
    g_array_append_val(pull->span->parts, part);
    return zero || read_part(pull, pull->span, &part, error);
}

static bool
pull_piece(VsPull *pull, const VsExtent *piece, GError **error)
{
    uint64_t span_bytes = vs_ingest_span_bytes(pull->ingest);
    uint64_t end = piece->offset + piece->length;
    bool zero = piece->flags & VS_PIECE_ZERO;
    for (uint64_t at = piece->offset; at < end;) {
        uint64_t whole = (end - at) / span_bytes * span_bytes;
        uint64_t next = MIN(end, at - at % span_bytes + span_bytes);
        if (zero && at % span_bytes == 0 && whole > 0) {
            close_span(pull);
            next = at + whole;
            if (!vs_ingest_zero(pull->ingest, at, whole, error))
                return false;
        } else if (!pull_part(pull, at, next - at, zero, error)) {
            return false;
        }
        at = next;
    }
    return true;
}

static bool
pull_window(VsPull *pull, uint64_t start, uint64_t end, GError **error)
{
    g_autoptr(GArray) pieces =
        get_pieces(pull, start, end, pull->live && pull->has_allocation, error);
    if (!pieces)
        return false;
    for (unsigned i = 0; i < pieces->len; i++)
        if (!pull_piece(pull, &g_array_index(pieces, VsExtent, i), error))
            return false;
    return true;
}

bool
vs_pull_run(VsPull *pull, VsIngest *ingest, const VsPullOptions *options, GError **error)
{
    pull->ingest = ingest;
    pull->options = *options;
    if (pull->options.stall_timeout_ms == 0)
        pull->options.stall_timeout_ms = VS_PULL_STALL_TIMEOUT_MS;
    uint_fast64_t unset = VS_PULL_SPEED_UNSET;
    atomic_compare_exchange_strong(&pull->speed_limit_bytes, &unset, options->speed_limit_bytes);
    if (!count_bytes(pull, error))
        return false;
    pull->paced_limit = VS_PULL_SPEED_UNSET;
    for (uint64_t at = 0; at < pull->size_bytes; at += VS_PULL_WINDOW_BYTES)
        if (!pull_window(pull, at, MIN(at + VS_PULL_WINDOW_BYTES, pull->size_bytes), error))
            return false;
    close_span(pull);
    while (pull->in_flight > 0)
        if (!vs_pull_poll(pull, VS_PULL_POLL_MS, error))
            return false;
    return vs_pull_poll(pull, 0, error);
}
