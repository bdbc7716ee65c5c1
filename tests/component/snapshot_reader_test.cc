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
    // The tree of any content, stored as an ingest does: no chunk of zeroes.
    VsTree
    Store(const std::string &sparse)
    {
        g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
        VsChunkAccess access = {vs_repository_chunks(repository), codec, 0};
        VsTreeIo io = vs_chunk_access_tree_io(&access);
        uint64_t count = (sparse.size() + kChunk - 1) / kChunk;
        g_autoptr(VsTreeBuilder) builder = vs_tree_builder_new(&io, nullptr, count);
        for (uint64_t i = 0; i < count; i++) {
            std::string chunk = sparse.substr(i * kChunk, kChunk);
            chunk.resize(kChunk);
            VsDigest digest;
            if (chunk.find_first_not_of('\0') == std::string::npos)
                continue;
            EXPECT_TRUE(vs_chunk_store_put(&access, VS_OBJECT_CHUNK, chunk.data(), chunk.size(),
                                           &digest, nullptr));
            EXPECT_TRUE(vs_tree_builder_set(builder, i, &digest, nullptr));
        }
        VsTree tree = {};
        EXPECT_TRUE(vs_tree_builder_finish(builder, &tree, nullptr));
        EXPECT_TRUE(vs_chunk_store_flush(vs_repository_chunks(repository), nullptr));
        return tree;
    }

    // What vs_snapshot_reader_last_content() says must be what looking at every byte says.
    static void
    ExpectLast(VsSnapshotReader *in, const std::string &content, uint64_t below)
    {
        size_t expected =
            below == 0 ? std::string::npos : content.find_last_not_of('\0', below - 1);
        bool found = expected == std::string::npos;
        uint64_t offset = 0;
        g_autoptr(GError) error = nullptr;
        ASSERT_TRUE(vs_snapshot_reader_last_content(in, below, &found, &offset, &error))
            << error->message;
        ASSERT_EQ(found, expected != std::string::npos) << "below " << below;
        if (found) {
            ASSERT_EQ(offset, expected) << "below " << below;
        }
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

TEST_F(SnapshotReader, LastContentIsWhatLookingAtEveryByteFinds)
{
    uint64_t seed = g_random_int();
    const char *text = g_getenv("VIRTSNAP_TEST_SEED");
    if (text != nullptr)
        seed = g_ascii_strtoull(text, nullptr, 10);
    printf("VIRTSNAP_TEST_SEED=%" G_GUINT64_FORMAT "\n", seed);
    std::mt19937_64 random(seed);
    for (int round = 0; round < 20; round++) {
        // More chunks than a node has; every other round ends within a chunk, and has bytes there.
        std::string sparse((1 + random() % 150) * kChunk - (round % 2 ? random() % kChunk : 0), 0);
        for (uint64_t piece = random() % 12; piece > 0; piece--) {
            uint64_t at = random() % sparse.size();
            uint64_t length = random() % 3 ? 1 + random() % 5 : random() % (2 * kChunk);
            for (uint64_t i = at; i < std::min<uint64_t>(at + length, sparse.size()); i++)
                sparse[i] = static_cast<char>(1 + random() % 255);
        }
        if (random() % 2)
            sparse.back() = 1;
        VsTree tree = Store(sparse);
        g_autoptr(VsSnapshotReader) other =
            vs_snapshot_reader_new(repository, &tree, sparse.size());
        for (uint64_t below : {UINT64_C(0), UINT64_C(1), uint64_t{sparse.size()}, UINT64_MAX})
            ASSERT_NO_FATAL_FAILURE(ExpectLast(other, sparse, below));
        for (int n = 0; n < 60; n++) {
            uint64_t below = random() % (sparse.size() + kChunk);
            if (n % 3 == 0) // at, or one beside, a chunk's border
                below = below / kChunk * kChunk + 1 - random() % 2;
            ASSERT_NO_FATAL_FAILURE(ExpectLast(other, sparse, below));
        }
        // Each found byte as the next bound, as the pull's check does.
        for (size_t at = sparse.size(); at != std::string::npos && at > 0;
             at = sparse.find_last_not_of('\0', at - 1))
            if (random() % 500 == 0) {
                ASSERT_NO_FATAL_FAILURE(ExpectLast(other, sparse, at));
            }
    }
}

TEST_F(SnapshotReader, AnEmptyDiskHasNoLastContent)
{
    for (uint64_t size : {UINT64_C(0), UINT64_C(512), UINT64_C(1) << 40}) {
        VsTree tree = {VS_DIGEST_ZERO, (size + kChunk - 1) / kChunk};
        g_autoptr(VsSnapshotReader) empty = vs_snapshot_reader_new(repository, &tree, size);
        bool found = true;
        uint64_t offset;
        ASSERT_TRUE(vs_snapshot_reader_last_content(empty, UINT64_MAX, &found, &offset, nullptr));
        EXPECT_FALSE(found);
    }
}

TEST_F(SnapshotReader, LastContentReadsOneChunkHoweverMuchIsBelow)
{
    DyingStore counting;
    std::string sparse(200 * kChunk, '\0');
    for (size_t i = 0; i < 100; i++)
        sparse.replace(i * kChunk, kChunk, ChunkOf(1000 + i));
    VsTree tree = Store(sparse);
    g_autoptr(VsRepository) other =
        vs_repository_open_wrapped(path.c_str(), DyingStore::Wrap, &counting, nullptr);
    ASSERT_NE(other, nullptr);
    g_autoptr(VsSnapshotReader) in = vs_snapshot_reader_new(other, &tree, sparse.size());
    int calls = counting.calls;
    ASSERT_NO_FATAL_FAILURE(ExpectLast(in, sparse, UINT64_MAX));
    EXPECT_LE(counting.calls - calls, 20); // nodes, the chunk, opening packs; not 100 chunks
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
    bool found;
    uint64_t offset;
    for (uint64_t below = content.size(); below > 0; below--) {
        g_autoptr(GError) error = nullptr;
        if (vs_snapshot_reader_last_content(reader, below, &found, &offset, &error)) {
            ASSERT_NO_FATAL_FAILURE(ExpectLast(reader, content, below));
            below = below > kChunk ? below - kChunk : 1;
            continue;
        }
        EXPECT_NE(std::string(error->message).find(std::to_string(below)), std::string::npos);
        return;
    }
    FAIL() << "no damaged chunk was met";
}

} // namespace
