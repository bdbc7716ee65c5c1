// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/catalogue/rows.h"

#include <string.h>

// Changed with every change of the tables: another version's file is made anew.
#define SCHEMA_VERSION 3

static const char SCHEMA[] =
    "CREATE TABLE origin(repository TEXT NOT NULL);"
    "CREATE TABLE snapshot("
    " id TEXT PRIMARY KEY NOT NULL, status INTEGER NOT NULL, progress INTEGER NOT NULL,"
    " remaining INTEGER NOT NULL, hidden INTEGER NOT NULL, stale INTEGER NOT NULL DEFAULT 0,"
    " cancel INTEGER NOT NULL DEFAULT 0, speed_limit INTEGER NOT NULL DEFAULT -1, error TEXT,"
    " group_id TEXT, name TEXT, description TEXT, kind TEXT, mode TEXT, mode_reason TEXT,"
    " parent TEXT, consistency TEXT, created_at INTEGER, expires_at INTEGER, generation INTEGER,"
    " virtual_size INTEGER, read_bytes INTEGER, new_bytes INTEGER,"
    " frozen INTEGER, root TEXT,"
    " instance_id TEXT, instance_name TEXT, instance_kind TEXT, instance_definition TEXT,"
    " disk_id TEXT, disk_target TEXT, disk_source TEXT, disk_format TEXT, disk_chain TEXT,"
    " bitmap TEXT);"
    "CREATE INDEX snapshot_state ON snapshot(id, status, hidden, stale);"
    "CREATE INDEX snapshot_disk ON snapshot(disk_id, generation);"
    "CREATE TABLE tag("
    " id TEXT NOT NULL REFERENCES snapshot(id) ON DELETE CASCADE, key TEXT NOT NULL,"
    " value TEXT NOT NULL, PRIMARY KEY(id, key)) WITHOUT ROWID;"
    "CREATE TABLE disk("
    " id TEXT PRIMARY KEY NOT NULL, instance_id TEXT, instance_name TEXT, instance_kind TEXT, "
    "target TEXT,"
    " source TEXT, format TEXT, chain TEXT, virtual_size INTEGER NOT NULL,"
    " seen_at INTEGER NOT NULL);";

// The manifest's members that are columns of their own kind; the root digest is one more, in
// hexadecimal.
typedef struct {
    const char *name;
    bool is_text; // else a 64-bit integer, signed or not
    size_t offset;
} Column;

#define TEXT(column, member)                                                                       \
    {                                                                                              \
        column, true, offsetof(VsManifest, member)                                                 \
    }
#define INTEGER(column, member)                                                                    \
    {                                                                                              \
        column, false, offsetof(VsManifest, member)                                                \
    }

static const Column COLUMNS[] = {
    TEXT("id", id),
    TEXT("group_id", group),
    TEXT("name", name),
    TEXT("description", description),
    TEXT("kind", kind),
    TEXT("mode", mode),
    TEXT("mode_reason", mode_reason),
    TEXT("parent", parent),
    TEXT("consistency", consistency),
    INTEGER("created_at", created_at_us),
    INTEGER("expires_at", expires_at_us),
    INTEGER("generation", generation),
    INTEGER("virtual_size", virtual_size_bytes),
    INTEGER("read_bytes", read_bytes),
    INTEGER("new_bytes", new_bytes),
    INTEGER("frozen", frozen_us),
    TEXT("instance_id", instance_id),
    TEXT("instance_name", instance_name),
    TEXT("instance_kind", instance_kind),
    TEXT("instance_definition", instance_definition),
    TEXT("disk_id", disk_id),
    TEXT("disk_target", disk_target),
    TEXT("disk_source", disk_source),
    TEXT("disk_format", disk_format),
    TEXT("disk_chain", disk_chain),
    TEXT("bitmap", bitmap),
};

// What follows them in every statement, in this order.
static const char *const STATE_COLUMNS[] = {"root",  "status", "progress", "remaining",  "hidden",
                                            "error", "stale",  "cancel",   "speed_limit"};

