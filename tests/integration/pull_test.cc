// SPDX-License-Identifier: LGPL-2.1-or-later
// The pull against real NBD servers (nbdkit, with its filters for faults): right bytes, or a clean
// failure.
#include <atomic>
#include <chrono>
#include <fcntl.h>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "nbd-export/pull/pull.h"
#include "nbd-export/store/snapshot-reader.h"
#include "tests/support/gate.h"
#include "tests/support/process.h"
#include "tests/support/qmp-session.h"
#include "tests/support/temp-dir.h"

namespace
{

using support::Process;
using support::TempDir;

constexpr uint64_t kSize = (20 << 20) + 512;

int
connect_to(const std::string &path)
{
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<struct sockaddr *>(&address), sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

class Pull : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        std::mt19937 random(7);
        content_.assign(kSize, '\0');
        for (size_t piece = 0; piece < 40; piece++) {
            size_t at = random() % (kSize - 300000), length = random() % 300000;
            for (size_t i = 0; i < length; i++)
                content_[at + i] = random();
        }
        image_ = dir_.file("image");
        int fd = open(image_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ASSERT_EQ(ftruncate(fd, kSize), 0);
        for (size_t at = 0; at < kSize; at += 4096) { // keep holes
            size_t length = std::min<size_t>(4096, kSize - at);
            if (content_.find_first_not_of('\0', at) < at + length) {
                ASSERT_EQ(pwrite(fd, content_.data() + at, length, at), (ssize_t)length);
            }
        }
        close(fd);
        ASSERT_TRUE(vs_repository_init(dir_.file("repo").c_str(), 64 << 10, nullptr));
        repository_ = vs_repository_open(dir_.file("repo").c_str(), nullptr);
        ASSERT_NE(repository_, nullptr);
    }
    void
    TearDown() override
    {
        vs_pull_free(pull_); // before the ingest, whose buffers it may be reading into
        vs_ingest_free(ingest_);
        vs_repository_free(repository_);
    }

    void
    serve(std::vector<std::string> options)
    {
        std::vector<std::string> command = {"nbdkit", "-f", "-U", dir_.file("nbd")};
        command.insert(command.end(), options.begin(), options.end());
        server_ = std::make_unique<Process>(command);
    }

    // Error code of the pull, or -1 where it succeeded.
    int
    pull(VsPullOptions options = {kSize, 0, 0}, const char *bitmap = nullptr, uint64_t size = kSize)
    {
        int fd = -1;
        if (!support::wait_until(std::chrono::seconds(10),
                                 [&] { return (fd = connect_to(dir_.file("nbd"))) >= 0; }))
            return -2;
        VsPullSource source = {};
        source.socket = fd;
        source.live = true;
        source.bitmap = bitmap;
        return pull_from(source, options, size);
    }

    // The same from any source, on top of what base_ says.
    int
    pull_from(VsPullSource source, const VsPullOptions &options, uint64_t size = kSize)
    {
        GError *error = nullptr;
        source.export_name = "";
        pull_ = vs_pull_connect(&source, size, &error);
        if (pull_) {
            ingest_ = vs_ingest_new(repository_, base_, size, 0);
            if (during_)
                during_();
            if (vs_pull_run(pull_, ingest_, &options, &error)) {
                EXPECT_TRUE(vs_ingest_finish(ingest_, &result_, &error));
            }
        }
        int code = error ? error->code : -1;
        if (error) {
            printf("%s\n", error->message);
            EXPECT_EQ(error->domain, VS_PULL_ERROR) << error->message;
        }
        g_clear_error(&error);
        return code;
    }

    void
    expect_content(const std::string &expected)
    {
        GError *error = nullptr;
        ASSERT_TRUE(vs_chunk_store_flush(vs_repository_chunks(repository_), &error));
        VsSnapshotReader *reader = vs_snapshot_reader_new(repository_, &result_.tree, kSize);
        std::string read(kSize, 'x');
        ASSERT_TRUE(vs_snapshot_reader_read(reader, 0, read.data(), kSize, &error))
            << error->message;
        EXPECT_TRUE(read == expected);
        vs_snapshot_reader_free(reader);
    }

    TempDir dir_;
    std::string content_, image_;
    VsRepository *repository_ = nullptr;
    std::unique_ptr<Process> server_;
    std::function<void()> during_;
    const VsTree *base_ = nullptr;
    VsPull *pull_ = nullptr;
    VsIngest *ingest_ = nullptr;
    VsIngestResult result_ = {};
};

TEST_F(Pull, BringsEveryByteAndReadsNoHoles)
{
    serve({"file", image_});
    ASSERT_EQ(pull(), -1);
    expect_content(content_);
    VsPullProgress progress;
    vs_pull_progress(pull_, &progress);
    EXPECT_EQ(progress.read_bytes, progress.total_bytes);
    EXPECT_LT(progress.read_bytes, kSize);
}

TEST_F(Pull, ReadsEverythingFromAServerWithoutMetaContexts)
{
    serve({"--no-sr", "file", image_});
    ASSERT_EQ(pull(), -1);
    expect_content(content_);
    VsPullProgress progress;
    vs_pull_progress(pull_, &progress);
    EXPECT_EQ(progress.read_bytes, kSize);
}

TEST_F(Pull, GoesOnWhereAShortAnswerAboutExtentsEnds)
{
    // Each request is answered for its first 256 KiB only.
    serve({"eval", "get_size=echo " + std::to_string(kSize), "can_extents=exit 0",
           "pread=dd if=" + image_ +
               " bs=65536 iflag=skip_bytes,count_bytes skip=$4 count=$3 2>/dev/null",
           "extents=l=262144; [ $3 -ge $l ] || l=$3; echo $4 $l"});
    ASSERT_EQ(pull(), -1);
    expect_content(content_);
    VsPullProgress progress;
    vs_pull_progress(pull_, &progress);
    EXPECT_EQ(progress.read_bytes, kSize);
}

TEST_F(Pull, FailsCleanlyOnAServersReadError)
{
    serve({"--filter=error", "file", image_, "error-pread=EIO", "error-pread-rate=30%"});
    EXPECT_EQ(pull(), VS_PULL_ERROR_SERVER);
}

TEST_F(Pull, FailsCleanlyOnAServersExtentsError)
{
    serve({"--filter=error", "file", image_, "error-extents=EIO", "error-extents-rate=100%"});
    EXPECT_EQ(pull(), VS_PULL_ERROR_SERVER);
}

TEST_F(Pull, FailsCleanlyWhenTheServerDies)
{
    serve({"--filter=delay", "file", image_, "rdelay=200ms"});
    std::thread killer;
    during_ = [&] {
        killer = std::thread([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(300));
            kill(server_->pid(), SIGKILL);
        });
    };
    EXPECT_EQ(pull(), VS_PULL_ERROR_CLOSED);
    killer.join();
}

