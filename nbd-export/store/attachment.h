// SPDX-License-Identifier: LGPL-2.1-or-later
// Small files that belong to a machine's definition (nvram, kernel, initrd), as attachments of its
// snapshots: chunks in the repository, named by a manifest's "files".
//
// A file is stored as a disk is: cut into chunks, the last one filled up with zeroes, under a tree.
// Equal content is stored once, however many snapshots have it. One thread; memory: one chunk.
#pragma once

#include "nbd-export/store/repository.h"

G_BEGIN_DECLS

#define VS_ATTACHMENT_ERROR (vs_attachment_error_quark())
GQuark vs_attachment_error_quark(void);

typedef enum {
    VS_ATTACHMENT_ERROR_UNFIT,   // not a regular file, or larger than VS_MANIFEST_FILE_MAX_BYTES
    VS_ATTACHMENT_ERROR_CHANGED, // it grew or shrank while it was read
} VsAttachmentError;

// Stores the content of the file at path (a symbolic link is followed) and describes it; the caller
// adds the result to a manifest's files. Durable once the manifest is committed; without that,
// prune frees it. Of a file that is written to meanwhile, some of the old and some of the new may
// be stored. Errors: G_FILE_ERROR for what the operating system says (NOENT); the chunk store's.
// Needs a lock.
VsManifestFile *vs_attachment_store(VsRepository *repository, const char *role, const char *path,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Makes the regular file behind fd (open for writing) exactly the content, with holes for its zero
// chunks. Everything read is verified; after a failure the file has part of it. Owner, mode and
// syncing are the caller's. Takes no lock.
bool vs_attachment_restore(VsRepository *repository, const VsManifestFile *file, int fd,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
