// SPDX-License-Identifier: LGPL-2.1-or-later
// Makes index segments from the packs' own tables.
#include "nbd-export/store/chunk-store-internal.h"

typedef struct {
    VsChunkStore *store;
    GArray *entries; // of VsIndexEntry
    GArray *packs;   // of VsPackId, that entries come from
} Reindex;

typedef struct {
    const GArray *entries;
    guint next;
} ArraySource;

static gint
compare_entries(gconstpointer a, gconstpointer b)
{
    return vs_index_entry_compare(a, b);
}

// VsIndexSourceFunc
static bool
next_of_array(gpointer user_data, VsIndexEntry *entry, bool *end, GError **error)
{
    ArraySource *source = user_data;
    *end = source->next == source->entries->len;
    if (!*end) {
        *entry = g_array_index(source->entries, VsIndexEntry, source->next++);
    }
    return true;
}

static bool
write_segment(Reindex *reindex, GError **error)
{
    if (reindex->packs->len == 0) {
        return true;
    }
    g_array_sort(reindex->entries, compare_entries);
    ArraySource source = {.entries = reindex->entries};
    g_autoptr(VsPackIndex) segment =
        vs_pack_index_write(reindex->store->objects, reindex->packs, next_of_array, &source, error);
    if (segment == NULL) {
        return false;
    }
    g_autoptr(GPtrArray) in = g_ptr_array_new();
    g_ptr_array_add(in, segment);
    vs_chunk_store_exchange(reindex->store, NULL, in);
    g_array_set_size(reindex->entries, 0);
    g_array_set_size(reindex->packs, 0);
    return true;
}

static bool
add_pack(Reindex *reindex, const VsPackId *id, GError **error)
{
    g_auto(VsPackTable) table = {0};
    if (!vs_pack_table_read(reindex->store->objects, id, &table, NULL)) {
        return true; // gone, or not readable now: stays uncovered, and is looked into by reads that
                     // miss
    }
    for (guint i = 0; i < table.entries->len; i++) {
        VsIndexEntry entry = {.entry = g_array_index(table.entries, VsPackEntry, i), .pack = *id};
        g_array_append_val(reindex->entries, entry);
    }
    g_array_append_val(reindex->packs, *id);
    return reindex->entries->len < VS_CHUNK_STORE_SEGMENT_ENTRIES || write_segment(reindex, error);
}

static void
remove_bad_segments(VsChunkStore *store)
{
    pthread_mutex_lock(&store->mutex);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iterator;
    gpointer name;
    g_hash_table_iter_init(&iterator, store->bad_segments);
    while (g_hash_table_iter_next(&iterator, &name, NULL)) {
        g_ptr_array_add(names, g_strconcat("index/", name, NULL));
    }
    pthread_mutex_unlock(&store->mutex);
    for (guint i = 0; i < names->len; i++) {
        if (!vs_object_store_remove(store->objects, g_ptr_array_index(names, i), NULL)) {
            g_debug("%s stays", (const char *)g_ptr_array_index(names, i));
        }
    }
}

bool
vs_chunk_store_reindex(VsChunkStore *store, GError **error)
{
    g_autoptr(GArray) packs = vs_pack_list(store->objects, error);
    if (packs == NULL) {
        return false;
    }
    g_autoptr(GHashTable) covered = vs_chunk_store_covered_packs(store);
    g_autoptr(GArray) entries = g_array_new(FALSE, FALSE, sizeof(VsIndexEntry));
    g_autoptr(GArray) batch = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    Reindex reindex = {.store = store, .entries = entries, .packs = batch};
    for (guint i = 0; i < packs->len; i++) {
        const VsPackId *id = &g_array_index(packs, VsPackId, i);
        if (!g_hash_table_contains(covered, id) && !add_pack(&reindex, id, error)) {
            return false;
        }
    }
    if (!write_segment(&reindex, error)) {
        return false;
    }
    remove_bad_segments(store);
    return true;
}
