// SPDX-License-Identifier: LGPL-2.1-or-later
// What nearly every command needs: the repository and its catalogue, warnings, interruption.
#pragma once

#include <gio/gio.h>

#include "plugin/catalogue/catalogue.h"
#include "plugin/cli/options.h"

G_BEGIN_DECLS

typedef struct {
    const VsInvocation *invocation; // borrowed
    VsRepository *repository;
    VsCatalogue *catalogue;
    bool locked;
} VsContext;

VsContext *vs_context_open(const VsInvocation *invocation,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_context_free(VsContext *context);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsContext, vs_context_free)

// The same for a command that changes something: first undoes what other commands left that died
// (vs_engine_recover). What of that can't be done now is a warning.
VsContext *vs_context_open_to_write(const VsInvocation *invocation,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Opens only the repository, with a hint where there is none.
VsRepository *vs_context_open_repository(const VsInvocation *invocation,
                                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Takes the repository's shared lock, once, for changing what is in it.
bool vs_context_lock(VsContext *context, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// How long a command waits for the repository's lock before it gives up.
#define VS_LOCK_TIMEOUT_MS 10000u

// One line on standard error, unless --quiet.
void vs_warn(const VsInvocation *invocation, const char *text);

// The accomplished snapshot of that id, as its manifest says. VS_ERROR_SNAPSHOT_STATUS for any
// other status.
VsManifest *vs_context_load_accomplished(VsContext *context, const char *id,
                                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Whether an id means a group; of snapshots there may be one all the same.
bool vs_context_is_group(const char *id);
// The snapshots (VsSnapshot *) that an id means: the one, or all of a group's.
GPtrArray *vs_context_find(VsContext *context, const char *id,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Cancels one in progress and waits until its maker has cleaned up; the snapshot as it is then.
VsSnapshot *vs_context_cancel(VsContext *context, const char *id,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
