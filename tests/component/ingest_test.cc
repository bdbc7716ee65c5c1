// SPDX-License-Identifier: LGPL-2.1-or-later
// From known parts of a disk to a tree, with the disk's bytes in memory as the oracle.
#include "tests/component/repository_fixture.h"

#include <cstring>
#include <random>

#include "nbd-export/store/ingest.h"

namespace
{

constexpr unsigned kWaitMs = 10000;

struct Part {
    uint64_t offset;
    std::string data; // all NUL: told as zeroes
};

class Ingest : public RepositoryTest
{
  protected:
    // Pack files, but for the head and tail that each has.
    uint64_t
    ObjectBytes()
    {
        uint64_t bytes = 0;
        uint64_t packs = 0;
        VsChunkStore *chunks = vs_repository_chunks(repository);
        EXPECT_TRUE(vs_chunk_store_flush(chunks, nullptr));
        EXPECT_TRUE(vs_chunk_store_size(chunks, &bytes, &packs, nullptr));
        return bytes - packs * (VS_PACK_HEADER_BYTES + VS_PACK_TAIL_BYTES);
    }

    static void
    AddPart(VsSpan *span, const Part &part)
    {
        uint64_t from = MAX(part.offset, span->offset);
        uint64_t to = MIN(part.offset + part.data.size(), span->offset + span->length);
        if (from >= to)
            return;
        bool zero = part.data.find_first_not_of('\0') == std::string::npos;
        VsSpanPart known = {static_cast<uint32_t>(from - span->offset),
                            static_cast<uint32_t>(to - from), zero};
        if (!zero)
            memcpy(span->data + known.offset, &part.data[from - part.offset], to - from);
        g_array_append_val(span->parts, known);
    }

    // Ingests ascending parts, every span of the disk in its turn.
    VsIngestResult
    Run(const VsTree *base, uint64_t size, const std::vector<Part> &parts)
    {
        VsIngestResult result = {};
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsIngest) ingest = vs_ingest_new(repository, base, size, 3);
        for (uint64_t at = 0; at < size; at += vs_ingest_span_bytes(ingest)) {
            VsSpan *span = vs_ingest_take(ingest, at, kWaitMs, &error);
            if (span == nullptr) {
                ADD_FAILURE() << "no span at " << at;
                return result;
            }
            for (const Part &part : parts)
                AddPart(span, part);
            vs_ingest_submit(ingest, span);
        }
        EXPECT_TRUE(vs_ingest_finish(ingest, &result, &error));
        return result;
    }

    std::string
    Read(const VsTree &tree, uint64_t size)
    {
        std::string content(size, '?');
        g_autoptr(VsSnapshotReader) reader = vs_snapshot_reader_new(repository, &tree, size);
        EXPECT_TRUE(vs_snapshot_reader_read(reader, 0, &content[0], size, nullptr));
        return content;
    }

    static std::string
    Noise(size_t length, unsigned seed)
    {
        std::mt19937 random(seed);
        std::string noise(length, 0);
        for (char &byte : noise)
            byte = static_cast<char>(random());
        return noise;
    }

    // Eleven spans, the last of them a part of a chunk.
    const uint64_t size_ = 10 * uint64_t{VS_SPAN_BYTES} + 700;
};

TEST_F(Ingest, NewBytesAreWhatThePacksGrewBy)
{
    std::string content = Noise(size_, 1);
    VsIngestResult first = Run(nullptr, size_, {{0, content}});
    EXPECT_TRUE(Read(first.tree, size_) == content);
    EXPECT_GT(first.new_bytes, size_);
    EXPECT_EQ(first.new_bytes, ObjectBytes());

    VsIngestResult again = Run(&first.tree, size_, {{0, content}});
    EXPECT_TRUE(vs_digest_equal(&again.tree.root, &first.tree.root));
    EXPECT_EQ(again.new_bytes, 0u);
}

TEST_F(Ingest, WhatIsNotKnownComesFromTheBase)
{
    std::string content = Noise(size_, 2);
    VsIngestResult base = Run(nullptr, size_, {{0, content}});
    const std::vector<Part> parts = {
        {5, Noise(1, 3)},
        {kChunk - 1, Noise(2, 4)},
        {3 * kChunk + 100, std::string(50, '\0')},
        {VS_SPAN_BYTES - 10, Noise(kChunk + 20, 5)},
        {size_ - 3, Noise(3, 6)},
    };
    for (const Part &part : parts)
        content.replace(part.offset, part.data.size(), part.data);
    uint64_t before = ObjectBytes();
    VsIngestResult next = Run(&base.tree, size_, parts);
    EXPECT_TRUE(Read(next.tree, size_) == content);
    EXPECT_EQ(next.new_bytes, ObjectBytes() - before);
}

TEST_F(Ingest, ZeroesAreNotStored)
{
    VsIngestResult base = Run(nullptr, size_, {{0, Noise(size_, 7)}});
    uint64_t before = ObjectBytes();
    VsIngestResult zero = Run(&base.tree, size_, {{0, std::string(size_, '\0')}});
    EXPECT_TRUE(vs_digest_is_zero(&zero.tree.root));
    EXPECT_EQ(zero.new_bytes, 0u);
    EXPECT_EQ(ObjectBytes(), before);
}

TEST_F(Ingest, FailureOfAWorkerIsWhatFinishReturns)
{
    // The base's nodes are there, its first chunk is not.
    g_autoptr(GError) error = nullptr;
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    VsChunkAccess access = {vs_repository_chunks(repository), codec, 0};
    VsTreeIo io = vs_chunk_access_tree_io(&access);
    g_autoptr(VsTreeBuilder) builder =
        vs_tree_builder_new(&io, nullptr, vs_repository_chunk_count(repository, size_));
    VsDigest lost = {{1, 2, 3}};
    VsTree base;
    ASSERT_TRUE(vs_tree_builder_set(builder, 0, &lost, &error));
    ASSERT_TRUE(vs_tree_builder_finish(builder, &base, &error));

    VsIngestResult result;
    g_autoptr(VsIngest) ingest = vs_ingest_new(repository, &base, size_, 2);
    VsSpan *span = vs_ingest_take(ingest, 0, kWaitMs, &error);
    ASSERT_NE(span, nullptr);
    AddPart(span, {5, "part of a chunk whose base can't be read"});
    vs_ingest_submit(ingest, span);
    EXPECT_FALSE(vs_ingest_finish(ingest, &result, &error));
    EXPECT_TRUE(g_error_matches(error, VS_CHUNK_STORE_ERROR, VS_CHUNK_STORE_ERROR_MISSING));
}

} // namespace
