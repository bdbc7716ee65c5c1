// SPDX-License-Identifier: LGPL-2.1-or-later
// Writing a stored snapshot into a new image file.
//
// The image grows without a name (or a temporary one) in the target folder and gets its final name,
// never over an existing file, when all of it is written, verified and durable. raw is written
// directly; other formats through a qemu-nbd child over NBD. Zero chunks are left as holes. Several
// worker threads read, verify and write.
#pragma once

#include <gio/gio.h>

#include "nbd-export/store/snapshot-reader.h"

G_BEGIN_DECLS

#define VS_RESTORE_ERROR (vs_restore_error_quark())
GQuark vs_restore_error_quark(void);

typedef enum {
    VS_RESTORE_ERROR_EXISTS, // a file of the final name is there
    VS_RESTORE_ERROR_FAILED,
} VsRestoreError;

// Bytes of the disk dealt with so far, of its size; from the calling thread.
typedef void (*VsRestoreProgressFunc)(uint64_t done_bytes, uint64_t total_bytes,
                                      gpointer user_data);

typedef struct {
    const VsManifest *manifest;
    const char *path;
    const char *format; // "raw" or "qcow2"
    GCancellable *cancellable;
    VsRestoreProgressFunc progress; // may be NULL
    gpointer progress_data;
} VsRestoreRequest;

bool vs_restore(VsRepository *repository, const VsRestoreRequest *request,
                GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
