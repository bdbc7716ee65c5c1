// SPDX-License-Identifier: LGPL-2.1-or-later
// Two trees are the same if their roots are, so most properties compare a tree built by edits with
// one built from scratch.
#include "tests/unit/tree_fixture.h"

namespace
{

TEST_F(MerkleTree, HeightIsTheSmallestThatCoversTheChunks)
{
    EXPECT_EQ(vs_tree_height(0), 1u);
    EXPECT_EQ(vs_tree_height(1), 1u);
    EXPECT_EQ(vs_tree_height(64), 1u);
    EXPECT_EQ(vs_tree_height(65), 2u);
    EXPECT_EQ(vs_tree_height(4096), 2u);
    EXPECT_EQ(vs_tree_height(4097), 3u);
    EXPECT_EQ(vs_tree_height(UINT64_C(1) << 48), 8u);
    EXPECT_EQ(vs_tree_height((UINT64_C(1) << 60) + 1), 11u);
    EXPECT_EQ(vs_tree_height(UINT64_MAX), unsigned{VS_TREE_MAX_HEIGHT});
}

TEST_F(MerkleTree, NodeCodingIsTheDocumentedOne)
{
    VsTreeNode node = {};
    node.level = 3;
    memset(node.children[1].bytes, 0xaa, VS_DIGEST_BYTES);
    memset(node.children[63].bytes, 0xbb, VS_DIGEST_BYTES);
    uint8_t bytes[VS_TREE_NODE_MAX_BYTES];
    ASSERT_EQ(vs_tree_node_encode(&node, bytes), 16u + 64u);
    std::string expected("\x54\x03\0\0\0\0\0\0\x02\0\0\0\0\0\0\x80", 16);
    expected += std::string(32, '\xaa') + std::string(32, '\xbb');
    EXPECT_EQ(std::string(reinterpret_cast<char *>(bytes), 80), expected);
}

TEST_F(MerkleTree, NodeComesBackFromItsCoding)
{
    for (int round = 0; round < 200; round++) {
        VsTreeNode node = {}, back;
        node.level = static_cast<uint8_t>(Below(VS_TREE_MAX_HEIGHT));
        for (auto &child : node.children)
            child = Digest(Below(2) * random());
        node.children[Below(64)] = Digest(1);
        uint8_t bytes[VS_TREE_NODE_MAX_BYTES];
        size_t length = vs_tree_node_encode(&node, bytes);
        ASSERT_TRUE(vs_tree_node_decode(bytes, length, node.level, &back, nullptr));
        EXPECT_EQ(memcmp(&node, &back, sizeof node), 0);
    }
}

TEST_F(MerkleTree, NodeThatIsNotCanonicalIsRefused)
{
    VsTreeNode node = {};
    node.level = 1;
    node.children[0] = Digest(1);
    node.children[5] = Digest(2);
    uint8_t bytes[VS_TREE_NODE_MAX_BYTES + 1] = {};
    size_t good = vs_tree_node_encode(&node, bytes);
    auto refused = [&](std::function<void(std::string &)> damage, unsigned level = 1) {
        std::string copy(reinterpret_cast<char *>(bytes), good);
        damage(copy);
        g_autoptr(GError) error = nullptr;
        VsTreeNode out;
        return !vs_tree_node_decode(copy.data(), copy.size(), level, &out, &error) &&
               g_error_matches(error, VS_TREE_ERROR, VS_TREE_ERROR_CORRUPT);
    };
    EXPECT_FALSE(refused([](std::string &) {}));
    EXPECT_TRUE(refused([](std::string &) {}, 0));
    EXPECT_TRUE(refused([](std::string &s) { s[0] = 0x55; }));
    EXPECT_TRUE(refused([](std::string &s) { s[1] = 2; }));
    EXPECT_TRUE(refused([](std::string &s) { s[1] = 11; }, 11));
    for (int i = 2; i < 8; i++)
        EXPECT_TRUE(refused([i](std::string &s) { s[i] = 1; })) << i;
    EXPECT_TRUE(refused([](std::string &s) { s[8] = 0; }));
    EXPECT_TRUE(refused([](std::string &s) {
        memset(&s[8], 0, 8);
        s.resize(16);
    }));
    EXPECT_TRUE(refused([](std::string &s) { memset(&s[16], 0, 32); }));
    EXPECT_TRUE(refused([](std::string &s) { s += '\0'; }));
    EXPECT_TRUE(refused([](std::string &s) { s += std::string(32, 'x'); }));
    for (size_t length = 0; length < good; length++)
        EXPECT_TRUE(refused([length](std::string &s) { s.resize(length); })) << length;
}

TEST_F(MerkleTree, WalkFindsWhatWasSet)
{
    for (int round = 0; round < 20; round++) {
        Array array = RandomArray(Size());
        VsTree tree = FromScratch(nodes, array);
        EXPECT_EQ(Walk(nodes, tree, 0, UINT64_MAX), Expected(array, 0, array.size()));
        for (int range = 0; range < 10; range++) {
            uint64_t first = Below(array.size() + 10), count = Below(array.size() + 10);
            EXPECT_EQ(Walk(nodes, tree, first, count), Expected(array, first, count));
        }
    }
}

TEST_F(MerkleTree, LastFindsTheHighestChunkBelow)
{
    for (int round = 0; round < 30; round++) {
        Array array = RandomArray(Size());
        if (round % 10 == 0)
            array.assign(array.size(), 0);
        VsTree tree = FromScratch(nodes, array);
        VsTreeIo io = nodes.io();
        for (int n = 0; n < 200; n++) {
            uint64_t below = n == 0 ? UINT64_MAX : Below(array.size() + 3);
            uint64_t expected = std::min<uint64_t>(below, array.size());
            while (expected > 0 && array[expected - 1] == 0)
                expected--;
            bool found = expected == 0;
            uint64_t index = 0;
            ASSERT_TRUE(vs_tree_last(&io, &tree, below, &found, &index, nullptr));
            ASSERT_EQ(found, expected > 0) << "below " << below;
            if (found) {
                ASSERT_EQ(index, expected - 1) << "below " << below;
            }
        }
    }
}

TEST_F(MerkleTree, LastReadsTwoPathsAtMost)
{
    const uint64_t count = UINT64_C(1) << 48; // height 8
    const uint64_t high = UINT64_C(1) << 42;
    VsTree tree = Build(nodes, nullptr, count, {{5, 1}, {high, 2}, {high + 1, 3}});
    VsTreeIo io = nodes.io();
    auto last = [&](uint64_t below, unsigned loads) {
        bool found;
        uint64_t index = 0;
        nodes.loads = 0;
        EXPECT_TRUE(vs_tree_last(&io, &tree, below, &found, &index, nullptr));
        EXPECT_EQ(nodes.loads, loads);
        return found ? index : UINT64_MAX;
    };
    EXPECT_EQ(last(UINT64_MAX, 8), high + 1);
    EXPECT_EQ(last(high + 1, 8), high);
    EXPECT_EQ(last(high, 8), 5u);
    EXPECT_EQ(last(5, 8), UINT64_MAX);
    EXPECT_EQ(last(0, 0), UINT64_MAX);
    tree = Build(nodes, nullptr, count, {{5, 1}, {high + 1, 3}});
    EXPECT_EQ(last(high + 1, 15), 5u);
    tree = {VS_DIGEST_ZERO, count};
    EXPECT_EQ(last(count, 0), UINT64_MAX);
}

TEST_F(MerkleTree, LastPassesOnThatANodeCannotBeLoaded)
{
    VsTree tree = Build(nodes, nullptr, 5000, {{4000, 1}});
    VsTreeIo io = nodes.io();
    for (int good = 0; good < 3; good++) {
        g_autoptr(GError) error = nullptr;
        bool found;
        uint64_t index;
        nodes.fail_after = good;
        EXPECT_FALSE(vs_tree_last(&io, &tree, 5000, &found, &index, &error));
        EXPECT_TRUE(g_error_matches(error, g_quark_from_static_string("test"), 7));
    }
}

TEST_F(MerkleTree, EditingABaseGivesTheTreeBuiltFromScratch)
{
    for (int round = 0; round < 150; round++) {
        Array array = RandomArray(Size());
        VsTree base = FromScratch(nodes, array);
        size_t size = Below(3) == 0 ? array.size() : Size();
        array.resize(size);
        std::map<uint64_t, uint64_t> edits;
        for (uint64_t n = Below(4) * Below(60); n > 0; n--)
            edits[Below(size)] = Below(3) == 0 ? 0 : 1 + Below(1000);
        if (Below(4) == 0) {
            for (uint64_t i = Below(size), n = Below(500); n > 0 && i < size; n--, i++)
                edits[i] = 0;
        }
        for (auto [index, number] : edits)
            array[index] = number;
        VsTree edited = Build(nodes, &base, size, edits);
        VsTree scratch = FromScratch(nodes, array);
        ASSERT_EQ(Key(edited.root), Key(scratch.root))
            << "round " << round << ": " << base.chunk_count << " -> " << size;
        ASSERT_EQ(edited.chunk_count, size);
        ASSERT_EQ(Walk(nodes, edited, 0, size), Expected(array, 0, size));
    }
}

TEST_F(MerkleTree, NoEditsMeanTheBasesRootAndNoIo)
{
    VsTree base = FromScratch(nodes, RandomArray(5000));
    nodes.loads = nodes.stores = 0;
    EXPECT_EQ(Key(Build(nodes, &base, 5000, {}).root), Key(base.root));
    EXPECT_EQ(Key(Build(nodes, &base, 60000, {}).root), Key(base.root));
    EXPECT_EQ(nodes.loads + nodes.stores, 0u);
}

TEST_F(MerkleTree, SettingWhatIsThereStoresNothing)
{
    Array array = RandomArray(5000);
    VsTree base = FromScratch(nodes, array);
    std::map<uint64_t, uint64_t> edits;
    for (size_t i = 0; i < array.size(); i += 1 + Below(50))
        edits[i] = array[i];
    nodes.stores = 0;
    EXPECT_EQ(Key(Build(nodes, &base, 5000, edits).root), Key(base.root));
    EXPECT_EQ(nodes.stores, 0u);
}

TEST_F(MerkleTree, OneEditTouchesOnePath)
{
    Array array(64 * 64 * 64);
    for (size_t i = 0; i < array.size(); i++)
        array[i] = i + 1;
    VsTree base = FromScratch(nodes, array);
    nodes.loads = nodes.stores = 0;
    Build(nodes, &base, array.size(), {{100000, 1}});
    EXPECT_EQ(nodes.loads, 3u);
    EXPECT_EQ(nodes.stores, 3u);
}

TEST_F(MerkleTree, ClearingEverythingGivesTheZeroRoot)
{
    Array array = RandomArray(300);
    array[299] = 1;
    VsTree base = FromScratch(nodes, array);
    std::map<uint64_t, uint64_t> edits;
    for (uint64_t i = 0; i < 300; i++)
        edits[i] = 0;
    EXPECT_EQ(Key(Build(nodes, &base, 300, edits).root), Key(VS_DIGEST_ZERO));
    EXPECT_EQ(Key(Build(nodes, &base, 100000, edits).root), Key(VS_DIGEST_ZERO));
    EXPECT_EQ(Key(Build(nodes, &base, 0, {}).root), Key(VS_DIGEST_ZERO));
    EXPECT_EQ(Key(Build(nodes, nullptr, 0, {}).root), Key(VS_DIGEST_ZERO));
}

TEST_F(MerkleTree, AZeroBaseGrowsWithoutIo)
{
    VsTree base = {VS_DIGEST_ZERO, 10};
    EXPECT_EQ(Key(Build(nodes, &base, UINT64_C(1) << 48, {}).root), Key(VS_DIGEST_ZERO));
    EXPECT_EQ(nodes.loads + nodes.stores, 0u);
}

TEST_F(MerkleTree, ASparseDiskOfTwoToTheFortyEightChunksWorks)
{
    const uint64_t count = UINT64_C(1) << 48;
    std::map<uint64_t, uint64_t> edits = {{0, 1}, {count - 1, 2}};
    while (edits.size() < 500)
        edits[Below(count)] = 3 + Below(1000);
    VsTree tree = Build(nodes, nullptr, count, edits);
    auto found = Walk(nodes, tree, 0, count);
    EXPECT_EQ(found.size(), edits.size());
    VsTreeIo io = nodes.io();
    g_autoptr(VsTreeCursor) cursor = vs_tree_cursor_new(&io, &tree);
    for (auto [index, number] : edits) {
        VsDigest digest;
        EXPECT_EQ(found[index], Key(Digest(number)));
        ASSERT_TRUE(vs_tree_cursor_get(cursor, index, &digest, nullptr));
        EXPECT_EQ(Key(digest), Key(Digest(number)));
    }
    VsTree small = Build(nodes, &tree, 1, {});
    EXPECT_EQ(Key(small.root), Key(FromScratch(nodes, {1}).root));
    EXPECT_EQ(Diff(nodes, tree, small).size(), edits.size() - 1);
}

TEST_F(MerkleTree, TheLargestIndexWorks)
{
    VsTree tree = Build(nodes, nullptr, UINT64_MAX, {{0, 1}, {UINT64_MAX - 1, 2}});
    EXPECT_EQ(Walk(nodes, tree, 1, UINT64_MAX).count(UINT64_MAX - 1), 1u);
    EXPECT_EQ(Walk(nodes, tree, UINT64_MAX - 1, UINT64_MAX).size(), 1u);
    EXPECT_EQ(Walk(nodes, tree, UINT64_MAX, 1).size(), 0u);
}

TEST_F(MerkleTree, DiffFindsWhatDiffersInTreesOfAnySizes)
{
    for (int round = 0; round < 60; round++) {
        Array a = RandomArray(Size()), b = a;
        b.resize(Below(2) == 0 ? a.size() : Size());
        for (uint64_t n = Below(30); n > 0; n--)
            b[Below(b.size())] = Below(3);
        VsTree x = FromScratch(nodes, a), y = FromScratch(nodes, b);
        Difference expected;
        for (size_t i = 0; i < std::max(a.size(), b.size()); i++) {
            uint64_t left = i < a.size() ? a[i] : 0, right = i < b.size() ? b[i] : 0;
            if (left != right)
                expected[i] = {Key(Digest(left)), Key(Digest(right))};
        }
        ASSERT_EQ(Diff(nodes, x, y), expected) << a.size() << " and " << b.size();
    }
}

TEST_F(MerkleTree, DiffOfEqualTreesIsEmptyAndReadsNothing)
{
    VsTree tree = FromScratch(nodes, RandomArray(5000));
    nodes.loads = 0;
    EXPECT_TRUE(Diff(nodes, tree, tree).empty());
    EXPECT_EQ(nodes.loads, 0u);
}

TEST_F(MerkleTree, DiffReadsOnlyPathsThatDiffer)
{
    Array array(64 * 64 * 64, 0);
    for (size_t i = 0; i < array.size(); i++)
        array[i] = i + 1;
    VsTree base = FromScratch(nodes, array);
    VsTree edited = Build(nodes, &base, array.size(), {{70000, 1}});
    nodes.loads = 0;
    EXPECT_EQ(Diff(nodes, base, edited).size(), 1u);
    EXPECT_EQ(nodes.loads, 6u);
}

TEST_F(MerkleTree, CursorAgreesWithTheArrayInAnyOrder)
{
    for (int round = 0; round < 10; round++) {
        Array array = RandomArray(Size());
        VsTree tree = FromScratch(nodes, array);
        VsTreeIo io = nodes.io();
        g_autoptr(VsTreeCursor) cursor = vs_tree_cursor_new(&io, &tree);
        for (int n = 0; n < 500; n++) {
            uint64_t index = Below(array.size());
            VsDigest digest;
            ASSERT_TRUE(vs_tree_cursor_get(cursor, index, &digest, nullptr));
            ASSERT_EQ(Key(digest), Key(Digest(array[index])));
        }
    }
}

TEST_F(MerkleTree, AscendingCursorLoadsEachNodeOnce)
{
    Array array(64 * 64 + 1);
    for (size_t i = 0; i < array.size(); i++)
        array[i] = i + 1;
    VsTree tree = FromScratch(nodes, array);
    VsTreeIo io = nodes.io();
    nodes.loads = 0;
    g_autoptr(VsTreeCursor) cursor = vs_tree_cursor_new(&io, &tree);
    for (uint64_t i = 0; i < array.size(); i++) {
        VsDigest digest;
        ASSERT_TRUE(vs_tree_cursor_get(cursor, i, &digest, nullptr));
    }
    EXPECT_EQ(nodes.loads, 65u + 2u + 1u);
}

struct Reached {
    std::map<std::string, unsigned> entered;
    std::map<std::string, unsigned> chunks;
    bool everywhere = false;
};

bool
Reach(Nodes &nodes, const VsTree &tree, Reached &reached)
{
    VsTreeIo io = nodes.io();
    VsTreeReach reach = {};
    reach.enter = [](gpointer self, const VsDigest *node) {
        auto state = static_cast<Reached *>(self);
        return state->entered[Key(*node)]++ == 0 || state->everywhere;
    };
    reach.chunk = [](gpointer self, const VsDigest *chunk, GError **) {
        static_cast<Reached *>(self)->chunks[Key(*chunk)]++;
        return true;
    };
    reach.self = &reached;
    return vs_tree_reach(&io, &tree, &reach, nullptr);
}

TEST_F(MerkleTree, ReachVisitsAllNodesAndChunksOnceWhereTheCallerRemembers)
{
    Array a = RandomArray(5000), b = a;
    b[77] = 5001;
    VsTree x = FromScratch(nodes, a), y = FromScratch(nodes, b);
    nodes.loads = 0;
    Reached reached;
    ASSERT_TRUE(Reach(nodes, x, reached));
    unsigned first = nodes.loads;
    ASSERT_TRUE(Reach(nodes, y, reached));
    EXPECT_EQ(nodes.loads, first + 3);
    EXPECT_EQ(reached.entered.size(), nodes.nodes.size());
    std::map<std::string, unsigned> expected;
    for (uint64_t number : a) {
        if (number != 0)
            expected[Key(Digest(number))];
    }
    expected[Key(Digest(5001))];
    EXPECT_EQ(reached.chunks.size(), expected.size());
}

TEST_F(MerkleTree, ChildrenBeyondTheEndAreRefused)
{
    Array array(5000, 9);
    VsTree tree = FromScratch(nodes, array);
    VsTreeIo io = nodes.io();
    for (uint64_t lie : {uint64_t{4999}, uint64_t{4097}}) {
        VsTree cut = {tree.root, lie};
        g_autoptr(GError) error = nullptr;
        auto visit = [](uint64_t, const VsDigest *, gpointer, GError **) { return true; };
        EXPECT_FALSE(vs_tree_walk(&io, &cut, nullptr, visit, nullptr, &error));
        EXPECT_TRUE(g_error_matches(error, VS_TREE_ERROR, VS_TREE_ERROR_CORRUPT));
    }
}

TEST_F(MerkleTree, ANodeThatContainsItselfCannotMakeTheWalkDeeper)
{
    // Levels go down by one at each step, so a node can't stand below itself.
    VsTree tree = FromScratch(nodes, Array(65, 1));
    VsTree high = {tree.root, 5000};
    VsTreeIo io = nodes.io();
    g_autoptr(GError) error = nullptr;
    auto visit = [](uint64_t, const VsDigest *, gpointer, GError **) { return true; };
    EXPECT_FALSE(vs_tree_walk(&io, &high, nullptr, visit, nullptr, &error));
    EXPECT_TRUE(g_error_matches(error, VS_TREE_ERROR, VS_TREE_ERROR_CORRUPT));
}

TEST_F(MerkleTree, EveryFailureOfTheIoIsPassedOn)
{
    Array array = RandomArray(5000);
    array[4999] = 1;
    VsTree base = FromScratch(nodes, array);
    for (int after = 0;; after++) {
        VsTreeIo io = nodes.io();
        nodes.fail_after = after;
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsTreeBuilder) builder = vs_tree_builder_new(&io, &base, 4990);
        VsDigest digest = Digest(2000);
        VsTree tree;
        bool done = vs_tree_builder_set(builder, 5, &digest, &error) &&
                    vs_tree_builder_set(builder, 500, &digest, &error) &&
                    vs_tree_builder_finish(builder, &tree, &error);
        nodes.fail_after = -1;
        if (done) {
            EXPECT_GT(after, 8);
            break;
        }
        ASSERT_NE(error, nullptr);
        EXPECT_EQ(error->code, 7);
    }
}