TEST_F(Pull, GivesUpAServerThatDoesNotAnswer)
{
    serve({"--filter=delay", "file", image_, "rdelay=60"});
    auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(pull({kSize, 0, 500}), VS_PULL_ERROR_STALLED);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST_F(Pull, StopsSoonWhenCancelled)
{
    serve({"--filter=delay", "file", image_, "rdelay=60"});
    std::thread canceller;
    during_ = [&] {
        canceller = std::thread([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(200));
            vs_pull_cancel(pull_);
        });
    };
    auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(pull(), VS_PULL_ERROR_CANCELLED);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
    canceller.join();
}

TEST_F(Pull, RefusesADiskOfAnotherSizeAndAMissingBitmap)
{
    serve({"file", image_});
    EXPECT_EQ(pull({kSize, 0, 0}, nullptr, kSize + 512), VS_PULL_ERROR_CONNECT);
    EXPECT_EQ(pull({kSize, 0, 0}, "absent"), VS_PULL_ERROR_CONNECT);
}

TEST_F(Pull, KeepsToTheSpeedLimit)
{
    serve({"file", image_});
    auto start = std::chrono::steady_clock::now();
    ASSERT_EQ(pull({kSize, 4 << 20, 0}), -1);
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    VsPullProgress progress;
    vs_pull_progress(pull_, &progress);
    // The first request may go at once.
    EXPECT_GE(took.count(), (progress.read_bytes - (512.0 * 1024)) / (4 << 20));
    expect_content(content_);
}