static const char PUT_DISK[] =
    "INSERT INTO disk(id, instance_id, instance_name, instance_kind, target, source, format, chain,"
    " virtual_size, seen_at) VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET"
    " instance_id=excluded.instance_id, instance_name=excluded.instance_name,"
    " instance_kind=excluded.instance_kind, target=excluded.target, source=excluded.source,"
    " format=excluded.format, chain=excluded.chain, virtual_size=excluded.virtual_size,"
    " seen_at=excluded.seen_at WHERE excluded.seen_at >= seen_at";

static bool
check_origin(sqlite3 *db, const char *repository_id, GError **error)
{
    g_autoptr(sqlite3_stmt) query = vs_sql_query(db, error, "SELECT repository FROM origin", "");
    bool row;
    if (query == NULL || !vs_sql_next(query, &row, error))
        return false;
    g_autofree char *origin = row ? vs_sql_text(query, 0) : NULL;
    if (g_strcmp0(origin, repository_id) == 0)
        return true;
    g_set_error(error, VS_SQL_ERROR, SQLITE_MISMATCH, "catalogue: it belongs to repository %s",
                origin != NULL ? origin : "unknown");
    return false;
}

static bool
read_number(sqlite3 *db, const char *sql, int64_t *value, GError **error)
{
    g_autoptr(sqlite3_stmt) query = vs_sql_query(db, error, sql, "");
    bool row;
    if (query == NULL || !vs_sql_next(query, &row, error))
        return false;
    *value = row ? sqlite3_column_int64(query, 0) : 0;
    return true;
}

static bool
make_tables(sqlite3 *db, const char *repository_id, GError **error)
{
    g_autofree char *version = g_strdup_printf("PRAGMA user_version=%d", SCHEMA_VERSION);
    if (!vs_sql_begin(db, error))
        return false;
    bool ok = vs_sql_script(db, SCHEMA, error) &&
              vs_sql_run(db, error, "INSERT INTO origin VALUES (?)", "s", repository_id) &&
              vs_sql_script(db, version, error);
    return vs_sql_end(db, ok, error);
}

static void
append_columns(GString *sql, const char *before, const char *separator)
{
    for (size_t i = 0; i < G_N_ELEMENTS(COLUMNS); i++)
        g_string_append_printf(sql, "%s%s%s", i > 0 ? separator : "", before, COLUMNS[i].name);
    for (size_t i = 0; i < G_N_ELEMENTS(STATE_COLUMNS); i++)
        g_string_append_printf(sql, "%s%s%s", separator, before, STATE_COLUMNS[i]);
}

static char *
put_statement(void)
{
    GString *sql = g_string_new("INSERT INTO snapshot(");
    append_columns(sql, "", ",");
    g_string_append(sql, ") VALUES (");
    for (size_t i = 0; i < G_N_ELEMENTS(COLUMNS); i++)
        g_string_append(sql, "?,");
    g_string_append(sql, "?,?,?,?,?,?,0,0,-1) ON CONFLICT(id) DO UPDATE SET ");
    for (size_t i = 1; i < G_N_ELEMENTS(COLUMNS); i++)
        g_string_append_printf(sql, "%s=excluded.%s,", COLUMNS[i].name, COLUMNS[i].name);
    for (size_t i = 0; i < G_N_ELEMENTS(STATE_COLUMNS); i++)
        g_string_append_printf(sql, "%s%s=excluded.%s", i > 0 ? "," : "", STATE_COLUMNS[i],
                               STATE_COLUMNS[i]);
    return g_string_free(sql, FALSE);
}

// Whether all columns are there: a statement that names them can be prepared.
static bool
check_tables(sqlite3 *db, GError **error)
{
    g_autofree char *put_snapshot = put_statement();
    const char *const statements[] = {put_snapshot, "SELECT id, key, value FROM tag", PUT_DISK};
    for (size_t i = 0; i < G_N_ELEMENTS(statements); i++) {
        g_autoptr(sqlite3_stmt) statement = vs_sql_query(db, error, statements[i], "");
        if (statement == NULL)
            return false;
    }
    return true;
}

