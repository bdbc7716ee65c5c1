// SPDX-License-Identifier: LGPL-2.1-or-later
// Trees for tests: the oracle is a plain array of digests; nodes live in a map, which counts.
#ifndef TESTS_UNIT_TREE_FIXTURE_H
#define TESTS_UNIT_TREE_FIXTURE_H

#include "nbd-export/store/tree.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

using Array = std::vector<uint64_t>; // 0: a zero chunk, else the chunk's number

inline VsDigest
Digest(uint64_t number)
{
    VsDigest digest = VS_DIGEST_ZERO;
    if (number != 0)
        vs_digest_compute(&number, sizeof number, &digest);
    return digest;
}

inline std::string
Key(const VsDigest &digest)
{
    return std::string(reinterpret_cast<const char *>(digest.bytes), VS_DIGEST_BYTES);
}

// Nodes in memory; counts what is loaded and stored, and fails on demand.
class Nodes
{
  public:
    std::map<std::string, std::string> nodes;
    unsigned loads = 0, stores = 0;
    int fail_after = -1; // this many more calls succeed

    VsTreeIo
    io()
    {
        return {Load, Store, this};
    }

  private:
    bool
    Fails(GError **error)
    {
        if (fail_after < 0 || fail_after-- > 0)
            return false;
        fail_after = 0;
        g_set_error_literal(error, g_quark_from_static_string("test"), 7, "made to fail");
        return true;
    }
    static bool
    Load(gpointer self, const VsDigest *digest, unsigned level, VsTreeNode *node, GError **error)
    {
        auto nodes = static_cast<Nodes *>(self);
        EXPECT_FALSE(vs_digest_is_zero(digest));
        nodes->loads++;
        if (nodes->Fails(error))
            return false;
        const std::string &bytes = nodes->nodes.at(Key(*digest));
        return vs_tree_node_decode(bytes.data(), bytes.size(), level, node, error);
    }
    static bool
    Store(gpointer self, const void *bytes, size_t length, VsDigest *digest, GError **error)
    {
        auto nodes = static_cast<Nodes *>(self);
        nodes->stores++;
        if (nodes->Fails(error))
            return false;
        vs_digest_compute(bytes, length, digest);
        nodes->nodes[Key(*digest)] = std::string(static_cast<const char *>(bytes), length);
        return true;
    }
};

inline VsTree
Build(Nodes &nodes, const VsTree *base, uint64_t chunk_count,
      const std::map<uint64_t, uint64_t> &edits)
{
    VsTreeIo io = nodes.io();
    g_autoptr(VsTreeBuilder) builder = vs_tree_builder_new(&io, base, chunk_count);
    VsTree tree = {};
    for (auto [index, number] : edits) {
        VsDigest digest = Digest(number);
        EXPECT_TRUE(vs_tree_builder_set(builder, index, &digest, nullptr));
    }
    EXPECT_TRUE(vs_tree_builder_finish(builder, &tree, nullptr));
    return tree;
}

inline VsTree
FromScratch(Nodes &nodes, const Array &array)
{
    std::map<uint64_t, uint64_t> edits;
    for (size_t i = 0; i < array.size(); i++) {
        if (array[i] != 0)
            edits[i] = array[i];
    }
    return Build(nodes, nullptr, array.size(), edits);
}

inline std::map<uint64_t, std::string>
Walk(Nodes &nodes, const VsTree &tree, uint64_t first, uint64_t count)
{
    std::map<uint64_t, std::string> found;
    VsTreeIo io = nodes.io();
    VsTreeRange range = {first, count};
    auto visit = [](uint64_t index, const VsDigest *digest, gpointer data, GError **) {
        auto map = static_cast<std::map<uint64_t, std::string> *>(data);
        EXPECT_TRUE(map->empty() || map->rbegin()->first < index);
        (*map)[index] = Key(*digest);
        return true;
    };
    EXPECT_TRUE(vs_tree_walk(&io, &tree, &range, visit, &found, nullptr));
    return found;
}

inline std::map<uint64_t, std::string>
Expected(const Array &array, uint64_t first, uint64_t count)
{
    std::map<uint64_t, std::string> expected;
    for (uint64_t i = first; i < array.size() && i - first < count; i++) {
        if (array[i] != 0)
            expected[i] = Key(Digest(array[i]));
    }
    return expected;
}

using Difference = std::map<uint64_t, std::pair<std::string, std::string>>;

inline Difference
Diff(Nodes &nodes, const VsTree &a, const VsTree &b)
{
    Difference found;
    VsTreeIo io = nodes.io();
    auto visit = [](uint64_t index, const VsDigest *x, const VsDigest *y, gpointer data,
                    GError **) {
        auto map = static_cast<Difference *>(data);
        EXPECT_TRUE(map->empty() || map->rbegin()->first < index);
        (*map)[index] = {Key(*x), Key(*y)};
        return true;
    };
    EXPECT_TRUE(vs_tree_diff(&io, &a, &b, visit, &found, nullptr));
    return found;
}

class MerkleTree : public testing::Test
{
  protected:
    std::mt19937_64 random;
    Nodes nodes;

    void
    SetUp() override
    {
        const char *text = g_getenv("VIRTSNAP_TEST_SEED");
        uint64_t seed = text != nullptr ? g_ascii_strtoull(text, nullptr, 10) : g_random_int();
        random.seed(seed);
        RecordProperty("seed", std::to_string(seed));
        printf("VIRTSNAP_TEST_SEED=%" G_GUINT64_FORMAT "\n", seed);
    }
    uint64_t
    Below(uint64_t bound)
    {
        return random() % bound;
    }
    // Sizes around the powers of the fan-out are where the height changes.
    size_t
    Size()
    {
        static const size_t special[] = {1, 2, 63, 64, 65, 128, 4032, 4095, 4096, 4097, 8192};
        return Below(3) == 0 ? special[Below(std::size(special))] : 1 + Below(6000);
    }
    // Runs of equal kind, so that whole subtrees are zero or full.
    Array
    RandomArray(size_t size)
    {
        Array array(size);
        for (size_t i = 0; i < size;) {
            size_t run = 1 + Below(Below(2) == 0 ? 8 : 300);
            bool zero = Below(3) == 0;
            for (; run > 0 && i < size; run--, i++)
                array[i] = zero ? 0 : 1 + Below(1000);
        }
        return array;
    }
};

#endif
