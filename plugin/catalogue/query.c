// SPDX-License-Identifier: LGPL-2.1-or-later
// What is there, and changes of what the user may change.
#include "plugin/catalogue/catalogue-private.h"
#include "plugin/catalogue/rows.h"
#include "plugin/error.h"

// A progressing row counts only while its instance's lock is held. busy: instance id → whether, of
// earlier answers.
static void
judge_liveness(VsCatalogue *catalogue, VsSnapshot *snapshot, GHashTable *busy)
{
    if (snapshot->status != VS_STATUS_PROGRESSING)
        return;
    const VsManifest *manifest = snapshot->manifest;
    const char *owner = manifest->instance_id != NULL ? manifest->instance_id : manifest->disk_id;
    if (owner == NULL)
        owner = "";
    gpointer held = NULL;
    if (!g_hash_table_lookup_extended(busy, owner, NULL, &held)) {
        held = GINT_TO_POINTER(vs_catalogue_is_instance_busy(catalogue, owner));
        g_hash_table_insert(busy, g_strdup(owner), held);
    }
    if (held != NULL)
        return;
    snapshot->status = VS_STATUS_FAILED;
    snapshot->remaining_seconds = -1;
    g_free(snapshot->error);
    snapshot->error = g_strdup(VS_CATALOGUE_ABANDONED);
}

static bool
matches_either(const char *wanted, const char *a, const char *b)
{
    return wanted == NULL || g_strcmp0(wanted, a) == 0 || g_strcmp0(wanted, b) == 0;
}

static bool
has_tag(const VsSnapshot *snapshot, const char *key, const char *value)
{
    if (key == NULL)
        return true;
    const char *actual = g_hash_table_lookup(snapshot->tags, key);
    return actual != NULL && (value == NULL || g_strcmp0(actual, value) == 0);
}

static bool
passes(const VsSnapshot *snapshot, const VsSnapshotFilter *filter)
{
    const VsManifest *manifest = snapshot->manifest;
    return matches_either(filter->instance, manifest->instance_id, manifest->instance_name) &&
           matches_either(filter->disk, manifest->disk_id, manifest->disk_target) &&
           matches_either(filter->group, manifest->group, NULL) &&
           (filter->status < 0 || filter->status == (int)snapshot->status) &&
           has_tag(snapshot, filter->tag_key, filter->tag_value);
}

static GPtrArray *
load_rows(VsCatalogue *catalogue, const char *id, GError **error)
{
    GPtrArray *snapshots = vs_rows_load(catalogue->db, id, error);
    if (snapshots == NULL)
        return NULL;
    g_autoptr(GHashTable) busy = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = 0; i < snapshots->len; i++)
        judge_liveness(catalogue, g_ptr_array_index(snapshots, i), busy);
    return snapshots;
}

GPtrArray *
vs_catalogue_list(VsCatalogue *catalogue, const VsSnapshotFilter *filter, GError **error)
{
    g_autoptr(GPtrArray) all = load_rows(catalogue, NULL, error);
    if (all == NULL || filter == NULL)
        return g_steal_pointer(&all);
    GPtrArray *chosen = g_ptr_array_new_with_free_func((GDestroyNotify)vs_snapshot_free);
    for (guint i = 0; i < all->len; i++) {
        if (passes(g_ptr_array_index(all, i), filter))
            g_ptr_array_add(chosen, g_steal_pointer(&g_ptr_array_index(all, i)));
    }
    return chosen;
}

VsSnapshot *
vs_catalogue_get(VsCatalogue *catalogue, const char *id, GError **error)
{
    g_autoptr(GPtrArray) found = NULL;
    if (vs_id_is_valid(id, "s-")) {
        found = load_rows(catalogue, id, error);
        if (found == NULL)
            return NULL;
    }
    if (found != NULL && found->len == 1)
        return g_steal_pointer(&g_ptr_array_index(found, 0));
    g_autofree char *quoted = vs_error_quote(id);
    g_set_error(error, VS_ERROR, VS_ERROR_NO_SUCH_SNAPSHOT,
                "snapshot %s: there is none in repository %s", quoted,
                vs_repository_path(catalogue->repository));
    return NULL;
}

char *
vs_catalogue_newest(VsCatalogue *catalogue, const char *disk_id, uint64_t *generation,
                    GError **error)
{
    g_autoptr(sqlite3_stmt) query =
        vs_sql_query(catalogue->db, error,
                     "SELECT id, generation FROM snapshot WHERE disk_id=? AND status=?"
                     " ORDER BY generation DESC, created_at DESC LIMIT 1",
                     "si", disk_id, (int64_t)VS_STATUS_ACCOMPLISHED);
    bool row;
    if (query == NULL || !vs_sql_next(query, &row, error) || !row)
        return NULL;
    if (generation != NULL)
        *generation = (uint64_t)sqlite3_column_int64(query, 1);
    return vs_sql_text(query, 0);
}

bool
vs_catalogue_count(VsCatalogue *catalogue, const char *disk_id, const char *kind, unsigned *count,
                   GError **error)
{
    g_autoptr(GPtrArray) all = load_rows(catalogue, NULL, error);
    if (all == NULL)
        return false;
    *count = 0;
    for (guint i = 0; i < all->len; i++) {
        const VsSnapshot *snapshot = g_ptr_array_index(all, i);
        if (snapshot->status != VS_STATUS_FAILED &&
            g_strcmp0(snapshot->manifest->disk_id, disk_id) == 0 &&
            g_strcmp0(snapshot->manifest->kind, kind) == 0)
            ++*count;
    }
    return true;
}

bool
vs_catalogue_expect_change(VsCatalogue *catalogue, const char *id, GError **error)
{
    return vs_sql_run(catalogue->db, error, "UPDATE snapshot SET stale=1 WHERE id=?", "s", id);
}

bool
vs_catalogue_relabel(VsCatalogue *catalogue, const VsSnapshot *snapshot, GError **error)
{
    const VsManifest *manifest = snapshot->manifest;
    if (!vs_sql_begin(catalogue->db, error))
        return false;
    bool ok = vs_sql_run(catalogue->db, error,
                         "UPDATE snapshot SET name=?, description=?, expires_at=?, stale=0"
                         " WHERE id=?",
                         "ssis", manifest->name, manifest->description, manifest->expires_at_us,
                         manifest->id) &&
              vs_rows_put_tags(catalogue->db, manifest->id, snapshot->tags, error);
    return vs_sql_end(catalogue->db, ok, error);
}

// What the repository keeps as the disk's hidden base stays, unlisted: it is the newest still.
static bool
is_hidden_base(VsCatalogue *catalogue, const char *id)
{
    g_autofree char *name = g_strconcat("bases/", id, NULL);
    uint64_t size;
    return vs_id_is_valid(id, "s-") &&
           vs_object_store_get_size(vs_repository_objects(catalogue->repository), name, &size,
                                    NULL);
}

bool
vs_catalogue_forget(VsCatalogue *catalogue, const char *id, GError **error)
{
    bool keep = is_hidden_base(catalogue, id);
    const char *sql =
        keep ? "UPDATE snapshot SET hidden=1 WHERE id=?" : "DELETE FROM snapshot WHERE id=?";
    if (!vs_sql_begin(catalogue->db, error))
        return false;
    bool ok = vs_sql_run(catalogue->db, error, "DELETE FROM tag WHERE id=?", "s", id) &&
              vs_sql_run(catalogue->db, error, sql, "s", id);
    return vs_sql_end(catalogue->db, ok, error);
}