bool
vs_rows_prepare_schema(sqlite3 *db, const char *repository_id, GError **error)
{
    int64_t version;
    int64_t tables;
    if (!read_number(db, "PRAGMA user_version", &version, error) ||
        !read_number(db, "SELECT count(*) FROM sqlite_master", &tables, error))
        return false;
    if (version == 0 && tables == 0)
        return make_tables(db, repository_id, error);
    if (version == SCHEMA_VERSION)
        return check_origin(db, repository_id, error) && check_tables(db, error);
    g_set_error(error, VS_SQL_ERROR, SQLITE_MISMATCH,
                "catalogue: its tables are of version %" G_GINT64_FORMAT, version);
    return false;
}

static int
bind_column(sqlite3_stmt *statement, int index, const VsManifest *manifest, const Column *column)
{
    const char *member = (const char *)manifest + column->offset;
    if (!column->is_text) {
        int64_t number;
        memcpy(&number, member, sizeof number);
        return sqlite3_bind_int64(statement, index, number);
    }
    const char *text;
    memcpy(&text, member, sizeof text);
    return sqlite3_bind_text(statement, index, text, -1, SQLITE_TRANSIENT);
}

bool
vs_rows_put(sqlite3 *db, const VsRow *row, GError **error)
{
    g_autofree char *sql = put_statement();
    g_autoptr(sqlite3_stmt) put = vs_sql_query(db, error, sql, "");
    if (put == NULL)
        return false;
    int index = 1;
    int result = SQLITE_OK;
    for (size_t i = 0; i < G_N_ELEMENTS(COLUMNS); i++)
        result |= bind_column(put, index++, row->manifest, &COLUMNS[i]);
    char root[VS_DIGEST_HEX_BYTES];
    vs_digest_to_hex(&row->manifest->root, root);
    result |= sqlite3_bind_text(put, index++, root, -1, SQLITE_TRANSIENT);
    result |= sqlite3_bind_int(put, index++, (int)row->status);
    result |= sqlite3_bind_int64(put, index++, row->progress_percent);
    result |= sqlite3_bind_int64(put, index++, row->remaining_seconds);
    result |= sqlite3_bind_int(put, index++, row->hidden);
    result |= sqlite3_bind_text(put, index++, row->error, -1, SQLITE_TRANSIENT);
    if (result != SQLITE_OK) {
        g_set_error(error, VS_SQL_ERROR, result & 0xff, "catalogue: bind: %s", sqlite3_errmsg(db));
        return false;
    }
    bool more;
    return vs_sql_next(put, &more, error);
}

bool
vs_rows_put_tags(sqlite3 *db, const char *id, GHashTable *tags, GError **error)
{
    if (!vs_sql_run(db, error, "DELETE FROM tag WHERE id=?", "s", id))
        return false;
    if (tags == NULL)
        return true;
    GHashTableIter iter;
    gpointer key;
    gpointer value;
    g_hash_table_iter_init(&iter, tags);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        if (!vs_sql_run(db, error, "INSERT INTO tag VALUES (?,?,?)", "sss", id, (char *)key,
                        (char *)value))
            return false;
    }
    return true;
}

static VsSnapshot *
read_row(sqlite3_stmt *query)
{
    VsManifest *manifest = vs_manifest_new();
    int index = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(COLUMNS); i++, index++) {
        char *member = (char *)manifest + COLUMNS[i].offset;
        if (COLUMNS[i].is_text) {
            char **text = (char **)(void *)member;
            g_free(*text);
            *text = vs_sql_text(query, index);
        } else {
            int64_t number = sqlite3_column_int64(query, index);
            memcpy(member, &number, sizeof number);
        }
    }
    const char *root = (const char *)sqlite3_column_text(query, index++);
    if (root == NULL || !vs_digest_from_hex(root, &manifest->root))
        manifest->root = VS_DIGEST_ZERO;
    VsSnapshot *snapshot = vs_snapshot_new(manifest);
    snapshot->status =
        (VsStatus)CLAMP(sqlite3_column_int(query, index), VS_STATUS_PROGRESSING, VS_STATUS_FAILED);
    snapshot->progress_percent = (unsigned)CLAMP(sqlite3_column_int(query, index + 1), 0, 100);
    snapshot->remaining_seconds = sqlite3_column_int64(query, index + 2);
    snapshot->error = vs_sql_text(query, index + 4);
    return snapshot;
}

