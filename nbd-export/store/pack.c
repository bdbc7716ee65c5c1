// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/pack.h"

#include "nbd-export/store/little-endian.h"

#include <string.h>
#include <sys/random.h>

#define FORMAT_VERSION 1u
#define TAIL_CHECK_BYTES 24

// Both hold a NUL and a byte above 127, as PNG's does: a transfer as text is seen at once.
static const uint8_t header_magic[8] = {'V', 'S', 'P', 'A', 'C', 'K', 0, 0x8a};
static const uint8_t tail_magic[8] = {'V', 'S', 'P', 'T', 'A', 'I', 'L', 0x8a};

GQuark
vs_pack_error_quark(void)
{
    return g_quark_from_static_string("vs-pack-error-quark");
}

// The records ---------------------------------------------------------------------------------

void
vs_pack_encode_header(const VsPackId *id, uint8_t header[VS_PACK_HEADER_BYTES])
{
    memcpy(header, header_magic, sizeof header_magic);
    vs_le32_put(header + 8, FORMAT_VERSION);
    vs_le32_put(header + 12, 0);
    memcpy(header + 16, id->bytes, VS_PACK_ID_BYTES);
}

// What records have and table entries have not: a scan must not take the table for more records.
static const uint8_t record_mark[2] = {VS_PACK_RECORD_MARK_0, VS_PACK_RECORD_MARK_1};
static const uint8_t table_mark[2] = {0, 0};

static void
encode_entry(const VsPackEntry *entry, const uint8_t mark[2], uint8_t *record)
{
    record[0] = entry->type;
    record[1] = entry->coding;
    record[2] = mark[0];
    record[3] = mark[1];
    vs_le32_put(record + 4, entry->stored_length);
    vs_le32_put(record + 8, entry->raw_length);
    vs_le32_put(record + 12, 0);
    memcpy(record + 16, entry->digest.bytes, VS_DIGEST_BYTES);
}

void
vs_pack_encode_record(const VsPackEntry *entry, uint8_t record[VS_PACK_RECORD_BYTES])
{
    encode_entry(entry, record_mark, record);
}

static bool
lengths_are_sound(const VsPackEntry *entry)
{
    if (entry->raw_length == 0 || entry->raw_length > VS_PACK_MAX_RAW_BYTES ||
        entry->stored_length == 0) {
        return false;
    }
    return entry->coding == VS_CODING_PLAIN ? entry->stored_length == entry->raw_length
                                            : entry->stored_length < entry->raw_length;
}

static bool
decode_entry(const uint8_t *record, const uint8_t mark[2], VsPackEntry *entry)
{
    *entry = (VsPackEntry){
        .type = record[0],
        .coding = record[1],
        .stored_length = vs_le32_get(record + 4),
        .raw_length = vs_le32_get(record + 8),
    };
    memcpy(entry->digest.bytes, record + 16, VS_DIGEST_BYTES);
    bool known_type = entry->type == VS_OBJECT_CHUNK || entry->type == VS_OBJECT_NODE;
    bool known_coding = entry->coding == VS_CODING_PLAIN || entry->coding == VS_CODING_ZSTD;
    bool rest_is_right = memcmp(record + 2, mark, 2) == 0 && vs_le32_get(record + 12) == 0;
    return known_type && known_coding && rest_is_right && lengths_are_sound(entry);
}

bool
vs_pack_decode_record(const uint8_t record[VS_PACK_RECORD_BYTES], VsPackEntry *entry)
{
    return decode_entry(record, record_mark, entry);
}

// The builder ---------------------------------------------------------------------------------

struct _VsPackBuilder {
    VsPackId id;
    uint8_t *bytes;
    size_t length;
    size_t capacity;
    GArray *entries; // of VsPackEntry
};

VsPackBuilder *
vs_pack_builder_new(const VsPackId *id)
{
    VsPackBuilder *builder = g_new0(VsPackBuilder, 1);
    builder->entries = g_array_new(FALSE, FALSE, sizeof(VsPackEntry));
    // For the largest pack at once; pages that are never written cost nothing, and nothing is ever
    // moved.
    builder->capacity = VS_PACK_TARGET_BYTES + VS_PACK_RECORD_BYTES + VS_PACK_MAX_RAW_BYTES +
                        VS_PACK_TABLE_MAX_BYTES + VS_PACK_TAIL_BYTES;
    builder->bytes = g_malloc(builder->capacity);
    vs_pack_builder_reset(builder, id);
    return builder;
}

