// SPDX-License-Identifier: LGPL-2.1-or-later
// The states of a row: progressing → accomplished | failed.
#include "plugin/catalogue/catalogue-private.h"
#include "plugin/catalogue/rows.h"
#include "plugin/error.h"

static bool
begin_one(sqlite3 *db, const VsSnapshot *snapshot, GError **error)
{
    VsRow row = {.manifest = snapshot->manifest,
                 .status = VS_STATUS_PROGRESSING,
                 .progress_percent = snapshot->progress_percent,
                 .remaining_seconds = snapshot->remaining_seconds};
    return vs_rows_put(db, &row, error) && vs_rows_put_disk_of(db, snapshot->manifest, error) &&
           vs_rows_put_tags(db, snapshot->manifest->id, snapshot->tags, error);
}

bool
vs_catalogue_begin(VsCatalogue *catalogue, const GPtrArray *snapshots, GError **error)
{
    if (!vs_sql_begin(catalogue->db, error))
        return false;
    bool ok = true;
    for (guint i = 0; i < snapshots->len && ok; i++)
        ok = begin_one(catalogue->db, g_ptr_array_index(snapshots, i), error);
    return vs_sql_end(catalogue->db, ok, error);
}

bool
vs_catalogue_progress(VsCatalogue *catalogue, const char *id, unsigned percent,
                      int64_t remaining_seconds, GError **error)
{
    // Who waits here does not look after the scratch space, and the guest pays for it.
    vs_catalogue_be_patient(catalogue, false);
    bool ok = vs_sql_run(
        catalogue->db, error, "UPDATE snapshot SET progress=?, remaining=? WHERE id=? AND status=?",
        "iisi", (int64_t)MIN(percent, 100), remaining_seconds, id, (int64_t)VS_STATUS_PROGRESSING);
    vs_catalogue_be_patient(catalogue, true);
    return ok;
}

// The commit has removed the disk's hidden base; its row goes at the next opening.
static bool
accomplish_one(sqlite3 *db, const VsManifest *manifest, GError **error)
{
    VsRow row = {.manifest = manifest,
                 .status = VS_STATUS_ACCOMPLISHED,
                 .progress_percent = 100,
                 .remaining_seconds = 0};
    return vs_rows_put(db, &row, error) && vs_rows_put_disk_of(db, manifest, error);
}

bool
vs_catalogue_accomplish(VsCatalogue *catalogue, const GPtrArray *manifests, GError **error)
{
    if (!vs_sql_begin(catalogue->db, error))
        return false;
    bool ok = true;
    for (guint i = 0; i < manifests->len && ok; i++)
        ok = accomplish_one(catalogue->db, g_ptr_array_index(manifests, i), error);
    return vs_sql_end(catalogue->db, ok, error);
}

bool
vs_catalogue_fail(VsCatalogue *catalogue, const GPtrArray *ids, const char *reason, GError **error)
{
    if (!vs_sql_begin(catalogue->db, error))
        return false;
    bool ok = true;
    for (guint i = 0; i < ids->len && ok; i++)
        ok = vs_sql_run(catalogue->db, error,
                        "UPDATE snapshot SET status=?, error=?, remaining=-1 WHERE id=? AND"
                        " status=?",
                        "issi", (int64_t)VS_STATUS_FAILED, reason,
                        (const char *)g_ptr_array_index(ids, i), (int64_t)VS_STATUS_PROGRESSING);
    return vs_sql_end(catalogue->db, ok, error);
}

bool
vs_catalogue_request_cancel(VsCatalogue *catalogue, const char *id, GError **error)
{
    g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(catalogue, id, error);
    if (snapshot == NULL)
        return false;
    if (snapshot->status == VS_STATUS_PROGRESSING)
        return vs_sql_run(catalogue->db, error, "UPDATE snapshot SET cancel=1 WHERE id=?", "s", id);
    // Its process died: nobody is left to act on a request.
    bool abandoned = snapshot->status == VS_STATUS_FAILED &&
                     g_strcmp0(snapshot->error, VS_CATALOGUE_ABANDONED) == 0;
    if (abandoned)
        return vs_sql_run(catalogue->db, error,
                          "UPDATE snapshot SET status=?, error=?, remaining=-1 WHERE id=?", "iss",
                          (int64_t)VS_STATUS_FAILED, VS_CATALOGUE_ABANDONED, id);
    g_set_error(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS, "snapshot %s: cancel: it is %s already",
                id, vs_status_name(snapshot->status));
    return false;
}

bool
vs_catalogue_is_cancel_requested(VsCatalogue *catalogue, const char *id)
{
    vs_catalogue_be_patient(catalogue, false);
    g_autoptr(sqlite3_stmt) query = vs_sql_query(
        catalogue->db, NULL, "SELECT 1 FROM snapshot WHERE id=? AND cancel=1", "s", id);
    bool row = false;
    bool ok = query != NULL && vs_sql_next(query, &row, NULL);
    vs_catalogue_be_patient(catalogue, true);
    return ok && row;
}

static bool
check_progressing(VsCatalogue *catalogue, const char *id, GError **error)
{
    g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(catalogue, id, error);
    if (snapshot == NULL)
        return false;
    if (snapshot->status == VS_STATUS_PROGRESSING)
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS,
                "snapshot %s: changing its speed limit: it is %s already", id,
                vs_status_name(snapshot->status));
    return false;
}

bool
vs_catalogue_request_speed(VsCatalogue *catalogue, const GPtrArray *ids, uint64_t bytes,
                           GError **error)
{
    for (guint i = 0; i < ids->len; i++)
        if (!check_progressing(catalogue, g_ptr_array_index(ids, i), error))
            return false;
    if (!vs_sql_begin(catalogue->db, error))
        return false;
    bool ok = true;
    for (guint i = 0; i < ids->len && ok; i++)
        ok = vs_sql_run(catalogue->db, error,
                        "UPDATE snapshot SET speed_limit=? WHERE id=? AND status=?", "isi",
                        (int64_t)MIN(bytes, (uint64_t)G_MAXINT64),
                        (const char *)g_ptr_array_index(ids, i), (int64_t)VS_STATUS_PROGRESSING);
    return vs_sql_end(catalogue->db, ok, error);
}

bool
vs_catalogue_requested_speed(VsCatalogue *catalogue, const char *id, uint64_t *bytes)
{
    vs_catalogue_be_patient(catalogue, false);
    g_autoptr(sqlite3_stmt) query =
        vs_sql_query(catalogue->db, NULL,
                     "SELECT speed_limit FROM snapshot WHERE id=? AND speed_limit>=0", "s", id);
    bool row = false;
    bool ok = query != NULL && vs_sql_next(query, &row, NULL);
    vs_catalogue_be_patient(catalogue, true);
    if (!ok || !row)
        return false;
    *bytes = (uint64_t)sqlite3_column_int64(query, 0);
    return true;
}
