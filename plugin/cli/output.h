// SPDX-License-Identifier: LGPL-2.1-or-later
// Answers: JSON documents with the members that the command line's contract names, and tables for
// people.
//
// Text from outside is made fit: JSON has valid UTF-8 only, tables no control characters.
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "plugin/catalogue/snapshot.h"

G_BEGIN_DECLS

// A new reference each. NULL becomes null (a NULL struct json_object *).
struct json_object *vs_output_string(const char *text);
// RFC 3339, UTC, whole seconds; null for 0.
struct json_object *vs_output_time(int64_t time_us);
struct json_object *vs_output_snapshot(const VsSnapshot *snapshot);
// snapshots: VsSnapshot *.
struct json_object *vs_output_snapshots(const GPtrArray *snapshots);
struct json_object *vs_output_error(const GError *error);

// The same for people; g_free().
char *vs_format_time(int64_t time_us);    // "-" for 0
char *vs_format_size(uint64_t bytes);     // "1.5 GiB"
char *vs_format_seconds(int64_t seconds); // "1:02:03"

// A table that grows by rows. Cells are copied; columns are as wide as they need to be. whole: long
// cells are not shortened, as no terminal's line is to be kept to.
typedef struct _VsTable VsTable;
VsTable *vs_table_new(const char *const *titles, bool whole);
void vs_table_free(VsTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsTable, vs_table_free)
// As many cells as there are titles; NULL or "" is shown as "-".
void vs_table_add(VsTable *table, const char *const *cells);
void vs_table_print(const VsTable *table, GString *text);

void vs_output_snapshot_table(const GPtrArray *snapshots, GString *text);
// "key: value" lines.
void vs_output_snapshot_lines(const VsSnapshot *snapshot, GString *text);
// What an id meant, in full: of a group an array, and an empty line between its members; else the
// one snapshot. *document: a new reference.
void vs_output_found(const GPtrArray *snapshots, bool is_group, struct json_object **document,
                     GString *text);

G_END_DECLS
