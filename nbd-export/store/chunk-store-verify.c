// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/chunk-store-internal.h"

#include <string.h>

#define WINDOW_BYTES (8u << 20) // more than the largest record

typedef struct {
    VsChunkStore *store;
    VsCodec *codec;
    GRand *random;
    double percent;
    VsDamageFunc bad;
    gpointer user_data;
    uint64_t objects;
    uint64_t bytes;

    char *object; // the pack's
    const VsPackTable *table;
    uint8_t *window; // WINDOW_BYTES of the pack
    uint64_t window_offset;
    size_t window_length;
    uint8_t *raw; // VS_PACK_MAX_RAW_BYTES
} Verify;

static void
report(Verify *verify, const VsDigest *digest, const char *what)
{
    verify->bad(digest, strrchr(verify->object, '/') + 1, what, verify->user_data);
}

// Brings [offset, offset + length) of the pack into the window, and what follows as far as all is
// read anyway.
static const uint8_t *
look_at(Verify *verify, uint64_t offset, size_t length, GError **error)
{
    uint64_t end = verify->window_offset + verify->window_length;
    if (offset < verify->window_offset || offset + length > end) {
        uint64_t left = verify->table->size_bytes - offset;
        size_t ahead = verify->percent < 100 ? length : WINDOW_BYTES;
        verify->window_offset = offset;
        verify->window_length = 0;
        size_t wanted = MIN(MAX(ahead, length), left);
        g_autoptr(GError) cause = NULL;
        if (!vs_object_store_get_range(verify->store->objects, verify->object, offset,
                                       verify->window, wanted, &cause)) {
            // A bad spot ahead is not this object's.
            wanted = length;
            if (!vs_object_store_get_range(verify->store->objects, verify->object, offset,
                                           verify->window, wanted, error)) {
                return NULL;
            }
        }
        verify->window_length = wanted;
    }
    return verify->window + (offset - verify->window_offset);
}

static void
verify_object(Verify *verify, const VsPackEntry *entry)
{
    g_autoptr(GError) cause = NULL;
    const uint8_t *record = look_at(verify, entry->offset - VS_PACK_RECORD_BYTES,
                                    (size_t)VS_PACK_RECORD_BYTES + entry->stored_length, &cause);
    verify->objects++;
    verify->bytes += entry->stored_length;
    if (record == NULL) {
        report(verify, &entry->digest, cause->message);
        return;
    }
    uint8_t expected[VS_PACK_RECORD_BYTES];
    vs_pack_encode_record(entry, expected);
    if (!vs_codec_decode(verify->codec, entry->coding, record + VS_PACK_RECORD_BYTES,
                         entry->stored_length, verify->raw, entry->raw_length, &entry->digest,
                         &cause)) {
        report(verify, &entry->digest, cause->message);
    } else if (memcmp(record, expected, sizeof expected) != 0) {
        report(verify, NULL, "the head of a record is damaged; the object itself is whole");
    }
}

static void
verify_header(Verify *verify, const VsPackId *id)
{
    uint8_t expected[VS_PACK_HEADER_BYTES];
    vs_pack_encode_header(id, expected);
    g_autoptr(GError) cause = NULL;
    const uint8_t *header = look_at(verify, 0, sizeof expected, &cause);
    if (header == NULL) {
        report(verify, NULL, cause->message);
    } else if (memcmp(header, expected, sizeof expected) != 0) {
        report(verify, NULL, "the pack's header is damaged");
    }
}

static void
verify_pack(Verify *verify, const VsPackId *id)
{
    g_autofree char *object = vs_pack_object_name(id);
    g_auto(VsPackTable) table = {0};
    g_autoptr(GError) cause = NULL;
    verify->object = object;
    verify->table = &table;
    verify->window_offset = 0;
    verify->window_length = 0;
    if (!vs_pack_table_read(verify->store->objects, id, &table, &cause)) {
        // One that has gone since the listing was pruned.
        if (!g_error_matches(cause, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND)) {
            report(verify, NULL, cause->message);
        }
        return;
    }
    if (table.damage != NULL) {
        report(verify, NULL, table.damage);
    }
    if (table.size_bytes >= VS_PACK_HEADER_BYTES) {
        verify_header(verify, id);
    }
    for (guint i = 0; i < table.entries->len; i++) {
        if (verify->percent >= 100 ||
            g_rand_double_range(verify->random, 0, 100) < verify->percent) {
            verify_object(verify, &g_array_index(table.entries, VsPackEntry, i));
        }
    }
}

bool
vs_chunk_store_verify(VsChunkStore *store, double percent, VsDamageFunc bad, gpointer user_data,
                      uint64_t *objects, uint64_t *bytes, GError **error)
{
    g_autoptr(GArray) packs = vs_pack_list(store->objects, error);
    if (packs == NULL) {
        return false;
    }
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    g_autoptr(GRand) random = g_rand_new();
    g_autofree uint8_t *window = g_malloc(WINDOW_BYTES);
    g_autofree uint8_t *raw = g_malloc(VS_PACK_MAX_RAW_BYTES);
    Verify verify = {
        .store = store,
        .codec = codec,
        .random = random,
        .percent = percent,
        .bad = bad,
        .user_data = user_data,
        .window = window,
        .raw = raw,
    };
    for (guint i = 0; i < packs->len; i++) {
        verify_pack(&verify, &g_array_index(packs, VsPackId, i));
    }
    *objects = verify.objects;
    *bytes = verify.bytes;
    return true;
}

bool
vs_chunk_store_size(VsChunkStore *store, uint64_t *bytes, uint64_t *packs, GError **error)
{
    g_autoptr(GArray) ids = vs_pack_list(store->objects, error);
    if (ids == NULL) {
        return false;
    }
    *bytes = 0;
    *packs = 0;
    for (guint i = 0; i < ids->len; i++) {
        g_autofree char *object = vs_pack_object_name(&g_array_index(ids, VsPackId, i));
        g_autoptr(GError) cause = NULL;
        uint64_t size_bytes = 0;
        if (vs_object_store_get_size(store->objects, object, &size_bytes, &cause)) {
            *bytes += size_bytes;
            (*packs)++;
        } else if (!g_error_matches(cause, VS_OBJECT_STORE_ERROR,
                                    VS_OBJECT_STORE_ERROR_NOT_FOUND)) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
    }
    return true;
}
