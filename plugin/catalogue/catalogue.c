// SPDX-License-Identifier: LGPL-2.1-or-later
// Opening, and making anew what can't be opened.
#include "plugin/catalogue/catalogue-private.h"
#include "plugin/catalogue/rows.h"
#include "plugin/error.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Processes open one after the other: who finds the file damaged can replace it in peace. It is a
// matter of milliseconds.
#define OPEN_LOCK "catalogue"
#define OPEN_LOCK_TIMEOUT_MS 10000

static bool
connect_file(VsCatalogue *catalogue, const char *path, GError **error)
{
    g_clear_pointer(&catalogue->db, sqlite3_close);
    catalogue->db = vs_sql_open(path, error);
    return catalogue->db != NULL &&
           vs_sql_script(catalogue->db,
                         "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                         "PRAGMA foreign_keys=ON;",
                         error) &&
           vs_rows_prepare_schema(catalogue->db, vs_repository_id(catalogue->repository), error) &&
           vs_catalogue_sync(catalogue, error);
}

// Damage that only a page not read yet shows; a few milliseconds for a thousand snapshots.
static bool
check_file(VsCatalogue *catalogue, GError **error)
{
    g_autoptr(sqlite3_stmt) check = vs_sql_query(catalogue->db, error, "PRAGMA quick_check(1)", "");
    bool row;
    if (check == NULL || !vs_sql_next(check, &row, error))
        return false;
    const char *text = row ? (const char *)sqlite3_column_text(check, 0) : NULL;
    if (g_strcmp0(text, "ok") == 0)
        return true;
    g_set_error(error, VS_SQL_ERROR, SQLITE_CORRUPT, "catalogue: %s", text != NULL ? text : "?");
    return false;
}

static bool
is_damage(const GError *error)
{
    if (error->domain != VS_SQL_ERROR)
        return false;
    switch (error->code) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_MISMATCH:
    case SQLITE_ERROR: // a table or a column is not there
    case SQLITE_CONSTRAINT:
        return true;
    default:
        return false;
    }
}

static bool
is_unwritable(const GError *error)
{
    if (error->domain != VS_SQL_ERROR)
        return false;
    switch (error->code) {
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_FULL:
    case SQLITE_IOERR:
        return true;
    default:
        return false;
    }
}

static bool
open_in_memory(VsCatalogue *catalogue, GError **error)
{
    return connect_file(catalogue, ":memory:", error);
}

// The damaged file is kept, one of them, for whoever wants to look at it.
static bool
make_anew(VsCatalogue *catalogue, const char *path, GError **error)
{
    g_clear_pointer(&catalogue->db, sqlite3_close);
    static const char *const companions[] = {"-wal", "-shm", "-journal"};
    for (size_t i = 0; i < G_N_ELEMENTS(companions); i++) {
        g_autofree char *companion = g_strconcat(path, companions[i], NULL);
        if (unlink(companion) != 0 && errno != ENOENT)
            g_debug("catalogue: %s: %s", companion, g_strerror(errno));
    }
    g_autofree char *aside = g_strconcat(path, ".damaged", NULL);
    if (rename(path, aside) != 0) {
        g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "catalogue %s: move it aside: %s", path,
                    g_strerror(errno));
        return false;
    }
    return connect_file(catalogue, path, error);
}

static bool
has_snapshots(VsCatalogue *catalogue)
{
    g_autoptr(GPtrArray) ids = vs_repository_list(catalogue->repository, NULL);
    return ids != NULL && ids->len > 0;
}

static bool
open_file(VsCatalogue *catalogue, const char *path, char **note, GError **error)
{
    struct stat status;
    bool existed = stat(path, &status) == 0 && status.st_size > 0;
    g_autoptr(GError) cause = NULL;
    if (connect_file(catalogue, path, &cause) && (!existed || check_file(catalogue, &cause))) {
        if (!existed && has_snapshots(catalogue))
            *note = g_strdup("the catalogue was missing and has been made anew: tags are lost");
        return true;
    }
    if (is_unwritable(cause))
        return open_in_memory(catalogue, error);
    if (!is_damage(cause)) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    *note = g_strdup_printf("the catalogue was damaged and has been made anew: tags are lost (%s)",
                            cause->message);
    return make_anew(catalogue, path, error);
}

static bool
open_catalogue(VsCatalogue *catalogue, char **note, GError **error)
{
    const char *folder = vs_repository_path(catalogue->repository);
    if (access(folder, W_OK) != 0)
        return open_in_memory(catalogue, error);
    int lock = vs_catalogue_open_lock(catalogue, OPEN_LOCK, NULL);
    if (lock < 0)
        return open_in_memory(catalogue, error);
    bool ok = vs_catalogue_take_lock(lock, OPEN_LOCK_TIMEOUT_MS);
    if (ok) {
        g_autofree char *path = g_build_filename(folder, "catalogue.db", NULL);
        ok = open_file(catalogue, path, note, error);
    } else {
        g_set_error(error, VS_ERROR, VS_ERROR_REPOSITORY_BUSY,
                    "repository %s: another process has been opening its catalogue for %d s",
                    folder, OPEN_LOCK_TIMEOUT_MS / 1000);
    }
    close(lock);
    return ok;
}

VsCatalogue *
vs_catalogue_open(VsRepository *repository, char **note, GError **error)
{
    g_autoptr(VsCatalogue) catalogue = g_new0(VsCatalogue, 1);
    g_autofree char *happened = NULL;
    catalogue->repository = repository;
    if (!open_catalogue(catalogue, &happened, error))
        return NULL;
    if (note != NULL)
        *note = g_steal_pointer(&happened);
    return g_steal_pointer(&catalogue);
}

// Stays within SQLite's rules for busy handlers: the connection is left alone.
static int
on_busy(void *user_data, int count)
{
    const VsCatalogue *catalogue = user_data;
    return count < VS_SQL_BUSY_TIMEOUT_MS / VS_CATALOGUE_WAIT_MS &&
           catalogue->wait(catalogue->wait_data);
}

void
vs_catalogue_be_patient(VsCatalogue *catalogue, bool is_patient)
{
    if (is_patient && catalogue->wait)
        (void)sqlite3_busy_handler(catalogue->db, on_busy, catalogue);
    else
        (void)sqlite3_busy_timeout(catalogue->db, is_patient ? VS_SQL_BUSY_TIMEOUT_MS : 0);
}

void
vs_catalogue_set_wait(VsCatalogue *catalogue, VsCatalogueWaitFunc wait, gpointer user_data)
{
    catalogue->wait = wait;
    catalogue->wait_data = user_data;
    vs_catalogue_be_patient(catalogue, true);
}

void
vs_catalogue_free(VsCatalogue *catalogue)
{
    if (catalogue == NULL)
        return;
    g_clear_pointer(&catalogue->db, sqlite3_close);
    g_free(catalogue);
}