TEST_F(MerkleTree, AVisitorCanStop)
{
    VsTree tree = FromScratch(nodes, Array(200, 1));
    VsTreeIo io = nodes.io();
    unsigned calls = 0;
    g_autoptr(GError) error = nullptr;
    auto stop = [](uint64_t, const VsDigest *, gpointer data, GError **err) {
        if (++*static_cast<unsigned *>(data) < 3)
            return true;
        g_set_error_literal(err, g_quark_from_static_string("test"), 7, "enough");
        return false;
    };
    EXPECT_FALSE(vs_tree_walk(&io, &tree, nullptr, stop, &calls, &error));
    EXPECT_EQ(calls, 3u);
    EXPECT_EQ(error->code, 7);
}

TEST_F(MerkleTree, SettingOutOfOrderIsAProgrammingError)
{
    VsTreeIo io = nodes.io();
    VsDigest digest = Digest(1);
    g_autoptr(VsTreeBuilder) builder = vs_tree_builder_new(&io, nullptr, 10);
    ASSERT_TRUE(vs_tree_builder_set(builder, 5, &digest, nullptr));
    EXPECT_DEATH(EXPECT_TRUE(vs_tree_builder_set(builder, 5, &digest, nullptr)), "");
    EXPECT_DEATH(EXPECT_TRUE(vs_tree_builder_set(builder, 10, &digest, nullptr)), "");
}

} // namespace
