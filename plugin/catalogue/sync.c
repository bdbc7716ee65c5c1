// SPDX-License-Identifier: LGPL-2.1-or-later
// Order matters where other processes work at the same time: rows are read before manifests are
// listed. A row that is accomplished by then had its manifest, so if the listing lacks it, it was
// deleted. snapshots/ is listed before bases/: a deletion makes the hidden base first.
#include "plugin/catalogue/catalogue-private.h"
#include "plugin/catalogue/rows.h"

// What the repository has for an id, and what the catalogue has.
typedef struct {
    char *id;
    bool in_snapshots;
    bool in_bases;
    bool row_is_current; // accomplished, and not stale
    bool row_is_hidden;
    bool row_is_accomplished;
} Entry;

static void
entry_free(Entry *entry)
{
    g_free(entry->id);
    g_free(entry);
}

static Entry *
entry_of(GHashTable *entries, const char *id)
{
    Entry *entry = g_hash_table_lookup(entries, id);
    if (entry == NULL) {
        entry = g_new0(Entry, 1);
        entry->id = g_strdup(id);
        g_hash_table_insert(entries, entry->id, entry);
    }
    return entry;
}

static bool
collect_rows(VsCatalogue *catalogue, GHashTable *entries, GError **error)
{
    g_autoptr(sqlite3_stmt) query =
        vs_sql_query(catalogue->db, error, "SELECT id, status, hidden, stale FROM snapshot", "");
    if (query == NULL)
        return false;
    for (;;) {
        bool row;
        if (!vs_sql_next(query, &row, error))
            return false;
        if (!row)
            return true;
        Entry *entry = entry_of(entries, (const char *)sqlite3_column_text(query, 0));
        entry->row_is_accomplished = sqlite3_column_int(query, 1) == VS_STATUS_ACCOMPLISHED;
        entry->row_is_hidden = sqlite3_column_int(query, 2) != 0;
        entry->row_is_current = entry->row_is_accomplished && sqlite3_column_int(query, 3) == 0;
    }
}

static bool
collect_manifests(VsCatalogue *catalogue, GHashTable *entries, GError **error)
{
    g_autoptr(GPtrArray) visible = vs_repository_list(catalogue->repository, error);
    if (visible == NULL)
        return false;
    for (guint i = 0; i < visible->len; i++)
        entry_of(entries, g_ptr_array_index(visible, i))->in_snapshots = true;
    g_autoptr(GPtrArray) bases =
        vs_object_store_list(vs_repository_objects(catalogue->repository), "bases", error);
    if (bases == NULL)
        return false;
    for (guint i = 0; i < bases->len; i++) {
        const char *id = g_ptr_array_index(bases, i);
        if (vs_id_is_valid(id, "s-"))
            entry_of(entries, id)->in_bases = true;
    }
    return true;
}

// The row of a manifest that can't be read, hidden base or not: shown, so that it can be deleted.
static bool
put_damaged(VsCatalogue *catalogue, const Entry *entry, const GError *cause, GError **error)
{
    g_autoptr(VsManifest) manifest = vs_manifest_new();
    g_free(manifest->id);
    manifest->id = g_strdup(entry->id);
    g_autofree char *text = g_strdup_printf("damaged manifest: %s", cause->message);
    VsRow row = {
        .manifest = manifest, .status = VS_STATUS_FAILED, .remaining_seconds = -1, .error = text};
    return vs_rows_put(catalogue->db, &row, error);
}

static bool
put_manifest(VsCatalogue *catalogue, const Entry *entry, GError **error)
{
    g_autoptr(GError) cause = NULL;
    bool hidden;
    g_autoptr(VsManifest) manifest =
        vs_repository_load_base(catalogue->repository, entry->id, &hidden, &cause);
    if (g_error_matches(cause, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_NOT_FOUND))
        return true; // deleted meanwhile
    if (cause != NULL)
        return put_damaged(catalogue, entry, cause, error);
    VsRow row = {.manifest = manifest,
                 .status = VS_STATUS_ACCOMPLISHED,
                 .progress_percent = 100,
                 .remaining_seconds = 0,
                 .hidden = hidden};
    return vs_rows_put(catalogue->db, &row, error) &&
           vs_rows_put_disk_of(catalogue->db, manifest, error);
}

// What there is to do about an entry, nothing in the usual case.
typedef enum {
    AGREES,
    LOAD,   // a manifest without a true row
    HIDE,   // deleted by another process, still a base
    FORGET, // deleted by another process
} Remedy;

static Remedy
remedy_of(const Entry *entry)
{
    bool exists = entry->in_snapshots || entry->in_bases;
    if (!exists)
        return entry->row_is_accomplished ? FORGET : AGREES;
    if (!entry->row_is_current)
        return LOAD;
    if (!entry->in_snapshots && !entry->row_is_hidden)
        return HIDE;
    return entry->in_snapshots && entry->row_is_hidden ? LOAD : AGREES;
}

static bool
mend(VsCatalogue *catalogue, const Entry *entry, GError **error)
{
    sqlite3 *db = catalogue->db;
    switch (remedy_of(entry)) {
    case LOAD:
        return put_manifest(catalogue, entry, error);
    case HIDE:
        return vs_sql_run(db, error, "UPDATE snapshot SET hidden=1 WHERE id=?", "s", entry->id) &&
               vs_sql_run(db, error, "DELETE FROM tag WHERE id=?", "s", entry->id);
    case FORGET:
        return vs_sql_run(db, error, "DELETE FROM snapshot WHERE id=?", "s", entry->id);
    case AGREES:
        break;
    }
    return true;
}

bool
vs_catalogue_sync(VsCatalogue *catalogue, GError **error)
{
    g_autoptr(GHashTable) entries =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)entry_free);
    if (!collect_rows(catalogue, entries, error) || !collect_manifests(catalogue, entries, error))
        return false;
    g_autoptr(GPtrArray) wrong = g_ptr_array_new();
    GHashTableIter iter;
    gpointer entry;
    g_hash_table_iter_init(&iter, entries);
    while (g_hash_table_iter_next(&iter, NULL, &entry)) {
        if (remedy_of(entry) != AGREES)
            g_ptr_array_add(wrong, entry);
    }
    if (wrong->len == 0)
        return true;
    if (!vs_sql_begin(catalogue->db, error))
        return false;
    bool ok = true;
    for (guint i = 0; i < wrong->len && ok; i++)
        ok = mend(catalogue, g_ptr_array_index(wrong, i), error);
    return vs_sql_end(catalogue->db, ok, error);
}
