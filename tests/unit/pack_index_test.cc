// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "nbd-export/store/pack-index-writer.h"
#include "tests/support/faulty_object_store.h"

namespace
{

using support::FaultyObjectStore;

struct Unref {
    void
    operator()(VsPackIndex *index) const
    {
        vs_pack_index_unref(index);
    }
};
using Index = std::unique_ptr<VsPackIndex, Unref>;

VsIndexEntry
RandomEntry(std::mt19937_64 &random, unsigned packs)
{
    VsIndexEntry entry = {};
    for (uint8_t &byte : entry.entry.digest.bytes) {
        byte = static_cast<uint8_t>(random());
    }
    entry.pack.bytes[0] = static_cast<uint8_t>(random() % packs);
    entry.entry.offset = 80 + random() % 1000000;
    entry.entry.raw_length = static_cast<uint32_t>(1 + random() % VS_PACK_MAX_RAW_BYTES);
    entry.entry.stored_length = entry.entry.raw_length;
    entry.entry.type = VS_OBJECT_CHUNK;
    return entry;
}

bool
Less(const VsIndexEntry &a, const VsIndexEntry &b)
{
    return vs_index_entry_compare(&a, &b) < 0;
}

struct VectorSource {
    const std::vector<VsIndexEntry> *entries;
    size_t next;
};

bool
NextOfVector(gpointer user_data, VsIndexEntry *entry, bool *end, GError **)
{
    auto *source = static_cast<VectorSource *>(user_data);
    *end = source->next == source->entries->size();
    if (!*end) {
        *entry = (*source->entries)[source->next++];
    }
    return true;
}

// Writes a segment that covers the packs 0 to packs - 1.
Index
Write(FaultyObjectStore *objects, std::vector<VsIndexEntry> entries, unsigned packs)
{
    std::sort(entries.begin(), entries.end(), Less);
    GArray *ids = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    for (unsigned i = 0; i < packs; i++) {
        VsPackId id = {{static_cast<uint8_t>(i)}};
        g_array_append_val(ids, id);
    }
    VectorSource source = {&entries, 0};
    GError *error = nullptr;
    Index index(vs_pack_index_write(objects->store(), ids, NextOfVector, &source, &error));
    EXPECT_EQ(error, nullptr) << error->message;
    g_array_unref(ids);
    return index;
}

std::vector<VsIndexEntry>
Find(VsPackIndex *index, const VsDigest &digest)
{
    VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES];
    unsigned count = 0;
    GError *error = nullptr;
    EXPECT_TRUE(vs_pack_index_find(index, &digest, found, &count, &error)) << error->message;
    g_clear_error(&error);
    return std::vector<VsIndexEntry>(found, found + count);
}

bool
Same(const VsIndexEntry &a, const VsIndexEntry &b)
{
    uint8_t left[VS_PACK_INDEX_ENTRY_BYTES];
    uint8_t right[VS_PACK_INDEX_ENTRY_BYTES];
    vs_index_entry_encode(&a, left);
    vs_index_entry_encode(&b, right);
    return memcmp(left, right, sizeof left) == 0;
}

void
ExpectFound(VsPackIndex *index, const std::vector<VsIndexEntry> &entries)
{
    for (const VsIndexEntry &entry : entries) {
        std::vector<VsIndexEntry> found = Find(index, entry.entry.digest);
        bool is_among = std::any_of(found.begin(), found.end(),
                                    [&entry](const VsIndexEntry &one) { return Same(one, entry); });
        ASSERT_TRUE(is_among) << "of " << entries.size();
    }
}

TEST(IndexEntry, ComesBackAsItWas)
{
    std::mt19937_64 random(1);
    for (int i = 0; i < 1000; i++) {
        VsIndexEntry entry = RandomEntry(random, 256);
        uint8_t bytes[VS_PACK_INDEX_ENTRY_BYTES];
        vs_index_entry_encode(&entry, bytes);
        VsIndexEntry read;
        ASSERT_TRUE(vs_index_entry_decode(bytes, &read));
        EXPECT_EQ(vs_index_entry_compare(&entry, &read), 0);
        EXPECT_TRUE(Same(entry, read));
        bytes[62] = 1;
        EXPECT_FALSE(vs_index_entry_decode(bytes, &read)) << "reserved";
    }
}

TEST(PackIndex, FindsWhatIsInItAndNothingElse)
{
    // The last one is too large to be held in memory.
    for (size_t count : {size_t{0}, size_t{1}, size_t{63}, size_t{5000}, size_t{90000}}) {
        std::mt19937_64 random(count);
        FaultyObjectStore objects;
        std::vector<VsIndexEntry> entries;
        for (size_t i = 0; i < count; i++) {
            entries.push_back(RandomEntry(random, 7));
        }
        Index index = Write(&objects, entries, 7);
        ASSERT_EQ(vs_pack_index_count(index.get()), count);
        ExpectFound(index.get(), entries);
        for (int i = 0; i < 1000; i++) {
            EXPECT_TRUE(Find(index.get(), RandomEntry(random, 7).entry.digest).empty());
        }
    }
}