void
vs_pack_builder_free(VsPackBuilder *builder)
{
    if (builder == NULL) {
        return;
    }
    g_array_unref(builder->entries);
    g_free(builder->bytes);
    g_free(builder);
}

void
vs_pack_builder_reset(VsPackBuilder *builder, const VsPackId *id)
{
    builder->id = *id;
    g_array_set_size(builder->entries, 0);
    vs_pack_encode_header(id, builder->bytes);
    builder->length = VS_PACK_HEADER_BYTES;
}

const VsPackId *
vs_pack_builder_id(const VsPackBuilder *builder)
{
    return &builder->id;
}

bool
vs_pack_builder_is_full(const VsPackBuilder *builder)
{
    return builder->length >= VS_PACK_TARGET_BYTES || builder->entries->len >= VS_PACK_MAX_ENTRIES;
}

void
vs_pack_builder_add(VsPackBuilder *builder, VsPackEntry *entry, const void *stored)
{
    g_assert(!vs_pack_builder_is_full(builder));
    g_assert(lengths_are_sound(entry));
    vs_pack_encode_record(entry, builder->bytes + builder->length);
    builder->length += VS_PACK_RECORD_BYTES;
    entry->offset = builder->length;
    memcpy(builder->bytes + builder->length, stored, entry->stored_length);
    builder->length += entry->stored_length;
    g_array_append_val(builder->entries, *entry);
}

size_t
vs_pack_builder_size(const VsPackBuilder *builder)
{
    return builder->length;
}

// Covers the fields of the tail in front of it, the pack's id and the table.
static void
tail_check(const uint8_t *tail, const void *table, size_t table_length, uint8_t *check)
{
    g_autoptr(VsDigestStream) covered = vs_digest_stream_new();
    vs_digest_stream_add(covered, tail, 16);
    vs_digest_stream_add(covered, tail + 40, VS_PACK_ID_BYTES);
    vs_digest_stream_add(covered, table, table_length);
    VsDigest digest;
    vs_digest_stream_finish(covered, &digest);
    memcpy(check, digest.bytes, TAIL_CHECK_BYTES);
}

GBytes *
vs_pack_builder_finish(VsPackBuilder *builder)
{
    size_t table_offset = builder->length;
    uint8_t *at = builder->bytes + table_offset;
    for (guint i = 0; i < builder->entries->len; i++, at += VS_PACK_TABLE_ENTRY_BYTES) {
        const VsPackEntry *entry = &g_array_index(builder->entries, VsPackEntry, i);
        encode_entry(entry, table_mark, at);
        vs_le64_put(at + VS_PACK_RECORD_BYTES, entry->offset);
    }
    uint32_t table_length = builder->entries->len * VS_PACK_TABLE_ENTRY_BYTES;
    vs_le64_put(at, table_offset);
    vs_le32_put(at + 8, table_length);
    vs_le32_put(at + 12, builder->entries->len);
    memcpy(at + 40, builder->id.bytes, VS_PACK_ID_BYTES);
    memcpy(at + 56, tail_magic, sizeof tail_magic);
    tail_check(at, builder->bytes + table_offset, table_length, at + 16);
    return g_bytes_new_static(builder->bytes, table_offset + table_length + VS_PACK_TAIL_BYTES);
}

const GArray *
vs_pack_builder_entries(const VsPackBuilder *builder)
{
    return builder->entries;
}

const void *
vs_pack_builder_stored(const VsPackBuilder *builder, const VsPackEntry *entry)
{
    g_assert(entry->offset + entry->stored_length <= builder->length);
    return builder->bytes + entry->offset;
}

// The parsers ---------------------------------------------------------------------------------

static bool
set_corrupt(GError **error, const char *what)
{
    g_set_error(error, VS_PACK_ERROR, VS_PACK_ERROR_CORRUPT, "read pack: %s", what);
    return false;
}

bool
vs_pack_parse_tail(const void *tail, uint64_t pack_size, VsPackId *id, uint64_t *table_offset,
                   uint64_t *table_length, GError **error)
{
    const uint8_t *bytes = tail;
    if (memcmp(bytes + 56, tail_magic, sizeof tail_magic) != 0) {
        return set_corrupt(error, "it does not end as a pack does");
    }
    uint64_t offset = vs_le64_get(bytes);
    uint32_t length = vs_le32_get(bytes + 8);
    uint32_t count = vs_le32_get(bytes + 12);
    if (pack_size > VS_PACK_MAX_BYTES || count > VS_PACK_MAX_ENTRIES ||
        length != count * VS_PACK_TABLE_ENTRY_BYTES) {
        return set_corrupt(error, "its table's size is impossible");
    }
    if (offset < VS_PACK_HEADER_BYTES || offset > pack_size ||
        pack_size - offset != (uint64_t)length + VS_PACK_TAIL_BYTES) {
        return set_corrupt(error, "its table does not end where the pack does");
    }
    memcpy(id->bytes, bytes + 40, VS_PACK_ID_BYTES);
    *table_offset = offset;
    *table_length = length;
    return true;
}

