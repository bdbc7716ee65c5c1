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

// Removes our bitmaps that no next snapshot may build on: of a snapshot before, once there is a
// newer one; of one that failed; left by an interrupted run. newest: VsDisk * → the bitmap (char *,
// borrowed, NULL: none) of its newest snapshot, of the disks that the caller has locked; those of
// others are left alone.
bool vs_session_tidy(const VsSession *session, const VsEngine *engine, GHashTable *newest,
                     GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Finds the base of the disk's next snapshot.
bool vs_session_load_base(const VsEngine *engine, const VsDisk *disk, VsBase *base,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