// snapshots: char * (borrowed id) → VsSnapshot *.
static bool
load_tags(sqlite3 *db, const char *id, GHashTable *snapshots, GError **error)
{
    g_autoptr(sqlite3_stmt) query = vs_sql_query(
        db, error, "SELECT id, key, value FROM tag WHERE ?1 IS NULL OR id=?1", "s", id);
    if (query == NULL)
        return false;
    for (;;) {
        bool row;
        if (!vs_sql_next(query, &row, error))
            return false;
        if (!row)
            return true;
        VsSnapshot *snapshot =
            g_hash_table_lookup(snapshots, (const char *)sqlite3_column_text(query, 0));
        if (snapshot != NULL)
            g_hash_table_replace(snapshot->tags, vs_sql_text(query, 1), vs_sql_text(query, 2));
    }
}

GPtrArray *
vs_rows_load(sqlite3 *db, const char *id, GError **error)
{
    g_autoptr(GString) sql = g_string_new("SELECT ");
    append_columns(sql, "", ",");
    g_string_append(sql, " FROM snapshot WHERE hidden=0");
    // Two texts rather than "?1 IS NULL OR id=?1", which would keep SQLite from using the key.
    if (id != NULL)
        g_string_append(sql, " AND id=?");
    g_string_append(sql, " ORDER BY created_at, disk_target, id");
    g_autoptr(sqlite3_stmt) query = vs_sql_query(db, error, sql->str, id != NULL ? "s" : "", id);
    if (query == NULL)
        return NULL;
    g_autoptr(GPtrArray) snapshots =
        g_ptr_array_new_with_free_func((GDestroyNotify)vs_snapshot_free);
    g_autoptr(GHashTable) by_id = g_hash_table_new(g_str_hash, g_str_equal);
    for (;;) {
        bool row;
        if (!vs_sql_next(query, &row, error))
            return NULL;
        if (!row)
            break;
        VsSnapshot *snapshot = read_row(query);
        g_ptr_array_add(snapshots, snapshot);
        g_hash_table_insert(by_id, snapshot->manifest->id, snapshot);
    }
    if (snapshots->len > 0 && !load_tags(db, id, by_id, error))
        return NULL;
    return g_steal_pointer(&snapshots);
}

bool
vs_rows_put_disk(sqlite3 *db, const VsKnownDisk *disk, int64_t seen_at_us, GError **error)
{
    return vs_sql_run(db, error, PUT_DISK, "ssssssssii", disk->id, disk->instance_id,
                      disk->instance_name, disk->instance_kind, disk->target, disk->source,
                      disk->format, disk->chain, (int64_t)disk->virtual_size_bytes, seen_at_us);
}

bool
vs_rows_put_disk_of(sqlite3 *db, const VsManifest *manifest, GError **error)
{
    // Borrowed members: nothing of it is freed.
    VsKnownDisk disk = {
        .id = manifest->disk_id,
        .instance_id = manifest->instance_id,
        .instance_name = manifest->instance_name,
        .instance_kind = manifest->instance_kind,
        .target = manifest->disk_target,
        .source = manifest->disk_source,
        .format = manifest->disk_format,
        .chain = manifest->disk_chain,
        .virtual_size_bytes = manifest->virtual_size_bytes,
    };
    return vs_rows_put_disk(db, &disk, manifest->created_at_us, error);
}
