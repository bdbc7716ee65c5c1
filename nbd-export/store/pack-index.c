// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/pack-index.h"

#include "nbd-export/store/little-endian.h"
#include "nbd-export/store/pack-index-layout.h"

#include <pthread.h>
#include <string.h>

#define BLOCK_ENTRIES 64u // 4 KiB

struct _VsPackIndex {
    gint references; // atomic
    VsObjectStore *objects;
    char *name;   // in index/
    char *object; // with the folder
    VsPackIndexLayout layout;
    pthread_mutex_t mutex; // guards loading: what is below is constant once loaded is true
    bool loaded;
    uint32_t *fanout;  // end of each bucket
    uint8_t *resident; // all entries, or NULL
};

VsPackIndex *
vs_pack_index_open(VsObjectStore *objects, const char *name, GError **error)
{
    g_autofree char *object = g_strconcat("index/", name, NULL);
    uint64_t size = 0;
    uint8_t tail[VS_PACK_INDEX_TAIL_BYTES];
    VsPackIndexLayout layout;
    if (!vs_object_store_get_size(objects, object, &size, error)) {
        return NULL;
    }
    if (size < VS_PACK_INDEX_HEADER_BYTES + VS_PACK_INDEX_TAIL_BYTES) {
        g_set_error(error, VS_PACK_INDEX_ERROR, VS_PACK_INDEX_ERROR_CORRUPT,
                    "read index segment %s: it is too short", name);
        return NULL;
    }
    if (!vs_object_store_get_range(objects, object, size - sizeof tail, tail, sizeof tail, error) ||
        !vs_pack_index_parse_tail(tail, size, &layout, error)) {
        g_prefix_error(error, "index segment %s: ", name);
        return NULL;
    }
    VsPackIndex *index = g_new0(VsPackIndex, 1);
    index->references = 1;
    index->objects = objects;
    index->name = g_strdup(name);
    index->object = g_steal_pointer(&object);
    index->layout = layout;
    pthread_mutex_init(&index->mutex, NULL);
    return index;
}

VsPackIndex *
vs_pack_index_ref(VsPackIndex *index)
{
    g_atomic_int_inc(&index->references);
    return index;
}

void
vs_pack_index_unref(VsPackIndex *index)
{
    if (index == NULL || !g_atomic_int_dec_and_test(&index->references)) {
        return;
    }
    pthread_mutex_destroy(&index->mutex);
    g_free(index->fanout);
    g_free(index->resident);
    g_free(index->object);
    g_free(index->name);
    g_free(index);
}

const char *
vs_pack_index_name(const VsPackIndex *index)
{
    return index->name;
}

uint64_t
vs_pack_index_count(const VsPackIndex *index)
{
    return index->layout.entry_count;
}

const VsDigest *
vs_pack_index_entries_digest(const VsPackIndex *index)
{
    return &index->layout.entries_digest;
}

// Loading -------------------------------------------------------------------------------------

// The pack list and the fan-out table, verified.
static uint8_t *
read_meta(VsPackIndex *index, GError **error)
{
    const VsPackIndexLayout *layout = &index->layout;
    g_autofree uint8_t *meta = g_malloc(layout->meta_length);
    if (!vs_object_store_get_range(index->objects, index->object, layout->packs_offset, meta,
                                   layout->meta_length, error)) {
        return NULL;
    }
    if (!vs_pack_index_check_meta(layout, meta, error)) {
        g_prefix_error(error, "index segment %s: ", index->name);
        return NULL;
    }
    return g_steal_pointer(&meta);
}

static bool
load_entries(VsPackIndex *index, GError **error)
{
    size_t length = index->layout.entry_count * VS_PACK_INDEX_ENTRY_BYTES;
    g_autofree uint8_t *entries = g_malloc(MAX(length, 1));
    if (!vs_object_store_get_range(index->objects, index->object, VS_PACK_INDEX_HEADER_BYTES,
                                   entries, length, error)) {
        return false;
    }
    VsDigest digest;
    vs_digest_compute(entries, length, &digest);
    if (!vs_digest_equal(&digest, &index->layout.entries_digest)) {
        g_set_error(error, VS_PACK_INDEX_ERROR, VS_PACK_INDEX_ERROR_CORRUPT,
                    "read index segment %s: its entries are damaged", index->name);
        return false;
    }
    index->resident = g_steal_pointer(&entries);
    return true;
}

