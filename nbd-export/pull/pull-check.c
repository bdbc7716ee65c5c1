// SPDX-License-Identifier: LGPL-2.1-or-later
// Whether what is called dirty can be trusted, by comparing clean content with the base's.
#include "nbd-export/pull/pull-internal.h"

#include <libnbd.h>
#include <string.h>

// The largest minimum block size that an NBD server may have; requests are aligned to it.
#define ALIGNMENT 65536u
// The first look below a byte is short, since its extent mostly is; each further one is twice as
// long, so that a disk that is dirty from end to end takes few.
#define FIRST_WINDOW_BYTES (1ull << 20)
// How many times content may turn out to be dirty before the check gives up. Each round costs a
// block status and a chunk of the base; a bitmap with more holes than that in front of the first
// clean content saves little over a full read.
#define MAX_ROUNDS 4096u

// Sizes of disks and what bitmaps count in are multiples of it: a sector is clean as a whole.
#define SECTOR_BYTES 512u

G_STATIC_ASSERT(VS_PULL_WINDOW_BYTES % ALIGNMENT == 0 && FIRST_WINDOW_BYTES % ALIGNMENT == 0);

typedef struct {
    VsPull *pull; // says what is dirty
    VsPull *disk; // has the content
    const VsPullWitness *witness;
    uint64_t dirty_from;
} Check;

// *start: the lowest offset from which on all up to and including offset is dirty; offset + 1 where
// offset itself is clean.
static bool
find_dirty_start(VsPull *pull, uint64_t offset, uint64_t *start, GError **error)
{
    uint64_t end = MIN(pull->size_bytes, offset - offset % ALIGNMENT + ALIGNMENT);
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

typedef struct {
    VsPull *disk;
    bool done;
} DiskRead;

static int
on_read_done(void *user_data, int *error)
{
    DiskRead *read = user_data;
    read->done = true;
    vs_pull_end_request(read->disk, *error);
    return 1;
}

static bool
read_disk(VsPull *disk, uint64_t offset, void *data, size_t length, GError **error)
{
    DiskRead read = {disk, false};
    vs_pull_begin_request(disk);
    if (nbd_aio_pread(disk->nbd, data, length, offset,
                      (nbd_completion_callback){.callback = on_read_done, .user_data = &read},
                      0) == -1) {
        disk->in_flight--;
        vs_pull_set_nbd_error(error, VS_PULL_ERROR_SERVER, "reading over NBD");
        return false;
    }
    while (!read.done)
        if (!vs_pull_poll(disk, VS_PULL_POLL_MS, error))
            return false;
    return vs_pull_poll(disk, 0, error);
}

bool
vs_pull_probe(VsPull *pull, unsigned timeout_ms, GError **error)
{
    char first[512];
    pull->options.stall_timeout_ms = timeout_ms;
    return read_disk(pull, 0, first, MIN(sizeof first, pull->size_bytes), error);
}

static bool
distrust(GError **error, const char *why, uint64_t offset)
{
    g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_DISTRUSTED,
                "what is recorded as changed can't be trusted: %s at offset %" G_GUINT64_FORMAT,
                why, offset);
    return false;
}

static bool
is_zero(const char *data, size_t length)
{
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

// The base has content at offset, and nothing says that its sector has changed. *same: it is as it
// was; else its guest may have written there since the point in time.
static bool
check_clean(const Check *check, uint64_t offset, bool *same, GError **error)
{
    VsPull *disk = check->disk;
    const VsPullWitness *witness = check->witness;
    char now[VS_PULL_CHECK_READ_BYTES], before[SECTOR_BYTES];
    if (offset >= disk->size_bytes)
        return distrust(error, "the disk ends below content of the base", offset);
    uint64_t block = offset - offset % sizeof(now);
    uint64_t sector = offset - offset % SECTOR_BYTES;
    size_t length = MIN(MIN(disk->size_bytes, check->dirty_from) - sector, SECTOR_BYTES);
    if (!read_disk(disk, block, now, MIN(disk->size_bytes - block, sizeof(now)), error) ||
        !witness->read(sector, before, length, witness->user_data, error))
        return false;
    const char *there = now + (sector - block);
    *same = memcmp(there, before, length) == 0;
    if (is_zero(there, length))
        return distrust(error,
                        "content of the base has become zeroes without being recorded (the disk "
                        "may have shrunk and grown again)",
                        offset);
    if (!*same && check->pull == disk)
        return distrust(error,
                        "the disk has other content than its snapshot before without that being "
                        "recorded (its image may be another's)",
                        offset);
    return true;
}

// Compares the highest clean content below `below`. rounds: how often content may turn out to be
// dirty, or newer; *checked false where it did more often.
static bool
check_below(const Check *check, uint64_t below, unsigned rounds, bool *checked, GError **error)
{
    const VsPullWitness *witness = check->witness;
    *checked = true;
    for (; rounds > 0; rounds--) {
        uint64_t offset, start;
        bool found, same = false;
        if (!vs_pull_poll(check->pull, 0, error) ||
            !witness->last_content(below, &found, &offset, witness->user_data, error))
            return false;
        if (!found)
            return true;
        g_assert(offset < below);
        start = check->dirty_from;
        if (offset < start && !find_dirty_start(check->pull, offset, &start, error))
            return false;
        if (start > offset) {
            if (!check_clean(check, offset, &same, error) || same)
                return same;
            start = offset - offset % ALIGNMENT;
        }
        below = start;
    }
    *checked = false;
    return true;
}

static bool
run_check(const Check *check, GError **error)
{
    uint64_t size = check->pull->size_bytes;
    bool checked;
    if (!check_below(check, size, MAX_ROUNDS, &checked, error))
        return false;
    if (!checked)
        return distrust(error, "more changes than can be checked", size);
    for (unsigned i = 1; i < VS_PULL_CHECK_PLACES && check->pull == check->disk; i++)
        if (!check_below(check, size / VS_PULL_CHECK_PLACES * i, 1, &checked, error))
            return false;
    return true;
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
