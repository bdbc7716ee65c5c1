// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/pull/extents.h"

GArray *
vs_extents_new(void)
{
    return g_array_new(FALSE, FALSE, sizeof(VsExtent));
}

static void
append(GArray *list, uint64_t offset, uint64_t length, uint32_t flags)
{
    if (list->len > 0) {
        VsExtent *last = &g_array_index(list, VsExtent, list->len - 1);
        if (last->flags == flags && last->offset + last->length == offset) {
            last->length += length;
            return;
        }
    }
    VsExtent extent = {offset, length, flags};
    g_array_append_val(list, extent);
}

bool
vs_extents_append(GArray *list, uint64_t start, uint64_t end, const uint32_t *entries,
                  size_t entry_count)
{
    uint64_t at = start;
    for (size_t i = 0; i + 1 < entry_count && at < end; i += 2) {
        if (entries[i] == 0)
            return false;
        uint64_t length = MIN((uint64_t)entries[i], end - at);
        append(list, at, length, entries[i + 1]);
        at += length;
    }
    return at > start;
}

void
vs_extents_mark(GArray *list, uint32_t mask)
{
    unsigned count = list->len;
    g_autofree VsExtent *extents = g_memdup2(list->data, count * sizeof(VsExtent));
    g_array_set_size(list, 0);
    for (unsigned i = 0; i < count; i++)
        append(list, extents[i].offset, extents[i].length,
               extents[i].flags & mask ? VS_EXTENT_DIRTY : 0);
}

const VsExtent *
vs_extents_at(const GArray *list, uint64_t offset)
{
    unsigned low = 0, high = list->len;
    while (low < high) { // the last extent that does not begin behind offset is below `high`
        unsigned middle = low + (high - low) / 2;
        if (g_array_index(list, VsExtent, middle).offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    g_assert(low > 0);
    const VsExtent *extent = &g_array_index(list, VsExtent, low - 1);
    g_assert(offset - extent->offset < extent->length);
    return extent;
}

void
vs_extents_set_from(GArray *list, uint64_t from, uint32_t flags)
{
    uint64_t end = 0;
    while (list->len > 0) {
        VsExtent *last = &g_array_index(list, VsExtent, list->len - 1);
        end = MAX(end, last->offset + last->length);
        if (last->offset < from) {
            last->length = MIN(last->length, from - last->offset);
            break;
        }
        from = MIN(from, end);
        g_array_set_size(list, list->len - 1);
        if (list->len == 0)
            from = MAX(from, last->offset);
    }
    if (from < end)
        append(list, from, end - from, flags);
}

// A position in a list.
typedef struct {
    const GArray *list;
    unsigned index;
} Cursor;

// Flags at offset, and how far they reach at most.
static uint32_t
flags_at(Cursor *cursor, uint64_t offset, uint32_t if_absent, uint64_t *end)
{
    if (!cursor->list)
        return if_absent;
    const VsExtent *extent = &g_array_index(cursor->list, VsExtent, cursor->index);
    while (extent->offset + extent->length <= offset)
        extent = &g_array_index(cursor->list, VsExtent, ++cursor->index);
    *end = MIN(*end, extent->offset + extent->length);
    return extent->flags;
}

// The range that the lists cover.
static bool
find_range(const GArray *list, uint64_t *start, uint64_t *end)
{
    if (!list || list->len == 0)
        return false;
    const VsExtent *last = &g_array_index(list, VsExtent, list->len - 1);
    *start = g_array_index(list, VsExtent, 0).offset;
    *end = last->offset + last->length;
    return true;
}

GArray *
vs_extents_pieces(const GArray *dirty, const GArray *allocation, const GArray *again)
{
    GArray *pieces = vs_extents_new();
    Cursor dirty_at = {dirty, 0}, first_at = {allocation, 0}, again_at = {again, 0};
    uint64_t at = 0, end = 0;
    if (!find_range(dirty, &at, &end) && !find_range(allocation, &at, &end))
        return pieces;
    while (at < end) {
        uint64_t next = end;
        uint32_t is_dirty = flags_at(&dirty_at, at, 1, &next);
        uint32_t first = flags_at(&first_at, at, 0, &next);
        uint32_t second = flags_at(&again_at, at, allocation ? VS_STATE_ZERO : 0, &next);
        if (is_dirty)
            append(pieces, at, next - at, first & second & VS_STATE_ZERO ? VS_PIECE_ZERO : 0);
        at = next;
    }
    return pieces;
}