TEST(PackIndex, FindsAllPlacesOfADigestInSkewedSets)
{
    // Digests that are not evenly distributed: the interpolation's guesses are wrong, what is found
    // is not.
    for (size_t count : {size_t{300}, size_t{80000}}) {
        std::mt19937_64 random(count);
        FaultyObjectStore objects;
        std::vector<VsIndexEntry> entries;
        for (size_t i = 0; i < count; i++) {
            VsIndexEntry entry = RandomEntry(random, 5);
            memset(entry.entry.digest.bytes, i % 2 == 0 ? 0x00 : 0xff, 20);
            entries.push_back(entry);
            for (uint8_t pack = 10; i % 1000 == 0 && pack < 15; pack++) {
                entry.pack.bytes[0] = pack;
                entries.push_back(entry);
            }
        }
        Index index = Write(&objects, entries, 16);
        for (size_t i = 0; i < entries.size(); i += 37) {
            ExpectFound(index.get(), {entries[i]});
        }
        EXPECT_EQ(Find(index.get(), entries[0].entry.digest).size(), 6u);
    }
}

TEST(PackIndex, MergesToWhatItsInputsHold)
{
    std::mt19937_64 random(11);
    FaultyObjectStore objects;
    std::vector<VsIndexEntry> all;
    std::vector<Index> inputs;
    GPtrArray *pointers = g_ptr_array_new();
    for (size_t count : {size_t{0}, size_t{1}, size_t{2500}, size_t{70000}}) {
        std::vector<VsIndexEntry> entries;
        for (size_t i = 0; i < count; i++) {
            entries.push_back(i % 10 == 0 && !all.empty() ? all[random() % all.size()]
                                                          : RandomEntry(random, 4));
        }
        inputs.push_back(Write(&objects, entries, 4));
        g_ptr_array_add(pointers, inputs.back().get());
        all.insert(all.end(), entries.begin(), entries.end());
    }
    VsPackIndex *damaged = nullptr;
    Index merged(vs_pack_index_merge(objects.store(), pointers, nullptr, &damaged, nullptr));
    ASSERT_TRUE(merged);
    ExpectFound(merged.get(), all);
    std::sort(all.begin(), all.end(), Less);
    all.erase(std::unique(all.begin(), all.end(), Same), all.end());
    EXPECT_EQ(vs_pack_index_count(merged.get()), all.size()) << "each once";

    GHashTable *keep = vs_pack_id_set_new();
    VsPackId kept = {{2}};
    vs_pack_id_set_add(keep, &kept);
    Index filtered(vs_pack_index_merge(objects.store(), pointers, keep, &damaged, nullptr));
    ASSERT_TRUE(filtered);
    for (const VsIndexEntry &entry : all) {
        EXPECT_EQ(Find(filtered.get(), entry.entry.digest).size(),
                  entry.pack.bytes[0] == 2 ? 1u : 0u);
    }
    GArray *packs = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    EXPECT_TRUE(vs_pack_index_read_packs(filtered.get(), packs, nullptr));
    EXPECT_EQ(packs->len, 1u);
    g_array_unref(packs);
    g_hash_table_unref(keep);
    g_ptr_array_unref(pointers);
}

TEST(PackIndex, NeverTellsAWrongPlaceOfASmallDamagedSegment)
{
    std::mt19937_64 random(12);
    FaultyObjectStore objects;
    std::vector<VsIndexEntry> entries;
    for (int i = 0; i < 20; i++) {
        entries.push_back(RandomEntry(random, 3));
    }
    Index index = Write(&objects, entries, 3);
    std::string name = vs_pack_index_name(index.get());
    std::string good = objects.Objects().at("index/" + name);
    unsigned refused = 0;
    for (size_t at = 0; at < good.size(); at++) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 0x10);
        objects.SetObject("index/" + name, bad);
        Index damaged(vs_pack_index_open(objects.store(), name.c_str(), nullptr));
        VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES];
        unsigned count = 0;
        bool is_read = damaged && vs_pack_index_find(damaged.get(), &entries[0].entry.digest, found,
                                                     &count, nullptr);
        refused += !is_read;
        // What precedes the entries is for those who look at a file by hand.
        EXPECT_EQ(is_read, at < VS_PACK_INDEX_HEADER_BYTES) << at;
    }
    EXPECT_EQ(refused, good.size() - VS_PACK_INDEX_HEADER_BYTES);
    for (size_t length = 0; length < good.size(); length += 5) {
        objects.SetObject("index/" + name, good.substr(0, length));
        EXPECT_FALSE(Index(vs_pack_index_open(objects.store(), name.c_str(), nullptr))) << length;
    }
}

TEST(PackIndex, SaysWhichInputOfAMergeIsDamaged)
{
    std::mt19937_64 random(13);
    FaultyObjectStore objects;
    GPtrArray *pointers = g_ptr_array_new();
    std::vector<Index> inputs;
    for (int i = 0; i < 3; i++) {
        inputs.push_back(Write(&objects, {RandomEntry(random, 3), RandomEntry(random, 3)}, 3));
        g_ptr_array_add(pointers, inputs.back().get());
    }
    std::string name = std::string("index/") + vs_pack_index_name(inputs[1].get());
    std::string bad = objects.Objects().at(name);
    bad[VS_PACK_INDEX_HEADER_BYTES + 5] ^= 1;
    objects.SetObject(name, bad);
    VsPackIndex *damaged = nullptr;
    GError *error = nullptr;
    EXPECT_EQ(vs_pack_index_merge(objects.store(), pointers, nullptr, &damaged, &error), nullptr);
    EXPECT_EQ(damaged, inputs[1].get());
    EXPECT_TRUE(g_error_matches(error, VS_PACK_INDEX_ERROR, VS_PACK_INDEX_ERROR_CORRUPT));
    g_error_free(error);
    EXPECT_EQ(objects.Objects().size(), 3u) << "nothing is left of the failed merge";
    g_ptr_array_unref(pointers);
}

} // namespace
