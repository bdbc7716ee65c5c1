// SPDX-License-Identifier: LGPL-2.1-or-later
// A whole pack file: by its tail and table, and by a scan. Where both tell entries of an undamaged
// pack, they are the same.
#include <stdlib.h>
#include <string.h>

#include "nbd-export/store/pack.h"
#include "tests/fuzz/fuzz.h"

static void
check_entries(const GArray *entries, uint64_t end)
{
    uint64_t position = VS_PACK_HEADER_BYTES;
    for (guint i = 0; i < entries->len; i++) {
        const VsPackEntry *entry = &g_array_index(entries, VsPackEntry, i);
        if (entry->offset < position || entry->offset > end ||
            entry->stored_length > end - entry->offset || entry->raw_length == 0 ||
            entry->raw_length > VS_PACK_MAX_RAW_BYTES || entry->stored_length > entry->raw_length) {
            abort();
        }
        position = entry->offset + entry->stored_length;
    }
}

static void
parse(const uint8_t *data, size_t size)
{
    VsPackId id;
    uint64_t offset = 0;
    uint64_t length = 0;
    const uint8_t *tail = data + size - VS_PACK_TAIL_BYTES;
    g_autoptr(GError) error = NULL;
    if (!vs_pack_parse_tail(tail, size, &id, &offset, &length, &error)) {
        if (error == NULL) {
            abort();
        }
        return;
    }
    if (offset > size || length > size - offset) {
        abort();
    }
    g_autoptr(GArray) entries = vs_pack_parse_table(data + offset, length, tail, &error);
    if ((entries == NULL) != (error != NULL)) {
        abort();
    }
    if (entries != NULL) {
        check_entries(entries, offset);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GArray) scanned = vs_pack_scan(data, size);
    check_entries(scanned, size);
    if (size >= VS_PACK_TAIL_BYTES) {
        parse(data, size);
    }
    return 0;
}
