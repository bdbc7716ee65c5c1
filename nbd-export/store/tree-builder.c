// SPDX-License-Identifier: LGPL-2.1-or-later
// Building a tree from another one.
//
// The nodes from the root down to the leaf last set are open: one per level. Moving on closes those
// that the next chunk is not under: a changed node is stored and its new digest put into its
// parent, an unchanged one is forgotten. As chunks come in ascending order no node is opened twice.
#include "nbd-export/store/tree-internal.h"

#include <string.h>

typedef struct {
    VsTreeNode node;
    uint64_t position;
    bool changed;
} OpenNode;

struct _VsTreeBuilder {
    VsTreeIo io;
    VsTree base;
    uint64_t chunk_count;
    unsigned height;
    uint64_t next_index;
    bool started;
    VsDigest root; // of the new height: the base's, until the root node is closed
    unsigned open; // levels height - 1 … height - open are open
    OpenNode nodes[VS_TREE_MAX_HEIGHT];
};

VsTreeBuilder *
vs_tree_builder_new(const VsTreeIo *io, const VsTree *base, uint64_t chunk_count)
{
    VsTreeBuilder *builder = g_new0(VsTreeBuilder, 1);

    builder->io = *io;
    if (base != NULL)
        builder->base = *base;
    builder->chunk_count = chunk_count;
    builder->height = vs_tree_height(chunk_count);
    return builder;
}

void
vs_tree_builder_free(VsTreeBuilder *builder)
{
    g_free(builder);
}

// A higher tree's nodes above the base's root: open and changed, so that closing them stores them.
static void
raise_base(VsTreeBuilder *builder, unsigned base_height)
{
    if (vs_digest_is_zero(&builder->base.root))
        return;
    for (unsigned level = builder->height - 1; level >= base_height; level--) {
        OpenNode *open = &builder->nodes[level];
        memset(open, 0, sizeof *open);
        open->node.level = (uint8_t)level;
        open->changed = true;
        builder->open++;
    }
    builder->nodes[base_height].node.children[0] = builder->base.root;
}

// The first node of the new height in a base that is higher.
static bool
lower_base(VsTreeBuilder *builder, unsigned base_height, GError **error)
{
    builder->root = builder->base.root;
    for (unsigned level = base_height - 1; level >= builder->height; level--) {
        const VsTreePlace place = {builder->base.chunk_count, level, 0};
        VsTreeNode node;
        if (!vs_tree_load_node(&builder->io, &place, &builder->root, &node, error))
            return false;
        builder->root = node.children[0];
    }
    return true;
}

static bool
start(VsTreeBuilder *builder, GError **error)
{
    unsigned base_height = vs_tree_height(builder->base.chunk_count);

    if (builder->started)
        return true;
    builder->started = true;
    if (base_height < builder->height) {
        raise_base(builder, base_height);
        return true;
    }
    return lower_base(builder, base_height, error);
}

static unsigned
lowest_open(const VsTreeBuilder *builder)
{
    return builder->height - builder->open;
}

// Where the digest of the node of that level and position stands.
static VsDigest *
digest_of(VsTreeBuilder *builder, unsigned level, uint64_t position)
{
    if (level == builder->height - 1)
        return &builder->root;
    return &builder->nodes[level + 1].node.children[position % VS_TREE_FANOUT];
}

static bool
is_empty(const VsTreeNode *node)
{
    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        if (!vs_digest_is_zero(&node->children[i]))
            return false;
    }
    return true;
}

static bool
close_lowest(VsTreeBuilder *builder, GError **error)
{
    unsigned level = lowest_open(builder);
    OpenNode *open = &builder->nodes[level];
    VsDigest digest = VS_DIGEST_ZERO;

    builder->open--;
    if (!open->changed)
        return true;
    if (!is_empty(&open->node)) {
        uint8_t bytes[VS_TREE_NODE_MAX_BYTES];
        size_t length = vs_tree_node_encode(&open->node, bytes);
        if (!builder->io.store(builder->io.self, bytes, length, &digest, error))
            return false;
    }
    VsDigest *place = digest_of(builder, level, open->position);
    if (vs_digest_equal(place, &digest))
        return true;
    *place = digest;
    if (builder->open > 0)
        builder->nodes[level + 1].changed = true;
    return true;
}

// Opens the next lower node above the chunk. A node of the base loses what lies beyond the new end.
static bool
open_next(VsTreeBuilder *builder, uint64_t index, GError **error)
{
    unsigned level = lowest_open(builder) - 1;
    OpenNode *open = &builder->nodes[level];

    open->position = vs_tree_position(index, level);
    const VsDigest *digest = digest_of(builder, level, open->position);
    const VsTreePlace place = {builder->base.chunk_count, level, open->position};
    if (!vs_tree_load_node(&builder->io, &place, digest, &open->node, error))
        return false;
    open->changed = vs_tree_node_crop(&open->node, open->position, builder->chunk_count);
    builder->open++;
    return true;
}

// Opens the nodes above a chunk down to that level.
static bool
open_path(VsTreeBuilder *builder, uint64_t index, unsigned level, GError **error)
{
    while (builder->open > 0) {
        unsigned lowest = lowest_open(builder);
        if (builder->nodes[lowest].position == vs_tree_position(index, lowest))
            break;
        if (!close_lowest(builder, error))
            return false;
    }
    while (lowest_open(builder) > level) {
        if (!open_next(builder, index, error))
            return false;
    }
    return true;
}

bool
vs_tree_builder_set(VsTreeBuilder *builder, uint64_t index, const VsDigest *digest, GError **error)
{
    g_assert(index >= builder->next_index && index < builder->chunk_count);
    builder->next_index = index + 1;
    if (!start(builder, error) || !open_path(builder, index, 0, error))
        return false;

    OpenNode *leaf = &builder->nodes[0];
    VsDigest *place = &leaf->node.children[index % VS_TREE_FANOUT];
    if (vs_digest_equal(place, digest))
        return true;
    *place = *digest;
    leaf->changed = true;
    return true;
}

// Nodes across the new end may hold what lies beyond it: opening them drops that. Below a level at
// which the end is a node's end there is nothing to drop.
static bool
crop_base(VsTreeBuilder *builder, GError **error)
{
    unsigned level = 0;

    if (builder->chunk_count >= builder->base.chunk_count)
        return true;
    while (level < builder->height - 1 &&
           vs_tree_slot(builder->chunk_count, level) % VS_TREE_FANOUT == 0)
        level++;
    return open_path(builder, builder->chunk_count - 1, level, error);
}

bool
vs_tree_builder_finish(VsTreeBuilder *builder, VsTree *tree, GError **error)
{
    tree->root = VS_DIGEST_ZERO;
    tree->chunk_count = builder->chunk_count;
    if (builder->chunk_count == 0)
        return true;
    if (!start(builder, error) || !crop_base(builder, error))
        return false;
    while (builder->open > 0) {
        if (!close_lowest(builder, error))
            return false;
    }
    tree->root = builder->root;
    return true;
}
