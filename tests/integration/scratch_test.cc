// SPDX-License-Identifier: LGPL-2.1-or-later
// Scratch space on file systems that have little of it.
#include <gio/gio.h>
#include <unistd.h>

#include "plugin/hypervisor/scratch.h"
#include "tests/integration/create_fixture.h"
#include "tests/support/gate.h"
#include "tests/support/small-file-system.h"

namespace
{

using support::SmallFileSystem;

constexpr uint64_t kMiB = 1 << 20;

class Scratch : public testing::Test
{
  protected:
    // Formatted for a disk of that size.
    VsScratch *
    make(const char *folder, uint64_t most_bytes, uint64_t disk_bytes)
    {
        VsScratch *scratch = vs_scratch_new(folder, most_bytes, nullptr);
        EXPECT_NE(scratch, nullptr);
        EXPECT_TRUE(vs_scratch_format(scratch, disk_bytes, nullptr));
        return scratch;
    }

    support::TempDir dir_;
};

TEST_F(Scratch, IsRefusedWhereAGuestCouldOvertakeUs)
{
    SmallFileSystem small(dir_.file("small"), "3m");
    g_autoptr(VsScratch) scratch = make(small.path(), 0, 64 * kMiB);
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_scratch_grow(scratch, &error));
    EXPECT_TRUE(g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE));
    EXPECT_NE(std::string(error->message).find(small.path()), std::string::npos);
    EXPECT_EQ(scratch->reserved_bytes, 0u);
}

TEST_F(Scratch, MayBeSmallWhereTheDiskIsOrItIsAskedFor)
{
    SmallFileSystem small(dir_.file("small"), "8m");
    g_autoptr(VsScratch) disk = make(small.path(), 0, 1 * kMiB);
    EXPECT_TRUE(vs_scratch_grow(disk, nullptr));
    g_autoptr(VsScratch) asked = make(small.path(), 1 * kMiB, 64 * kMiB);
    EXPECT_TRUE(vs_scratch_grow(asked, nullptr));
    EXPECT_EQ(asked->reserved_bytes, 1 * kMiB);
}

TEST_F(Scratch, ReservationKeepsUpWithWhatWasWrittenAtOnceUpToItsLimit)
{
    g_autoptr(VsScratch) scratch = make(dir_.path().c_str(), 512 * kMiB, 4096 * kMiB);
    ASSERT_TRUE(vs_scratch_grow(scratch, nullptr));
    ASSERT_TRUE(vs_scratch_keep_up(scratch, nullptr));
    EXPECT_EQ(scratch->reserved_bytes, 64 * kMiB);
    ASSERT_EQ(ftruncate(scratch->fd, 300 * kMiB), 0);
    ASSERT_TRUE(vs_scratch_keep_up(scratch, nullptr));
    EXPECT_GT(vs_scratch_threshold(scratch), 300 * kMiB);
    ASSERT_EQ(ftruncate(scratch->fd, 600 * kMiB), 0);
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_scratch_keep_up(scratch, &error));
    EXPECT_TRUE(g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE));
}

class ScratchOfAGuest : public create_fixture::CreateTest
{
};

TEST_F(ScratchOfAGuest, ThatIsTooSmallIsRefusedBeforeTheGuestNoticesAnything)
{
    SmallFileSystem small(dir_.file("small"), "3m");
    start();
    for (const std::string capture : {"live", "staged"}) {
        SCOPED_TRACE(capture);
        const support::Outcome refused =
            virtsnap_.run({"create", vm_, "--scratch-dir", small.path(), "--capture", capture});
        EXPECT_EQ(refused.exit_code, 1) << refused.err;
        EXPECT_NE(refused.err.find("--scratch-dir"), std::string::npos) << refused.err;
        expect_clean_qemu(0);
        EXPECT_EQ(qemu_->monitor().execute("query-status")["status"].text(), "running");
    }
    EXPECT_EQ(virtsnap_.json({"list"}).size(), 0u);
    expect_next("full");
}

// One write of the guest that is larger than all that the scratch may take.
TEST_F(ScratchOfAGuest, BeyondItsLimitMeansThatTheSnapshotIsGivenUpWhateverTheGuestsSpeed)
{
    start();
    expect_next("full");
    auto create = start_slow_create({"--scratch-size", "8M"});
    qemu_->disk_io("dA", "write -P 7 0 30M");
    auto outcome = create->wait(create_fixture::kSoon);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->exit_code, 1);
    EXPECT_NE(outcome->err.find("scratch"), std::string::npos) << outcome->err;
    EXPECT_EQ(qemu_->monitor().execute("query-status")["status"].text(), "running");
    expect_next("incremental");
}

} // namespace

VS_TEST_MAIN("qemu");
