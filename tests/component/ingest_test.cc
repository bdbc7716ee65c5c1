// SPDX-License-Identifier: LGPL-2.1-or-later
// From known parts of a disk to a tree, with the disk's bytes in memory as the oracle.
#include "tests/component/repository_fixture.h"

#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <random>
#include <sys/resource.h>

#include "nbd-export/store/idle-processor.h"
#include "nbd-export/store/ingest.h"
#include "tests/support/wait.h"

namespace
{

constexpr unsigned kWaitMs = 10000;

struct Part {
    uint64_t offset;
    std::string data; // all NUL: told as zeroes
};

// A file for a spool; -1 where the folder is not there.
int
OpenNameless(const std::string &folder)
{
    return open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

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
    Run(const VsTree *base, uint64_t size, const std::vector<Part> &parts, VsSpool *spool = nullptr)
    {
        VsIngestResult result = {};
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsIngest) ingest = vs_ingest_new(repository, base, size, 3);
        if (spool != nullptr) {
            vs_ingest_set_spool(ingest, spool);
            vs_ingest_add_spare(ingest);
        }
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
        EXPECT_EQ(vs_ingest_waiting_bytes(ingest), 0u);
        return result;
    }

    // Content of more spans than the pool has buffers, taken through a spool of at most so many
    // spans (0: any number) in a folder, after every other span has got parts that need the base.
    void
    ExpectExactThroughSpool(const std::string &folder, unsigned most_spans)
    {
        const uint64_t size = 3 * uint64_t{VS_INGEST_POOL_BYTES} + 700;
        std::string content = Noise(size, 8);
        VsIngestResult base = Run(nullptr, size, {{0, content}});
        std::vector<Part> parts;
        for (uint64_t at = 0; at + VS_SPAN_BYTES < size; at += VS_SPAN_BYTES) {
            parts.push_back({at + 3, Noise(5, static_cast<unsigned>(at + 1))});
            parts.push_back({at + kChunk, std::string(kChunk + 9, '\0')});
        }
        for (const Part &part : parts)
            content.replace(part.offset, part.data.size(), part.data);
        VsIngestResult next = Run(&base.tree, size, parts,
                                  vs_spool_new(OpenNameless(folder), VS_SPAN_BYTES,
                                               uint64_t{most_spans} * VS_SPAN_BYTES));
        EXPECT_TRUE(Read(next.tree, size) == content);
        VsIngestResult again = Run(&base.tree, size, parts);
        EXPECT_TRUE(vs_digest_equal(&again.tree.root, &next.tree.root));
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

TEST_F(Ingest, ASpoolChangesNothing)
{
    ExpectExactThroughSpool(temp.path(), 0);
}

TEST_F(Ingest, AFullSpoolIsWaitedFor)
{
    ExpectExactThroughSpool(temp.path(), 1);
    ExpectExactThroughSpool(temp.path(), 20);
}

TEST_F(Ingest, ASpoolThatCantBeMadeIsDoneWithout)
{
    ExpectExactThroughSpool(temp.file("none"), 0);
}

// The pool alone would have room for a third of it: nothing is stored before all is taken.
TEST_F(Ingest, WorkersWaitUntilAllIsTaken)
{
    const uint64_t size = 3 * uint64_t{VS_INGEST_POOL_BYTES};
    g_autoptr(GError) error = nullptr;
    g_autoptr(VsIngest) ingest = vs_ingest_new(repository, nullptr, size, 3);
    vs_ingest_set_spool(ingest, vs_spool_new(OpenNameless(temp.path()), VS_SPAN_BYTES, 0));
    for (uint64_t at = 0; at < size; at += VS_SPAN_BYTES) {
        VsSpan *span = vs_ingest_take(ingest, at, kWaitMs, &error);
        ASSERT_NE(span, nullptr);
        AddPart(span, {at, Noise(VS_SPAN_BYTES, static_cast<unsigned>(at))});
        vs_ingest_submit(ingest, span);
    }
    EXPECT_EQ(vs_ingest_waiting_bytes(ingest), size);
    EXPECT_EQ(ObjectBytes(), 0u);
    VsIngestResult result;
    EXPECT_TRUE(vs_ingest_finish(ingest, &result, &error));
    EXPECT_GT(result.new_bytes, size);
}

TEST(IdleProcessor, ALookHoldsForAWhile)
{
    VsIdleProcessor processor{};
    EXPECT_FALSE(vs_idle_processor_look(&processor));
    const int64_t at = processor.at_us;
    ASSERT_NE(at, 0);
    processor.is_spare = true; // whatever another look would find
    EXPECT_TRUE(vs_idle_processor_look(&processor));
    EXPECT_EQ(processor.at_us, at);
}

// The caller keeps its own: it has a guest waiting.
TEST_F(Ingest, OnlyWorkersRunAtLowerPriority)
{
    g_autoptr(GError) error = nullptr;
    g_autoptr(VsIngest) ingest = vs_ingest_new(repository, nullptr, size_, 3);
    vs_ingest_set_spool(ingest, vs_spool_new(OpenNameless(temp.path()), VS_SPAN_BYTES, 0));
    ASSERT_NE(vs_ingest_take(ingest, 0, kWaitMs, &error), nullptr);
    auto lowered = [] {
        unsigned count = 0;
        for (const auto &task : std::filesystem::directory_iterator("/proc/self/task"))
            count += getpriority(PRIO_PROCESS, std::stoul(task.path().filename())) == 10 ? 1 : 0;
        return count;
    };
    EXPECT_TRUE(support::wait_until(support::Milliseconds(10000), [&] { return lowered() == 3; }));
    EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 0);
}

TEST_F(Ingest, FailingFromOutsideEndsIt)
{
    const uint64_t size = 3 * uint64_t{VS_INGEST_POOL_BYTES};
    g_autoptr(GError) error = nullptr;
    g_autoptr(VsIngest) ingest = vs_ingest_new(repository, nullptr, size, 1);
    vs_ingest_set_spool(ingest, vs_spool_new(OpenNameless(temp.path()), VS_SPAN_BYTES, 0));
    VsSpan *span = vs_ingest_take(ingest, 0, kWaitMs, &error);
    ASSERT_NE(span, nullptr);
    AddPart(span, {0, Noise(VS_SPAN_BYTES, 1)});
    vs_ingest_submit(ingest, span);
    vs_ingest_fail(ingest, g_error_new(G_FILE_ERROR, G_FILE_ERROR_INTR, "enough"));
    EXPECT_EQ(vs_ingest_take(ingest, VS_SPAN_BYTES, kWaitMs, &error), nullptr);
    EXPECT_TRUE(g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_INTR));
    g_clear_error(&error);
    VsIngestResult result;
    EXPECT_FALSE(vs_ingest_finish(ingest, &result, &error));
    EXPECT_TRUE(g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_INTR));
}

} // namespace
