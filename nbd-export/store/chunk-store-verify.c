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
    VsVerifyResult *result;
    uint8_t *window; // WINDOW_BYTES
    uint8_t *raw;    // VS_PACK_MAX_RAW_BYTES
} Verify;

// One pack under verification.
typedef struct {
    const Verify *verify;
    const VsPackId *id;
    char *object;
    VsPackTable table;
    uint64_t window_offset; // what the window holds of the pack
    size_t window_length;
} Pack;

static void
pack_clear(Pack *pack)
{
    g_free(pack->object);
    vs_pack_table_clear(&pack->table);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Pack, pack_clear)

static void
report(const Pack *pack, const VsDigest *digest, const char *what)
{
    char name[VS_PACK_NAME_BYTES];
    vs_pack_id_to_name(pack->id, name);
    pack->verify->bad(digest, name, what, pack->verify->user_data);
}

static bool
fill_window(Pack *pack, uint64_t offset, size_t length, GError **error)
{
    const Verify *verify = pack->verify;
    pack->window_offset = offset;
    pack->window_length = 0;
    if (!vs_object_store_get_range(verify->store->objects, pack->object, offset, verify->window,
                                   length, error)) {
        return false;
    }
    pack->window_length = length;
    return true;
}

// Brings [offset, offset + length) of the pack into the window, and what follows as far as all is
// read anyway; *bytes is where it begins.
static bool
look_at(Pack *pack, uint64_t offset, size_t length, const uint8_t **bytes, GError **error)
{
    uint64_t end = pack->window_offset + pack->window_length;
    if (offset < pack->window_offset || offset + length > end) {
        uint64_t left = pack->table.size_bytes - offset;
        size_t ahead = pack->verify->percent < 100 ? length : WINDOW_BYTES;
        // A bad spot ahead is not this object's.
        if (!fill_window(pack, offset, MIN(MAX(ahead, length), left), NULL) &&
            !fill_window(pack, offset, length, error)) {
            return false;
        }
    }
    *bytes = pack->verify->window + (offset - pack->window_offset);
    return true;
}

static void
verify_object(Pack *pack, const VsPackEntry *entry)
{
    const Verify *verify = pack->verify;
    g_autoptr(GError) cause = NULL;
    const uint8_t *record = NULL;
    uint8_t expected[VS_PACK_RECORD_BYTES];
    vs_pack_encode_record(entry, expected);
    verify->result->objects++;
    verify->result->bytes += entry->stored_length;
    if (!look_at(pack, entry->offset - VS_PACK_RECORD_BYTES,
                 (size_t)VS_PACK_RECORD_BYTES + entry->stored_length, &record, &cause) ||
        !vs_chunk_store_decode(verify->codec, entry, record + VS_PACK_RECORD_BYTES, verify->raw,
                               &cause)) {
        report(pack, &entry->digest, cause->message);
    } else if (memcmp(record, expected, sizeof expected) != 0) {
        report(pack, NULL, "the head of a record is damaged; the object itself is whole");
    }
}

static void
verify_header(Pack *pack)
{
    uint8_t expected[VS_PACK_HEADER_BYTES];
    vs_pack_encode_header(pack->id, expected);
    g_autoptr(GError) cause = NULL;
    const uint8_t *header = NULL;
    if (!look_at(pack, 0, sizeof expected, &header, &cause)) {
        report(pack, NULL, cause->message);
    } else if (memcmp(header, expected, sizeof expected) != 0) {
        report(pack, NULL, "the pack's header is damaged");
    }
}

static void
verify_pack(const Verify *verify, const VsPackId *id)
{
    g_auto(Pack) pack = {verify, id, vs_pack_object_name(id)};
    g_autoptr(GError) cause = NULL;
    if (!vs_pack_table_read(verify->store->objects, id, &pack.table, &cause)) {
        // One that has gone since the listing was pruned.
        if (!g_error_matches(cause, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND)) {
            report(&pack, NULL, cause->message);
        }
        return;
    }
    if (pack.table.damage != NULL) {
        report(&pack, NULL, pack.table.damage);
    }
    if (pack.table.size_bytes >= VS_PACK_HEADER_BYTES) {
        verify_header(&pack);
    }
    for (guint i = 0; i < pack.table.entries->len; i++) {
        if (verify->percent >= 100 ||
            g_rand_double_range(verify->random, 0, 100) < verify->percent) {
            verify_object(&pack, &g_array_index(pack.table.entries, VsPackEntry, i));
        }
    }
}

bool
vs_chunk_store_verify(VsChunkStore *store, double percent, VsDamageFunc bad, gpointer user_data,
                      VsVerifyResult *result, GError **error)
{
    g_autoptr(GArray) packs = vs_pack_list(store->objects, error);
    if (packs == NULL) {
        return false;
    }
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    g_autoptr(GRand) random = g_rand_new();
    g_autofree uint8_t *window = g_malloc(WINDOW_BYTES);
    g_autofree uint8_t *raw = g_malloc(VS_PACK_MAX_RAW_BYTES);
    const Verify verify = {
        .store = store,
        .codec = codec,
        .random = random,
        .percent = percent,
        .bad = bad,
        .user_data = user_data,
        .result = result,
        .window = window,
        .raw = raw,
    };
    *result = (VsVerifyResult){0};
    for (guint i = 0; i < packs->len; i++) {
        verify_pack(&verify, &g_array_index(packs, VsPackId, i));
    }
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
