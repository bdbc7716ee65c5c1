// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/pull/pull-cover.h"

#include "nbd-export/pull/pull-internal.h"

// What is dirty of a window; NULL with error.
static GArray *
ask(VsPull *pull, uint64_t start, uint64_t end, GError **error)
{
    GArray *dirty = vs_extents_new();
    g_autoptr(GArray) allocation = vs_extents_new();
    if (!vs_pull_get_extents(pull, start, end, dirty, allocation, error))
        g_clear_pointer(&dirty, g_array_unref);
    return dirty;
}

// The first byte of the window that is in the one list and not in the other; its end: none.
static uint64_t
find_first(const GArray *changed, const GArray *kept, uint64_t window_end)
{
    for (unsigned i = 0; i < changed->len; i++) {
        const VsExtent *extent = &g_array_index(changed, VsExtent, i);
        uint64_t end = extent->offset + extent->length;
        for (uint64_t at = extent->offset; extent->flags && at < end;) {
            const VsExtent *there = vs_extents_at(kept, at);
            if (!there->flags)
                return at;
            at = there->offset + there->length;
        }
    }
    return window_end;
}

bool
vs_pull_find_uncovered(VsPull *changed, VsPull *kept, unsigned stall_timeout_ms, uint64_t *offset,
                       GError **error)
{
    g_assert(changed->size_bytes == kept->size_bytes);
    g_assert(changed->dirty_context && kept->dirty_context);
    changed->options.stall_timeout_ms = kept->options.stall_timeout_ms = stall_timeout_ms;
    *offset = 0;
    while (*offset < changed->size_bytes) {
        uint64_t end = MIN(*offset + VS_PULL_WINDOW_BYTES, changed->size_bytes);
        g_autoptr(GArray) dirty = ask(changed, *offset, end, error);
        g_autoptr(GArray) there = dirty ? ask(kept, *offset, end, error) : NULL;
        if (!there)
            return false;
        *offset = find_first(dirty, there, end);
        if (*offset < end)
            break;
    }
    return true;
}
