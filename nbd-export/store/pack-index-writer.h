// SPDX-License-Identifier: LGPL-2.1-or-later
// Writes index segments: from sorted entries, or by merging segments. Memory does not depend on the
// number of entries.
#pragma once

#include "nbd-export/store/pack-index.h"

G_BEGIN_DECLS

// Gives the next entry in the segment's order; an equal one (same digest, same pack) again is
// dropped. *end: there is none.
typedef bool (*VsIndexSourceFunc)(gpointer user_data, VsIndexEntry *entry, bool *end,
                                  GError **error);

// Writes a segment that covers packs (of VsPackId; gets sorted) with a new random name, and opens
// it.
VsPackIndex *vs_pack_index_write(VsObjectStore *objects, GArray *packs, VsIndexSourceFunc source,
                                 gpointer user_data, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Merges inputs (of VsPackIndex *) into a new segment. keep: set of VsPackId (vs_pack_id_hash),
// entries of other packs are dropped; NULL: all are kept. *damaged (borrowed from inputs; NULL
// where not known) is the input to blame where the error is VS_PACK_INDEX_ERROR.
VsPackIndex *vs_pack_index_merge(VsObjectStore *objects, GPtrArray *inputs, GHashTable *keep,
                                 VsPackIndex **damaged, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// For sets of VsPackId.
guint vs_pack_id_hash(gconstpointer id);
gboolean vs_pack_id_equal(gconstpointer a, gconstpointer b);
GHashTable *vs_pack_id_set_new(void); // owns its keys
void vs_pack_id_set_add(GHashTable *set, const VsPackId *id);

G_END_DECLS
