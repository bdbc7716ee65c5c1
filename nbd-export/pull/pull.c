// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/pull/pull.h"

#include <errno.h>
#include <libnbd.h>
#include <stdatomic.h>
#include <unistd.h>

#include "nbd-export/pull/extents.h"

// One block-status request covers at most this much: below 2^32, and few enough extents to hold in
// memory even where every other 64 KiB is dirty.
#define WINDOW_BYTES (2ull << 30)
// How often a waiting pull looks whether it has been cancelled.
#define POLL_MS 50

#define DIRTY 1u

struct _VsPull {
    struct nbd_handle *nbd;
    uint64_t size_bytes;
    char *bitmap_context; // "qemu:dirty-bitmap:…", NULL: everything is dirty
    bool has_allocation;
    bool live;

    unsigned in_flight;
    int64_t last_reply_us;
    int server_error; // errno of the first failed request

    VsIngest *ingest; // during run
    VsSpan *span;     // being put together
    VsPullOptions options;
    int64_t started_us;

    atomic_bool cancelled;
    atomic_uint_fast64_t total_bytes;
    atomic_uint_fast64_t read_bytes;
};

GQuark
vs_pull_error_quark(void)
{
    return g_quark_from_static_string("vs-pull-error");
}

static void
set_nbd_error(GError **error, VsPullError code, const char *what)
{
    const char *cause = nbd_get_error();
    g_set_error(error, VS_PULL_ERROR, code, "%s: %s", what, cause ? cause : "unknown NBD error");
}

// Lets libnbd work for up to timeout_ms, then looks at all that can have gone wrong.
static bool
poll_server(VsPull *pull, int timeout_ms, GError **error)
{
    if (nbd_poll(pull->nbd, timeout_ms) == -1) {
        set_nbd_error(error, VS_PULL_ERROR_CLOSED, "pulling over NBD");
        return false;
    }
    int64_t silent_us = g_get_monotonic_time() - pull->last_reply_us;
    if (atomic_load(&pull->cancelled))
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_CANCELLED, "pulling over NBD: cancelled");
    else if (nbd_aio_is_dead(pull->nbd) == 1 || nbd_aio_is_closed(pull->nbd) == 1)
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_CLOSED,
                    "pulling over NBD: the server closed the connection");
    else if (pull->server_error)
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_SERVER,
                    "pulling over NBD: the server answered: %s", g_strerror(pull->server_error));
    else if (pull->in_flight > 0 && silent_us > pull->options.stall_timeout_ms * 1000ll)
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_STALLED,
                    "pulling over NBD: no answer for %u ms", pull->options.stall_timeout_ms);
    else
        return true;
    return false;
}

static void
begin_request(VsPull *pull)
{
    if (pull->in_flight++ == 0)
        pull->last_reply_us = g_get_monotonic_time();
}

static void
end_request(VsPull *pull, int request_error)
{
    pull->in_flight--;
    pull->last_reply_us = g_get_monotonic_time();
    if (request_error && !pull->server_error)
        pull->server_error = request_error;
}

// Connecting ------------------------------------------------------------------------------------

static bool
configure(VsPull *pull, const VsPullSource *source)
{
    if (source->bitmap)
        pull->bitmap_context = g_strconcat("qemu:dirty-bitmap:", source->bitmap, NULL);
    return nbd_set_export_name(pull->nbd, source->export_name) == 0 &&
           nbd_set_pread_initialize(pull->nbd, false) == 0 &&
           nbd_add_meta_context(pull->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
           (!pull->bitmap_context || nbd_add_meta_context(pull->nbd, pull->bitmap_context) == 0);
}

static bool
start_connecting(VsPull *pull, const VsPullSource *source)
{
    if (source->socket >= 0)
        return nbd_aio_connect_socket(pull->nbd, source->socket) == 0;
    return nbd_aio_connect_systemd_socket_activation(pull->nbd, (char **)source->command) == 0;
}

static bool
wait_connected(VsPull *pull, GError **error)
{
    int64_t deadline = g_get_monotonic_time() + VS_PULL_CONNECT_TIMEOUT_MS * 1000ll;
    while (nbd_aio_is_connecting(pull->nbd) == 1) {
        if (nbd_poll(pull->nbd, POLL_MS) == -1)
            break;
        if (g_get_monotonic_time() > deadline) {
            g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_STALLED,
                        "connecting to the NBD export: no answer for %u s",
                        VS_PULL_CONNECT_TIMEOUT_MS / 1000);
            return false;
        }
    }
    if (nbd_aio_is_ready(pull->nbd) == 1)
        return true;
    set_nbd_error(error, VS_PULL_ERROR_CONNECT, "connecting to the NBD export");
    return false;
}

