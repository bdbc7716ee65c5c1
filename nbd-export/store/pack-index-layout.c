// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/pack-index-layout.h"

#include "nbd-export/store/little-endian.h"

#include <string.h>

#define FORMAT_VERSION 1u
#define META_CHECK_OFFSET 64
#define META_CHECK_BYTES 24

static const uint8_t header_magic[8] = {'V', 'S', 'I', 'N', 'D', 'X', 0, 0x8a};
static const uint8_t tail_magic[8] = {'V', 'S', 'I', 'T', 'A', 'I', 'L', 0x8a};

GQuark
vs_pack_index_error_quark(void)
{
    return g_quark_from_static_string("vs-pack-index-error-quark");
}

void
vs_index_entry_encode(const VsIndexEntry *entry, uint8_t bytes[VS_PACK_INDEX_ENTRY_BYTES])
{
    memcpy(bytes, entry->entry.digest.bytes, VS_DIGEST_BYTES);
    memcpy(bytes + 32, entry->pack.bytes, VS_PACK_ID_BYTES);
    vs_le32_put(bytes + 48, (uint32_t)entry->entry.offset);
    vs_le32_put(bytes + 52, entry->entry.stored_length);
    vs_le32_put(bytes + 56, entry->entry.raw_length);
    bytes[60] = entry->entry.type;
    bytes[61] = entry->entry.coding;
    bytes[62] = 0;
    bytes[63] = 0;
}

bool
vs_index_entry_decode(const uint8_t bytes[VS_PACK_INDEX_ENTRY_BYTES], VsIndexEntry *entry)
{
    // The rules for what an entry may say are the pack record's: let it judge.
    uint8_t record[VS_PACK_RECORD_BYTES] = {bytes[60], bytes[61], VS_PACK_RECORD_MARK_0,
                                            VS_PACK_RECORD_MARK_1};
    memcpy(record + 4, bytes + 52, 8);
    memcpy(record + 16, bytes, VS_DIGEST_BYTES);
    if (bytes[62] != 0 || bytes[63] != 0 || !vs_pack_decode_record(record, &entry->entry)) {
        return false;
    }
    entry->entry.offset = vs_le32_get(bytes + 48);
    memcpy(entry->pack.bytes, bytes + 32, VS_PACK_ID_BYTES);
    return entry->entry.offset >= VS_PACK_HEADER_BYTES + VS_PACK_RECORD_BYTES;
}

int
vs_index_entry_compare(const VsIndexEntry *a, const VsIndexEntry *b)
{
    int order = vs_digest_compare(&a->entry.digest, &b->entry.digest);
    return order != 0 ? order : memcmp(&a->pack, &b->pack, sizeof a->pack);
}

void
vs_pack_index_encode_header(const VsPackId *id, uint8_t header[VS_PACK_INDEX_HEADER_BYTES])
{
    memset(header, 0, VS_PACK_INDEX_HEADER_BYTES);
    memcpy(header, header_magic, sizeof header_magic);
    vs_le32_put(header + 8, FORMAT_VERSION);
    memcpy(header + 16, id->bytes, VS_PACK_ID_BYTES);
}

// Covers pack list, fan-out table and all of the tail in front of the check.
static void
meta_check(const uint8_t *meta, size_t meta_length, const uint8_t *tail, uint8_t *check)
{
    g_autoptr(VsDigestStream) covered = vs_digest_stream_new();
    vs_digest_stream_add(covered, meta, meta_length);
    vs_digest_stream_add(covered, tail, META_CHECK_OFFSET);
    VsDigest digest;
    vs_digest_stream_finish(covered, &digest);
    memcpy(check, digest.bytes, META_CHECK_BYTES);
}

void
vs_pack_index_encode_tail(const VsPackIndexLayout *layout, const VsPackId *id, const uint8_t *meta,
                          size_t meta_length, uint8_t tail[VS_PACK_INDEX_TAIL_BYTES])
{
    vs_le64_put(tail, layout->entry_count);
    vs_le32_put(tail + 8, layout->pack_count);
    vs_le32_put(tail + 12, layout->fanout_bits);
    memcpy(tail + 16, id->bytes, VS_PACK_ID_BYTES);
    memcpy(tail + 32, layout->entries_digest.bytes, VS_DIGEST_BYTES);
    meta_check(meta, meta_length, tail, tail + META_CHECK_OFFSET);
    memcpy(tail + 88, tail_magic, sizeof tail_magic);
}

static bool
set_corrupt(GError **error, const char *what)
{
    g_set_error(error, VS_PACK_INDEX_ERROR, VS_PACK_INDEX_ERROR_CORRUPT, "read index: %s", what);
    return false;
}

bool
vs_pack_index_parse_tail(const uint8_t tail[VS_PACK_INDEX_TAIL_BYTES], uint64_t size,
                         VsPackIndexLayout *layout, GError **error)
{
    if (memcmp(tail + 88, tail_magic, sizeof tail_magic) != 0) {
        return set_corrupt(error, "it does not end as an index segment does");
    }
    layout->entry_count = vs_le64_get(tail);
    layout->pack_count = vs_le32_get(tail + 8);
    layout->fanout_bits = vs_le32_get(tail + 12);
    if (layout->entry_count > UINT32_MAX || layout->pack_count > VS_PACK_INDEX_MAX_PACKS ||
        layout->fanout_bits > VS_PACK_INDEX_MAX_FANOUT_BITS) {
        return set_corrupt(error, "its counts are impossible");
    }
    layout->packs_offset =
        VS_PACK_INDEX_HEADER_BYTES + layout->entry_count * VS_PACK_INDEX_ENTRY_BYTES;
    layout->meta_length =
        (size_t)layout->pack_count * VS_PACK_ID_BYTES + ((size_t)4 << layout->fanout_bits);
    if (layout->packs_offset + layout->meta_length + VS_PACK_INDEX_TAIL_BYTES != size) {
        return set_corrupt(error, "its size is not what its counts say");
    }
    memcpy(layout->entries_digest.bytes, tail + 32, VS_DIGEST_BYTES);
    memcpy(layout->tail, tail, VS_PACK_INDEX_TAIL_BYTES);
    return true;
}

bool
vs_pack_index_check_meta(const VsPackIndexLayout *layout, const uint8_t *meta, GError **error)
{
    uint8_t check[META_CHECK_BYTES];
    meta_check(meta, layout->meta_length, layout->tail, check);
    if (memcmp(check, layout->tail + META_CHECK_OFFSET, sizeof check) != 0) {
        return set_corrupt(error, "its fan-out table or pack list is damaged");
    }
    const uint8_t *fanout = meta + (size_t)layout->pack_count * VS_PACK_ID_BYTES;
    uint32_t buckets = 1u << layout->fanout_bits;
    uint32_t end = 0;
    for (uint32_t i = 0; i < buckets; i++) {
        uint32_t next = vs_le32_get(fanout + (size_t)i * 4);
        if (next < end || next > layout->entry_count) {
            return set_corrupt(error, "its fan-out table is not ascending");
        }
        end = next;
    }
    return end == layout->entry_count ||
           set_corrupt(error, "its fan-out table does not reach its last entry");
}
