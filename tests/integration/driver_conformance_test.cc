// SPDX-License-Identifier: LGPL-2.1-or-later
// What every hypervisor driver does, whatever it reaches: the contract of driver.h, run against
// each of them.
#include <csignal>
#include <cstdio>
#include <map>
#include <set>

#include "tests/integration/driver_session.h"
#include "tests/support/gate.h"
#include "tests/support/wait.h"

namespace
{

using namespace driver_test;

const char *const kDoomed = "--doomed";

class Driver : public testing::TestWithParam<WorldKind>
{
  protected:
    void
    SetUp() override
    {
        world_ = GetParam().make();
    }
    World &
    world()
    {
        return *world_;
    }
    void
    write(unsigned index, char byte, size_t offset, size_t length)
    {
        char command[64];
        (void)snprintf(command, sizeof command, "write -P %d %zu %zu", byte, offset, length);
        world().write(index, command);
        content_[index].resize(kSizes[index]);
        content_[index].replace(offset, length, length, byte);
    }
    std::string
    content(unsigned index)
    {
        content_[index].resize(kSizes[index]);
        return content_[index];
    }
    std::set<std::string>
    bitmaps(unsigned index)
    {
        return Session(world()).bitmaps(index);
    }
    // A first snapshot of both disks, as if it were accomplished.
    void
    take_first(const std::string &point)
    {
        Session session(world());
        ASSERT_TRUE(session.begin({0, 1}, point)) << session.message();
        ASSERT_TRUE(session.settle()) << session.message();
        ASSERT_TRUE(session.tidy({point, point})) << session.message();
    }

