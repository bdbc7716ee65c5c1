// SPDX-License-Identifier: LGPL-2.1-or-later
// Whether what is called dirty can be trusted, by a witness from the base's content.
#include "nbd-export/pull/pull-internal.h"

// The largest minimum block size that an NBD server may have; requests are aligned to it.
#define ALIGNMENT 65536u
// The first look below a byte is short, since its extent mostly is; each further one is twice as
// long, so that a disk that is dirty from end to end takes few.
#define FIRST_WINDOW_BYTES (1ull << 20)
// How many times content may turn out to be dirty before the check gives up. Each round costs a
// block status and a chunk of the base; a bitmap with more holes than that in front of the first
// clean content saves little over a full read.
#define MAX_ROUNDS 4096u

G_STATIC_ASSERT(VS_PULL_WINDOW_BYTES % ALIGNMENT == 0 && FIRST_WINDOW_BYTES % ALIGNMENT == 0);

typedef struct {
    VsPull *pull; // says what is dirty
    VsPull *disk; // says what is allocated
    const VsPullWitness *witness;
    uint64_t dirty_from;
} Check;

// The end of a window that holds offset.
static uint64_t
window_end(const VsPull *pull, uint64_t offset)
{
    return MIN(pull->size_bytes, offset - offset % ALIGNMENT + ALIGNMENT);
}

// *start: the lowest offset from which on all up to and including offset is dirty; offset + 1 where
// offset itself is clean.
static bool
find_dirty_start(VsPull *pull, uint64_t offset, uint64_t *start, GError **error)
{
    uint64_t end = window_end(pull, offset);
    uint64_t window = FIRST_WINDOW_BYTES;
    for (*start = offset + 1; *start > 0; window = MIN(2 * window, VS_PULL_WINDOW_BYTES)) {
        uint64_t aligned = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        uint64_t from = aligned > window ? aligned - window : 0;
        g_autoptr(GArray) dirty = vs_extents_new();
        g_autoptr(GArray) allocation = vs_extents_new();
        if (!vs_pull_get_extents(pull, from, end, dirty, allocation, error))
            return false;
        const VsExtent *extent = vs_extents_at(dirty, *start - 1);
        if (!(extent->flags & VS_EXTENT_DIRTY))
            break;
        *start = extent->offset;
        if (*start > from)
            break;
        end = from;
    }
    return true;
}

// *zero: the disk reads as zeroes at offset. A live fleece is asked twice, see vs_extents_pieces().
static bool
is_zero_at(VsPull *disk, uint64_t offset, bool *zero, GError **error)
{
    uint64_t end = window_end(disk, offset);
    *zero = true;
    for (unsigned asked = 0; *zero && asked < (disk->live ? 2 : 1); asked++) {
        g_autoptr(GArray) dirty = vs_extents_new();
        g_autoptr(GArray) allocation = vs_extents_new();
        if (!vs_pull_get_extents(disk, offset - offset % ALIGNMENT, end, dirty, allocation, error))
            return false;
        *zero = vs_extents_at(allocation, offset)->flags & VS_STATE_ZERO;
    }
    return true;
}

static bool
distrust(GError **error, const char *why, uint64_t offset)
{
    g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_DISTRUSTED,
                "what is recorded as changed can't be trusted: %s at offset %" G_GUINT64_FORMAT,
                why, offset);
    return false;
}

// The base has content at offset, and nothing says that it has changed.
static bool
check_clean(const Check *check, uint64_t offset, GError **error)
{
    VsPull *disk = check->disk;
    bool zero;
    if (offset >= disk->size_bytes)
        return distrust(error, "the disk ends below content of the base", offset);
    if (!disk->has_allocation)
        return distrust(error, "the NBD export does not tell what is allocated", offset);
    if (!is_zero_at(disk, offset, &zero, error))
        return false;
    return !zero || distrust(error,
                             "content of the base has become zeroes without being recorded (the "
                             "disk may have shrunk and grown again)",
                             offset);
}

static bool
run_check(const Check *check, GError **error)
{
    const VsPullWitness *witness = check->witness;
    uint64_t below = check->pull->size_bytes;
    for (unsigned round = 0; round < MAX_ROUNDS; round++) {
        uint64_t offset, start;
        bool found;
        if (!vs_pull_poll(check->pull, 0, error) ||
            !witness->last_content(below, &found, &offset, witness->user_data, error))
            return false;
        if (!found)
            return true;
        g_assert(offset < below);
        start = check->dirty_from;
        if (offset < start && !find_dirty_start(check->pull, offset, &start, error))
            return false;
        if (start > offset)
            return check_clean(check, offset, error);
        below = start;
    }
    return distrust(error, "more changes than can be checked", below);
}

bool
vs_pull_check(VsPull *pull, VsPull *disk, const VsPullWitness *witness, uint64_t dirty_from,
              GError **error)
{
    const Check check = {pull, disk, witness, dirty_from};
    if (!pull->dirty_context)
        return true;
    pull->options.stall_timeout_ms = disk->options.stall_timeout_ms =
        witness->stall_timeout_ms ? witness->stall_timeout_ms : VS_PULL_STALL_TIMEOUT_MS;
    pull->companion = disk;
    disk->companion = pull;
    bool ok = run_check(&check, error);
    pull->companion = disk->companion = NULL;
    return ok;
}
