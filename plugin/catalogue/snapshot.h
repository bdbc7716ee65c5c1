// SPDX-License-Identifier: LGPL-2.1-or-later
// A snapshot as the catalogue knows it: what its manifest says (or will say), and its state.
#pragma once

#include "nbd-export/store/manifest.h"

G_BEGIN_DECLS

typedef enum {
    VS_STATUS_PROGRESSING,
    VS_STATUS_ACCOMPLISHED,
    VS_STATUS_FAILED,
} VsStatus;

typedef struct {
    VsManifest *manifest;
    VsStatus status;
    unsigned progress_percent;
    int64_t remaining_seconds; // -1: not known
    GHashTable *tags;          // char * → char *
    char *error;               // why it failed, NULL otherwise
} VsSnapshot;

VsSnapshot *vs_snapshot_new(VsManifest *manifest); // takes the manifest
void vs_snapshot_free(VsSnapshot *snapshot);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsSnapshot, vs_snapshot_free)

const char *vs_status_name(VsStatus status);

G_END_DECLS
