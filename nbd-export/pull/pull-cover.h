// SPDX-License-Identifier: LGPL-2.1-or-later
// Comparing what two exports say of their blocks, without reading any.
#pragma once

#include "nbd-export/pull/pull.h"

G_BEGIN_DECLS

// Finds the first byte that `changed` calls dirty (by its bitmap) and `kept` does not (by its
// bitmap, or allocated_only); *offset is the disk's size where there is none. Both are of one size
// and just connected; they can't be run afterwards. Blocks; gives up after stall_timeout_ms without
// an answer. VS_PULL_ERROR.
bool vs_pull_find_uncovered(VsPull *changed, VsPull *kept, unsigned stall_timeout_ms,
                            uint64_t *offset, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
