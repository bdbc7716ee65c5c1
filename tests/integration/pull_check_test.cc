// SPDX-License-Identifier: LGPL-2.1-or-later
// The pull's check against real images: disks that were cut and grew again behind their bitmaps.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <vector>

#include "nbd-export/pull/pull.h"
#include "tests/support/file.h"
#include "tests/support/gate.h"
#include "tests/support/process.h"
#include "tests/support/temp-dir.h"

namespace
{

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kCluster = 64 << 10;
constexpr uint64_t kSize = 12 * kMiB;
constexpr int kSound = -1;
constexpr char kByte = '\xcd'; // what qemu-io writes unless told

// The base's content as a list of ranges, and what it was asked.
struct Base {
    std::vector<std::pair<uint64_t, uint64_t>> ranges; // offset and length, ascending
    std::vector<uint64_t> asked;
    std::function<void()> on_ask;

    static bool
    last_content(uint64_t below, bool *found, uint64_t *offset, gpointer user_data, GError **)
    {
        auto self = static_cast<Base *>(user_data);
        self->asked.push_back(below);
        if (self->on_ask)
            self->on_ask();
        *found = false;
        for (auto [start, length] : self->ranges)
            if (start < below) {
                *found = true;
                *offset = std::min(below, start + length) - 1;
            }
        return true;
    }

    static bool
    read(uint64_t offset, void *data, size_t length, gpointer user_data, GError **)
    {
        auto self = static_cast<Base *>(user_data);
        for (uint64_t at = offset; at < offset + length; at++) {
            bool is_content = false;
            for (auto [start, bytes] : self->ranges)
                is_content |= at >= start && at < start + bytes;
            static_cast<char *>(data)[at - offset] = is_content ? kByte : 0;
        }
        return true;
    }

    // What the search for the witness asked; what follows is about the other places.
    std::vector<uint64_t>
    first_asked(size_t count) const
    {
        return {asked.begin(), asked.begin() + std::min(count, asked.size())};
    }
};

class PullCheck : public testing::Test
{
  protected:
    // A disk with content at 1 MiB, 5 MiB and 8 MiB, and a clean bitmap "b".
    void
    SetUp() override
    {
        base_.ranges = {{1 * kMiB, kCluster}, {5 * kMiB, kCluster}, {8 * kMiB, kCluster}};
        make_image(kSize, "65536", "write 1M 64k\nwrite 5M 64k\nwrite 8M 64k\n");
    }
    void
    TearDown() override
    {
        if (disk_ != pull_)
            vs_pull_free(disk_);
        vs_pull_free(pull_);
    }

    void
    make_image(uint64_t size, const std::string &granularity, const std::string &commands)
    {
        support::must_run(
            {"qemu-img", "create", "-q", "-f", "qcow2", image_, std::to_string(size)});
        io(commands);
        support::must_run({"qemu-img", "bitmap", "--add", "-g", granularity, image_, "b"});
    }
    void
    io(const std::string &commands)
    {
        support::ProcessOptions options;
        options.input = commands + "quit\n";
        support::must_run({"qemu-io", "-t", "unsafe", "-f", "qcow2", "-d", "unmap", image_},
                          options);
    }
    void
    resize(const std::string &size, const std::string &preallocation = "off")
    {
        support::must_run({"qemu-img", "resize", "-q", "--shrink",
                           "--preallocation=" + preallocation, "-f", "qcow2", image_, size});
    }

    // The image by qemu-nbd, as a disk with that bitmap or (NULL) as what a push has written.
    VsPull *
    connect(const char *bitmap, uint64_t size = kSize)
    {
        const char *command[] = {"qemu-nbd",           "-r",   "-f",    "qcow2",
                                 bitmap ? "-B" : "-A", bitmap, nullptr, nullptr};
        command[bitmap ? 6 : 5] = image_.c_str();
        VsPullSource source = {};
        source.bitmap = bitmap;
        source.allocated_only = !bitmap;
        return connect_to(source, command, size);
    }
    // A disk that nbdkit makes up.
    VsPull *
    connect_nbdkit(const std::vector<std::string> &options, bool live = false,
                   uint64_t size = kSize)
    {
        std::vector<const char *> command = {"nbdkit", "-f"};
        for (const std::string &option : options)
            command.push_back(option.c_str());
        command.push_back(nullptr);
        VsPullSource source = {};
        source.live = live;
        return connect_to(source, command.data(), size);
    }
    static VsPull *
    connect_to(VsPullSource source, const char *const *command, uint64_t size)
    {
        GError *error = nullptr;
        source.socket = -1;
        source.command = command;
        source.export_name = "";
        VsPull *pull = vs_pull_connect(&source, size, &error);
        EXPECT_NE(pull, nullptr) << error->message;
        g_clear_error(&error);
        return pull;
    }

