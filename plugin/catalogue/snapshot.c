// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/catalogue/snapshot.h"

VsSnapshot *
vs_snapshot_new(VsManifest *manifest)
{
    VsSnapshot *snapshot = g_new0(VsSnapshot, 1);
    snapshot->manifest = manifest;
    snapshot->status = VS_STATUS_PROGRESSING;
    snapshot->remaining_seconds = -1;
    snapshot->tags = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    return snapshot;
}

void
vs_snapshot_free(VsSnapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    g_clear_pointer(&snapshot->manifest, vs_manifest_free);
    g_clear_pointer(&snapshot->tags, g_hash_table_unref);
    g_free(snapshot->error);
    g_free(snapshot);
}

const char *
vs_status_name(VsStatus status)
{
    static const char *const names[] = {"progressing", "accomplished", "failed"};
    g_return_val_if_fail((unsigned)status < G_N_ELEMENTS(names), "failed");
    return names[status];
}
