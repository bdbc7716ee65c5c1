// SPDX-License-Identifier: LGPL-2.1-or-later
// The chunk store against a plain map, with faults and damage under it.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "nbd-export/store/chunk-store.h"
#include "tests/support/faulty_object_store.h"

namespace
{

using support::Fault;
using support::FaultyObjectStore;

struct FreeStore {
    void
    operator()(VsChunkStore *store) const
    {
        vs_chunk_store_free(store);
    }
};
using Store = std::unique_ptr<VsChunkStore, FreeStore>;

struct FreeCodec {
    void
    operator()(VsCodec *codec) const
    {
        vs_codec_free(codec);
    }
};
using Codec = std::unique_ptr<VsCodec, FreeCodec>;

Codec
NewCodec()
{
    return Codec(vs_codec_new(VS_CODEC_ZSTD_LEVEL));
}

struct DigestLess {
    bool
    operator()(const VsDigest &a, const VsDigest &b) const
    {
        return vs_digest_compare(&a, &b) < 0;
    }
};
using Model = std::map<VsDigest, std::string, DigestLess>;

Store
Open(FaultyObjectStore *objects)
{
    GError *error = nullptr;
    Store store(vs_chunk_store_open(objects->store(), &error));
    g_clear_error(&error);
    return store;
}

// Content of that number: some compressible, some not, some large.
std::string
ContentOf(uint64_t number)
{
    std::mt19937_64 random(number);
    std::string content(1 + random() % 3000, 0);
    for (char &byte : content) {
        byte = static_cast<char>(number % 2 == 0 ? random() : 'a' + random() % 3);
    }
    return content;
}

bool
Put(VsChunkStore *store, VsCodec *codec, const std::string &content, VsDigest *digest,
    uint64_t *added = nullptr)
{
    uint64_t ignored = 0;
    GError *error = nullptr;
    bool done = vs_chunk_store_put(store, codec, VS_OBJECT_CHUNK, content.data(), content.size(),
                                   digest, added == nullptr ? &ignored : added, &error);
    EXPECT_EQ(done, error == nullptr);
    g_clear_error(&error);
    return done;
}

// -1: read as it must be; else the error's code. Wrong bytes fail the test.
int
Get(VsChunkStore *store, VsCodec *codec, const VsDigest &digest, const std::string &content)
{
    std::string read(content.size(), '?');
    GError *error = nullptr;
    if (vs_chunk_store_get(store, codec, VS_OBJECT_CHUNK, &digest, &read[0], read.size(), &error)) {
        EXPECT_EQ(read, content);
        return -1;
    }
    int code = error->domain == VS_CHUNK_STORE_ERROR ? error->code : 100;
    g_error_free(error);
    return code;
}

bool
Flush(VsChunkStore *store)
{
    GError *error = nullptr;
    bool done = vs_chunk_store_flush(store, &error);
    EXPECT_EQ(done, error == nullptr);
    g_clear_error(&error);
    return done;
}

void
ExpectAll(VsChunkStore *store, const Model &model)
{
    Codec codec = NewCodec();
    for (const auto &object : model) {
        ASSERT_EQ(Get(store, codec.get(), object.first, object.second), -1);
    }
}

// Puts count objects from number first on and flushes.
Model
Fill(FaultyObjectStore *objects, uint64_t first, uint64_t count)
{
    Store store = Open(objects);
    Codec codec = NewCodec();
    Model model;
    for (uint64_t i = first; i < first + count; i++) {
        VsDigest digest;
        std::string content = ContentOf(i);
        EXPECT_TRUE(Put(store.get(), codec.get(), content, &digest));
        model[digest] = content;
    }
    EXPECT_TRUE(Flush(store.get()));
    return model;
}

bool
KeepListed(const VsDigest *digest, gpointer user_data)
{
    return static_cast<const Model *>(user_data)->count(*digest) > 0;
}

bool
Compact(VsChunkStore *store, const Model &keep, VsCompactResult *result)
{
    GError *error = nullptr;
    bool done =
        vs_chunk_store_compact(store, KeepListed, const_cast<Model *>(&keep), result, &error);
    EXPECT_EQ(done, error == nullptr);
    g_clear_error(&error);
    return done;
}

struct Damage {
    std::set<std::string> packs;
    Model objects;
};

void
NoteDamage(const VsDigest *digest, const char *pack, const char *, gpointer user_data)
{
    auto *damage = static_cast<Damage *>(user_data);
    damage->packs.insert(pack);
    if (digest != nullptr) {
        damage->objects[*digest] = "";
    }
}

Damage
Verify(VsChunkStore *store, uint64_t *objects = nullptr, double percent = 100)
{
    Damage damage;
    uint64_t count = 0;
    uint64_t bytes = 0;
    EXPECT_TRUE(
        vs_chunk_store_verify(store, percent, NoteDamage, &damage, &count, &bytes, nullptr));
    if (objects != nullptr) {
        *objects = count;
    }
    return damage;
}

std::vector<std::string>
NamesIn(FaultyObjectStore *objects, const std::string &folder)
{
    std::vector<std::string> names;
    for (const auto &object : objects->Objects()) {
        if (object.first.compare(0, folder.size() + 1, folder + "/") == 0) {
            names.push_back(object.first);
        }
    }
    return names;
}

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
    size_t length = 0;
    EXPECT_FALSE(vs_chunk_store_get(store.get(), codec.get(), VS_OBJECT_CHUNK, &digest, buffer,
                                    content.size() + 1, nullptr));
    EXPECT_FALSE(vs_chunk_store_get_upto(store.get(), codec.get(), VS_OBJECT_CHUNK, &digest, buffer,
                                         content.size() - 1, &length, nullptr));
    ASSERT_TRUE(vs_chunk_store_get_upto(store.get(), codec.get(), VS_OBJECT_CHUNK, &digest, buffer,
                                        sizeof buffer, &length, nullptr));
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
