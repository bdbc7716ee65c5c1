// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "nbd-export/store/pack.h"

namespace
{

VsPackEntry
EntryOf(const std::string &content, VsObjectType type = VS_OBJECT_CHUNK)
{
    VsPackEntry entry = {};
    vs_digest_compute(content.data(), content.size(), &entry.digest);
    entry.stored_length = static_cast<uint32_t>(content.size());
    entry.raw_length = entry.stored_length;
    entry.type = static_cast<uint8_t>(type);
    entry.coding = VS_CODING_PLAIN;
    return entry;
}

bool
Equal(const VsPackEntry &a, const VsPackEntry &b)
{
    return vs_digest_equal(&a.digest, &b.digest) && a.offset == b.offset &&
           a.stored_length == b.stored_length && a.raw_length == b.raw_length && a.type == b.type &&
           a.coding == b.coding;
}

std::vector<VsPackEntry>
Take(GArray *array)
{
    std::vector<VsPackEntry> entries;
    for (guint i = 0; array != nullptr && i < array->len; i++) {
        entries.push_back(g_array_index(array, VsPackEntry, i));
    }
    if (array != nullptr) {
        g_array_unref(array);
    }
    return entries;
}

std::string
Finish(VsPackBuilder *builder)
{
    GBytes *bytes = vs_pack_builder_finish(builder);
    std::string pack(static_cast<const char *>(g_bytes_get_data(bytes, nullptr)),
                     g_bytes_get_size(bytes));
    g_bytes_unref(bytes);
    return pack;
}

// Reads a pack as a reader does, by its tail and its table. False: refused.
bool
Parse(const std::string &pack, std::vector<VsPackEntry> *entries)
{
    if (pack.size() < VS_PACK_TAIL_BYTES) {
        return false;
    }
    const char *tail = pack.data() + pack.size() - VS_PACK_TAIL_BYTES;
    VsPackId id;
    uint64_t offset = 0;
    uint64_t length = 0;
    if (!vs_pack_parse_tail(tail, pack.size(), &id, &offset, &length, nullptr)) {
        return false;
    }
    EXPECT_LE(offset + length, pack.size());
    // A copy of just that size, so that a sanitizer sees each byte read beyond.
    std::string table = pack.substr(offset, length);
    GArray *array = vs_pack_parse_table(table.data(), table.size(), tail, nullptr);
    if (array == nullptr) {
        return false;
    }
    *entries = Take(array);
    return true;
}

struct Built {
    std::string bytes;
    std::vector<VsPackEntry> entries;
    std::vector<std::string> contents;
};

Built
Build(VsPackBuilder *builder, unsigned seed, unsigned count)
{
    std::mt19937 random(seed);
    Built built;
    for (unsigned i = 0; i < count; i++) {
        std::string content(1 + random() % 40, static_cast<char>('a' + i % 26));
        content += std::to_string(i);
        VsPackEntry entry = EntryOf(content, i % 3 == 0 ? VS_OBJECT_NODE : VS_OBJECT_CHUNK);
        vs_pack_builder_add(builder, &entry, content.data());
        EXPECT_EQ(memcmp(vs_pack_builder_stored(builder, &entry), content.data(), content.size()),
                  0);
        built.entries.push_back(entry);
        built.contents.push_back(content);
    }
    built.bytes = Finish(builder);
    return built;
}

Built
BuildOne(unsigned seed, unsigned count)
{
    VsPackId id;
    vs_pack_id_random(&id);
    VsPackBuilder *builder = vs_pack_builder_new(&id);
    Built built = Build(builder, seed, count);
    vs_pack_builder_free(builder);
    return built;
}

void
ExpectEntries(const std::vector<VsPackEntry> &read, const Built &built, size_t count)
{
    ASSERT_EQ(read.size(), count);
    for (size_t i = 0; i < count; i++) {
        EXPECT_TRUE(Equal(read[i], built.entries[i])) << i;
        EXPECT_EQ(built.bytes.substr(read[i].offset, read[i].stored_length), built.contents[i]);
    }
}

TEST(Pack, TellsItsEntriesByItsTable)
{
    for (unsigned count : {0u, 1u, 2u, 100u}) {
        Built built = BuildOne(count + 1, count);
        std::vector<VsPackEntry> read;
        ASSERT_TRUE(Parse(built.bytes, &read)) << count;
        ExpectEntries(read, built, count);
    }
}

TEST(Pack, TellsItsEntriesByAScanWithoutItsTable)
{
    Built built = BuildOne(5, 50);
    size_t end = built.entries.back().offset + built.entries.back().stored_length;
    std::string records = built.bytes.substr(0, end);
    ExpectEntries(Take(vs_pack_scan(records.data(), records.size())), built, 50);
    // Nor is the table taken for more records.
    ExpectEntries(Take(vs_pack_scan(built.bytes.data(), built.bytes.size())), built, 50);
    // Cut anywhere, those are found that are whole.
    for (size_t length = 0; length < end; length += 13) {
        std::string cut = built.bytes.substr(0, length);
        size_t whole = 0;
        while (whole < 50 &&
               built.entries[whole].offset + built.entries[whole].stored_length <= length) {
            whole++;
        }
        ExpectEntries(Take(vs_pack_scan(cut.data(), cut.size())), built, whole);
    }
}

TEST(Pack, IsRefusedWithAnyBitOfTableOrTailFlipped)
{
    Built built = BuildOne(6, 5);
    size_t table = built.entries.back().offset + built.entries.back().stored_length;
    for (size_t at = table; at < built.bytes.size(); at++) {
        for (int bit = 0; bit < 8; bit++) {
            std::string damaged = built.bytes;
            damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
            std::vector<VsPackEntry> read;
            EXPECT_FALSE(Parse(damaged, &read)) << at - table << " bit " << bit;
        }
    }
}

TEST(Pack, IsRefusedCutOrLengthened)
{
    Built built = BuildOne(7, 5);
    std::vector<VsPackEntry> read;
    for (size_t length = 0; length < built.bytes.size(); length++) {
        EXPECT_FALSE(Parse(built.bytes.substr(0, length), &read)) << length;
        EXPECT_FALSE(Parse(built.bytes.substr(length + 1), &read)) << length;
    }
    EXPECT_FALSE(Parse(built.bytes + '\0', &read));
}

TEST(Pack, IsBuiltAfreshAfterAReset)
{
    VsPackId first;
    VsPackId second;
    vs_pack_id_random(&first);
    vs_pack_id_random(&second);
    VsPackBuilder *builder = vs_pack_builder_new(&first);
    Build(builder, 1, 300);
    vs_pack_builder_reset(builder, &second);
    EXPECT_EQ(vs_pack_builder_size(builder), size_t{VS_PACK_HEADER_BYTES});
    Built again = Build(builder, 2, 10);
    std::vector<VsPackEntry> read;
    ASSERT_TRUE(Parse(again.bytes, &read));
    ExpectEntries(read, again, 10);
    EXPECT_EQ(memcmp(again.bytes.data() + again.bytes.size() - 24, &second, sizeof second), 0);
    vs_pack_builder_free(builder);
}

TEST(Pack, TakesALastObjectOfTheLargestSizeAndIsFullThen)
{
    VsPackId id = {};
    VsPackBuilder *builder = vs_pack_builder_new(&id);
    std::string largest(VS_PACK_MAX_RAW_BYTES, 'x');
    VsPackEntry entry = EntryOf(largest);
    unsigned added = 0;
    while (!vs_pack_builder_is_full(builder)) {
        vs_pack_builder_add(builder, &entry, largest.data());
        added++;
    }
    EXPECT_EQ(added, 4u);
    std::vector<VsPackEntry> read;
    EXPECT_TRUE(Parse(Finish(builder), &read));
    EXPECT_EQ(read.size(), 4u);
    vs_pack_builder_free(builder);
}

TEST(Pack, IsFullOfTheSmallestObjectsAtItsLimit)
{
    VsPackId id = {};
    VsPackBuilder *builder = vs_pack_builder_new(&id);
    VsPackEntry entry = EntryOf("x");
    for (unsigned i = 0; i < VS_PACK_MAX_ENTRIES; i++) {
        ASSERT_FALSE(vs_pack_builder_is_full(builder)) << i;
        vs_pack_builder_add(builder, &entry, "x");
    }
    EXPECT_TRUE(vs_pack_builder_is_full(builder));
    std::vector<VsPackEntry> read;
    EXPECT_TRUE(Parse(Finish(builder), &read));
    EXPECT_EQ(read.size(), size_t{VS_PACK_MAX_ENTRIES});
    vs_pack_builder_free(builder);
}

TEST(PackRecord, IsRefusedWhereNoWriterMakesIt)
{
    VsPackEntry entry = EntryOf("content");
    uint8_t good[VS_PACK_RECORD_BYTES];
    vs_pack_encode_record(&entry, good);
    VsPackEntry read;
    ASSERT_TRUE(vs_pack_decode_record(good, &read));
    auto refused = [&good](size_t at, uint8_t value) {
        uint8_t bad[VS_PACK_RECORD_BYTES];
        memcpy(bad, good, sizeof bad);
        bad[at] = value;
        VsPackEntry ignored;
        return !vs_pack_decode_record(bad, &ignored);
    };
    EXPECT_TRUE(refused(0, 0)) << "type";
    EXPECT_TRUE(refused(0, 3)) << "type";
    EXPECT_TRUE(refused(1, 2)) << "coding";
    EXPECT_TRUE(refused(1, 1)) << "compressed, yet not smaller";
    for (size_t reserved : {2, 3, 12, 13, 14, 15}) {
        EXPECT_TRUE(refused(reserved, 1)) << reserved;
    }
    EXPECT_TRUE(refused(4, 6)) << "plain, of another length";
    EXPECT_TRUE(refused(7, 0x80)) << "huge";
    EXPECT_TRUE(refused(11, 0x80)) << "huge";
}

TEST(PackId, HasOneSpelling)
{
    VsPackId id;
    vs_pack_id_random(&id);
    char name[VS_PACK_NAME_BYTES];
    vs_pack_id_to_name(&id, name);
    VsPackId parsed;
    ASSERT_TRUE(vs_pack_id_from_name(name, &parsed));
    EXPECT_EQ(memcmp(&id, &parsed, sizeof id), 0);
    EXPECT_FALSE(vs_pack_id_from_name("", &parsed));
    EXPECT_FALSE(vs_pack_id_from_name(std::string(31, 'a').c_str(), &parsed));
    EXPECT_FALSE(vs_pack_id_from_name(std::string(33, 'a').c_str(), &parsed));
    EXPECT_FALSE(vs_pack_id_from_name(std::string(32, 'F').c_str(), &parsed));
    EXPECT_FALSE(vs_pack_id_from_name("../../../../../../../../etc/pass", &parsed));
}

} // namespace
