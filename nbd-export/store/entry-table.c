// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/entry-table.h"

#include <string.h>

#define FIRST_BUCKETS 256u

struct _VsEntryTable {
    GArray *slots;     // of VsEntrySlot
    uint32_t *buckets; // open addressing: a slot's number + 1, 0: free; at most half are in use
    uint32_t bucket_count;
};

VsEntryTable *
vs_entry_table_new(void)
{
    VsEntryTable *table = g_new0(VsEntryTable, 1);
    table->slots = g_array_new(FALSE, FALSE, sizeof(VsEntrySlot));
    table->bucket_count = FIRST_BUCKETS;
    table->buckets = g_new0(uint32_t, FIRST_BUCKETS);
    return table;
}

void
vs_entry_table_free(VsEntryTable *table)
{
    if (table == NULL) {
        return;
    }
    g_array_unref(table->slots);
    g_free(table->buckets);
    g_free(table);
}

guint
vs_entry_table_length(const VsEntryTable *table)
{
    return table->slots->len;
}

VsEntrySlot *
vs_entry_table_slot(VsEntryTable *table, guint i)
{
    return &g_array_index(table->slots, VsEntrySlot, i);
}

// The bucket that holds digest, or the free one where it belongs.
static uint32_t *
bucket_of(VsEntryTable *table, const VsDigest *digest)
{
    uint32_t at;
    memcpy(&at, digest->bytes, sizeof at);
    for (;; at++) {
        uint32_t *bucket = &table->buckets[at & (table->bucket_count - 1)];
        if (*bucket == 0 ||
            vs_digest_equal(&vs_entry_table_slot(table, *bucket - 1)->entry.digest, digest)) {
            return bucket;
        }
    }
}

VsEntrySlot *
vs_entry_table_find(VsEntryTable *table, const VsDigest *digest)
{
    uint32_t *bucket = bucket_of(table, digest);
    return *bucket == 0 ? NULL : vs_entry_table_slot(table, *bucket - 1);
}

static void
grow(VsEntryTable *table)
{
    g_free(table->buckets);
    table->bucket_count *= 2;
    table->buckets = g_new0(uint32_t, table->bucket_count);
    for (guint i = 0; i < table->slots->len; i++) {
        *bucket_of(table, &vs_entry_table_slot(table, i)->entry.digest) = i + 1;
    }
}

VsEntrySlot *
vs_entry_table_add(VsEntryTable *table, const VsPackEntry *entry, gpointer pack)
{
    if (table->slots->len >= table->bucket_count / 2) {
        grow(table);
    }
    VsEntrySlot slot = {.entry = *entry, .pack = pack};
    g_array_append_val(table->slots, slot);
    *bucket_of(table, &entry->digest) = table->slots->len;
    return vs_entry_table_slot(table, table->slots->len - 1);
}
