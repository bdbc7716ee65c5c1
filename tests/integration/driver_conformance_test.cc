// SPDX-License-Identifier: LGPL-2.1-or-later
// What every hypervisor driver does, whatever it reaches: the contract of driver.h, run against
// each of them.
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

#include "nbd-export/store/snapshot-reader.h"
#include "qmp/block.h"
#include "tests/integration/driver_worlds.h"
#include "tests/support/gate.h"
#include "tests/support/wait.h"

namespace
{

using namespace driver_test;

const char *const kRepositories[] = {"r-aaaaaaaaaaaaaaaaaaaa", "r-bbbbbbbbbbbbbbbbbbbb"};
const char *const kSnapshots[] = {"s-aaaaaaaaaaaaaaaaaaaa", "s-bbbbbbbbbbbbbbbbbbbb"};
constexpr size_t kMiB = 1 << 20;

std::string
bitmap_name(const std::string &point, unsigned repository = 0)
{
    return std::string("virtsnap.") + kRepositories[repository] + "." + point;
}

bool
not_busy(const char * /*instance*/, gpointer /*user_data*/)
{
    return false;
}

void
ignore_stage(uint64_t /*done*/, uint64_t /*total*/, gpointer /*user_data*/)
{
}

// What was read of a disk.
struct Reading {
    std::string content;
    uint64_t read_bytes = 0;
};

// A driver at work: opened, recovered, described.
class Session
{
  public:
    explicit Session(World &world, unsigned repository = 0)
    {
        driver_ = world.open(kRepositories[repository], &error_);
        VsOwnerCheck check = {not_busy, nullptr};
        ok_ = driver_ && driver_->ops->recover(driver_, &check, nullptr, &error_) &&
              (instance_ = driver_->ops->describe(driver_, nullptr, &error_)) != nullptr;
    }
    ~Session()
    {
        if (begun_ && !driver_->ops->settle(driver_, nullptr))
            ADD_FAILURE() << "settle failed in the end";
        vs_driver_free(driver_);
        vs_instance_free(instance_);
        g_clear_error(&error_);
    }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    // Whether the last step went well.
    explicit operator bool() const
    {
        return ok_;
    }
    std::string
    message() const
    {
        return error_ ? error_->message : "";
    }
    const VsInstance *
    instance() const
    {
        return instance_;
    }
    const VsDisk *
    disk(unsigned index) const
    {
        return vs_instance_find_disk(instance_, kTargets[index]);
    }

    // The names of this repository's sound bitmaps on a disk, without companions.
    std::set<std::string>
    bitmaps(unsigned index) const
    {
        std::set<std::string> names;
        if (!instance_)
            return {"not described: " + message()};
        const GPtrArray *all = disk(index)->bitmaps;
        for (unsigned i = 0; i < all->len; i++) {
            auto *bitmap = static_cast<const VsQmpBitmap *>(g_ptr_array_index(all, i));
            std::string name = bitmap->name ? bitmap->name : "";
            if (bitmap->recording && !bitmap->inconsistent && name.find(".end") == name.npos)
                names.insert(name);
        }
        return names;
    }

    // Begins a point in time of some disks, each on top of the bitmap old, if any.
    Session &
    begin(const std::vector<unsigned> &disks, const std::string &point, const std::string &old = "",
          bool staged = false, GCancellable *cancellable = nullptr)
    {
        new_ = bitmap_name(point), old_ = old.empty() ? "" : bitmap_name(old);
        points_.clear();
        for (unsigned i = 0; i < disks.size(); i++) {
            VsPointDisk entry = {};
            entry.disk = disk(disks[i]);
            entry.snapshot_id = kSnapshots[i];
            entry.bitmap = new_.c_str();
            entry.old_bitmap = old_.empty() ? nullptr : old_.c_str();
            entry.staged = staged;
            points_.push_back(entry);
        }
        point_ = {};
        point_.disks = points_.data();
        point_.count = points_.size();
        point_.scratch.folder = scratch_.empty() ? nullptr : scratch_.c_str();
        g_clear_error(&error_);
        ok_ = begun_ = driver_->ops->begin(driver_, &point_, cancellable, &error_);
        return *this;
    }

    // Reads a disk of the point in time; what need not be read comes out as zeroes.
    std::optional<Reading>
    read(unsigned index)
    {
        VsStageReport report = {ignore_stage, nullptr};
        VsPullSource source = {};
        ok_ = driver_->ops->open_source(driver_, index, &source, &report, nullptr, &error_);
        if (!ok_)
            return std::nullopt;
        uint64_t size = points_[index].disk->virtual_size_bytes;
        VsPull *pull = vs_pull_connect(&source, size, &error_);
        std::optional<Reading> reading;
        if (pull)
            reading = pull_all(pull, size);
        ok_ = reading && driver_->ops->detach_source(driver_, index, &error_);
        vs_pull_free(pull);
        ok_ = driver_->ops->close_source(driver_, index, &error_) && ok_;
        return reading;
    }

