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

// After the point in time: fills the manifests' root, read_bytes and new_bytes. The sources are
// closed again, each as soon as its disk is read: what is read of a running guest's disk faster
// than it can be stored is put aside meanwhile.
bool vs_transfer_run(const VsTransferJob *job, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
