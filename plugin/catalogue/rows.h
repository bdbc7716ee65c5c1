// SPDX-License-Identifier: LGPL-2.1-or-later
// The catalogue's tables, and how manifests, tags and disks become rows and come back.
//
//   snapshot  one row per snapshot: its manifest's fields but for the files, and its state
//     hidden  a deleted snapshot that is still the base of its disk's next one; not listed
//     stale   its manifest is about to be changed: read it again at the next opening
//     cancel  somebody asked for it to be given up
//     speed_limit   bytes a second that somebody asked for since it was begun, 0: none; -1: nobody
//   tag       of visible snapshots
//   disk      every disk ever seen, as it was seen last
//   origin    one row: the repository that the file belongs to
//
// Internal to plugin/catalogue/.
#pragma once

#include "plugin/catalogue/catalogue.h"
#include "plugin/catalogue/sql.h"

G_BEGIN_DECLS

// Makes the tables where there are none. A file with other tables, or of another repository, is
// SQLITE_MISMATCH.
bool vs_rows_prepare_schema(sqlite3 *db, const char *repository_id,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Adds the snapshot's row, or replaces all but its tags.
typedef struct {
    const VsManifest *manifest;
    VsStatus status;
    unsigned progress_percent;
    int64_t remaining_seconds;
    bool hidden;
    const char *error;
} VsRow;
bool vs_rows_put(sqlite3 *db, const VsRow *row, GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_rows_put_tags(sqlite3 *db, const char *id, GHashTable *tags,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The visible snapshots (VsSnapshot *) with their tags, by creation time, then id. id: only that
// one, NULL: all.
GPtrArray *vs_rows_load(sqlite3 *db, const char *id, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// seen_at_us: what was seen later than this is left as it is.
bool vs_rows_put_disk(sqlite3 *db, const VsKnownDisk *disk, int64_t seen_at_us,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The disk of a manifest, as it was at its point in time.
bool vs_rows_put_disk_of(sqlite3 *db, const VsManifest *manifest,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