    // Checks pull_ against disk_ (NULL: the same connection); the error's code, or kSound.
    int
    check(uint64_t dirty_from = UINT64_MAX, unsigned stall_timeout_ms = 0)
    {
        VsPullWitness witness = {Base::last_content, Base::read, &base_, stall_timeout_ms};
        g_autoptr(GError) error = nullptr;
        if (!disk_)
            disk_ = pull_;
        bool ok = vs_pull_check(pull_, disk_, &witness, dirty_from, &error);
        EXPECT_EQ(ok, error == nullptr);
        VsPullProgress progress;
        vs_pull_progress(pull_, &progress);
        EXPECT_EQ(progress.read_bytes, 0u);
        message_ = error ? error->message : "";
        printf("%s\n", message_.c_str());
        if (error) {
            EXPECT_EQ(error->domain, VS_PULL_ERROR);
        }
        return error ? error->code : kSound;
    }
    int
    check_bitmap(uint64_t dirty_from = UINT64_MAX)
    {
        pull_ = connect("b");
        return check(dirty_from);
    }

    support::TempDir dir_;
    std::string image_ = dir_.file("disk.qcow2");
    Base base_;
    std::string message_;
    VsPull *pull_ = nullptr;
    VsPull *disk_ = nullptr;
};

TEST_F(PullCheck, TrustsADiskThatOnlyItsGuestHasChanged)
{
    io("write -P 1 8M 64k\ndiscard 5M 64k\nwrite -P 1 2M 64k\n");
    EXPECT_EQ(check_bitmap(), kSound);
    EXPECT_EQ(base_.first_asked(3), (std::vector<uint64_t>{kSize, 8 * kMiB, 5 * kMiB}));
}

TEST_F(PullCheck, TrustsADiskWithoutAChange)
{
    EXPECT_EQ(check_bitmap(), kSound);
    EXPECT_EQ(base_.asked.size(), VS_PULL_CHECK_PLACES);
}

TEST_F(PullCheck, TrustsWhatHasNothingToLose)
{
    base_.ranges.clear();
    resize("4M");
    resize("12M");
    EXPECT_EQ(check_bitmap(), kSound);
}

TEST_F(PullCheck, TrustsAFullReadUnasked)
{
    pull_ = connect_nbdkit({"memory", "12M"});
    EXPECT_EQ(check(), kSound);
    EXPECT_TRUE(base_.asked.empty());
}

TEST_F(PullCheck, DistrustsADiskThatWasCutBelowContentAndGrewAgain)
{
    resize("4M");
    resize("12M");
    EXPECT_EQ(check_bitmap(), VS_PULL_ERROR_DISTRUSTED);
    EXPECT_NE(message_.find(std::to_string(8 * kMiB + kCluster - 1)), std::string::npos);
}

TEST_F(PullCheck, DistrustsADiskWhoseDirtyBitsWereCutOff)
{
    io("write -P 1 8M 64k\n");
    resize("6M");
    resize("12M");
    EXPECT_EQ(check_bitmap(), VS_PULL_ERROR_DISTRUSTED);
}

TEST_F(PullCheck, DistrustsACutThatWasFilledWithAllocatedZeroes)
{
    resize("6M");
    resize("12M", "full");
    EXPECT_EQ(check_bitmap(), VS_PULL_ERROR_DISTRUSTED);
}

// qcow2 keeps what is left of a cluster that is cut, and shows it again.
TEST_F(PullCheck, TrustsACutWithinAClusterThatLosesNothing)
{
    resize(std::to_string(8 * kMiB + 4096));
    resize("12M");
    EXPECT_EQ(check_bitmap(), kSound);
}

TEST_F(PullCheck, DistrustsACutAboveABackingFileThatIsLonger)
{
    std::string backing = dir_.file("backing.raw");
    std::ofstream(backing) << std::string(kSize, '\x11');
    support::must_run({"qemu-img", "rebase", "-q", "-u", "-b", backing, "-F", "raw", image_});
    resize(std::to_string(8 * kMiB + kCluster - 512));
    resize("12M");
    EXPECT_EQ(check_bitmap(), VS_PULL_ERROR_DISTRUSTED);
}

TEST_F(PullCheck, DistrustsAnotherDisksContentBelowTheWitness)
{
    make_image(kSize, "65536", "write -P 1 1M 64k\nwrite 5M 64k\nwrite 8M 64k\n");
    EXPECT_EQ(check_bitmap(), VS_PULL_ERROR_DISTRUSTED);
    EXPECT_NE(message_.find("other content"), std::string::npos);
}

TEST_F(PullCheck, ComparesSectorsThatAreCleanAsAWhole)
{
    make_image(kSize, "512", "write 1M 64k\nwrite 5M 64k\nwrite 8M 64k\n");
    const uint64_t end = 8 * kMiB + kCluster; // dirty: the last sector but one
    io("write -P 1 " + std::to_string(end - 1024) + " 512\n");
    EXPECT_EQ(check_bitmap(), kSound);
    EXPECT_EQ(base_.asked[0], kSize);
    EXPECT_LT(base_.asked[1], 8 * kMiB); // the witness was clean at once
    EXPECT_EQ(check(end - 512), kSound);
}

TEST_F(PullCheck, TrustsACutAboveWhichAllContentIsDirtyAgain)
{
    resize("4M");
    resize("12M");
    io("write -P 1 5M 64k\nwrite -P 1 8M 64k\n");
    EXPECT_EQ(check_bitmap(), kSound);
    EXPECT_EQ(base_.first_asked(3), (std::vector<uint64_t>{kSize, 8 * kMiB, 5 * kMiB}));
}

TEST_F(PullCheck, TakesAllFromDirtyFromOnAsDirty)
{
    resize("4M");
    resize("12M");
    EXPECT_EQ(check_bitmap(4 * kMiB), kSound);
    EXPECT_EQ(base_.first_asked(2), (std::vector<uint64_t>{kSize, 4 * kMiB}));
    EXPECT_EQ(check(6 * kMiB), VS_PULL_ERROR_DISTRUSTED);
    EXPECT_NE(message_.find(std::to_string(5 * kMiB + kCluster - 1)), std::string::npos);
}

TEST_F(PullCheck, LooksForTheStartOfALongDirtyExtentAcrossWindows)
{
    constexpr uint64_t kBig = 6000 * kMiB;
    base_.ranges = {{1 * kMiB, kCluster}, {30 * kMiB, 5500 * kMiB}};
    make_image(kBig, "65536", "write 1M 64k\n");
    io("write -z 40M 1900M\nwrite -z 1940M 1900M\nwrite -z 3840M 1900M\nwrite 30M 64k\n"
       "write 39M 960k\n");
    pull_ = connect("b", kBig);
    EXPECT_EQ(check(), VS_PULL_ERROR_DISTRUSTED);
    EXPECT_NE(message_.find(std::to_string(40 * kMiB - 1)), std::string::npos);
    EXPECT_EQ(base_.first_asked(2), (std::vector<uint64_t>{kBig, 40 * kMiB}));
    vs_pull_free(pull_);
    base_.asked.clear();
    io("write -z 0 40M\n");
    disk_ = pull_ = connect("b", kBig);
    EXPECT_EQ(check(), kSound);
    EXPECT_EQ(base_.first_asked(2), (std::vector<uint64_t>{kBig, 0}));
}

TEST_F(PullCheck, GivesUpAfterManyRounds)
{
    constexpr uint64_t kMany = 5000, kSector = 512;
    base_.ranges.clear();
    std::string writes;
    for (uint64_t i = 0; i < kMany; i++) {
        base_.ranges.emplace_back(2 * i * kSector, kSector);
        writes += "write -q " + std::to_string(2 * i * kSector) + " 512\n";
    }
    make_image(kSize, "512", "");
    io(writes);
    EXPECT_EQ(check_bitmap(), VS_PULL_ERROR_DISTRUSTED);
    EXPECT_EQ(base_.asked.size(), 4096u);
    base_.ranges.resize(4095);
    EXPECT_EQ(check(), kSound);
}

TEST_F(PullCheck, ComparesAPushedImageWithTheDisk)
{
    std::string disk = image_;
    image_ = dir_.file("pushed.qcow2");
    support::must_run({"qemu-img", "create", "-q", "-f", "qcow2", image_, "12M"});
    io("write -P 1 8M 64k\n");
    pull_ = connect(nullptr);
    std::swap(image_, disk);
    disk_ = connect("b");
    EXPECT_EQ(check(), kSound);
    EXPECT_EQ(base_.asked, (std::vector<uint64_t>{kSize, 8 * kMiB}));
    vs_pull_free(disk_);
    resize("5M");
    resize("12M");
    disk_ = connect("b");
    EXPECT_EQ(check(), VS_PULL_ERROR_DISTRUSTED);
}

TEST_F(PullCheck, DistrustsADiskThatEndsBelowContent)
{
    pull_ = connect("b");
    disk_ = connect_nbdkit({"memory", "6M"}, false, 6 * kMiB);
    EXPECT_EQ(check(), VS_PULL_ERROR_DISTRUSTED);
}

TEST_F(PullCheck, PassesOverWhatTheDisksGuestHasWrittenLater)
{
    std::string disk = image_;
    image_ = dir_.file("pushed.qcow2");
    support::must_run({"qemu-img", "create", "-q", "-f", "qcow2", image_, "12M"});
    pull_ = connect(nullptr);
    image_ = disk;
    io("write -P 1 8M 64k\nwrite -z 1M 64k\n");
    disk_ = connect("b");
    EXPECT_EQ(check(), kSound);
    EXPECT_EQ(base_.asked, (std::vector<uint64_t>{kSize, 8 * kMiB}));
    vs_pull_free(disk_);
    resize("4M");
    resize("12M");
    io("write -P 1 8M 64k\n");
    disk_ = connect("b");
    EXPECT_EQ(check(), VS_PULL_ERROR_DISTRUSTED);
    EXPECT_NE(message_.find(std::to_string(5 * kMiB + kCluster - 1)), std::string::npos);
}

TEST_F(PullCheck, ReadsAPageOfTheDisk)
{
    std::string log = dir_.file("log");
    pull_ = connect("b");
    disk_ = connect_nbdkit(
        {"--filter=log", "data", "data=@8388608 0xcd*65536", "size=12M", "logfile=" + log});
    EXPECT_EQ(check(), kSound);
    std::string text = support::read_file(log);
    size_t read = text.find(" Read ");
    ASSERT_NE(read, std::string::npos);
    EXPECT_NE(text.find("count=0x1000", read), std::string::npos) << text;
    EXPECT_EQ(text.find(" Read ", read + 1), std::string::npos) << text;
}

TEST_F(PullCheck, FailsCleanlyOnAServersError)
{
    pull_ = connect("b");
    disk_ = connect_nbdkit(
        {"--filter=error", "memory", "12M", "error-pread=EIO", "error-pread-rate=100%"});
    EXPECT_EQ(check(), VS_PULL_ERROR_SERVER);
    EXPECT_NE(message_.find(g_strerror(EIO)), std::string::npos) << message_;
}

TEST_F(PullCheck, GivesUpADiskThatDoesNotAnswer)
{
    pull_ = connect("b");
    disk_ = connect_nbdkit({"--filter=delay", "memory", "12M", "delay-read=60"});
    auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(check(UINT64_MAX, 500), VS_PULL_ERROR_STALLED);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST_F(PullCheck, StopsSoonWhenEitherConnectionIsCancelled)
{
    for (bool first : {true, false}) {
        std::string log = dir_.file(first ? "log1" : "log2");
        pull_ = connect("b");
        disk_ = connect_nbdkit(
            {"--filter=log", "--filter=delay", "memory", "12M", "delay-read=60", "logfile=" + log});
        std::thread canceller([&] {
            EXPECT_TRUE(support::wait_until(std::chrono::seconds(10), [&] {
                return support::read_file(log).find(" Read ") != std::string::npos;
            }));
            vs_pull_cancel(first ? pull_ : disk_);
        });
        auto start = std::chrono::steady_clock::now();
        EXPECT_EQ(check(), VS_PULL_ERROR_CANCELLED);
        EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
        canceller.join();
        vs_pull_free(disk_);
        vs_pull_free(pull_);
        pull_ = disk_ = nullptr;
    }
}

TEST_F(PullCheck, StopsWhenCancelledBetweenRounds)
{
    pull_ = connect("b");
    disk_ = connect_nbdkit({"memory", "12M"});
    base_.on_ask = [&] { vs_pull_cancel(disk_); };
    EXPECT_EQ(check(0), VS_PULL_ERROR_CANCELLED);
}

} // namespace

VS_TEST_MAIN("nbd", "qemu");
