// SPDX-License-Identifier: LGPL-2.1-or-later
// The pack: an immutable file of many objects. Layout in FORMAT.md. Pure: bytes in, bytes out.
#pragma once

#include "nbd-export/store/codec.h"

G_BEGIN_DECLS

#define VS_PACK_ERROR (vs_pack_error_quark())
GQuark vs_pack_error_quark(void);

typedef enum {
    VS_PACK_ERROR_CORRUPT,
} VsPackError;

#define VS_PACK_TARGET_BYTES (16u << 20) // a pack is closed once it holds this much
#define VS_PACK_MAX_ENTRIES 65536u       // bounds the table that a reader must hold
#define VS_PACK_MAX_RAW_BYTES (4u << 20) // the largest chunk; more is refused by every parser
#define VS_PACK_MAX_BYTES (UINT32_MAX)   // offsets in the index have 32 bits
#define VS_PACK_HEADER_BYTES 32
#define VS_PACK_RECORD_BYTES 48 // before an object's stored bytes
#define VS_PACK_RECORD_MARK_0 'R'
#define VS_PACK_RECORD_MARK_1 'c'
#define VS_PACK_TABLE_ENTRY_BYTES 56
#define VS_PACK_TABLE_MAX_BYTES (VS_PACK_MAX_ENTRIES * VS_PACK_TABLE_ENTRY_BYTES)
#define VS_PACK_ID_BYTES 16
#define VS_PACK_NAME_BYTES (2 * VS_PACK_ID_BYTES + 1) // hex, with NUL: the object's name in packs/

typedef struct {
    uint8_t bytes[VS_PACK_ID_BYTES];
} VsPackId;

typedef enum {
    VS_OBJECT_CHUNK = 1,
    VS_OBJECT_NODE = 2,
} VsObjectType;

typedef struct {
    VsDigest digest;
    uint64_t offset; // of the stored bytes in the pack
    uint32_t stored_length;
    uint32_t raw_length;
    uint8_t type;   // VsObjectType
    uint8_t coding; // VsCoding
} VsPackEntry;

// Assembles one pack in memory (at most VS_PACK_TARGET_BYTES plus one object).
typedef struct _VsPackBuilder VsPackBuilder;
VsPackBuilder *vs_pack_builder_new(const VsPackId *id);
void vs_pack_builder_free(VsPackBuilder *builder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsPackBuilder, vs_pack_builder_free)
// Makes it an empty pack again, with another id; the memory stays. GBytes and entries given out
// before must be gone.
void vs_pack_builder_reset(VsPackBuilder *builder, const VsPackId *id);
const VsPackId *vs_pack_builder_id(const VsPackBuilder *builder);
bool vs_pack_builder_is_full(
    const VsPackBuilder *builder); // VS_PACK_TARGET_BYTES or VS_PACK_MAX_ENTRIES
// entry->offset is filled in. Only to a pack that is not full.
void vs_pack_builder_add(VsPackBuilder *builder, VsPackEntry *entry, const void *stored);
size_t vs_pack_builder_size(const VsPackBuilder *builder); // bytes so far
// Ends the pack with its table; the bytes and entries stay owned by the builder.
GBytes *vs_pack_builder_finish(VsPackBuilder *builder);
const GArray *vs_pack_builder_entries(const VsPackBuilder *builder); // of VsPackEntry
// The stored bytes of an entry that was added; valid until the next add.
const void *vs_pack_builder_stored(const VsPackBuilder *builder, const VsPackEntry *entry);

// What a pack begins with, and what is in front of an object's stored bytes: a checker compares
// them.
void vs_pack_encode_header(const VsPackId *id, uint8_t header[VS_PACK_HEADER_BYTES]);
void vs_pack_encode_record(const VsPackEntry *entry, uint8_t record[VS_PACK_RECORD_BYTES]);
// False: it is none that any writer makes.
bool vs_pack_decode_record(const uint8_t record[VS_PACK_RECORD_BYTES], VsPackEntry *entry);

// The last VS_PACK_TAIL_BYTES of a pack tell where its table is.
#define VS_PACK_TAIL_BYTES 64
bool vs_pack_parse_tail(const void *tail, uint64_t pack_size, VsPackId *id, uint64_t *table_offset,
                        uint64_t *table_length, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Returns the entries (of VsPackEntry, in the order of their offsets), each checked to lie within
// [header, table_offset).
GArray *vs_pack_parse_table(const void *table, size_t table_length, const void *tail,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Where the table is lost: walks the records from the pack's beginning and returns those that are
// whole.
GArray *vs_pack_scan(const void *pack, size_t length);

void vs_pack_id_random(VsPackId *id);
void vs_pack_id_to_name(const VsPackId *id, char name[VS_PACK_NAME_BYTES]);
bool vs_pack_id_from_name(const char *name, VsPackId *id);

G_END_DECLS