static bool
check_export(VsPull *pull, uint64_t size_bytes, GError **error)
{
    pull->has_allocation = nbd_can_meta_context(pull->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
    if (pull->bitmap_context && nbd_can_meta_context(pull->nbd, pull->bitmap_context) != 1) {
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_CONNECT,
                    "connecting to the NBD export: it does not offer %s", pull->bitmap_context);
        return false;
    }
    int64_t size = nbd_get_size(pull->nbd);
    if (size < 0 || (uint64_t)size != size_bytes) {
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_CONNECT,
                    "connecting to the NBD export: its size is %" G_GINT64_FORMAT
                    " bytes, the disk's %" G_GUINT64_FORMAT,
                    size, size_bytes);
        return false;
    }
    return true;
}

VsPull *
vs_pull_connect(const VsPullSource *source, uint64_t size_bytes, GError **error)
{
    g_autoptr(VsPull) pull = g_new0(VsPull, 1);
    pull->size_bytes = size_bytes;
    pull->live = source->live;
    pull->nbd = nbd_create();
    if (!pull->nbd || !configure(pull, source)) {
        set_nbd_error(error, VS_PULL_ERROR_CONNECT, "preparing the NBD connection");
        if (source->socket >= 0)
            close(source->socket);
        return NULL;
    }
    if (!start_connecting(pull, source)) {
        set_nbd_error(error, VS_PULL_ERROR_CONNECT, "connecting to the NBD export");
        return NULL;
    }
    if (!wait_connected(pull, error) || !check_export(pull, size_bytes, error))
        return NULL;
    return g_steal_pointer(&pull);
}

void
vs_pull_free(VsPull *pull)
{
    if (!pull)
        return;
    nbd_close(pull->nbd);
    g_free(pull->bitmap_context);
    g_free(pull);
}

// Extents ---------------------------------------------------------------------------------------

// The answer to one block-status request, which both contexts may end short.
typedef struct {
    VsPull *pull;
    GArray *dirty;
    GArray *allocation;
    uint64_t start;
    uint64_t end;
    bool bad;
    bool done;
} Status;

static int
on_extents(void *user_data, const char *context, uint64_t offset, uint32_t *entries, size_t count,
           int *error)
{
    Status *status = user_data;
    GArray *list = NULL;
    if (g_strcmp0(context, status->pull->bitmap_context) == 0)
        list = status->dirty;
    else if (g_strcmp0(context, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0)
        list = status->allocation;
    if (list && (offset != status->start ||
                 !vs_extents_append(list, status->start, status->end, entries, count)))
        status->bad = true;
    return 0;
}

static int
on_status_done(void *user_data, int *error)
{
    Status *status = user_data;
    status->done = true;
    end_request(status->pull, *error);
    return 1;
}

static uint64_t
list_end(const GArray *list, uint64_t start)
{
    if (list->len == 0)
        return start;
    const VsExtent *last = &g_array_index(list, VsExtent, list->len - 1);
    return last->offset + last->length;
}

static void
cut_list(GArray *list, uint64_t end)
{
    while (list->len > 0) {
        VsExtent *last = &g_array_index(list, VsExtent, list->len - 1);
        if (last->offset < end) {
            last->length = MIN(last->length, end - last->offset);
            return;
        }
        g_array_set_size(list, list->len - 1);
    }
}

// Asks once for [status->start, status->end); advances start to where all contexts have answered.
static bool
ask_extents(VsPull *pull, Status *status, GError **error)
{
    status->done = false;
    begin_request(pull);
    if (nbd_aio_block_status(
            pull->nbd, status->end - status->start, status->start,
            (nbd_extent_callback){.callback = on_extents, .user_data = status},
            (nbd_completion_callback){.callback = on_status_done, .user_data = status}, 0) == -1) {
        pull->in_flight--;
        set_nbd_error(error, VS_PULL_ERROR_SERVER, "asking for extents over NBD");
        return false;
    }
    while (!status->done)
        if (!poll_server(pull, POLL_MS, error))
            return false;
    uint64_t end = status->end;
    if (pull->bitmap_context)
        end = MIN(end, list_end(status->dirty, status->start));
    if (pull->has_allocation)
        end = MIN(end, list_end(status->allocation, status->start));
    if (status->bad || end == status->start || pull->server_error) {
        if (!poll_server(pull, 0, error))
            return false;
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_SERVER,
                    "asking for extents over NBD: the server's answer makes no sense");
        return false;
    }
    cut_list(status->dirty, end);
    cut_list(status->allocation, end);
    status->start = end;
    return true;
}

