// SPDX-License-Identifier: LGPL-2.1-or-later
// What the tree's files share. A slot is a child's number among all children at its level; a
// position is a node's number among all nodes at its level, so that a node's children are the
// FANOUT slots from position * FANOUT.
#pragma once

#include "nbd-export/store/tree.h"

#define VS_TREE_FANOUT_BITS 6u
G_STATIC_ASSERT(1u << VS_TREE_FANOUT_BITS == VS_TREE_FANOUT);

// The slot, at nodes of that level, that holds the chunk; level < VS_TREE_MAX_HEIGHT.
uint64_t vs_tree_slot(uint64_t index, unsigned level);
// The node of that level that holds the chunk.
uint64_t vs_tree_position(uint64_t index, unsigned level);
// Number of slots that a tree of that size has at that level.
uint64_t vs_tree_slots(uint64_t chunk_count, unsigned level);
// Clears the children beyond the tree's end; true where there were any.
bool vs_tree_node_crop(VsTreeNode *node, uint64_t position, uint64_t chunk_count);
