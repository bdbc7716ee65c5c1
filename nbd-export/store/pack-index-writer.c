// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/pack-index-writer.h"

#include "nbd-export/store/little-endian.h"
#include "nbd-export/store/pack-index-layout.h"

#include <string.h>

#define COUNTED_BITS VS_PACK_INDEX_MAX_FANOUT_BITS
#define BUCKET_ENTRIES 64 // what a bucket of the fan-out table is to hold, up to its largest size
#define CURSOR_ENTRIES 1024u

guint
vs_pack_id_hash(gconstpointer id)
{
    guint hash;
    memcpy(&hash, id, sizeof hash); // ids are random
    return hash;
}

gboolean
vs_pack_id_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(VsPackId)) == 0;
}

GHashTable *
vs_pack_id_set_new(void)
{
    return g_hash_table_new_full(vs_pack_id_hash, vs_pack_id_equal, g_free, NULL);
}

void
vs_pack_id_set_add(GHashTable *set, const VsPackId *id)
{
    g_hash_table_add(set, g_memdup2(id, sizeof *id));
}

// Writing -------------------------------------------------------------------------------------

typedef struct {
    VsPackId id;
    GArray *packs;
    VsIndexSourceFunc source;
    gpointer user_data;
    bool has_last;
    VsIndexEntry last; // for order and duplicates
    bool entries_ended;
    uint64_t count;
    uint32_t *buckets; // entries by their leading COUNTED_BITS
    VsDigestStream *digest;
    GByteArray *ready; // header, later the meta data and the tail
    size_t ready_used;
} Writer;

static unsigned
choose_fanout_bits(uint64_t entries)
{
    unsigned bits = 8;
    while (bits < COUNTED_BITS && (entries >> bits) > BUCKET_ENTRIES) {
        bits++;
    }
    return bits;
}

static void
append_meta_and_tail(Writer *writer)
{
    VsPackIndexLayout layout = {
        .entry_count = writer->count,
        .pack_count = writer->packs->len,
        .fanout_bits = choose_fanout_bits(writer->count),
    };
    vs_digest_stream_finish(writer->digest, &layout.entries_digest);
    GByteArray *ready = writer->ready;
    g_byte_array_set_size(ready, 0);
    writer->ready_used = 0;
    g_byte_array_append(ready, (const uint8_t *)writer->packs->data,
                        writer->packs->len * VS_PACK_ID_BYTES);
    uint32_t group = 1u << (COUNTED_BITS - layout.fanout_bits);
    uint32_t end = 0;
    for (uint32_t i = 0; i < 1u << COUNTED_BITS; i++) {
        end += writer->buckets[i];
        if ((i + 1) % group == 0) {
            uint8_t bytes[4];
            vs_le32_put(bytes, end);
            g_byte_array_append(ready, bytes, sizeof bytes);
        }
    }
    uint8_t tail[VS_PACK_INDEX_TAIL_BYTES];
    vs_pack_index_encode_tail(&layout, &writer->id, ready->data, ready->len, tail);
    g_byte_array_append(ready, tail, sizeof tail);
}

// Fills buffer with as many entries as fit. At the end of entries what follows is made ready.
static bool
produce_entries(Writer *writer, uint8_t *buffer, size_t capacity, size_t *length, GError **error)
{
    *length = 0;
    while (capacity - *length >= VS_PACK_INDEX_ENTRY_BYTES) {
        VsIndexEntry entry;
        bool end = false;
        if (!writer->source(writer->user_data, &entry, &end, error)) {
            return false;
        }
        if (end) {
            writer->entries_ended = true;
            break;
        }
        int order = writer->has_last ? vs_index_entry_compare(&writer->last, &entry) : -1;
        if (order == 0) {
            continue;
        }
        if (order > 0 || writer->count == UINT32_MAX) {
            g_set_error(error, VS_PACK_INDEX_ERROR, VS_PACK_INDEX_ERROR_CORRUPT,
                        "write index: the entries are %s", order > 0 ? "not sorted" : "too many");
            return false;
        }
        writer->last = entry;
        writer->has_last = true;
        writer->buckets[entry.entry.digest.bytes[0] << 8 | entry.entry.digest.bytes[1]]++;
        writer->count++;
        vs_index_entry_encode(&entry, buffer + *length);
        *length += VS_PACK_INDEX_ENTRY_BYTES;
    }
    vs_digest_stream_add(writer->digest, buffer, *length);
    if (writer->entries_ended) {
        append_meta_and_tail(writer);
    }
    return true;
}

