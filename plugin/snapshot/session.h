// SPDX-License-Identifier: LGPL-2.1-or-later
// A connection to one instance on behalf of the engine: its driver, its description, its disks
// identified. Internal to the engine.
#pragma once

#include "plugin/hypervisor/reach.h"
#include "plugin/snapshot/engine.h"
#include "plugin/snapshot/plan.h"

G_BEGIN_DECLS

typedef struct {
    int lock; // the instance's, -1: not taken
    VsReach reach;
    VsDriver *driver;
    VsInstance *instance;
} VsSession;

// Connects and describes. exclusive: takes the instance's lock first, and removes what an
// interrupted run left.
bool vs_session_open(VsSession *session, const VsEngine *engine, const char *instance,
                     bool exclusive, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_session_clear(VsSession *session);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VsSession, vs_session_clear)

// Finds the base of the disk's next snapshot.
bool vs_session_load_base(const VsEngine *engine, const VsDisk *disk, VsBase *base,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
