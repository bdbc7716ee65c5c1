// SPDX-License-Identifier: LGPL-2.1-or-later
// The object store in a directory of the local file system.
//
// An object is a file. put: a temporary file (".tmp-…" in the target folder), write, fsync, rename
// over, fsync of the folder. Folders are made as needed. Temporary files that a killed process left
// are removed by vs_directory_store_clean(). Open packs are kept in a small bounded cache of file
// descriptors for get_range.
#pragma once

#include "nbd-export/store/object-store.h"

G_BEGIN_DECLS

// path must be an existing directory.
VsObjectStore *vs_directory_store_open(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Removes temporary files in all folders. The caller holds the repository's exclusive lock.
bool vs_directory_store_clean(VsObjectStore *store, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
