// SPDX-License-Identifier: LGPL-2.1-or-later
// What a stored pack holds: its table, or where that is damaged, what a scan of its records still
// finds.
#pragma once

#include "nbd-export/store/object-store.h"
#include "nbd-export/store/pack.h"

G_BEGIN_DECLS

typedef struct {
    GArray *entries;     // of VsPackEntry, ascending offsets
    uint64_t size_bytes; // of the pack
    char *damage;        // what is wrong with the table; NULL: nothing
    bool lost; // damaged, and the scan did not get over all of the pack: it may have held more
} VsPackTable;

void vs_pack_table_clear(VsPackTable *table);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VsPackTable, vs_pack_table_clear)

// The object's name of a pack: packs/ab/abcd…
char *vs_pack_object_name(const VsPackId *id);
// All packs there are (VsPackId), no order. What has no pack's name is passed over.
GArray *vs_pack_list(VsObjectStore *objects, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Fails only where the object can't be read at all; damage is told in *table.
bool vs_pack_table_read(VsObjectStore *objects, const VsPackId *id, VsPackTable *table,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