GArray *
vs_pack_parse_table(const void *table, size_t table_length, const void *tail, GError **error)
{
    const uint8_t *tail_bytes = tail;
    uint8_t check[TAIL_CHECK_BYTES];
    uint64_t table_offset = vs_le64_get(tail_bytes);
    if (table_length > VS_PACK_TABLE_MAX_BYTES || table_length != vs_le32_get(tail_bytes + 8) ||
        table_length % VS_PACK_TABLE_ENTRY_BYTES != 0) {
        set_corrupt(error, "its table's size is impossible");
        return NULL;
    }
    tail_check(tail_bytes, table, table_length, check);
    if (memcmp(check, tail_bytes + 16, sizeof check) != 0) {
        set_corrupt(error, "its table is damaged");
        return NULL;
    }
    guint count = (guint)(table_length / VS_PACK_TABLE_ENTRY_BYTES);
    g_autoptr(GArray) entries = g_array_sized_new(FALSE, FALSE, sizeof(VsPackEntry), count);
    uint64_t position = VS_PACK_HEADER_BYTES;
    for (guint i = 0; i < count; i++) {
        const uint8_t *at = (const uint8_t *)table + (size_t)i * VS_PACK_TABLE_ENTRY_BYTES;
        VsPackEntry entry;
        // Records follow each other without a gap, so that each byte of a pack is accounted for.
        if (!decode_entry(at, table_mark, &entry) ||
            vs_le64_get(at + VS_PACK_RECORD_BYTES) != position + VS_PACK_RECORD_BYTES) {
            set_corrupt(error, "its table has an impossible entry");
            return NULL;
        }
        entry.offset = position + VS_PACK_RECORD_BYTES;
        position = entry.offset + entry.stored_length; // 65536 × 4 MiB: no overflow
        g_array_append_val(entries, entry);
    }
    if (position != table_offset) {
        set_corrupt(error, "its table does not follow its last object");
        return NULL;
    }
    return g_steal_pointer(&entries);
}

GArray *
vs_pack_scan(const void *pack, size_t length)
{
    const uint8_t *bytes = pack;
    GArray *entries = g_array_new(FALSE, FALSE, sizeof(VsPackEntry));
    size_t position = VS_PACK_HEADER_BYTES;
    while (entries->len < VS_PACK_MAX_ENTRIES && position <= length &&
           length - position >= VS_PACK_RECORD_BYTES) {
        VsPackEntry entry;
        if (!vs_pack_decode_record(bytes + position, &entry) ||
            entry.stored_length > length - position - VS_PACK_RECORD_BYTES) {
            break;
        }
        entry.offset = position + VS_PACK_RECORD_BYTES;
        position = entry.offset + entry.stored_length;
        g_array_append_val(entries, entry);
    }
    return entries;
}

// Ids -----------------------------------------------------------------------------------------

void
vs_pack_id_random(VsPackId *id)
{
    // 16 bytes are given whole or not at all, and only an old kernel's early boot says no.
    if (getrandom(id->bytes, sizeof id->bytes, 0) != (ssize_t)sizeof id->bytes) {
        g_error("the kernel gives no random numbers");
    }
}

void
vs_pack_id_to_name(const VsPackId *id, char name[VS_PACK_NAME_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < VS_PACK_ID_BYTES; i++) {
        name[2 * i] = digits[id->bytes[i] >> 4];
        name[2 * i + 1] = digits[id->bytes[i] & 15];
    }
    name[2 * VS_PACK_ID_BYTES] = '\0';
}

static int
hex_value(char c)
{
    return (c >= 'A' && c <= 'F') ? -1 : g_ascii_xdigit_value(c);
}

bool
vs_pack_id_from_name(const char *name, VsPackId *id)
{
    if (strnlen(name, VS_PACK_NAME_BYTES) != 2 * VS_PACK_ID_BYTES) {
        return false;
    }
    VsPackId parsed;
    for (unsigned i = 0; i < VS_PACK_ID_BYTES; i++) {
        int high = hex_value(name[2 * i]);
        int low = hex_value(name[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        parsed.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *id = parsed;
    return true;
}
