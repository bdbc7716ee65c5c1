// SPDX-License-Identifier: LGPL-2.1-or-later
// A stored snapshot as a flat disk: random-access reads, each verified against its digest, and extents.
//
// One reader per thread; readers of one repository share its chunk store. No lock, no catalogue.
#pragma once

#include "nbd-export/store/repository.h"

G_BEGIN_DECLS

typedef struct _VsSnapshotReader VsSnapshotReader;

// tree, size: as in the manifest. repository is borrowed.
VsSnapshotReader *vs_snapshot_reader_new(VsRepository *repository, const VsTree *tree,
                                         uint64_t size_bytes);
void vs_snapshot_reader_free(VsSnapshotReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsSnapshotReader, vs_snapshot_reader_free)

// Reads the whole chunk at index (zero-filled beyond the disk's end) into data of the chunk size; *is_zero instead of
// writing where it is a zero chunk.
bool vs_snapshot_reader_chunk(VsSnapshotReader *reader, uint64_t index, void *data, bool *is_zero,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Reads any range within the disk. Keeps the last chunk.
bool vs_snapshot_reader_read(VsSnapshotReader *reader, uint64_t offset, void *data, size_t length,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
