// SPDX-License-Identifier: LGPL-2.1-or-later
// What the pull's files share: the connection, and the two ways to ask over it.
#pragma once

#include <stdatomic.h>

#include "nbd-export/pull/extents.h"
#include "nbd-export/pull/pull.h"

// One block-status request covers at most this much: below 2^32, and few enough extents to hold in
// memory even where every other 64 KiB is dirty.
#define VS_PULL_WINDOW_BYTES (2ull << 30)
// How often a waiting pull looks whether it has been cancelled.
#define VS_PULL_POLL_MS 50

// No speed limit has been set yet, not even none.
#define VS_PULL_SPEED_UNSET UINT64_MAX

struct nbd_handle;

struct _VsPull {
    struct nbd_handle *nbd;
    uint64_t size_bytes;
    char *dirty_context; // the meta context that says what is dirty; NULL: everything is
    uint32_t dirty_mask; // an extent of that context with any of these bits in its flags is dirty
    bool has_allocation;
    bool live;

    unsigned in_flight;
    int64_t last_reply_us;
    int server_error; // errno of the first failed request

    VsIngest *ingest; // during run
    VsSpan *span;     // being put together
    VsPullOptions options;
    uint64_t paced_limit; // the speed limit that holds since:
    uint64_t paced_from_bytes;
    int64_t paced_from_us;
    VsPull *companion; // during a check: cancelling it stops this one too

    atomic_bool cancelled;
    atomic_uint_fast64_t total_bytes;
    atomic_uint_fast64_t read_bytes;
    atomic_uint_fast64_t speed_limit_bytes; // wanted
};

// "WHAT: libnbd's latest error".
void vs_pull_set_nbd_error(GError **error, VsPullError code, const char *what);

// Lets libnbd work for up to timeout_ms, then looks at all that can have gone wrong: cancelled,
// closed, a failed request, no answer within the stall timeout.
bool vs_pull_poll(VsPull *pull, int timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Around each request: begin before it is sent, end when its answer has come (0 or an errno).
void vs_pull_begin_request(VsPull *pull);
void vs_pull_end_request(VsPull *pull, int request_error);

// Asks until all of [start, end) is answered, at most VS_PULL_WINDOW_BYTES. dirty gets extents
// whose flags are VS_EXTENT_DIRTY or 0 (none where there is no dirty context), allocation those of
// base:allocation (none where the server lacks it). Both lists are empty before.
bool vs_pull_get_extents(VsPull *pull, uint64_t start, uint64_t end, GArray *dirty,
                         GArray *allocation, GError **error) G_GNUC_WARN_UNUSED_RESULT;
