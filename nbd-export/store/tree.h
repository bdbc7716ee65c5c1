// SPDX-License-Identifier: LGPL-2.1-or-later
// A snapshot's Merkle tree over its chunks.
//
// Leaves (level 0 nodes) hold the digests of VS_TREE_FANOUT consecutive chunks, a node of level n
// the digests of as many nodes of level n−1. The height follows from the number of chunks alone, so
// that equal content has one root. Zero chunks and zero subtrees are VS_DIGEST_ZERO and not stored.
// A tree of one node level has height 1. A root of VS_DIGEST_ZERO is a disk of zeroes of any size.
//
// Pure but for VsTreeIo, through which nodes are loaded and stored. Errors of VsTreeIo are passed
// on. One thread at a time.
#pragma once

#include "nbd-export/store/digest.h"

G_BEGIN_DECLS

#define VS_TREE_ERROR (vs_tree_error_quark())
GQuark vs_tree_error_quark(void);

typedef enum {
    VS_TREE_ERROR_CORRUPT, // a node that can't be what its digest's place in the tree says
} VsTreeError;

#define VS_TREE_FANOUT 64u
#define VS_TREE_NODE_MAX_BYTES (16 + VS_TREE_FANOUT * VS_DIGEST_BYTES)
#define VS_TREE_MAX_HEIGHT 11 // 64^11 > 2^64

typedef struct {
    uint8_t level;
    VsDigest children[VS_TREE_FANOUT];
} VsTreeNode;

// Canonical coding of a node (FORMAT.md), integers little-endian:
//
//    0  u8   VS_TREE_NODE_MAGIC (another coding will have another first byte)
//    1  u8   level
//    2  u16  0
//    4  u32  0
//    8  u64  mask: bit i is set where child i is not VS_DIGEST_ZERO; never 0
//   16  32 bytes for each set bit, ascending; never all zero
//
// encode returns the length. A node without any child is never encoded. decode refuses everything
// that encode could not have written for that level (VS_TREE_ERROR_CORRUPT), so that a node has one
// coding and a coding one node. Any thread.
#define VS_TREE_NODE_MAGIC 0x54
size_t vs_tree_node_encode(const VsTreeNode *node, uint8_t bytes[VS_TREE_NODE_MAX_BYTES]);
bool vs_tree_node_decode(const void *bytes, size_t length, unsigned level, VsTreeNode *node,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    // Fills node with the node of that digest and level; never called for VS_DIGEST_ZERO.
    bool (*load)(gpointer self, const VsDigest *digest, unsigned level, VsTreeNode *node,
                 GError **error);
    // Stores the encoded node and gives its digest.
    bool (*store)(gpointer self, const void *bytes, size_t length, VsDigest *digest,
                  GError **error);
    gpointer self;
} VsTreeIo;

// A tree as its root, and the number of chunks of the disk it covers.
typedef struct {
    VsDigest root;
    uint64_t chunk_count;
} VsTree;

unsigned vs_tree_height(uint64_t chunk_count); // smallest h ≥ 1 with FANOUT^h ≥ chunk_count

// For those who walk by themselves: a node's place in a tree.
typedef struct {
    uint64_t chunk_count; // of the tree
    unsigned level;
    uint64_t position; // at its level: its first chunk's index / FANOUT^(level + 1)
} VsTreePlace;
VsTreePlace vs_tree_place_root(uint64_t chunk_count);
// The place of a node's child. Of a leaf's, only the position says something: the chunk's index.
VsTreePlace vs_tree_place_child(const VsTreePlace *place, unsigned child);

// Loads the node at a place: zeroes without any I/O for VS_DIGEST_ZERO; refuses a node of another
// level, or with children beyond the tree's end (VS_TREE_ERROR_CORRUPT).
bool vs_tree_load_node(const VsTreeIo *io, const VsTreePlace *place, const VsDigest *digest,
                       VsTreeNode *node, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Builds a tree from a base (NULL: zeroes) by setting chunks in ascending order (each once;
// anything else is a programming error). Memory: one node per level. The base may have another
// chunk count: what lies beyond the new one is dropped, what lies beyond the base's is zero until
// set. Subtrees in which nothing is set are neither loaded nor stored; after a failure the builder
// can only be freed. io and base are copied.
typedef struct _VsTreeBuilder VsTreeBuilder;
VsTreeBuilder *vs_tree_builder_new(const VsTreeIo *io, const VsTree *base, uint64_t chunk_count);
void vs_tree_builder_free(VsTreeBuilder *builder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsTreeBuilder, vs_tree_builder_free)
bool vs_tree_builder_set(VsTreeBuilder *builder, uint64_t index, const VsDigest *digest,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Ends building; *tree is the result.
bool vs_tree_builder_finish(VsTreeBuilder *builder, VsTree *tree,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Calls visit for each chunk within range (NULL: all; what is beyond the tree's end does not count)
// that is not zero, ascending; visit returns false with error to stop.
typedef struct {
    uint64_t first;
    uint64_t count;
} VsTreeRange;
typedef bool (*VsTreeVisitFunc)(uint64_t index, const VsDigest *digest, gpointer user_data,
                                GError **error);
bool vs_tree_walk(const VsTreeIo *io, const VsTree *tree, const VsTreeRange *range,
                  VsTreeVisitFunc visit, gpointer user_data,
                  GError **error) G_GNUC_WARN_UNUSED_RESULT;

// *index: the highest chunk below `below` (what is beyond the tree's end does not count) that is
// not zero; *found false where there is none. Loads two paths at most.
bool vs_tree_last(const VsTreeIo *io, const VsTree *tree, uint64_t below, bool *found,
                  uint64_t *index, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Calls enter for each node and chunk for each chunk that is reachable, but for VS_DIGEST_ZERO;
// enter tells whether the node is to be loaded and its children visited, so that shared subtrees
// are visited once by a caller that remembers (a node's digest covers its level). Order: parents
// first.
typedef struct {
    bool (*enter)(gpointer self, const VsDigest *node); // false: skip this subtree
    bool (*chunk)(gpointer self, const VsDigest *chunk, GError **error);
    gpointer self;
} VsTreeReach;
bool vs_tree_reach(const VsTreeIo *io, const VsTree *tree, const VsTreeReach *reach,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Calls visit for each chunk index at which the trees differ, ascending, with both digests; equal
// subtrees are not read. A chunk beyond one tree's end counts as zero there.
typedef bool (*VsTreeDiffFunc)(uint64_t index, const VsDigest *a, const VsDigest *b,
                               gpointer user_data, GError **error);
bool vs_tree_diff(const VsTreeIo *io, const VsTree *a, const VsTree *b, VsTreeDiffFunc visit,
                  gpointer user_data, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Digest of the chunk at index (< chunk_count). A cursor remembers the last path, so that ascending
// look-ups are cheap.
typedef struct _VsTreeCursor VsTreeCursor;
VsTreeCursor *vs_tree_cursor_new(const VsTreeIo *io, const VsTree *tree);
void vs_tree_cursor_free(VsTreeCursor *cursor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsTreeCursor, vs_tree_cursor_free)
bool vs_tree_cursor_get(VsTreeCursor *cursor, uint64_t index, VsDigest *digest,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