    std::unique_ptr<World> world_;
    std::map<unsigned, std::string> content_;
};

TEST_P(Driver, DescribesItsDisks)
{
    Session session(world());
    ASSERT_TRUE(session) << session.message();
    const VsInstance *instance = session.instance();
    ASSERT_EQ(instance->disks->len, 2u);
    EXPECT_STREQ(instance->status, world().is_running() ? "running" : "stopped");
    EXPECT_NE(instance->definition, nullptr);
    for (unsigned i = 0; i < 2; i++) {
        const VsDisk *disk = session.disk(i);
        ASSERT_NE(disk, nullptr);
        EXPECT_EQ(disk->source, world().image(i));
        EXPECT_STREQ(disk->format, "qcow2");
        ASSERT_EQ(disk->chain->len, 1u);
        EXPECT_EQ(static_cast<char *>(disk->chain->pdata[0]), world().image(i));
        EXPECT_EQ(disk->virtual_size_bytes, kSizes[i]);
        EXPECT_TRUE(disk->can_track && disk->persistent_bitmaps);
        EXPECT_FALSE(disk->iothread || disk->is_shared);
        EXPECT_EQ(disk->unavailable, nullptr);
        EXPECT_TRUE(session.bitmaps(i).empty());
    }
}

TEST_P(Driver, PointInTimeIsWhatTheDisksHeldThen)
{
    write(0, 1, kMiB, 3 * kMiB);
    write(1, 2, kSizes[1] - 512, 512);
    const std::string first = content(0), second = content(1);
    Session session(world());
    ASSERT_TRUE(session.begin({0, 1}, "one")) << session.message();
    EXPECT_GT(session.moment().at_us, 0);
    EXPECT_EQ(session.moment().frozen_us, 0);
    if (world().is_running()) {
        write(0, 3, 2 * kMiB, kMiB);
        write(1, 4, 0, 4096);
    }
    auto a = session.read(0), b = session.read(1);
    ASSERT_TRUE(a && b) << session.message();
    EXPECT_TRUE(a->content == first);
    EXPECT_TRUE(b->content == second);
    EXPECT_FALSE(session.is_lost());
    EXPECT_TRUE(session.confirm()) << session.message();
    EXPECT_TRUE(session.settle()) << session.message();
}

TEST_P(Driver, NextOneReadsJustWhatWasWrittenSince)
{
    write(0, 1, 0, 4 * kMiB);
    take_first("one");
    write(0, 2, 5 * kMiB, 65536);
    Session session(world());
    EXPECT_EQ(session.bitmaps(0), std::set<std::string>{bitmap_name("one")});
    ASSERT_TRUE(session.begin({0, 1}, "two", "one")) << session.message();
    EXPECT_EQ(session.point(0).dirty_bytes, 65536u);
    EXPECT_EQ(session.point(1).dirty_bytes, 0u);
    auto reading = session.read(0);
    ASSERT_TRUE(reading) << session.message();
    EXPECT_EQ(reading->read_bytes, 65536u);
    EXPECT_EQ(reading->content.substr(5 * kMiB, 65536), std::string(65536, 2));
    EXPECT_TRUE(session.confirm()) << session.message();
}

TEST_P(Driver, StagedCaptureIsTheSame)
{
    if (!world().is_running())
        return; // nothing writes: there is one way
    write(0, 1, 0, 4 * kMiB);
    const std::string first = content(0);
    {
        Session session(world());
        ASSERT_TRUE(session.begin({0, 1}, "one", "", true)) << session.message();
        write(0, 9, kMiB, kMiB);
        auto reading = session.read(0);
        ASSERT_TRUE(reading) << session.message();
        EXPECT_TRUE(reading->content == first);
        ASSERT_TRUE(session.read(1)) << session.message();
        ASSERT_TRUE(session.confirm() && session.settle()) << session.message();
        ASSERT_TRUE(session.tidy({"one", "one"})) << session.message();
    }
    write(1, 5, kMiB, 65536);
    Session session(world());
    ASSERT_TRUE(session.begin({0, 1}, "two", "one", true)) << session.message();
    auto a = session.read(0), b = session.read(1);
    ASSERT_TRUE(a && b) << session.message();
    EXPECT_EQ(a->read_bytes, kMiB);
    EXPECT_EQ(b->read_bytes, 65536u);
    EXPECT_EQ(b->content.substr(kMiB, 65536), std::string(65536, 5));
}

TEST_P(Driver, AbandonedOneLeavesTheChainWhole)
{
    take_first("one");
    write(0, 1, kMiB, 65536);
    {
        Session session(world());
        ASSERT_TRUE(session.begin({0, 1}, "two", "one")) << session.message();
        if (world().is_running())
            write(0, 2, 3 * kMiB, 65536);
        ASSERT_TRUE(session.settle()) << session.message();
        ASSERT_TRUE(session.tidy({"one", "one"})) << session.message();
    }
    write(0, 3, 5 * kMiB, 65536);
    Session session(world());
    EXPECT_EQ(session.bitmaps(0), std::set<std::string>{bitmap_name("one")});
    ASSERT_TRUE(session.begin({0}, "three", "one")) << session.message();
    auto reading = session.read(0);
    ASSERT_TRUE(reading) << session.message();
    EXPECT_EQ(reading->read_bytes, world().is_running() ? 3 * 65536u : 2 * 65536u);
}

TEST_P(Driver, TakesOneDiskOfTwo)
{
    {
        Session session(world());
        ASSERT_TRUE(session.begin({1}, "one")) << session.message();
        ASSERT_TRUE(session.read(0)) << session.message();
        ASSERT_TRUE(session.confirm() && session.settle()) << session.message();
        ASSERT_TRUE(session.tidy({"", "one"})) << session.message();
    }
    EXPECT_TRUE(bitmaps(0).empty());
    EXPECT_EQ(bitmaps(1), std::set<std::string>{bitmap_name("one")});
}

TEST_P(Driver, GroupThenOneDiskLeavesTheOtherDisksBitmap)
{
    take_first("one");
    {
        Session session(world());
        ASSERT_TRUE(session.begin({0}, "two", "one")) << session.message();
        ASSERT_TRUE(session.settle()) << session.message();
        ASSERT_TRUE(session.tidy({"two", "one"}, {true, false})) << session.message();
    }
    write(1, 7, 0, 65536);
    Session session(world());
    EXPECT_EQ(session.bitmaps(0).count(bitmap_name("two")), 1u);
    EXPECT_EQ(session.bitmaps(1).count(bitmap_name("one")), 1u);
    ASSERT_TRUE(session.begin({1}, "three", "one")) << session.message();
    auto reading = session.read(0);
    ASSERT_TRUE(reading) << session.message();
    EXPECT_EQ(reading->read_bytes, 65536u);
}

TEST_P(Driver, TidiesOnlyItsOwnRepositorysBitmaps)
{
    take_first("one");
    {
        Session other(world(), 1);
        ASSERT_TRUE(other) << other.message();
        ASSERT_TRUE(other.tidy({"", ""})) << other.message();
    }
    EXPECT_EQ(bitmaps(0).count(bitmap_name("one")), 1u);
    {
        Session session(world());
        ASSERT_TRUE(session.tidy({"", ""})) << session.message();
    }
    EXPECT_TRUE(bitmaps(0).empty());
    EXPECT_TRUE(bitmaps(1).empty());
}

TEST_P(Driver, FailedBeginLeavesNothing)
{
    take_first("one");
    {
        Session session(world());
        EXPECT_FALSE(session.begin({0, 1}, "two", "nowhere"));
        EXPECT_NE(session.message(), "");
        ASSERT_TRUE(session.tidy({"one", "one"})) << session.message();
    }
    Session session(world());
    EXPECT_EQ(session.bitmaps(0), std::set<std::string>{bitmap_name("one")});
    EXPECT_EQ(session.disk(0)->unavailable, nullptr);
    EXPECT_TRUE(session.begin({0, 1}, "three", "one")) << session.message();
}

TEST_P(Driver, CancelledBeginLeavesNothing)
{
    GCancellable *cancellable = g_cancellable_new();
    g_cancellable_cancel(cancellable);
    {
        Session session(world());
        EXPECT_FALSE(session.begin({0, 1}, "one", "", false, cancellable));
    }
    g_object_unref(cancellable);
    Session session(world());
    EXPECT_TRUE(session.bitmaps(0).empty());
    EXPECT_TRUE(session.begin({0, 1}, "two")) << session.message();
}

TEST_P(Driver, SettlesWithoutAnythingRead)
{
    Session session(world());
    ASSERT_TRUE(session.begin({0, 1}, "one")) << session.message();
    EXPECT_TRUE(session.settle()) << session.message();
    // And the instance is as free as before.
    EXPECT_TRUE(session.begin({0, 1}, "two")) << session.message();
}

TEST_P(Driver, FindsAndUndoesWhatADeadOneLeft)
{
    take_first("one");
    write(0, 1, kMiB, 65536);
    std::vector<std::string> command = {"/proc/self/exe", kDoomed};
    for (const std::string &word : world().address())
        command.push_back(word);
    support::Outcome outcome = support::run(command);
    ASSERT_EQ(outcome.signal, SIGKILL) << outcome.err;
    {
        Session session(world());
        ASSERT_TRUE(session) << session.message();
        EXPECT_EQ(session.disk(0)->unavailable, nullptr);
        ASSERT_TRUE(session.tidy({"one", "one"})) << session.message();
    }
    Session session(world());
    EXPECT_EQ(session.bitmaps(0), std::set<std::string>{bitmap_name("one")});
    ASSERT_TRUE(session.begin({0, 1}, "three", "one")) << session.message();
    auto reading = session.read(0);
    ASSERT_TRUE(reading) << session.message();
    EXPECT_EQ(reading->read_bytes, 65536u);
}

TEST_P(Driver, NoticesThatThePointInTimeIsLost)
{
    Session session(world());
    ASSERT_TRUE(session.begin({0, 1}, "one")) << session.message();
    EXPECT_FALSE(session.is_lost());
    world().upset();
    EXPECT_TRUE(support::wait_until(std::chrono::seconds(10), [&] { return session.is_lost(); }));
    EXPECT_FALSE(session.confirm());
    (void)session.settle();
}

TEST_P(Driver, TwoRepositoriesTakeTurns)
{
    take_first("one");
    {
        Session other(world(), 1);
        ASSERT_TRUE(other.begin({0, 1}, "other")) << other.message();
        ASSERT_TRUE(other.settle()) << other.message();
    }
    write(0, 1, kMiB, 65536);
    Session session(world());
    ASSERT_TRUE(session.begin({0, 1}, "two", "one")) << session.message();
    auto reading = session.read(0);
    ASSERT_TRUE(reading) << session.message();
    EXPECT_EQ(reading->read_bytes, 65536u);
}

INSTANTIATE_TEST_SUITE_P(Every, Driver, testing::ValuesIn(world_kinds()),
                         [](const testing::TestParamInfo<WorldKind> &info) {
                             return std::string(info.param.name);
                         });

} // namespace

// The test's own other half: begins a point in time on top of "one", and dies.
int
main(int argc, char **argv)
{
    if (argc < 3 || std::string(argv[1]) != kDoomed)
        return support::gated_main(argc, argv, {"qemu", "nbd", "libvirt"});
    Session session(*driver_test::world_at({argv + 2, argv + argc}));
    if (session.begin({0, 1}, "two", "one"))
        (void)raise(SIGKILL);
    fprintf(stderr, "not begun: %s\n", session.message().c_str());
    return 1;
}
