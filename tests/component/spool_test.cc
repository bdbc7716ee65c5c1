// SPDX-License-Identifier: LGPL-2.1-or-later
// Records that wait on disk, told apart by what each byte of them is.
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <string>

#include "nbd-export/store/spool.h"
#include "plugin/hypervisor/scratch.h"
#include "tests/support/small-file-system.h"
#include "tests/support/temp-dir.h"

namespace
{

constexpr uint32_t kRecord = 2 * VS_SPOOL_ALIGNMENT;

// A file for a spool; -1 where the folder is not there.
int
OpenNameless(const std::string &folder)
{
    return open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

class Spool : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        buffer_ = static_cast<uint8_t *>(g_aligned_alloc(1, kRecord, VS_SPOOL_ALIGNMENT));
    }
    void
    TearDown() override
    {
        g_aligned_free(buffer_);
    }
    bool
    Put(VsSpool *spool, uint8_t content, uint64_t *number)
    {
        memset(buffer_, content, kRecord);
        return vs_spool_put(spool, buffer_, number);
    }
    void
    ExpectRecord(VsSpool *spool, uint64_t number, uint8_t content)
    {
        g_autoptr(GError) error = nullptr;
        memset(buffer_, 0xff, kRecord);
        ASSERT_TRUE(vs_spool_get(spool, number, buffer_, &error)) << error->message;
        EXPECT_EQ(buffer_[0], content);
        EXPECT_EQ(memcmp(buffer_, buffer_ + 1, kRecord - 1), 0);
    }
    support::TempDir dir_;
    uint8_t *buffer_ = nullptr;
};

TEST_F(Spool, GivesBackEachRecordInAnyOrder)
{
    g_autoptr(VsSpool) spool = vs_spool_new(OpenNameless(dir_.path()), kRecord, 0);
    uint64_t numbers[5];
    for (uint8_t i = 0; i < 5; i++)
        ASSERT_TRUE(Put(spool, i + 1, &numbers[i]));
    for (int i : {3, 0, 4, 1, 2})
        ExpectRecord(spool, numbers[i], static_cast<uint8_t>(i + 1));
}

TEST_F(Spool, ARecordThatHasBeenGotMakesRoom)
{
    g_autoptr(VsSpool) spool = vs_spool_new(OpenNameless(dir_.path()), kRecord, 3 * kRecord);
    uint64_t numbers[3], another;
    for (uint8_t i = 0; i < 3; i++)
        ASSERT_TRUE(Put(spool, i + 1, &numbers[i]));
    EXPECT_FALSE(Put(spool, 9, &another));
    ExpectRecord(spool, numbers[1], 2);
    EXPECT_TRUE(Put(spool, 4, &another));
    ExpectRecord(spool, another, 4);
    ExpectRecord(spool, numbers[0], 1);
    ExpectRecord(spool, numbers[2], 3);
}

TEST_F(Spool, ItsFileHasNoNameInItsFolder)
{
    g_autoptr(VsSpool) spool = vs_spool_new(vs_scratch_open(dir_.path().c_str()), kRecord, 0);
    uint64_t number;
    ASSERT_TRUE(Put(spool, 1, &number));
    ExpectRecord(spool, number, 1);
    EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
}

TEST_F(Spool, WithoutAFileKeepsNothing)
{
    g_autoptr(VsSpool) spool = vs_spool_new(-1, kRecord, 0);
    uint64_t number;
    EXPECT_FALSE(Put(spool, 1, &number));
    EXPECT_FALSE(Put(spool, 1, &number));
}

// It must not take what a guest's scratch space beside it may need.
TEST_F(Spool, LeavesHalfOfWhatIsFree)
{
    constexpr uint32_t kMiB = 1u << 20;
    const support::SmallFileSystem small(dir_.file("small"), "200m");
    g_autoptr(VsSpool) spool = vs_spool_new(OpenNameless(small.path()), kMiB, 0);
    auto *data = static_cast<uint8_t *>(g_aligned_alloc0(1, kMiB, VS_SPOOL_ALIGNMENT));
    uint64_t number;
    unsigned count = 0;
    while (count < 200 && vs_spool_put(spool, data, &number))
        count++;
    EXPECT_GE(count, 60u);
    EXPECT_LE(count, 100u);
    g_aligned_free(data);
}

} // namespace