// Fills dirty (may be NULL: not wanted) and allocation for [start, end).
static bool
get_extents(VsPull *pull, uint64_t start, uint64_t end, GArray *dirty, GArray *allocation,
            GError **error)
{
    Status status = {pull, dirty, allocation, start, end, false, false};
    while (status.start < end)
        if (!ask_extents(pull, &status, error))
            return false;
    return true;
}

static GArray *
extent_list_new(void)
{
    return g_array_new(FALSE, FALSE, sizeof(VsExtent));
}

// What is to be done in [start, end). twice: ask twice where the source is live.
static GArray *
get_pieces(VsPull *pull, uint64_t start, uint64_t end, bool twice, GError **error)
{
    g_autoptr(GArray) dirty = extent_list_new();
    g_autoptr(GArray) allocation = extent_list_new();
    g_autoptr(GArray) dirty_again = extent_list_new();
    g_autoptr(GArray) again = extent_list_new();
    if (!pull->bitmap_context && !pull->has_allocation) {
        VsExtent all = {start, end - start, 0};
        g_array_append_val(allocation, all);
        return vs_extents_pieces(NULL, allocation, NULL);
    }
    if (!get_extents(pull, start, end, dirty, allocation, error) ||
        (twice && !get_extents(pull, start, end, dirty_again, again, error)))
        return NULL;
    if (pull->bitmap_context)
        vs_extents_set_from(dirty, pull->options.dirty_from, DIRTY);
    for (unsigned i = 0; i < dirty->len; i++)
        g_array_index(dirty, VsExtent, i).flags &= DIRTY;
    return vs_extents_pieces(pull->bitmap_context ? dirty : NULL,
                             pull->has_allocation ? allocation : NULL, twice ? again : NULL);
}

static bool
count_bytes(VsPull *pull, GError **error)
{
    uint64_t total = 0;
    for (uint64_t at = 0; at < pull->size_bytes; at += WINDOW_BYTES) {
        uint64_t end = MIN(at + WINDOW_BYTES, pull->size_bytes);
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
    end_request(read->pull, *error);
    if (!*error) {
        atomic_fetch_add(&read->pull->read_bytes, read->length);
        release_span(read->pull, read->span);
    }
    return 1;
}

// Microseconds to wait until another read keeps the rate below the limit.
static int64_t
throttle_us(VsPull *pull)
{
    uint64_t limit = pull->options.speed_limit_bytes;
    if (limit == 0)
        return 0;
    double due_us = (double)atomic_load(&pull->read_bytes) / limit * G_USEC_PER_SEC;
    return (int64_t)due_us - (g_get_monotonic_time() - pull->started_us);
}

static bool
wait_for_turn(VsPull *pull, GError **error)
{
    unsigned most = pull->options.speed_limit_bytes ? 1 : VS_PULL_REQUESTS;
    while (pull->in_flight >= most)
        if (!poll_server(pull, POLL_MS, error))
            return false;
    for (int64_t wait_us = throttle_us(pull); wait_us > 0; wait_us = throttle_us(pull))
        if (!poll_server(pull, CLAMP(wait_us / 1000, 1, POLL_MS), error))
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
    begin_request(pull);
    span->pending++;
    if (nbd_aio_pread(
            pull->nbd, span->data + part->offset, part->length, span->offset + part->offset,
            (nbd_completion_callback){.callback = on_read_done, .user_data = read, .free = g_free},
            0) == -1) {
        pull->in_flight--;
        set_nbd_error(error, VS_PULL_ERROR_SERVER, "reading over NBD");
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
        pull->span = vs_ingest_take(pull->ingest, offset, pull->in_flight ? 0 : POLL_MS, &failure);
        if (failure) {
            g_propagate_error(error, failure);
            return false;
        }
        if (pull->span)
            break;
        if (!poll_server(pull, pull->in_flight ? POLL_MS : 0, error))
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
    if (!count_bytes(pull, error))
        return false;
    pull->started_us = g_get_monotonic_time();
    for (uint64_t at = 0; at < pull->size_bytes; at += WINDOW_BYTES)
        if (!pull_window(pull, at, MIN(at + WINDOW_BYTES, pull->size_bytes), error))
            return false;
    close_span(pull);
    while (pull->in_flight > 0)
        if (!poll_server(pull, POLL_MS, error))
            return false;
    return poll_server(pull, 0, error);
}

void
vs_pull_progress(VsPull *pull, VsPullProgress *progress)
{
    progress->total_bytes = atomic_load(&pull->total_bytes);
    progress->read_bytes = atomic_load(&pull->read_bytes);
}

void
vs_pull_cancel(VsPull *pull)
{
    atomic_store(&pull->cancelled, true);
}
