// SPDX-License-Identifier: LGPL-2.1-or-later
// The coding of a node, and where nodes are in a tree.
#include "nbd-export/store/tree-internal.h"

#include <string.h>

#define HEADER_BYTES 16u

GQuark
vs_tree_error_quark(void)
{
    return g_quark_from_static_string("vs-tree-error-quark");
}

size_t
vs_tree_node_encode(const VsTreeNode *node, uint8_t bytes[VS_TREE_NODE_MAX_BYTES])
{
    uint64_t mask = 0;
    size_t length = HEADER_BYTES;

    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        if (vs_digest_is_zero(&node->children[i]))
            continue;
        mask |= UINT64_C(1) << i;
        memcpy(bytes + length, node->children[i].bytes, VS_DIGEST_BYTES);
        length += VS_DIGEST_BYTES;
    }
    g_assert(mask != 0);
    memset(bytes, 0, HEADER_BYTES);
    bytes[0] = VS_TREE_NODE_MAGIC;
    bytes[1] = node->level;
    mask = GUINT64_TO_LE(mask);
    memcpy(bytes + 8, &mask, sizeof mask);
    return length;
}

static const char *
decode(const uint8_t *bytes, size_t length, unsigned level, VsTreeNode *node)
{
    static const uint8_t reserved[6] = {0};
    uint64_t mask;

    if (length < HEADER_BYTES)
        return "shorter than its header";
    if (bytes[0] != VS_TREE_NODE_MAGIC)
        return "not a node";
    if (bytes[1] != level || level >= VS_TREE_MAX_HEIGHT)
        return "of another level";
    if (memcmp(bytes + 2, reserved, sizeof reserved) != 0)
        return "reserved bytes are set";
    memcpy(&mask, bytes + 8, sizeof mask);
    mask = GUINT64_FROM_LE(mask);
    if (mask == 0)
        return "without children";
    node->level = (uint8_t)level;
    size_t offset = HEADER_BYTES;
    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        node->children[i] = VS_DIGEST_ZERO;
        if ((mask >> i & 1) == 0)
            continue;
        if (length - offset < VS_DIGEST_BYTES)
            return "shorter than its children";
        memcpy(node->children[i].bytes, bytes + offset, VS_DIGEST_BYTES);
        if (vs_digest_is_zero(&node->children[i]))
            return "a child that should not be there";
        offset += VS_DIGEST_BYTES;
    }
    return offset == length ? NULL : "longer than its children";
}

bool
vs_tree_node_decode(const void *bytes, size_t length, unsigned level, VsTreeNode *node,
                    GError **error)
{
    const char *cause = decode(bytes, length, level, node);

    if (cause == NULL)
        return true;
    g_set_error(error, VS_TREE_ERROR, VS_TREE_ERROR_CORRUPT,
                "cannot decode a tree node of level %u (%zu bytes): %s", level, length, cause);
    return false;
}

unsigned
vs_tree_height(uint64_t chunk_count)
{
    unsigned height = 1;

    while (vs_tree_slots(chunk_count, height) > 1)
        height++;
    return height;
}

uint64_t
vs_tree_slots(uint64_t chunk_count, unsigned level)
{
    if (chunk_count == 0)
        return 0;
    return level < VS_TREE_MAX_HEIGHT ? vs_tree_slot(chunk_count - 1, level) + 1 : 1;
}

uint64_t
vs_tree_slot(uint64_t index, unsigned level)
{
    return index >> (VS_TREE_FANOUT_BITS * level);
}

uint64_t
vs_tree_position(uint64_t index, unsigned level)
{
    return vs_tree_slot(index, level) >> VS_TREE_FANOUT_BITS;
}

bool
vs_tree_node_crop(VsTreeNode *node, uint64_t position, uint64_t chunk_count)
{
    uint64_t slots = vs_tree_slots(chunk_count, node->level);
    uint64_t first = position << VS_TREE_FANOUT_BITS;
    bool cropped = false;

    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        if (first + i < slots || vs_digest_is_zero(&node->children[i]))
            continue;
        node->children[i] = VS_DIGEST_ZERO;
        cropped = true;
    }
    return cropped;
}

VsTreePlace
vs_tree_place_root(uint64_t chunk_count)
{
    return (VsTreePlace){chunk_count, vs_tree_height(chunk_count) - 1, 0};
}

VsTreePlace
vs_tree_place_child(const VsTreePlace *place, unsigned child)
{
    return (VsTreePlace){place->chunk_count, place->level - 1,
                         (place->position << VS_TREE_FANOUT_BITS) + child};
}

bool
vs_tree_load_node(const VsTreeIo *io, const VsTreePlace *place, const VsDigest *digest,
                  VsTreeNode *node, GError **error)
{
    if (vs_digest_is_zero(digest)) {
        memset(node, 0, sizeof *node);
        node->level = (uint8_t)place->level;
        return true;
    }
    if (!io->load(io->self, digest, place->level, node, error))
        return false;
    if (node->level == place->level &&
        !vs_tree_node_crop(node, place->position, place->chunk_count))
        return true;

    char hex[VS_DIGEST_HEX_BYTES];
    vs_digest_to_hex(digest, hex);
    g_set_error(error, VS_TREE_ERROR, VS_TREE_ERROR_CORRUPT,
                "cannot use the tree node %s at level %u, position %" G_GUINT64_FORMAT
                ": it does not belong there",
                hex, place->level, place->position);
    return false;
}
