// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/pack-table.h"

#include <string.h>

// A scan holds the pack in memory. No writer makes any near this size.
#define SCAN_MAX_BYTES (64u << 20)

void
vs_pack_table_clear(VsPackTable *table)
{
    g_clear_pointer(&table->entries, g_array_unref);
    g_clear_pointer(&table->damage, g_free);
}

char *
vs_pack_object_name(const VsPackId *id)
{
    char name[VS_PACK_NAME_BYTES];
    vs_pack_id_to_name(id, name);
    return g_strdup_printf("packs/%.2s/%s", name, name);
}

GArray *
vs_pack_list(VsObjectStore *objects, GError **error)
{
    g_autoptr(GPtrArray) names = vs_object_store_list(objects, "packs", error);
    if (names == NULL) {
        return NULL;
    }
    GArray *packs = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    for (guint i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i);
        const char *slash = strchr(name, '/');
        VsPackId id;
        if (slash == name + 2 && strncmp(name, slash + 1, 2) == 0 &&
            vs_pack_id_from_name(slash + 1, &id)) {
            g_array_append_val(packs, id);
        }
    }
    return packs;
}

// The entries by the pack's own table. NULL with VS_PACK_ERROR: it is damaged.
static GArray *
read_table(VsObjectStore *objects, const char *object, const VsPackId *id, uint64_t size,
           GError **error)
{
    uint8_t tail[VS_PACK_TAIL_BYTES];
    if (size < VS_PACK_HEADER_BYTES + VS_PACK_TAIL_BYTES) {
        g_set_error(error, VS_PACK_ERROR, VS_PACK_ERROR_CORRUPT, "read pack: it is too short");
        return NULL;
    }
    VsPackId told;
    uint64_t offset = 0;
    uint64_t length = 0;
    if (!vs_object_store_get_range(objects, object, size - sizeof tail, tail, sizeof tail, error) ||
        !vs_pack_parse_tail(tail, size, &told, &offset, &length, error)) {
        return NULL;
    }
    if (memcmp(&told, id, sizeof told) != 0) {
        g_set_error(error, VS_PACK_ERROR, VS_PACK_ERROR_CORRUPT,
                    "read pack: it is another pack than its name says");
        return NULL;
    }
    g_autofree uint8_t *table = g_malloc(MAX(length, 1));
    if (!vs_object_store_get_range(objects, object, offset, table, length, error)) {
        return NULL;
    }
    return vs_pack_parse_table(table, length, tail, error);
}

static bool
scan(VsObjectStore *objects, const char *object, VsPackTable *table, GError **error)
{
    table->lost = true;
    if (table->size_bytes > SCAN_MAX_BYTES) {
        table->entries = g_array_new(FALSE, FALSE, sizeof(VsPackEntry));
        return true;
    }
    g_autofree uint8_t *bytes = g_malloc(MAX(table->size_bytes, 1));
    if (!vs_object_store_get_range(objects, object, 0, bytes, table->size_bytes, error)) {
        return false;
    }
    table->entries = vs_pack_scan(bytes, table->size_bytes);
    uint64_t end = VS_PACK_HEADER_BYTES;
    if (table->entries->len > 0) {
        const VsPackEntry *last =
            &g_array_index(table->entries, VsPackEntry, table->entries->len - 1);
        end = last->offset + last->stored_length;
    }
    // Where just the table of what was found fits behind it, nothing else has been there.
    uint64_t whole =
        end + (uint64_t)table->entries->len * VS_PACK_TABLE_ENTRY_BYTES + VS_PACK_TAIL_BYTES;
    table->lost = whole != table->size_bytes;
    return true;
}

bool
vs_pack_table_read(VsObjectStore *objects, const VsPackId *id, VsPackTable *table, GError **error)
{
    g_autofree char *object = vs_pack_object_name(id);
    g_autoptr(GError) cause = NULL;
    *table = (VsPackTable){0};
    if (!vs_object_store_get_size(objects, object, &table->size_bytes, error)) {
        return false;
    }
    table->entries = read_table(objects, object, id, table->size_bytes, &cause);
    if (table->entries != NULL) {
        return true;
    }
    if (cause->domain != VS_PACK_ERROR) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    table->damage = g_strdup(cause->message);
    return scan(objects, object, table, error);
}
