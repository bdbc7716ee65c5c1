// SPDX-License-Identifier: LGPL-2.1-or-later
// What the files of plugin/catalogue/ share.
#pragma once

#include "plugin/catalogue/catalogue.h"
#include "plugin/catalogue/sql.h"

G_BEGIN_DECLS

struct _VsCatalogue {
    VsRepository *repository; // borrowed
    sqlite3 *db;
    VsCatalogueWaitFunc wait; // NULL: sleep
    gpointer wait_data;
};

// Whether writes wait for other processes, as told by vs_catalogue_set_wait(), or fail at once.
void vs_catalogue_be_patient(VsCatalogue *catalogue, bool is_patient);

// Makes the rows agree with the manifests that are there. Cheap where they do: two listings, one
// query, no write.
bool vs_catalogue_sync(VsCatalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Opens (and makes) the lock file locks/<name> of the repository; -1 with error.
int vs_catalogue_open_lock(VsCatalogue *catalogue, const char *name,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Takes an open lock file's exclusive lock within timeout_ms; false without it, errno says why
// (EWOULDBLOCK: held).
bool vs_catalogue_take_lock(int fd, unsigned timeout_ms) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