// VsObjectSourceFunc
static bool
produce(gpointer user_data, void *buffer, size_t capacity, size_t *length, GError **error)
{
    Writer *writer = user_data;
    if (writer->ready_used == writer->ready->len && !writer->entries_ended) {
        if (!produce_entries(writer, buffer, capacity, length, error)) {
            return false;
        }
        if (*length > 0) {
            return true;
        }
    }
    *length = MIN(capacity, writer->ready->len - writer->ready_used);
    memcpy(buffer, writer->ready->data + writer->ready_used, *length);
    writer->ready_used += *length;
    return true;
}

static int
compare_packs(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(VsPackId));
}

VsPackIndex *
vs_pack_index_write(VsObjectStore *objects, GArray *packs, VsIndexSourceFunc source,
                    gpointer user_data, GError **error)
{
    g_autofree uint32_t *buckets = g_new0(uint32_t, 1u << COUNTED_BITS);
    g_autoptr(GByteArray) ready = g_byte_array_new();
    g_autoptr(VsDigestStream) digest = vs_digest_stream_new();
    Writer writer = {
        .packs = packs,
        .source = source,
        .user_data = user_data,
        .buckets = buckets,
        .digest = digest,
        .ready = ready,
    };
    vs_pack_id_random(&writer.id);
    g_array_sort(packs, compare_packs);
    g_byte_array_set_size(ready, VS_PACK_INDEX_HEADER_BYTES);
    vs_pack_index_encode_header(&writer.id, ready->data);
    char name[VS_PACK_NAME_BYTES];
    vs_pack_id_to_name(&writer.id, name);
    g_autofree char *object = g_strconcat("index/", name, NULL);
    if (!vs_object_store_put_stream(objects, object, produce, &writer, error)) {
        return NULL;
    }
    return vs_pack_index_open(objects, name, error);
}

// Merging -------------------------------------------------------------------------------------

// Reads a segment from its first entry to its last, and sees that they are what was written.
typedef struct {
    VsPackIndex *index;
    uint64_t next; // entry to read into buffer
    uint32_t buffered;
    uint32_t used;
    VsDigestStream *digest;
    VsIndexEntry current;
    bool ended;
    uint8_t buffer[CURSOR_ENTRIES * VS_PACK_INDEX_ENTRY_BYTES];
} Cursor;

typedef struct {
    GPtrArray *cursors;
    GHashTable *keep;
    VsPackIndex *damaged;
} Merge;

static void
cursor_free(gpointer data)
{
    Cursor *cursor = data;
    vs_digest_stream_free(cursor->digest);
    g_free(cursor);
}

static bool
cursor_fill(Cursor *cursor, GError **error)
{
    uint64_t left = vs_pack_index_count(cursor->index) - cursor->next;
    cursor->buffered = (uint32_t)MIN(left, CURSOR_ENTRIES);
    cursor->used = 0;
    if (cursor->buffered == 0) {
        VsDigest digest;
        vs_digest_stream_finish(cursor->digest, &digest);
        cursor->ended = true;
        if (!vs_digest_equal(&digest, vs_pack_index_entries_digest(cursor->index))) {
            g_set_error(error, VS_PACK_INDEX_ERROR, VS_PACK_INDEX_ERROR_CORRUPT,
                        "read index segment %s: its entries are damaged",
                        vs_pack_index_name(cursor->index));
            return false;
        }
        return true;
    }
    if (!vs_pack_index_read_entries(cursor->index, cursor->next, cursor->buffered, cursor->buffer,
                                    error)) {
        return false;
    }
    cursor->next += cursor->buffered;
    vs_digest_stream_add(cursor->digest, cursor->buffer,
                         (size_t)cursor->buffered * VS_PACK_INDEX_ENTRY_BYTES);
    return true;
}

