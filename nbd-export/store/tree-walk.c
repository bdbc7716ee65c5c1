// SPDX-License-Identifier: LGPL-2.1-or-later
// Reading trees. Recursion goes as deep as the tree is high, at most VS_TREE_MAX_HEIGHT, with a
// node (2 KiB) or two on the stack each.
#include "nbd-export/store/tree-internal.h"

// walk ------------------------------------------------------------------------------------------

typedef struct {
    const VsTreeIo *io;
    uint64_t first;
    uint64_t last; // inclusive
    VsTreeVisitFunc visit;
    gpointer user_data;
} Walk;

static bool
walk_node(const Walk *walk, const VsTreePlace *place, const VsDigest *digest, GError **error)
{
    const unsigned level = place->level;
    VsTreeNode node;

    if (!vs_tree_load_node(walk->io, place, digest, &node, error))
        return false;
    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        const VsTreePlace child = vs_tree_place_child(place, i);
        uint64_t slot = child.position;
        if (vs_digest_is_zero(&node.children[i]) || slot < vs_tree_slot(walk->first, level) ||
            slot > vs_tree_slot(walk->last, level))
            continue;
        if (level == 0 ? !walk->visit(slot, &node.children[i], walk->user_data, error)
                       : !walk_node(walk, &child, &node.children[i], error))
            return false;
    }
    return true;
}

bool
vs_tree_walk(const VsTreeIo *io, const VsTree *tree, const VsTreeRange *range,
             VsTreeVisitFunc visit, gpointer user_data, GError **error)
{
    uint64_t first = range != NULL ? range->first : 0;
    uint64_t count = range != NULL ? range->count : tree->chunk_count;

    if (first >= tree->chunk_count || count == 0 || vs_digest_is_zero(&tree->root))
        return true;

    uint64_t last = first + MIN(count, tree->chunk_count - first) - 1;
    const Walk walk = {io, first, last, visit, user_data};
    const VsTreePlace root = vs_tree_place_root(tree->chunk_count);
    return walk_node(&walk, &root, &tree->root, error);
}

// last ------------------------------------------------------------------------------------------

typedef struct {
    const VsTreeIo *io;
    uint64_t highest; // no chunk above this one counts
    bool *found;
    uint64_t *index;
} Last;

static bool
last_in_node(const Last *last, const VsTreePlace *place, const VsDigest *digest, GError **error)
{
    VsTreeNode node;

    if (!vs_tree_load_node(last->io, place, digest, &node, error))
        return false;
    for (unsigned i = VS_TREE_FANOUT; i-- > 0 && !*last->found;) {
        const VsTreePlace child = vs_tree_place_child(place, i);
        if (vs_digest_is_zero(&node.children[i]) ||
            child.position > vs_tree_slot(last->highest, place->level))
            continue;
        if (place->level == 0) {
            *last->found = true;
            *last->index = child.position;
        } else if (!last_in_node(last, &child, &node.children[i], error)) {
            return false;
        }
    }
    return true;
}

bool
vs_tree_last(const VsTreeIo *io, const VsTree *tree, uint64_t below, bool *found, uint64_t *index,
             GError **error)
{
    *found = false;
    below = MIN(below, tree->chunk_count);
    if (below == 0 || vs_digest_is_zero(&tree->root))
        return true;

    const Last last = {io, below - 1, found, index};
    const VsTreePlace root = vs_tree_place_root(tree->chunk_count);
    return last_in_node(&last, &root, &tree->root, error);
}

// reach -----------------------------------------------------------------------------------------

typedef struct {
    const VsTreeIo *io;
    const VsTreeReach *reach;
} Reach;

static bool
reach_node(const Reach *state, const VsTreePlace *place, const VsDigest *digest, GError **error)
{
    const VsTreeReach *reach = state->reach;
    VsTreeNode node;

    if (!reach->enter(reach->self, digest))
        return true;
    if (!vs_tree_load_node(state->io, place, digest, &node, error))
        return false;
    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        const VsTreePlace child = vs_tree_place_child(place, i);
        if (vs_digest_is_zero(&node.children[i]))
            continue;
        if (place->level == 0 ? !reach->chunk(reach->self, &node.children[i], error)
                              : !reach_node(state, &child, &node.children[i], error))
            return false;
    }
    return true;
}

bool
vs_tree_reach(const VsTreeIo *io, const VsTree *tree, const VsTreeReach *reach, GError **error)
{
    const Reach state = {io, reach};
    const VsTreePlace root = vs_tree_place_root(tree->chunk_count);

    if (vs_digest_is_zero(&tree->root))
        return true;
    return reach_node(&state, &root, &tree->root, error);
}

// diff ------------------------------------------------------------------------------------------

