// SPDX-License-Identifier: LGPL-2.1-or-later
// The chunk store on an object store that fails, or whose objects are damaged.
#include <gtest/gtest.h>

#include "nbd-export/store/pack-index-writer.h"
#include "tests/component/chunk_store_fixture.h"

namespace
{

using namespace chunk_store_fixture;

// Faults --------------------------------------------------------------------------------------

TEST(ChunkStore, LosesNothingFlushedWhateverCallFails)
{
    for (Fault fault : {Fault::kOnce, Fault::kFromThenOn, Fault::kAfterEffect, Fault::kNoSpace}) {
        bool struck = true;
        for (uint64_t nth = 1; struck; nth++) {
            FaultyObjectStore objects;
            Model before;
            for (uint64_t session = 0; session < 9; session++) { // the next one merges segments
                Model model = Fill(&objects, session * 3, 3);
                before.insert(model.begin(), model.end());
            }
            Model after = before;
            bool flushed = true;
            objects.FailAt(nth, fault);
            {
                Store store = Open(&objects);
                Codec codec = NewCodec();
                flushed = store != nullptr;
                for (uint64_t i = 20; flushed && i < 40; i++) {
                    VsDigest digest;
                    flushed = Put(store.get(), codec.get(), ContentOf(i), &digest);
                    after[digest] = ContentOf(i);
                }
                flushed = flushed && Flush(store.get());
            }
            struck = objects.struck();
            objects.Heal();
            Store store = Open(&objects);
            ASSERT_TRUE(store);
            ExpectAll(store.get(), flushed ? after : before);
            EXPECT_TRUE(Verify(store.get()).packs.empty());
        }
    }
}

TEST(ChunkStore, FailsForGoodAfterAPackCouldNotBeWritten)
{
    FaultyObjectStore objects;
    Store store = Open(&objects);
    Codec codec = NewCodec();
    VsDigest digest;
    ASSERT_TRUE(Put(store.get(), codec.get(), "one", &digest));
    objects.FailAt(1, Fault::kOnce, support::kPut);
    EXPECT_FALSE(Flush(store.get()));
    EXPECT_FALSE(Flush(store.get())) << "the failure is kept";
    EXPECT_FALSE(Put(store.get(), codec.get(), "two", &digest));
}

TEST(ChunkStore, KeepsWhatIsWantedWhereverCompactionIsKilled)
{
    for (Fault fault : {Fault::kFromThenOn, Fault::kAfterEffect, Fault::kNoSpace}) {
        bool struck = true;
        for (uint64_t nth = 1; struck; nth++) {
            FaultyObjectStore objects;
            Model keep;
            for (uint64_t session = 0; session < 4; session++) {
                Model model = Fill(&objects, session * 12, 12);
                unsigned number = 0;
                for (const auto &object : model) { // 0, 1/2, all, 1/4 of them
                    unsigned n = number++;
                    if (session == 2 || (session == 1 && n % 2 == 0) ||
                        (session == 3 && n % 4 == 0)) {
                        keep.insert(object);
                    }
                }
            }
            objects.FailAt(nth, fault, support::kPut | support::kRemove);
            VsCompactResult result;
            bool done = Compact(Open(&objects).get(), keep, &result);
            struck = objects.struck();
            EXPECT_NE(done, struck);
            objects.Heal();
            ExpectAll(Open(&objects).get(), keep);
            // The next one brings to an end what this one began, and nothing dead is left but the
            // few in mostly live packs.
            Store store = Open(&objects);
            ASSERT_TRUE(Compact(store.get(), keep, &result));
            ExpectAll(store.get(), keep);
            uint64_t count = 0;
            EXPECT_TRUE(Verify(store.get(), &count).packs.empty());
            EXPECT_EQ(count, keep.size());
            ASSERT_TRUE(Compact(store.get(), keep, &result));
            EXPECT_EQ(result.removed_packs + result.rewritten_packs, 0u);
        }
    }
}

TEST(ChunkStore, FreesDeadPacksOnAFullDisk)
{
    FaultyObjectStore objects;
    Model dead = Fill(&objects, 0, 30);
    Model keep = Fill(&objects, 100, 30);
    objects.FailAt(1, Fault::kNoSpace);
    VsCompactResult result;
    EXPECT_FALSE(Compact(Open(&objects).get(), keep, &result));
    EXPECT_EQ(result.removed_packs, 1u);
    EXPECT_EQ(NamesIn(&objects, "packs").size(), 1u);
    objects.Heal();
    ExpectAll(Open(&objects).get(), keep);
    // What the index still says of the removed pack is not believed.
    Store store = Open(&objects);
    Codec codec = NewCodec();
    VsDigest digest;
    uint64_t added = 0;
    ASSERT_TRUE(Put(store.get(), codec.get(), dead.begin()->second, &digest, &added));
    EXPECT_GT(added, 0u);
}

TEST(ChunkStore, ReadsOnWhileAnotherProcessCompacts)
{
    FaultyObjectStore objects;
    Model all = Fill(&objects, 0, 40);
    Store reader = Open(&objects);
    Codec codec = NewCodec();
    Model keep(all.begin(), std::next(all.begin(), 10));
    ASSERT_EQ(Get(reader.get(), codec.get(), keep.begin()->first, keep.begin()->second), -1);
    VsCompactResult result;
    ASSERT_TRUE(Compact(Open(&objects).get(), keep, &result));
    EXPECT_EQ(result.rewritten_packs, 1u);
    EXPECT_GT(result.freed_bytes, 0u);
    ExpectAll(reader.get(), keep);
    // And again: sooner than packs that no segment covers are listed anew, so it is the index that
    // tells.
    Model fewer(keep.begin(), std::next(keep.begin(), 3));
    ASSERT_TRUE(Compact(Open(&objects).get(), fewer, &result));
    EXPECT_EQ(result.rewritten_packs, 1u);
    ExpectAll(reader.get(), fewer);
}

// Damage --------------------------------------------------------------------------------------

TEST(ChunkStore, FindsEverythingWithoutItsIndex)
{
    for (int way = 0; way < 3; way++) {
        FaultyObjectStore objects;
        Model all;
        for (uint64_t session = 0; session < 4; session++) {
            Model model = Fill(&objects, session * 10, 10);
            all.insert(model.begin(), model.end());
        }
        for (const std::string &name : NamesIn(&objects, "index")) {
            std::string bad = objects.Objects().at(name);
            bad[80] ^= 4;
            objects.SetObject(name, way == 1 ? "garbage" : bad);
            if (way == 0) {
                objects.EraseObject(name);
            }
        }
        auto damaged = objects.Objects();
        ExpectAll(Open(&objects).get(), all);
        EXPECT_EQ(objects.Objects(), damaged) << "a reader writes nothing";
        Store store = Open(&objects);
        Codec codec = NewCodec();
        VsDigest digest;
        uint64_t added = 1;
        for (uint64_t i = 0; i < 40; i++) {
            ASSERT_TRUE(Put(store.get(), codec.get(), ContentOf(i), &digest, &added));
            EXPECT_EQ(added, 0u) << "way " << way << ": stored again";
        }
        ASSERT_EQ(NamesIn(&objects, "index").size(), 1u) << "made anew";
    }
}

TEST(ChunkStore, NeverReadsWrongBytesWithAnyByteOfAPackFlipped)
{
    FaultyObjectStore objects;
    Model all;
    {
        Store store = Open(&objects);
        Codec codec = NewCodec();
        for (std::string content : {ContentOf(1).substr(0, 600), ContentOf(2).substr(0, 150),
                                    ContentOf(3).substr(0, 300)}) {
            VsDigest digest;
            ASSERT_TRUE(Put(store.get(), codec.get(), content, &digest));
            all[digest] = content;
        }
        ASSERT_TRUE(Flush(store.get()));
    }
    std::string name = NamesIn(&objects, "packs").at(0);
    std::string good = objects.Objects().at(name);
    unsigned harmless = 0;
    for (size_t at = 0; at < good.size(); at++) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 0x40);
        objects.SetObject(name, bad);
        Store store = Open(&objects);
        Codec codec = NewCodec();
        unsigned lost = 0;
        for (const auto &object : all) {
            int code = Get(store.get(), codec.get(), object.first, object.second);
            EXPECT_TRUE(code == -1 || code == VS_CHUNK_STORE_ERROR_CORRUPT) << at;
            lost += code != -1;
        }
        EXPECT_LE(lost, 1u) << at;
        Damage damage = Verify(store.get());
        EXPECT_EQ(damage.objects.size(), lost) << at;
        EXPECT_LE(damage.packs.size(), 1u);
        harmless += damage.packs.empty();
    }
    // A zstd frame has a few bits that decide nothing: all objects decode to what they were.
    EXPECT_LE(harmless, 8u) << "of " << good.size();
}