static bool
load(VsPackIndex *index, GError **error)
{
    const VsPackIndexLayout *layout = &index->layout;
    g_autofree uint8_t *meta = read_meta(index, error);
    if (meta == NULL) {
        return false;
    }
    bool is_small = layout->entry_count <= VS_PACK_INDEX_RESIDENT_BYTES / VS_PACK_INDEX_ENTRY_BYTES;
    if (is_small && !load_entries(index, error)) {
        return false;
    }
    uint32_t buckets = 1u << layout->fanout_bits;
    index->fanout = g_new(uint32_t, buckets);
    for (uint32_t i = 0; i < buckets; i++) {
        index->fanout[i] =
            vs_le32_get(meta + (size_t)layout->pack_count * VS_PACK_ID_BYTES + (size_t)i * 4);
    }
    index->loaded = true;
    return true;
}

static bool
ensure_loaded(VsPackIndex *index, GError **error)
{
    pthread_mutex_lock(&index->mutex);
    bool loaded = index->loaded || load(index, error);
    pthread_mutex_unlock(&index->mutex);
    return loaded;
}

bool
vs_pack_index_read_packs(VsPackIndex *index, GArray *packs, GError **error)
{
    g_autofree uint8_t *meta = read_meta(index, error);
    if (meta == NULL) {
        return false;
    }
    g_array_append_vals(packs, meta, index->layout.pack_count);
    return true;
}

bool
vs_pack_index_read_entries(VsPackIndex *index, uint64_t first, uint32_t count, uint8_t *bytes,
                           GError **error)
{
    g_assert(first <= index->layout.entry_count && count <= index->layout.entry_count - first);
    return vs_object_store_get_range(index->objects, index->object,
                                     VS_PACK_INDEX_HEADER_BYTES + first * VS_PACK_INDEX_ENTRY_BYTES,
                                     bytes, (size_t)count * VS_PACK_INDEX_ENTRY_BYTES, error);
}

bool
vs_pack_index_verify(VsPackIndex *index, GError **error)
{
    const uint32_t step = 4096;
    g_autofree uint8_t *bytes = g_malloc((size_t)step * VS_PACK_INDEX_ENTRY_BYTES);
    g_autoptr(VsDigestStream) stream = vs_digest_stream_new();
    uint64_t count = 0;
    for (uint64_t first = 0; first < index->layout.entry_count; first += count) {
        count = MIN(step, index->layout.entry_count - first);
        if (!vs_pack_index_read_entries(index, first, (uint32_t)count, bytes, error)) {
            return false;
        }
        vs_digest_stream_add(stream, bytes, count * VS_PACK_INDEX_ENTRY_BYTES);
    }
    VsDigest digest;
    vs_digest_stream_finish(stream, &digest);
    if (!vs_digest_equal(&digest, &index->layout.entries_digest)) {
        g_set_error(error, VS_PACK_INDEX_ERROR, VS_PACK_INDEX_ERROR_CORRUPT,
                    "read index segment %s: its entries are damaged", index->name);
        return false;
    }
    return true;
}

// Look-up -------------------------------------------------------------------------------------

// Some consecutive entries of the segment, as bytes.
typedef struct {
    const uint8_t *bytes;
    uint64_t first;
    uint32_t count;
    uint8_t buffer[BLOCK_ENTRIES * VS_PACK_INDEX_ENTRY_BYTES];
} Window;

static const uint8_t *
window_entry(const Window *window, uint32_t i)
{
    return window->bytes + (size_t)i * VS_PACK_INDEX_ENTRY_BYTES;
}

static int
window_compare(const Window *window, uint32_t i, const VsDigest *digest)
{
    return memcmp(window_entry(window, i), digest->bytes, VS_DIGEST_BYTES);
}

// The entries [low, high) of the segment.
typedef struct {
    uint64_t low;
    uint64_t high;
} Range;