// The rate at which a pull that is under way goes on is anybody's to change.
class PullAtAnotherSpeed : public Pull
{
  protected:
    using Clock = std::chrono::steady_clock;

    // Pulls at the first rate, after one thing and beside another, in a thread of its own; not for
    // the hours that the first rate may take.
    void
    pull_beside(uint64_t first_bytes, const std::function<void()> &before,
                const std::function<void()> &work)
    {
        serve({"file", image_});
        std::atomic<bool> is_over{false};
        std::thread other;
        during_ = [&] {
            before();
            other = std::thread([&] {
                work();
                if (!support::wait_until(std::chrono::seconds(30), [&] { return is_over.load(); }))
                    vs_pull_cancel(pull_);
            });
        };
        EXPECT_EQ(pull({kSize, first_bytes, 0}), -1);
        is_over = true;
        other.join();
        expect_content(content_);
    }
    // Goes on as `change` says once so much is read.
    void
    pull_and_change(uint64_t first_bytes, uint64_t till_bytes, const std::function<void()> &change)
    {
        const auto nothing = [] {};
        pull_beside(first_bytes, nothing, [&] {
            wait_until_read(till_bytes);
            changed_at_ = Clock::now();
            changed_at_bytes_ = read_bytes();
            change();
        });
    }
    uint64_t
    read_bytes()
    {
        VsPullProgress progress;
        vs_pull_progress(pull_, &progress);
        return progress.read_bytes;
    }
    void
    wait_until_read(uint64_t bytes)
    {
        EXPECT_TRUE(
            support::wait_until(std::chrono::seconds(30), [&] { return read_bytes() >= bytes; }));
    }
    double
    seconds_since_change() const
    {
        return std::chrono::duration<double>(Clock::now() - changed_at_).count();
    }

    Clock::time_point changed_at_;
    uint64_t changed_at_bytes_ = 0;
};

TEST_F(PullAtAnotherSpeed, GoesOnWithoutALimitAtOnce)
{
    pull_and_change(1000, 1, [&] { vs_pull_set_speed_limit(pull_, 0); }); // of more than an hour
}

TEST_F(PullAtAnotherSpeed, DoesNotMakeUpForWhatWasReadFaster)
{
    double paused = 0;
    pull_and_change(8 << 20, 3 << 20, [&] {
        vs_pull_set_speed_limit(pull_, 256 << 10);
        wait_until_read(changed_at_bytes_ + (600 << 10)); // more than was in flight
        paused = seconds_since_change();
        vs_pull_set_speed_limit(pull_, 0);
    });
    EXPECT_LT(paused, 6.0); // what was read takes 12 at this rate
}

TEST_F(PullAtAnotherSpeed, DoesNotMakeUpForWhatWasReadSlower)
{
    pull_and_change(512 << 10, 1 << 20, [&] { vs_pull_set_speed_limit(pull_, 4 << 20); });
    const double least = (read_bytes() - changed_at_bytes_ - (1024.0 * 1024)) / (4 << 20);
    EXPECT_GT(least, 0.5);
    EXPECT_GE(seconds_since_change(), least);
}

TEST_F(PullAtAnotherSpeed, IsSetBeforeItRunsToo)
{
    const auto nothing = [] {};
    pull_beside(
        1000, [&] { vs_pull_set_speed_limit(pull_, 0); }, nothing);
}

TEST_F(Pull, FailsCleanlyWhenTheRepositoryCannotBeWritten)
{
    serve({"file", image_});
    support::must_run({"rm", "-rf", dir_.file("repo") + "/packs"});
    std::ofstream(dir_.file("repo") + "/packs") << "in the way";
    GError *error = nullptr;
    int code = pull();
    bool flushed = vs_chunk_store_flush(vs_repository_chunks(repository_), &error);
    EXPECT_FALSE(code == -1 && flushed);
    g_clear_error(&error);
}

// What a push backup leaves: an image of just the clusters that a bitmap calls dirty.
class PullOfAPush : public Pull
{
  protected:
    // What the guest does after the base: writes, writes zeroes, discards.
    static constexpr uint64_t kWritten = 3 << 20, kZeroed = 7 << 20, kDiscarded = 11 << 20;
    static constexpr uint64_t kLength = 1 << 20;