// Goes to the next entry that is to be kept.
static bool
cursor_advance(Cursor *cursor, GHashTable *keep, GError **error)
{
    do {
        if (cursor->used == cursor->buffered && !cursor_fill(cursor, error)) {
            return false;
        }
        if (cursor->ended) {
            return true;
        }
        const uint8_t *bytes = cursor->buffer + (size_t)cursor->used * VS_PACK_INDEX_ENTRY_BYTES;
        cursor->used++;
        if (!vs_index_entry_decode(bytes, &cursor->current)) {
            g_set_error(error, VS_PACK_INDEX_ERROR, VS_PACK_INDEX_ERROR_CORRUPT,
                        "read index segment %s: it has an impossible entry",
                        vs_pack_index_name(cursor->index));
            return false;
        }
    } while (keep != NULL && !g_hash_table_contains(keep, &cursor->current.pack));
    return true;
}

// VsIndexSourceFunc. There are few inputs: the least one is found by looking at all.
static bool
merge_next(gpointer user_data, VsIndexEntry *entry, bool *end, GError **error)
{
    Merge *merge = user_data;
    Cursor *least = NULL;
    for (guint i = 0; i < merge->cursors->len; i++) {
        Cursor *cursor = g_ptr_array_index(merge->cursors, i);
        if (!cursor->ended &&
            (least == NULL || vs_index_entry_compare(&cursor->current, &least->current) < 0)) {
            least = cursor;
        }
    }
    *end = least == NULL;
    if (least == NULL) {
        return true;
    }
    *entry = least->current;
    merge->damaged = least->index;
    bool advanced = cursor_advance(least, merge->keep, error);
    merge->damaged = advanced ? NULL : merge->damaged;
    return advanced;
}

// The packs that the inputs cover, each once, without those not to be kept.
static GArray *
merge_packs(GPtrArray *inputs, GHashTable *keep, VsPackIndex **damaged, GError **error)
{
    g_autoptr(GHashTable) seen = vs_pack_id_set_new();
    g_autoptr(GArray) packs = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    for (guint i = 0; i < inputs->len; i++) {
        g_autoptr(GArray) covered = g_array_new(FALSE, FALSE, sizeof(VsPackId));
        if (!vs_pack_index_read_packs(g_ptr_array_index(inputs, i), covered, error)) {
            *damaged = g_ptr_array_index(inputs, i);
            return NULL;
        }
        for (guint j = 0; j < covered->len; j++) {
            const VsPackId *id = &g_array_index(covered, VsPackId, j);
            bool kept = keep == NULL || g_hash_table_contains(keep, id);
            if (kept && !g_hash_table_contains(seen, id)) {
                vs_pack_id_set_add(seen, id);
                g_array_append_val(packs, *id);
            }
        }
    }
    return g_steal_pointer(&packs);
}

VsPackIndex *
vs_pack_index_merge(VsObjectStore *objects, GPtrArray *inputs, GHashTable *keep,
                    VsPackIndex **damaged, GError **error)
{
    *damaged = NULL;
    g_autoptr(GArray) packs = merge_packs(inputs, keep, damaged, error);
    if (packs == NULL) {
        return NULL;
    }
    g_autoptr(GPtrArray) cursors = g_ptr_array_new_with_free_func(cursor_free);
    for (guint i = 0; i < inputs->len; i++) {
        Cursor *cursor = g_new0(Cursor, 1);
        cursor->index = g_ptr_array_index(inputs, i);
        cursor->digest = vs_digest_stream_new();
        g_ptr_array_add(cursors, cursor);
        if (!cursor_advance(cursor, keep, error)) {
            *damaged = cursor->index;
            return NULL;
        }
    }
    Merge merge = {.cursors = cursors, .keep = keep};
    VsPackIndex *merged = vs_pack_index_write(objects, packs, merge_next, &merge, error);
    *damaged = merge.damaged;
    return merged;
}