// Puts the window over entries of range near guess; over all of them where they are in memory.
static bool
window_move(VsPackIndex *index, Window *window, Range range, uint64_t guess, GError **error)
{
    const uint64_t low = range.low;
    const uint64_t high = range.high;
    if (index->resident != NULL) {
        window->first = low;
        window->count = (uint32_t)(high - low);
        window->bytes = index->resident + low * VS_PACK_INDEX_ENTRY_BYTES;
        return true;
    }
    uint64_t first = guess > low + BLOCK_ENTRIES / 2 ? guess - BLOCK_ENTRIES / 2 : low;
    if (high - low <= BLOCK_ENTRIES) {
        first = low;
    } else if (first > high - BLOCK_ENTRIES) {
        first = high - BLOCK_ENTRIES;
    }
    window->first = first;
    window->count = (uint32_t)MIN(high - first, BLOCK_ENTRIES);
    window->bytes = window->buffer;
    return vs_pack_index_read_entries(index, first, window->count, window->buffer, error);
}

// The first entry of the window that is not less than digest; count: none.
static uint32_t
window_lower_bound(const Window *window, const VsDigest *digest)
{
    uint32_t low = 0;
    uint32_t high = window->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (window_compare(window, middle, digest) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static uint64_t
leading_bits(const VsDigest *digest)
{
    uint64_t wire;
    memcpy(&wire, digest->bytes, sizeof wire);
    return GUINT64_FROM_BE(wire);
}

// Where in its bucket a digest is to be expected, digests being evenly distributed.
static uint64_t
interpolate(const VsPackIndex *index, const VsDigest *digest, Range bucket)
{
    uint64_t within = leading_bits(digest) << index->layout.fanout_bits;
    return bucket.low + (uint64_t)(((double)within / 18446744073709551616.0) *
                                   (double)(bucket.high - bucket.low));
}

// Appends what matches at the window's beginning; *ended: the last one of the digest has been seen.
static void
collect(const Window *window, const VsDigest *digest, VsIndexEntry *found, unsigned *count,
        bool *ended)
{
    uint32_t i = 0;
    while (i < window->count && window_compare(window, i, digest) == 0 &&
           *count < VS_PACK_INDEX_MAX_MATCHES) {
        if (vs_index_entry_decode(window_entry(window, i), &found[*count])) {
            (*count)++;
        }
        i++;
    }
    *ended = i < window->count;
}

static bool
find_in_bucket(VsPackIndex *index, const VsDigest *digest, Range bucket, VsIndexEntry *found,
               unsigned *count, GError **error)
{
    Range left = bucket;
    uint64_t guess = interpolate(index, digest, bucket);
    Window window;
    // The invariant: what precedes left is less than digest, what is at its end and beyond is not.
    while (left.low < left.high) {
        if (!window_move(index, &window, left, guess, error)) {
            return false;
        }
        uint32_t i = window_lower_bound(&window, digest);
        if (i == window.count) {
            left.low = window.first + window.count;
        } else if (i > 0 || window.first == left.low) {
            left.low = left.high = window.first + i;
        } else {
            left.high = window.first;
        }
        guess = left.low + (left.high - left.low) / 2;
    }
    bool ended = false;
    left.high = bucket.high;
    while (left.low < left.high && !ended && *count < VS_PACK_INDEX_MAX_MATCHES) {
        if (!window_move(index, &window, left, left.low, error)) {
            return false;
        }
        collect(&window, digest, found, count, &ended);
        left.low = window.first + window.count;
    }
    return true;
}

bool
vs_pack_index_find(VsPackIndex *index, const VsDigest *digest, VsIndexEntry *found, unsigned *count,
                   GError **error)
{
    if (!ensure_loaded(index, error)) {
        return false;
    }
    unsigned bits = index->layout.fanout_bits;
    uint64_t bucket = bits == 0 ? 0 : leading_bits(digest) >> (64 - bits);
    const Range range = {bucket == 0 ? 0 : index->fanout[bucket - 1], index->fanout[bucket]};
    return find_in_bucket(index, digest, range, found, count, error);
}
