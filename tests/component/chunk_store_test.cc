// SPDX-License-Identifier: LGPL-2.1-or-later
// The chunk store against a plain map.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tests/component/chunk_store_fixture.h"

namespace
{

using namespace chunk_store_fixture;

TEST(ChunkStore, StoresEqualContentOnce)
{
    FaultyObjectStore objects;
    Codec codec = NewCodec();
    VsDigest digest;
    uint64_t added = 0;
    {
        Store store = Open(&objects);
        ASSERT_TRUE(Put(store.get(), codec.get(), "content", &digest, &added));
        EXPECT_GT(added, 0u);
        ASSERT_TRUE(Put(store.get(), codec.get(), "content", &digest, &added));
        EXPECT_EQ(added, 0u) << "in the same session";
        ASSERT_TRUE(Flush(store.get()));
        ASSERT_TRUE(Put(store.get(), codec.get(), "content", &digest, &added));
        EXPECT_EQ(added, 0u) << "after it was indexed";
    }
    Store store = Open(&objects);
    ASSERT_TRUE(Put(store.get(), codec.get(), "content", &digest, &added));
    EXPECT_EQ(added, 0u) << "in the next session";
    EXPECT_EQ(NamesIn(&objects, "packs").size(), 1u);
}

TEST(ChunkStore, DoesNoInputOrOutputWhereNothingChanged)
{
    FaultyObjectStore objects;
    Fill(&objects, 0, 20);
    Store store = Open(&objects);
    objects.Heal();
    ASSERT_TRUE(Flush(store.get()));
    EXPECT_EQ(objects.calls(), 0u);
}

TEST(ChunkStore, GivesObjectsBackBeforeTheyAreFlushed)
{
    FaultyObjectStore objects;
    Store store = Open(&objects);
    Codec codec = NewCodec();
    Model model;
    for (uint64_t i = 0; i < 50; i++) {
        VsDigest digest;
        ASSERT_TRUE(Put(store.get(), codec.get(), ContentOf(i), &digest));
        model[digest] = ContentOf(i);
        ASSERT_EQ(Get(store.get(), codec.get(), digest, ContentOf(i)), -1);
    }
    EXPECT_TRUE(NamesIn(&objects, "packs").empty());
    ExpectAll(store.get(), model);
}

TEST(ChunkStore, RefusesLengthsThatNoObjectHas)
{
    FaultyObjectStore objects;
    Store store = Open(&objects);
    Codec codec = NewCodec();
    VsDigest digest;
    EXPECT_FALSE(Put(store.get(), codec.get(), "", &digest));
    EXPECT_FALSE(Put(store.get(), codec.get(), std::string((4 << 20) + 1, 'x'), &digest));
    std::string content = "exactly so long";
    ASSERT_TRUE(Put(store.get(), codec.get(), content, &digest));
    char buffer[64];
    VsChunkAccess access = {store.get(), codec.get(), 0};
    EXPECT_FALSE(
        vs_chunk_store_get(&access, VS_OBJECT_CHUNK, &digest, buffer, content.size() + 1, nullptr));
    size_t length = content.size() - 1;
    EXPECT_FALSE(
        vs_chunk_store_get_upto(&access, VS_OBJECT_CHUNK, &digest, buffer, &length, nullptr));
    length = sizeof buffer;
    ASSERT_TRUE(
        vs_chunk_store_get_upto(&access, VS_OBJECT_CHUNK, &digest, buffer, &length, nullptr));
    EXPECT_EQ(std::string(buffer, length), content);
}

TEST(ChunkStore, SaysThatAnObjectIsMissing)
{
    FaultyObjectStore objects;
    Fill(&objects, 0, 5);
    Store store = Open(&objects);
    Codec codec = NewCodec();
    VsDigest digest = {{1, 2, 3}};
    EXPECT_EQ(Get(store.get(), codec.get(), digest, "abc"), VS_CHUNK_STORE_ERROR_MISSING);
    VsPackId pack;
    VsPackEntry entry;
    EXPECT_FALSE(vs_chunk_store_locate(store.get(), &digest, &pack, &entry, nullptr));
}

TEST(ChunkStore, HoldsWhatAMapHolds)
{
    const char *given = getenv("VIRTSNAP_TEST_SEED");
    unsigned seed = given != nullptr ? atoi(given) : std::random_device()();
    SCOPED_TRACE("VIRTSNAP_TEST_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    FaultyObjectStore objects;
    Store store = Open(&objects);
    Codec codec = NewCodec();
    Model flushed;
    Model put;
    for (int step = 0; step < 1500; step++) {
        unsigned dice = static_cast<unsigned>(random() % 100);
        if (dice < 85) {
            VsDigest digest;
            std::string content = ContentOf(random() % 600);
            ASSERT_TRUE(Put(store.get(), codec.get(), content, &digest));
            put[digest] = content;
        } else if (dice < 93) {
            ASSERT_TRUE(Flush(store.get()));
            flushed = put;
        } else if (dice < 97) {
            store = Open(&objects); // what was not flushed is dropped
            ASSERT_TRUE(store);
            put = flushed;
            ExpectAll(store.get(), put);
        } else {
            for (auto at = put.begin(); at != put.end();) {
                at = random() % 3 == 0 ? put.erase(at) : std::next(at);
            }
            VsCompactResult result;
            ASSERT_TRUE(Compact(store.get(), put, &result));
            flushed = put;
        }
    }
    ExpectAll(store.get(), put);
    EXPECT_TRUE(Verify(store.get()).packs.empty());
    EXPECT_LE(NamesIn(&objects, "index").size(), 8u);
}

TEST(ChunkStore, WritesFullPacksInTheBackground)
{
    FaultyObjectStore objects;
    Store store = Open(&objects);
    Codec codec = NewCodec();
    Model model;
    std::mt19937_64 random(4);
    for (int i = 0; i < 70; i++) { // 70 MiB that do not compress
        std::string content(1 << 20, 0);
        for (size_t at = 0; at < content.size(); at += 8) {
            uint64_t value = random();
            memcpy(&content[at], &value, 8);
        }
        VsDigest digest;
        ASSERT_TRUE(Put(store.get(), codec.get(), content, &digest));
        model[digest] = content;
    }
    EXPECT_GE(NamesIn(&objects, "packs").size(), 1u) << "before any flush";
    ExpectAll(store.get(), model);
    ASSERT_TRUE(Flush(store.get()));
    EXPECT_EQ(NamesIn(&objects, "packs").size(), 5u);
    ExpectAll(store.get(), model);
    store = Open(&objects);
    ExpectAll(store.get(), model);
}

TEST(ChunkStore, StoresOnceWhatFourThreadsPutAtOnce)
{
    FaultyObjectStore objects;
    Store store = Open(&objects);
    std::atomic<int> stored{0};
    std::atomic<int> failures{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            Codec codec = NewCodec();
            for (uint64_t i = 0; i < 400; i++) {
                std::string content = ContentOf(i);
                VsDigest digest;
                uint64_t added = 0;
                failures += !Put(store.get(), codec.get(), content, &digest, &added);
                stored += added > 0;
                failures += i % 7 == t && Get(store.get(), codec.get(), digest, content) != -1;
                failures += i % 97 == t && !Flush(store.get());
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(failures, 0);
    EXPECT_EQ(stored, 400);
    ASSERT_TRUE(Flush(store.get()));
    uint64_t count = 0;
    EXPECT_TRUE(Verify(Open(&objects).get(), &count).packs.empty());
    EXPECT_EQ(count, 400u);
}

TEST(ChunkStore, KeepsItsFewestSegmentsOverManySessions)
{
    FaultyObjectStore objects;
    Model all;
    for (uint64_t session = 0; session < 60; session++) {
        Model model = Fill(&objects, session * 10, 10);
        all.insert(model.begin(), model.end());
        ASSERT_LE(NamesIn(&objects, "index").size(), 8u);
    }
    ExpectAll(Open(&objects).get(), all);
    uint64_t added = 1;
    VsDigest digest;
    Store store = Open(&objects);
    Codec codec = NewCodec();
    for (uint64_t i = 0; i < 600; i++) {
        ASSERT_TRUE(Put(store.get(), codec.get(), ContentOf(i), &digest, &added));
        ASSERT_EQ(added, 0u) << i;
    }
}

// Maintenance ----------------------------------------------------------------------------------

TEST(ChunkStore, RewritesOnlyPacksThatAreMostlyDead)
{
    FaultyObjectStore objects;
    Model dead = Fill(&objects, 0, 20);
    Model half = Fill(&objects, 100, 20);
    Model whole = Fill(&objects, 200, 20);
    Model keep = whole;
    for (auto at = half.begin(); at != half.end(); std::advance(at, 2)) {
        keep.insert(*at);
    }
    Store store = Open(&objects);
    uint64_t before = 0;
    uint64_t after = 0;
    uint64_t packs = 0;
    ASSERT_TRUE(vs_chunk_store_size(store.get(), &before, &packs, nullptr));
    EXPECT_EQ(packs, 3u);
    VsCompactResult result;
    ASSERT_TRUE(Compact(store.get(), keep, &result));
    EXPECT_EQ(result.removed_packs, 1u);
    EXPECT_EQ(result.rewritten_packs, 1u);
    ASSERT_TRUE(vs_chunk_store_size(store.get(), &after, &packs, nullptr));
    EXPECT_EQ(packs, 2u);
    EXPECT_EQ(result.freed_bytes, before - after);
    EXPECT_EQ(NamesIn(&objects, "index").size(), 1u);
    ExpectAll(store.get(), keep);
}

TEST(ChunkStore, PutsManySmallPacksTogether)
{
    FaultyObjectStore objects;
    Model all;
    for (uint64_t session = 0; session < 20; session++) {
        Model model = Fill(&objects, session * 3, 3);
        all.insert(model.begin(), model.end());
    }
    VsCompactResult result;
    ASSERT_TRUE(Compact(Open(&objects).get(), all, &result));
    EXPECT_EQ(NamesIn(&objects, "packs").size(), 1u);
    ExpectAll(Open(&objects).get(), all);
}

// Writers that do not know of each other store the same twice, and a compaction that was killed has
// left what it had copied: whichever copies go, the next compaction finds nothing to do.
TEST(ChunkStore, OneCompactionIsEnough)
{
    const char *given = getenv("VIRTSNAP_TEST_SEED");
    unsigned first = given != nullptr ? atoi(given) : std::random_device()();
    for (unsigned seed = first; seed < first + 150; seed++) {
        SCOPED_TRACE("VIRTSNAP_TEST_SEED=" + std::to_string(seed));
        std::mt19937_64 random(seed);
        FaultyObjectStore objects;
        std::vector<Store> stores(1 + random() % 22);
        Codec codec = NewCodec();
        Model keep;
        for (Store &store : stores)
            store = Open(&objects);
        for (Store &store : stores) {
            for (uint64_t i = random() % 12; i < 12; i++) {
                VsDigest digest;
                std::string content = ContentOf(random() % 40);
                ASSERT_TRUE(Put(store.get(), codec.get(), content, &digest));
                if (random() % 2 == 0)
                    keep[digest] = content;
            }
        }
        for (Store &store : stores)
            ASSERT_TRUE(Flush(store.get()));
        VsCompactResult result;
        objects.FailAt(1 + random() % 25, Fault::kFromThenOn, support::kPut | support::kRemove);
        (void)Compact(Open(&objects).get(), keep, &result);
        objects.Heal();
        ASSERT_TRUE(Compact(Open(&objects).get(), keep, &result));
        auto packs = NamesIn(&objects, "packs");
        ASSERT_TRUE(Compact(Open(&objects).get(), keep, &result));
        EXPECT_EQ(result.removed_packs + result.rewritten_packs, 0u);
        EXPECT_EQ(result.freed_bytes, 0u);
        EXPECT_EQ(NamesIn(&objects, "packs"), packs);
        ExpectAll(Open(&objects).get(), keep);
        if (HasFailure())
            break;
    }
}

TEST(ChunkStore, VerifiesASample)
{
    FaultyObjectStore objects;
    Fill(&objects, 0, 400);
    uint64_t count = 0;
    Store store = Open(&objects);
    EXPECT_TRUE(Verify(store.get(), &count, 25).packs.empty());
    EXPECT_GT(count, 40u); // 100 on average; this far off it is never
    EXPECT_LT(count, 200u);
    Verify(store.get(), &count, 0);
    EXPECT_EQ(count, 0u);
}

} // namespace
