// SPDX-License-Identifier: LGPL-2.1-or-later
// The bytes of an index segment: coding and checking. Pure. See FORMAT.md.
#pragma once

#include "nbd-export/store/pack-index.h"

G_BEGIN_DECLS

// What a segment's tail says.
typedef struct {
    uint64_t entry_count;
    uint32_t pack_count;
    uint32_t fanout_bits;
    uint64_t packs_offset; // of the pack list, which the fan-out table and the tail follow
    size_t meta_length;    // of pack list and fan-out table
    VsDigest entries_digest;
    uint8_t tail[VS_PACK_INDEX_TAIL_BYTES];
} VsPackIndexLayout;

// size: of the whole segment, at least VS_PACK_INDEX_TAIL_BYTES.
bool vs_pack_index_parse_tail(const uint8_t tail[VS_PACK_INDEX_TAIL_BYTES], uint64_t size,
                              VsPackIndexLayout *layout, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// meta: pack list and fan-out table, as long as the layout says. Checks them and the tail against
// their digest.
bool vs_pack_index_check_meta(const VsPackIndexLayout *layout, const uint8_t *meta,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

void vs_pack_index_encode_header(const VsPackId *id, uint8_t header[VS_PACK_INDEX_HEADER_BYTES]);
// layout: its counts and the entries' digest; meta as above.
void vs_pack_index_encode_tail(const VsPackIndexLayout *layout, const VsPackId *id,
                               const uint8_t *meta, size_t meta_length,
                               uint8_t tail[VS_PACK_INDEX_TAIL_BYTES]);

G_END_DECLS