TEST(ChunkStore, NamesTheDamagedObjectsOfAPackThatWasCut)
{
    FaultyObjectStore objects;
    Model all = Fill(&objects, 0, 10);
    std::string name = NamesIn(&objects, "packs").at(0);
    std::string good = objects.Objects().at(name);
    objects.SetObject(name, good.substr(0, good.size() / 2));
    Store store = Open(&objects);
    EXPECT_EQ(Verify(store.get()).packs.size(), 1u);
    Codec codec = NewCodec();
    unsigned found = 0;
    for (const auto &object : all) {
        found += Get(store.get(), codec.get(), object.first, object.second) == -1;
    }
    EXPECT_GT(found, 0u);
    EXPECT_LT(found, 10u);
    // Compaction does not delete what no one can tell is unwanted, and says so.
    VsCompactResult result;
    EXPECT_FALSE(Compact(store.get(), all, &result));
    EXPECT_EQ(objects.Objects().count(name), 1u);
}

TEST(ChunkStore, StoresAgainWhatAMissingPackHeld)
{
    FaultyObjectStore objects;
    Model all = Fill(&objects, 0, 10);
    objects.EraseObject(NamesIn(&objects, "packs").at(0));
    {
        Store store = Open(&objects);
        Codec codec = NewCodec();
        EXPECT_EQ(Get(store.get(), codec.get(), all.begin()->first, all.begin()->second),
                  VS_CHUNK_STORE_ERROR_MISSING);
    }
    Fill(&objects, 0, 10);
    ExpectAll(Open(&objects).get(), all);
}

