// SPDX-License-Identifier: LGPL-2.1-or-later
// Entries of packs by digest, in memory: what no index segment covers yet. Not locked; grows, never
// shrinks.
#pragma once

#include "nbd-export/store/pack.h"

G_BEGIN_DECLS

typedef struct {
    VsPackEntry entry;
    gpointer pack; // the user's; NULL: its place is not known yet
} VsEntrySlot;

typedef struct _VsEntryTable VsEntryTable;

VsEntryTable *vs_entry_table_new(void);
void vs_entry_table_free(VsEntryTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsEntryTable, vs_entry_table_free)

guint vs_entry_table_length(const VsEntryTable *table);
// In the order of adding. Slots are valid until the next add.
VsEntrySlot *vs_entry_table_slot(VsEntryTable *table, guint i);
VsEntrySlot *vs_entry_table_find(VsEntryTable *table, const VsDigest *digest);
// The digest must not be there yet.
VsEntrySlot *vs_entry_table_add(VsEntryTable *table, const VsPackEntry *entry, gpointer pack);

G_END_DECLS