    void
    SetUp() override
    {
        Pull::SetUp();
        ASSERT_NE(content_.find_first_not_of('\0', kZeroed), std::string::npos);
        ASSERT_LT(content_.find_first_not_of('\0', kZeroed), kZeroed + kLength);
        ASSERT_LT(content_.find_first_not_of('\0', kDiscarded), kDiscarded + kLength);
        serve({"file", image_});
        ASSERT_EQ(pull(), -1);
        tree_ = result_.tree;
        base_ = &tree_;
        forget();
        change_and_push();
        content_.replace(kWritten, kLength, kLength, '\x5a');
        content_.replace(kZeroed, kLength, kLength, '\0');
        content_.replace(kDiscarded, kLength, kLength, '\0');
    }

    void
    forget()
    {
        vs_pull_free(pull_);
        vs_ingest_free(ingest_);
        pull_ = nullptr;
        ingest_ = nullptr;
    }

    void
    change_and_push()
    {
        std::string disk = dir_.file("disk.qcow2");
        support::must_run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", image_, disk});
        support::must_run({"qemu-img", "bitmap", "--add", disk, "b"});
        support::must_run({"qemu-io", "-f", "qcow2", "-d", "unmap", "-c", "write -P 0x5a 3M 1M",
                           "-c", "write -z 7M 1M", "-c", "discard 11M 1M", disk});
        support::must_run(
            {"qemu-img", "create", "-q", "-f", "qcow2", pushed_, std::to_string(kSize)});
        Process daemon(
            {"qemu-storage-daemon", "--chardev",
             "socket,id=c,server=on,wait=off,path=" + dir_.file("qmp"), "--monitor", "chardev=c",
             "--blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename=" + disk,
             "--blockdev", "driver=qcow2,node-name=to,file.driver=file,file.filename=" + pushed_});
        support::QmpSession qmp(dir_.file("qmp"));
        qmp.execute("blockdev-backup", R"({"job-id": "push", "device": "disk", "target": "to",
                                          "sync": "incremental", "bitmap": "b"})");
        support::Json done = qmp.wait_event("BLOCK_JOB_COMPLETED");
        EXPECT_FALSE(done["data"].has("error"));
        qmp.execute("quit");
        ASSERT_TRUE(daemon.wait(std::chrono::seconds(10)));
    }

    // Pulls from an image, and expects just the written clusters to be read.
    int
    pull_image(const std::string &path, uint64_t dirty_from, bool depth = true)
    {
        std::vector<const char *> command = {"qemu-nbd", "-r", "-f", "qcow2", path.c_str()};
        if (depth)
            command.push_back("-A");
        command.push_back(nullptr);
        VsPullSource source = {};
        source.socket = -1;
        source.command = command.data();
        source.allocated_only = true;
        int code = pull_from(source, {dirty_from, 0, 0});
        if (code == -1) {
            VsPullProgress progress;
            vs_pull_progress(pull_, &progress);
            EXPECT_EQ(progress.read_bytes, kLength);
        }
        return code;
    }

    VsTree tree_ = {};
    std::string pushed_ = dir_.file("pushed.qcow2");
};

TEST_F(PullOfAPush, BringsDataAndZeroesAndLeavesTheRest)
{
    ASSERT_EQ(pull_image(pushed_, kSize), -1);
    expect_content(content_);
}

TEST_F(PullOfAPush, TakesWhatABackingImageHolds)
{
    std::string top = dir_.file("top.qcow2");
    support::must_run(
        {"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", pushed_, top});
    ASSERT_EQ(pull_image(top, kSize), -1);
    expect_content(content_);
}

TEST_F(PullOfAPush, TakesEverythingFromWhereTheDiskHasGrown)
{
    constexpr uint64_t kFrom = (16 << 20) + 4096;
    ASSERT_NE(content_.find_first_not_of('\0', kFrom), std::string::npos);
    ASSERT_EQ(pull_image(pushed_, kFrom), -1);
    expect_content(content_.substr(0, kFrom) + std::string(kSize - kFrom, '\0'));
}

TEST_F(PullOfAPush, NeedsAServerThatTellsAllocationDepth)
{
    EXPECT_EQ(pull_image(pushed_, kSize, false), VS_PULL_ERROR_CONNECT);
}

} // namespace

VS_TEST_MAIN("nbd", "qemu");
