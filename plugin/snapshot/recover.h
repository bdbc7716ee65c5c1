// SPDX-License-Identifier: LGPL-2.1-or-later
// Undoing what a process left that died while it made a snapshot.
//
// What must not outlive its maker is recognised as ours by names and labels (repository, instance,
// snapshot), so nothing needs to be remembered but where to look: a create notes that on its lock
// (vs_catalogue_note_work), and takes the note back once all is removed. Opening an instance
// exclusively removes exports, jobs, nodes and scratch; then bitmaps and checkpoints go that no
// next snapshot builds on. Accomplished snapshots and the bitmaps of the newest ones stay: the next
// create is incremental. What is locked belongs to a live process and is left alone.
#pragma once

#include "plugin/snapshot/engine.h"

G_BEGIN_DECLS

typedef enum {
    VS_RECOVER_ABANDONED, // where work is known to have been left; mostly nothing: cheap
    VS_RECOVER_ALL,       // and every instance that is known and can be reached
} VsRecoverScope;

typedef struct {
    char *instance; // INSTANCE
    char *error;    // why it could not be done now (it stays noted); NULL: nothing is left
} VsRecovered;
void vs_recovered_free(VsRecovered *recovered);

// VsRecovered *, one for each instance that was looked at; others that can't be reached are passed
// over where nothing was noted of them. Fails only where the repository itself can't be read, or
// when cancelled.
GPtrArray *vs_engine_recover(const VsEngine *engine, VsRecoverScope scope,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
