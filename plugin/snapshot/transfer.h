// SPDX-License-Identifier: LGPL-2.1-or-later
// Bringing the captured disks' content into the repository: runs the data plane in a thread of its
// own while the main loop serves QEMU's events, cancellation and progress. Internal to the engine.
#pragma once

#include "plugin/snapshot/plan.h"
#include "plugin/snapshot/session.h"

G_BEGIN_DECLS

typedef struct {
    const VsEngine *engine;
    VsSession *session;
    const GPtrArray *plan; // VsPlanDisk *
    VsPointDisk *points;   // one for each
    uint64_t speed_limit_bytes;
    VsScratchOptions scratch; // where to put aside what is read faster than stored
    GCancellable *cancellable;
} VsTransferJob;

typedef struct _VsTransfer VsTransfer;

// After the point in time: reads what was captured. Each source is closed again as soon as its disk
// is read, so after this nothing needs the point in time any more; what is read of a running
// guest's disk faster than it can be stored is put aside meanwhile. The job is copied, what it
// points to is not.
VsTransfer *vs_transfer_read(const VsTransferJob *job, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Stores the rest, and fills the manifests' root, read_bytes and new_bytes.
bool vs_transfer_store(VsTransfer *transfer, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_transfer_free(VsTransfer *transfer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsTransfer, vs_transfer_free)

G_END_DECLS
