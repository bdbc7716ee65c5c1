// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/component/repository_fixture.h"

#include <glib/gstdio.h>

#include <cstring>
#include <random>

namespace
{

class SnapshotReader : public RepositoryTest
{
  protected:
    const Disk disk = {1, 0, 0, 2, 3, 1, 4};
    std::string content;
    VsSnapshotReader *reader = nullptr;

    // The disk ends within its last chunk.
    void
    SetUp() override
    {
        RepositoryTest::SetUp();
        for (uint32_t number : disk)
            content += ChunkOf(number);
        content.resize(content.size() - 1000);
        g_autoptr(VsManifest) manifest = Prepare(repository, "a", disk, 1);
        ASSERT_TRUE(vs_chunk_store_flush(vs_repository_chunks(repository), nullptr));
        VsTree tree = {manifest->root, disk.size()};
        reader = vs_snapshot_reader_new(repository, &tree, content.size());
    }
    void
    TearDown() override
    {
        vs_snapshot_reader_free(reader);
        RepositoryTest::TearDown();
    }
};

TEST_F(SnapshotReader, AnyRangeIsWhatWasStored)
{
    uint64_t seed = g_random_int();
    const char *text = g_getenv("VIRTSNAP_TEST_SEED");
    if (text != nullptr)
        seed = g_ascii_strtoull(text, nullptr, 10);
    printf("VIRTSNAP_TEST_SEED=%" G_GUINT64_FORMAT "\n", seed);
    std::mt19937_64 random(seed);
    for (int round = 0; round < 500; round++) {
        uint64_t offset = random() % (content.size() + 1);
        uint64_t length = random() % (content.size() - offset + 1);
        if (random() % 3 == 0)
            length = std::min<uint64_t>(length, 513);
        if (random() % 4 == 0) {
            offset -= offset % kChunk;
            length -= length % kChunk;
        }
        std::string data(length + 1, 'x');
        g_autoptr(GError) error = nullptr;
        ASSERT_TRUE(vs_snapshot_reader_read(reader, offset, &data[0], length, &error))
            << error->message;
        ASSERT_EQ(data[length], 'x');
        ASSERT_EQ(data.compare(0, length, content, offset, length), 0) << offset << "+" << length;
    }
}

TEST_F(SnapshotReader, ARangeBeyondTheEndIsRefused)
{
    const std::pair<uint64_t, uint64_t> ranges[] = {{content.size(), 1},
                                                    {content.size() - 1, 2},
                                                    {content.size() + 1, 0},
                                                    {UINT64_MAX, 2},
                                                    {1, UINT64_MAX}};
    for (auto [offset, length] : ranges) {
        char data[2];
        g_autoptr(GError) error = nullptr;
        EXPECT_FALSE(vs_snapshot_reader_read(reader, offset, data, length, &error));
        EXPECT_TRUE(
            g_error_matches(error, VS_SNAPSHOT_READER_ERROR, VS_SNAPSHOT_READER_ERROR_RANGE));
    }
    EXPECT_TRUE(vs_snapshot_reader_read(reader, content.size(), nullptr, 0, nullptr));
    std::string chunk(kChunk, 'x');
    bool is_zero;
    EXPECT_FALSE(vs_snapshot_reader_chunk(reader, disk.size(), &chunk[0], &is_zero, nullptr));
}

TEST_F(SnapshotReader, ZeroChunksAreToldAndNotWritten)
{
    for (size_t i = 0; i < disk.size(); i++) {
        std::string chunk(kChunk, 'x');
        bool is_zero = disk[i] != 0;
        ASSERT_TRUE(vs_snapshot_reader_chunk(reader, i, &chunk[0], &is_zero, nullptr));
        EXPECT_EQ(is_zero, disk[i] == 0);
        EXPECT_EQ(chunk, is_zero ? std::string(kChunk, 'x') : ChunkOf(disk[i]));
    }
}

TEST_F(SnapshotReader, SmallReadsOfOneChunkReadItOnce)
{
    DyingStore counting;
    g_autoptr(VsManifest) manifest = Prepare(repository, "a", disk, 1);
    g_autoptr(VsRepository) other =
        vs_repository_open_wrapped(path.c_str(), DyingStore::Wrap, &counting, nullptr);
    ASSERT_NE(other, nullptr);
    VsTree tree = {manifest->root, disk.size()};
    g_autoptr(VsSnapshotReader) small = vs_snapshot_reader_new(other, &tree, content.size());
    char sector[512];
    ASSERT_TRUE(vs_snapshot_reader_read(small, 0, sector, sizeof sector, nullptr));
    int calls = counting.calls;
    for (uint64_t offset = 0; offset < kChunk; offset += sizeof sector)
        ASSERT_TRUE(vs_snapshot_reader_read(small, offset, sector, sizeof sector, nullptr));
    EXPECT_EQ(counting.calls, calls);
    ASSERT_TRUE(vs_snapshot_reader_read(small, 3 * kChunk, sector, sizeof sector, nullptr));
    EXPECT_GT(counting.calls, calls);
}

TEST_F(SnapshotReader, ADamagedChunkIsAnErrorAndNeverData)
{
    for (const std::string &pack : Names("packs")) {
        // All of the pack's middle: its chunks do not compress.
        g_autofree char *data = nullptr;
        gsize length;
        std::string name = Object("packs/" + pack);
        ASSERT_TRUE(g_file_get_contents(name.c_str(), &data, &length, nullptr));
        data[kChunk / 2] ^= 1;
        FILE *file = g_fopen(name.c_str(), "r+"); // in place: the file may be open
        ASSERT_EQ(fwrite(data, 1, length, file), length);
        fclose(file);
    }
    int failed = 0;
    for (size_t i = 0; i < disk.size(); i++) {
        char byte;
        g_autoptr(GError) error = nullptr;
        uint64_t offset = i * kChunk + 7;
        if (!vs_snapshot_reader_read(reader, offset, &byte, 1, &error)) {
            failed++;
            EXPECT_NE(std::string(error->message).find(std::to_string(offset)), std::string::npos);
        } else {
            EXPECT_EQ(byte, content[offset]);
        }
    }
    EXPECT_GT(failed, 0);
}

} // namespace
