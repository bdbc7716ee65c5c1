// SPDX-License-Identifier: LGPL-2.1-or-later
// Bytes as a node, of the level that their second byte says: what is taken has this one coding.
// Then as every node of a tree, which a walk must leave again: each node leads to the same one, a
// level down.
#include "nbd-export/store/tree.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

#define MAX_NODES 5000u // of a walk; a full tree has more than can be visited

typedef struct {
    const uint8_t *data;
    size_t length;
    unsigned loaded;
} Input;

static bool
load(gpointer self, const VsDigest *digest, unsigned level, VsTreeNode *node, GError **error)
{
    Input *input = self;
    uint8_t bytes[VS_TREE_NODE_MAX_BYTES];

    if (++input->loaded > MAX_NODES || input->length > sizeof bytes) {
        g_set_error_literal(error, VS_TREE_ERROR, VS_TREE_ERROR_CORRUPT, "enough");
        return false;
    }
    memcpy(bytes, input->data, input->length);
    if (input->length > 1)
        bytes[1] = (uint8_t)level;
    return vs_tree_node_decode(bytes, input->length, level, node, error);
}

static bool
visit(uint64_t index, const VsDigest *digest, gpointer user_data, GError **error)
{
    uint64_t *next = user_data;

    if (index < *next || vs_digest_is_zero(digest))
        abort();
    *next = index + 1;
    return true;
}

static void
walk(Input *input, uint64_t chunk_count)
{
    VsTreeIo io = {load, NULL, input};
    VsTree tree = {{{1}}, chunk_count};
    g_autoptr(GError) error = NULL;
    uint64_t next = 0;

    bool done = vs_tree_walk(&io, &tree, NULL, visit, &next, &error);
    if (done != (error == NULL) || next > chunk_count)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t counts[] = {1, 64, 65, 4096, 5000, UINT64_C(1) << 48, UINT64_MAX};
    unsigned level = size > 1 ? data[1] : 0;
    g_autoptr(GError) error = NULL;
    VsTreeNode node;

    bool taken = vs_tree_node_decode(data, size, level, &node, &error);
    if (taken != (error == NULL))
        abort();
    if (!taken)
        return 0;
    uint8_t bytes[VS_TREE_NODE_MAX_BYTES];
    if (vs_tree_node_encode(&node, bytes) != size || memcmp(bytes, data, size) != 0)
        abort();
    for (size_t i = 0; i < G_N_ELEMENTS(counts); i++) {
        Input input = {data, size, 0};
        walk(&input, counts[i]);
    }
    return 0;
}