    bool
    confirm()
    {
        g_clear_error(&error_);
        return driver_->ops->confirm(driver_, &error_);
    }
    bool
    is_lost()
    {
        g_main_context_iteration(nullptr, FALSE);
        return driver_->ops->is_lost(driver_, nullptr);
    }
    bool
    settle()
    {
        begun_ = false;
        g_clear_error(&error_);
        return ok_ = driver_->ops->settle(driver_, &error_);
    }
    // kept: for each disk the bitmap's point, "" for none; all are locked unless named otherwise.
    bool
    tidy(const std::vector<std::string> &kept, const std::vector<bool> &locked = {true, true})
    {
        std::vector<std::string> names;
        for (const std::string &point : kept)
            names.push_back(point.empty() ? "" : bitmap_name(point));
        std::vector<VsKeptBitmap> entries;
        for (unsigned i = 0; i < kept.size(); i++)
            entries.push_back({disk(i), names[i].empty() ? nullptr : names[i].c_str(), locked[i]});
        g_clear_error(&error_);
        return ok_ = driver_->ops->tidy(driver_, entries.data(), entries.size(), &error_);
    }
    const VsPointDisk &
    point(unsigned index) const
    {
        return points_[index];
    }
    const VsPoint &
    moment() const
    {
        return point_;
    }
    void
    use_scratch(const std::string &folder)
    {
        scratch_ = folder;
    }

  private:
    std::optional<Reading>
    pull_all(VsPull *pull, uint64_t size)
    {
        TempDir dir;
        const std::string path = dir.file("repo");
        VsRepository *repository = vs_repository_init(path.c_str(), 64 << 10, nullptr)
                                       ? vs_repository_open(path.c_str(), nullptr)
                                       : nullptr;
        if (!repository || !vs_repository_lock(repository, VS_REPOSITORY_SHARED, 1000, nullptr))
            return std::nullopt;
        VsIngest *ingest = vs_ingest_new(repository, nullptr, size, 1);
        VsPullOptions options = {size, 0, 0};
        VsIngestResult result = {};
        Reading reading;
        bool ok = vs_pull_run(pull, ingest, &options, &error_) &&
                  vs_ingest_finish(ingest, &result, &error_);
        VsPullProgress progress = {};
        vs_pull_progress(pull, &progress);
        reading.read_bytes = progress.read_bytes;
        reading.content.resize(size);
        if (ok) {
            VsSnapshotReader *reader = vs_snapshot_reader_new(repository, &result.tree, size);
            ok = vs_snapshot_reader_read(reader, 0, reading.content.data(), size, &error_);
            vs_snapshot_reader_free(reader);
        }
        vs_ingest_free(ingest);
        vs_repository_free(repository);
        return ok ? std::optional<Reading>(reading) : std::nullopt;
    }

    VsDriver *driver_ = nullptr;
    VsInstance *instance_ = nullptr;
    GError *error_ = nullptr;
    bool ok_ = false;
    bool begun_ = false;
    std::string new_, old_, scratch_;
    std::vector<VsPointDisk> points_;
    VsPoint point_ = {};
};

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

// A process that begins a point in time when it is told to, and dies. Made before this one uses
// GLib, whose threads a fork does not take along.
class DoomedProcess
{
  public:
    explicit DoomedProcess(const std::function<void()> &deed)
    {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0 || (pid_ = fork()) < 0)
            throw std::runtime_error("no doomed process");
        close(ends[pid_ == 0 ? 1 : 0]);
        end_ = ends[pid_ == 0 ? 0 : 1];
        if (pid_ != 0)
            return;
        char go;
        if (::read(end_, &go, 1) == 1)
            deed();
        (void)raise(SIGKILL);
        _exit(0);
    }
    ~DoomedProcess()
    {
        close(end_);
        if (pid_ > 0)
            (void)waitpid(pid_, nullptr, 0);
    }
    DoomedProcess(const DoomedProcess &) = delete;
    DoomedProcess &operator=(const DoomedProcess &) = delete;

    // Returns when it is dead.
    void
    go()
    {
        EXPECT_EQ(::write(end_, "", 1), 1);
        EXPECT_EQ(waitpid(pid_, nullptr, 0), pid_);
        pid_ = -1;
    }

  private:
    pid_t pid_ = -1;
    int end_ = -1;
};

TEST_P(Driver, FindsAndUndoesWhatADeadOneLeft)
{
    DoomedProcess doomed([&] {
        Session session(world());
        if (session.begin({0, 1}, "two", "one"))
            (void)raise(SIGKILL);
        fprintf(stderr, "the doomed process has not begun: %s\n", session.message().c_str());
    });
    take_first("one");
    write(0, 1, kMiB, 65536);
    doomed.go();
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

VS_TEST_MAIN("qemu", "nbd", "libvirt");
