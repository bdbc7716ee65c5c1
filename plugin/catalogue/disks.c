// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/catalogue/catalogue-private.h"
#include "plugin/catalogue/rows.h"

#include <json-c/json.h>

void
vs_known_disk_free(VsKnownDisk *disk)
{
    if (disk == NULL)
        return;
    g_free(disk->id);
    g_free(disk->instance_id);
    g_free(disk->instance_name);
    g_free(disk->instance_kind);
    g_free(disk->target);
    g_free(disk->source);
    g_free(disk->format);
    g_free(disk->chain);
    g_free(disk);
}

GPtrArray *
vs_catalogue_known_disks(VsCatalogue *catalogue, GError **error)
{
    g_autoptr(sqlite3_stmt) query = vs_sql_query(
        catalogue->db, error,
        "SELECT id, instance_id, instance_name, instance_kind, target, source, format, chain,"
        " virtual_size FROM disk ORDER BY instance_name, target, id",
        "");
    if (query == NULL)
        return NULL;
    g_autoptr(GPtrArray) disks = g_ptr_array_new_with_free_func((GDestroyNotify)vs_known_disk_free);
    for (;;) {
        bool row;
        if (!vs_sql_next(query, &row, error))
            return NULL;
        if (!row)
            return g_steal_pointer(&disks);
        VsKnownDisk *disk = g_new0(VsKnownDisk, 1);
        char **const texts[] = {
            &disk->id,     &disk->instance_id, &disk->instance_name, &disk->instance_kind,
            &disk->target, &disk->source,      &disk->format,        &disk->chain};
        for (int i = 0; i < (int)G_N_ELEMENTS(texts); i++)
            *texts[i] = vs_sql_text(query, i);
        disk->virtual_size_bytes = (uint64_t)sqlite3_column_int64(query, G_N_ELEMENTS(texts));
        g_ptr_array_add(disks, disk);
    }
}

bool
vs_catalogue_remember_disk(VsCatalogue *catalogue, const VsKnownDisk *disk, GError **error)
{
    return vs_rows_put_disk(catalogue->db, disk, g_get_real_time(), error);
}

static bool
chain_has(const GPtrArray *chain, const char *file)
{
    for (guint i = 0; i < chain->len; i++) {
        if (g_strcmp0(g_ptr_array_index(chain, i), file) == 0)
            return true;
    }
    return false;
}

static bool
json_chain_has(const char *text, const char *file)
{
    struct json_object *chain = text != NULL ? json_tokener_parse(text) : NULL;
    bool found = false;
    if (json_object_is_type(chain, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(chain) && !found; i++) {
            const char *name = json_object_get_string(json_object_array_get_idx(chain, i));
            found = g_strcmp0(name, file) == 0;
        }
    }
    json_object_put(chain);
    return found;
}

// Two disks may remember one source (a file that was moved to another place in the VM); the one
// that was there before is meant.
static const VsKnownDisk *
find_by_source(const GPtrArray *known, const char *instance_id, const char *target,
               const char *source)
{
    const VsKnownDisk *best = NULL;
    int best_score = -1;
    for (guint i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (g_strcmp0(disk->source, source) != 0)
            continue;
        bool same_instance = g_strcmp0(disk->instance_id, instance_id) == 0;
        int score = same_instance + (same_instance && g_strcmp0(disk->target, target) == 0);
        if (score > best_score) {
            best = disk;
            best_score = score;
        }
    }
    return best;
}

static const VsKnownDisk *
find_by_chain(const GPtrArray *known, const char *instance_id, const char *target,
              const GPtrArray *chain)
{
    const char *source = g_ptr_array_index(chain, 0);
    for (guint i = 0; i < known->len && instance_id != NULL; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (g_strcmp0(disk->instance_id, instance_id) != 0 || g_strcmp0(disk->target, target) != 0)
            continue;
        if ((disk->source != NULL && chain_has(chain, disk->source)) ||
            json_chain_has(disk->chain, source))
            return disk;
    }
    return NULL;
}

bool
vs_disk_needs_chain(const GPtrArray *known, const char *instance_id, const char *target,
                    const char *source)
{
    if (find_by_source(known, instance_id, target, source) != NULL)
        return false;
    for (guint i = 0; i < known->len && instance_id != NULL; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (g_strcmp0(disk->instance_id, instance_id) == 0 && g_strcmp0(disk->target, target) == 0)
            return true;
    }
    return false;
}

static bool
is_known_id(const GPtrArray *known, const char *id)
{
    for (guint i = 0; i < known->len; i++) {
        if (g_strcmp0(((const VsKnownDisk *)g_ptr_array_index(known, i))->id, id) == 0)
            return true;
    }
    return false;
}

char *
vs_disk_identify(const GPtrArray *known, const char *host, const char *instance_id,
                 const char *target, const GPtrArray *chain)
{
    const char *source = g_ptr_array_index(chain, 0);
    const VsKnownDisk *disk = find_by_source(known, instance_id, target, source);
    if (disk == NULL)
        disk = find_by_chain(known, instance_id, target, chain);
    if (disk != NULL)
        return g_strdup(disk->id);
    for (unsigned attempt = 0;; attempt++) {
        g_autofree char *key = attempt == 0 ? g_strdup_printf("%s:%s", host, source)
                                            : g_strdup_printf("%s:%s#%u", host, source, attempt);
        g_autofree char *id = vs_id_from_key("d-", key);
        if (!is_known_id(known, id))
            return g_steal_pointer(&id);
    }
}
