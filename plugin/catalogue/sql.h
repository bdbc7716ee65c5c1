// SPDX-License-Identifier: LGPL-2.1-or-later
// SQLite in GLib's manner: statements that free themselves, GError, typed parameters.
//
// Errors are VS_SQL_ERROR with SQLite's primary result code (SQLITE_CORRUPT, …), but
// VS_ERROR_REPOSITORY_BUSY where another process holds the file; their message names it. One thread
// per connection.
#pragma once

#include <glib.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

#define VS_SQL_ERROR (vs_sql_error_quark())
GQuark vs_sql_error_quark(void);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(sqlite3_stmt, sqlite3_finalize)

// How long a statement waits for another process's transaction.
#define VS_SQL_BUSY_TIMEOUT_MS 10000

// Opens path (":memory:" for none); the file is made with mode 0600.
sqlite3 *vs_sql_open(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The statement with its parameters bound. types has a letter for each: 's' const char * (or NULL),
// 'i' int64_t. Texts are copied.
sqlite3_stmt *vs_sql_query(sqlite3 *db, GError **error, const char *sql, const char *types,
                           ...) G_GNUC_WARN_UNUSED_RESULT;
// The next row. *row is false after the last.
bool vs_sql_next(sqlite3_stmt *statement, bool *row, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Runs one statement that gives no rows.
bool vs_sql_run(sqlite3 *db, GError **error, const char *sql, const char *types,
                ...) G_GNUC_WARN_UNUSED_RESULT;
// Runs a script of statements without parameters.
bool vs_sql_script(sqlite3 *db, const char *sql, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// A write transaction. end commits if ok, else rolls back and leaves error alone; returns whether
// the transaction's changes are there.
bool vs_sql_begin(sqlite3 *db, GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_sql_end(sqlite3 *db, bool ok, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// A copy of a text column, NULL for NULL.
char *vs_sql_text(sqlite3_stmt *statement, int column);

G_END_DECLS