typedef struct {
    const VsTreeIo *io;
    uint64_t chunk_counts[2];
    VsTreeDiffFunc visit;
    gpointer user_data;
} Diff;

typedef struct {
    VsDigest sides[2];
} Pair;

static bool
diff_nodes(const Diff *diff, const Pair *pair, unsigned level, uint64_t position, GError **error)
{
    VsTreeNode nodes[2];

    if (vs_digest_equal(&pair->sides[0], &pair->sides[1]))
        return true;
    for (unsigned side = 0; side < 2; side++) {
        const VsTreePlace place = {diff->chunk_counts[side], level, position};
        if (!vs_tree_load_node(diff->io, &place, &pair->sides[side], &nodes[side], error))
            return false;
    }
    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        uint64_t slot = (position << VS_TREE_FANOUT_BITS) + i;
        const Pair children = {{nodes[0].children[i], nodes[1].children[i]}};
        if (vs_digest_equal(&children.sides[0], &children.sides[1]))
            continue;
        if (level == 0
                ? !diff->visit(slot, &children.sides[0], &children.sides[1], diff->user_data, error)
                : !diff_nodes(diff, &children, level - 1, slot, error))
            return false;
    }
    return true;
}

// Of trees with different heights, the lower one is under the first child, and so on, of the higher
// one, whose other children stand against zeroes.
static bool
diff_heights(const Diff *diff, const Pair *pair, unsigned level, unsigned lower_height,
             GError **error)
{
    unsigned high = diff->chunk_counts[0] > diff->chunk_counts[1] ? 0 : 1;
    VsTreeNode node;

    if (level < lower_height)
        return diff_nodes(diff, pair, level, 0, error);
    const VsTreePlace place = {diff->chunk_counts[high], level, 0};
    if (!vs_tree_load_node(diff->io, &place, &pair->sides[high], &node, error))
        return false;
    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        Pair children = {{VS_DIGEST_ZERO, VS_DIGEST_ZERO}};
        children.sides[high] = node.children[i];
        if (i == 0)
            children.sides[1 - high] = pair->sides[1 - high];
        if (i == 0 ? !diff_heights(diff, &children, level - 1, lower_height, error)
                   : !diff_nodes(diff, &children, level - 1, i, error))
            return false;
    }
    return true;
}

bool
vs_tree_diff(const VsTreeIo *io, const VsTree *a, const VsTree *b, VsTreeDiffFunc visit,
             gpointer user_data, GError **error)
{
    const Diff diff = {io, {a->chunk_count, b->chunk_count}, visit, user_data};
    const Pair roots = {{a->root, b->root}};
    unsigned heights[2] = {vs_tree_height(a->chunk_count), vs_tree_height(b->chunk_count)};

    return diff_heights(&diff, &roots, MAX(heights[0], heights[1]) - 1, MIN(heights[0], heights[1]),
                        error);
}

// cursor ----------------------------------------------------------------------------------------

struct _VsTreeCursor {
    VsTreeIo io;
    VsTree tree;
    unsigned height;
    unsigned open; // levels height - 1 … height - open hold the last path
    uint64_t positions[VS_TREE_MAX_HEIGHT];
    VsTreeNode nodes[VS_TREE_MAX_HEIGHT];
};

VsTreeCursor *
vs_tree_cursor_new(const VsTreeIo *io, const VsTree *tree)
{
    VsTreeCursor *cursor = g_new0(VsTreeCursor, 1);

    cursor->io = *io;
    cursor->tree = *tree;
    cursor->height = vs_tree_height(tree->chunk_count);
    return cursor;
}

void
vs_tree_cursor_free(VsTreeCursor *cursor)
{
    g_free(cursor);
}

bool
vs_tree_cursor_get(VsTreeCursor *cursor, uint64_t index, VsDigest *digest, GError **error)
{
    g_assert(index < cursor->tree.chunk_count);
    while (cursor->open > 0) {
        unsigned lowest = cursor->height - cursor->open;
        if (cursor->positions[lowest] == vs_tree_position(index, lowest))
            break;
        cursor->open--;
    }
    for (;;) {
        unsigned above = cursor->height - cursor->open; // the lowest open level, or the height
        *digest = cursor->open == 0
                      ? cursor->tree.root
                      : cursor->nodes[above].children[vs_tree_slot(index, above) % VS_TREE_FANOUT];
        if (above == 0 || vs_digest_is_zero(digest))
            return true;
        const VsTreePlace place = {cursor->tree.chunk_count, above - 1,
                                   vs_tree_position(index, above - 1)};
        if (!vs_tree_load_node(&cursor->io, &place, digest, &cursor->nodes[above - 1], error))
            return false;
        cursor->positions[above - 1] = place.position;
        cursor->open++;
    }
}