TEST(ChunkStore, KeepsADamagedPackThatHoldsWhatIsWanted)
{
    FaultyObjectStore objects;
    Model all = Fill(&objects, 0, 10);
    std::string name = NamesIn(&objects, "packs").at(0);
    std::string bad = objects.Objects().at(name);
    VsPackId pack;
    VsPackEntry entry;
    ASSERT_TRUE(
        vs_chunk_store_locate(Open(&objects).get(), &all.begin()->first, &pack, &entry, nullptr));
    bad[entry.offset] ^= 1;
    objects.SetObject(name, bad);
    VsCompactResult result;
    Model keep = {*all.begin()};
    Store store = Open(&objects);
    EXPECT_FALSE(Compact(store.get(), keep, &result));
    EXPECT_EQ(objects.Objects().count(name), 1u);
    EXPECT_TRUE(Compact(store.get(), Model(), &result)) << "no one wants it: it may go";
    EXPECT_EQ(NamesIn(&objects, "packs").size(), 0u);
}

TEST(ChunkStore, BelievesAPackRatherThanTheIndexOnWhereAnObjectIs)
{
    FaultyObjectStore objects;
    Model all = Fill(&objects, 0, 2);
    VsIndexEntry wrong;
    ASSERT_TRUE(vs_chunk_store_locate(Open(&objects).get(), &all.begin()->first, &wrong.pack,
                                      &wrong.entry, nullptr));
    wrong.entry.offset++;
    objects.EraseObject(NamesIn(&objects, "index").at(0));
    // A segment that is sound in itself, so that nothing speaks against what it says.
    auto next = [](gpointer user_data, VsIndexEntry *entry, bool *end, GError **) {
        auto *left = static_cast<std::vector<VsIndexEntry> *>(user_data);
        *end = left->empty();
        if (!*end) {
            *entry = left->back();
            left->pop_back();
        }
        return true;
    };
    std::vector<VsIndexEntry> entries = {wrong};
    g_autoptr(GArray) packs = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    g_array_append_val(packs, wrong.pack);
    g_autoptr(VsPackIndex) segment =
        vs_pack_index_write(objects.store(), packs, next, &entries, nullptr);
    ASSERT_NE(segment, nullptr);
    ExpectAll(Open(&objects).get(), {*all.begin()});
}

} // namespace
