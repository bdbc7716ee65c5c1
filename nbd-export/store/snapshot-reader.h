// SPDX-License-Identifier: LGPL-2.1-or-later
// A stored snapshot as a flat disk: random-access reads, each verified against its digest.
//
// One reader per thread; readers of one repository share its chunk store. No lock, no catalogue.
#pragma once

#include "nbd-export/store/repository.h"

G_BEGIN_DECLS

#define VS_SNAPSHOT_READER_ERROR (vs_snapshot_reader_error_quark())
GQuark vs_snapshot_reader_error_quark(void);

typedef enum {
    VS_SNAPSHOT_READER_ERROR_RANGE, // not within the snapshot
} VsSnapshotReaderError;

typedef struct _VsSnapshotReader VsSnapshotReader;

// tree (copied), size: as in the manifest. repository is borrowed, and not locked
// (vs_repository_lock) during the reader's life.
VsSnapshotReader *vs_snapshot_reader_new(VsRepository *repository, const VsTree *tree,
                                         uint64_t size_bytes);
void vs_snapshot_reader_free(VsSnapshotReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsSnapshotReader, vs_snapshot_reader_free)

// Reads the whole chunk at index (zero-filled beyond the disk's end) into data of the chunk size;
// *is_zero instead of writing where it is a zero chunk.
bool vs_snapshot_reader_chunk(VsSnapshotReader *reader, uint64_t index, void *data, bool *is_zero,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Reads any range within the disk (RANGE otherwise). Keeps the last chunk that was read in part.
bool vs_snapshot_reader_read(VsSnapshotReader *reader, uint64_t offset, void *data, size_t length,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

// *offset: the highest byte below `below` (the disk's end at most) that is not zero; *found false
// where there is none. Zero chunks and subtrees cost nothing, so that mostly one path of the tree
// and one chunk are read. Keeps that chunk as vs_snapshot_reader_read() does.
bool vs_snapshot_reader_last_content(VsSnapshotReader *reader, uint64_t below, bool *found,
                                     uint64_t *offset, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
