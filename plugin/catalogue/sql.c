// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/catalogue/sql.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "plugin/error.h"

GQuark
vs_sql_error_quark(void)
{
    return g_quark_from_static_string("vs-sql-error-quark");
}

static bool
fail(sqlite3 *db, const char *what, GError **error)
{
    const char *file = sqlite3_db_filename(db, "main");
    int code = sqlite3_errcode(db) & 0xff;
    if (file == NULL || *file == '\0')
        file = "in memory";
    if (code == SQLITE_BUSY)
        g_set_error(error, VS_ERROR, VS_ERROR_REPOSITORY_BUSY,
                    "catalogue %s: %s: another process holds it; try again", file, what);
    else
        g_set_error(error, VS_SQL_ERROR, code, "catalogue %s: %s: %s%s", file, what,
                    sqlite3_errmsg(db),
                    code == SQLITE_CORRUPT ? "; removed, it is made anew (without tags)" : "");
    return false;
}

// SQLite would make the file readable for all that the umask lets in; -wal and -shm take its mode.
static bool
make_private_file(const char *path, GError **error)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        close(fd);
        return true;
    }
    int code = errno == EISDIR || errno == ELOOP ? SQLITE_NOTADB : SQLITE_CANTOPEN;
    g_set_error(error, VS_SQL_ERROR, code, "catalogue %s: open: %s", path, g_strerror(errno));
    return false;
}

sqlite3 *
vs_sql_open(const char *path, GError **error)
{
    if (strcmp(path, ":memory:") != 0 && !make_private_file(path, error))
        return NULL;
    sqlite3 *db = NULL;
    int result = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_busy_timeout(db, VS_SQL_BUSY_TIMEOUT_MS);
    if (result == SQLITE_OK)
        return db;
    g_set_error(error, VS_SQL_ERROR, result & 0xff, "catalogue %s: open: %s", path,
                db != NULL ? sqlite3_errmsg(db) : sqlite3_errstr(result));
    sqlite3_close(db);
    return NULL;
}

static sqlite3_stmt *
prepare(sqlite3 *db, const char *sql, const char *types, va_list *parameters, GError **error)
{
    g_autoptr(sqlite3_stmt) statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) {
        fail(db, "prepare", error);
        return NULL;
    }
    int result = SQLITE_OK;
    for (int i = 0; types[i] != '\0' && result == SQLITE_OK; i++) {
        if (types[i] == 's')
            result = sqlite3_bind_text(statement, i + 1, va_arg(*parameters, const char *), -1,
                                       SQLITE_TRANSIENT);
        else
            result = sqlite3_bind_int64(statement, i + 1, va_arg(*parameters, int64_t));
    }
    if (result != SQLITE_OK) {
        fail(db, "bind", error);
        return NULL;
    }
    return g_steal_pointer(&statement);
}

sqlite3_stmt *
vs_sql_query(sqlite3 *db, GError **error, const char *sql, const char *types, ...)
{
    va_list parameters;
    va_start(parameters, types);
    sqlite3_stmt *statement = prepare(db, sql, types, &parameters, error);
    va_end(parameters);
    return statement;
}

bool
vs_sql_next(sqlite3_stmt *statement, bool *row, GError **error)
{
    int result = sqlite3_step(statement);
    *row = result == SQLITE_ROW;
    if (result == SQLITE_ROW || result == SQLITE_DONE)
        return true;
    return fail(sqlite3_db_handle(statement), "query", error);
}

bool
vs_sql_run(sqlite3 *db, GError **error, const char *sql, const char *types, ...)
{
    va_list parameters;
    va_start(parameters, types);
    g_autoptr(sqlite3_stmt) statement = prepare(db, sql, types, &parameters, error);
    va_end(parameters);
    bool row;
    return statement != NULL && vs_sql_next(statement, &row, error);
}

bool
vs_sql_script(sqlite3 *db, const char *sql, GError **error)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return fail(db, "run", error);
    return true;
}

bool
vs_sql_begin(sqlite3 *db, GError **error)
{
    return vs_sql_script(db, "BEGIN IMMEDIATE", error);
}

bool
vs_sql_end(sqlite3 *db, bool ok, GError **error)
{
    if (ok && vs_sql_script(db, "COMMIT", error))
        return true;
    // Some errors have rolled back by themselves; there is nothing more to tell then.
    if (!sqlite3_get_autocommit(db) && !vs_sql_script(db, "ROLLBACK", NULL))
        g_debug("catalogue: rollback: %s", sqlite3_errmsg(db));
    return false;
}

char *
vs_sql_text(sqlite3_stmt *statement, int column)
{
    return g_strdup((const char *)sqlite3_column_text(statement, column));
}
