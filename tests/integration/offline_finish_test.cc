// SPDX-License-Identifier: LGPL-2.1-or-later
// A bare QEMU that ends while its disks are pulled. After an orderly end the snapshot is finished
// from the images and what was captured, and is the point in time byte for byte although the guest
// has written since; after any other end it is given up, and the next one is exact.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <string>
#include <vector>

#include "tests/support/gate.h"
#include "tests/support/qemu-process.h"
#include "tests/support/small-file-system.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::Json;
using support::must_run;
using support::Outcome;
using support::Process;
using support::QemuProcess;
using support::TempDir;
using support::Virtsnap;
using support::wait_until;

constexpr auto kSoon = std::chrono::seconds(20);
// How soon a snapshot that can't be finished must have failed.
constexpr auto kClearly = std::chrono::seconds(10);

struct Disk {
    std::string id; // its node: n<id>
    std::string path;
    std::string format;
};

class OfflineFinish : public testing::Test
{
  protected:
    void
    add_disk(const std::string &id, const std::string &format = "qcow2",
             const std::string &backing = "")
    {
        const Disk disk{id, dir_.file(id + "." + format), format};
        std::vector<std::string> command = {"qemu-img", "create", "-q", "-f", format, disk.path};
        if (!backing.empty())
            command.insert(command.end(), {"-b", backing, "-F", "qcow2"});
        command.push_back("64M");
        must_run(command);
        disks_.push_back(disk);
    }
    void
    start(const std::vector<std::string> &options = {})
    {
        std::vector<std::string> arguments = options;
        for (const Disk &disk : disks_) {
            const auto more = as_drives_ ? drive(disk)
                                         : QemuProcess::virtio_disk(disk.path, disk.format,
                                                                    "n" + disk.id, disk.id);
            arguments.insert(arguments.end(), more.begin(), more.end());
        }
        qemu_ = std::make_unique<QemuProcess>(dir_, QemuProcess::idle(arguments));
        vm_ = "qmp:" + qemu_->socket();
    }
    // A disk that is captured by a job whatever the QEMU.
    static std::vector<std::string>
    drive(const Disk &disk)
    {
        return {"-drive",
                "if=none,id=n" + disk.id + ",format=" + disk.format + ",file=" + disk.path,
                "-device", "virtio-blk-pci,drive=n" + disk.id + ",id=" + disk.id};
    }
    void
    write(const std::string &id, const std::string &what)
    {
        qemu_->disk_io(id, "write " + what);
    }
    // What each disk holds now: DIR/ID.<name>.
    void
    keep_oracles(const std::string &name)
    {
        for (const Disk &disk : disks_) {
            qemu_->disk_io(disk.id, "flush");
            must_run({"qemu-img", "convert", "-U", "-f", disk.format, "-O", "raw", disk.path,
                      dir_.file(disk.id + "." + name)});
        }
    }
    // A create that is still at work on the point in time, whose content is kept as "then"; the
    // guest has written in and beside what is pulled since.
    std::unique_ptr<Process>
    start_slow_create(const std::string &bytes_per_second = "8M")
    {
        for (const Disk &disk : disks_)
            write(disk.id, "-P 9 0 12M");
        keep_oracles("then");
        auto process =
            virtsnap_.start({"create", vm_, "--speed-limit", bytes_per_second, "--output", "json"});
        EXPECT_TRUE(wait_until(kSoon, [&] { return exports() == disks_.size(); }))
            << process->err();
        for (const Disk &disk : disks_) {
            write(disk.id, "-P 5 3M 9M");
            write(disk.id, "-P 6 40M 1M");
            write(disk.id, "-z 2M 100k");
        }
        return process;
    }
    size_t
    count(const std::string &command, const std::string &member, const std::string &prefix)
    {
        size_t found = 0;
        for (const Json &element : qemu_->monitor().execute(command).items())
            found += element[member].text().rfind(prefix, 0) == 0;
        return found;
    }
    size_t
    exports()
    {
        return count("query-block-exports", "node-name", "vs-fleece-");
    }
    // Whether the program reads by a server of its own, which has `what` in its command.
    static bool
    has_server(const Process &process, const std::string &what)
    {
        std::error_code ignored;
        for (const auto &entry : std::filesystem::directory_iterator("/proc", ignored)) {
            std::ifstream status(entry.path() / "stat"), command(entry.path() / "cmdline");
            std::string pid, name, state, words;
            pid_t parent = 0;
            std::getline(command, words);
            if (status >> pid >> name >> state >> parent && parent == process.pid() &&
                name == "(qemu-nbd)" && words.find(what) != std::string::npos)
                return true;
        }
        return false;
    }
    static Outcome
    end_of(Process &process, support::Milliseconds timeout)
    {
        auto outcome = process.wait(timeout);
        EXPECT_TRUE(outcome);
        return outcome ? *outcome : Outcome{};
    }
    void
    expect_content(const Json &snapshot, const std::string &name)
    {
        const std::string oracle = dir_.file(snapshot["disk"]["target"].text() + "." + name);
        const std::string restored = dir_.file("restored");
        virtsnap_.json({"restore", snapshot["id"].text(), "--to", restored, "--format", "raw"});
        const Outcome outcome = support::run({"cmp", restored, oracle});
        EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err << snapshot.dump();
        must_run({"rm", restored});
    }
    // It was finished, is the point in time, and has nothing to complain of.
    void
    expect_finished(Process &process, const std::string &mode)
    {
        const Outcome outcome = end_of(process, kSoon);
        ASSERT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
        EXPECT_EQ(outcome.err.find("warning"), std::string::npos) << outcome.err;
        const Json result = Json::parse(outcome.out);
        ASSERT_EQ(result["snapshots"].size(), disks_.size());
        for (const Json &snapshot : result["snapshots"].items()) {
            EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
            expect_content(snapshot, "then");
        }
        virtsnap_.json({"repo", "check"});
    }
    void
    expect_failed(Process &process, const std::string &why)
    {
        const Outcome outcome = end_of(process, kClearly);
        EXPECT_EQ(outcome.exit_code, 1) << outcome.out << outcome.err;
        EXPECT_NE(outcome.err.find(why), std::string::npos) << outcome.err;
        EXPECT_EQ(virtsnap_.json({"list", "--status", "accomplished"}).size(), accomplished_);
    }
    // The next one of the machine, which runs, has the modes told (by disk), is exact, and leaves
    // one bitmap with its companion.
    void
    expect_next(const std::vector<std::string> &modes)
    {
        for (const Disk &disk : disks_)
            write(disk.id, "-P 3 20M 1M");
        keep_oracles("next");
        const Json snapshots = virtsnap_.json({"create", vm_})["snapshots"];
        ASSERT_EQ(snapshots.size(), modes.size());
        for (size_t i = 0; i < modes.size(); i++) {
            EXPECT_EQ(snapshots[i]["mode"].text(), modes[i]) << snapshots[i].dump();
            expect_content(snapshots[i], "next");
        }
        for (const Json &node : qemu_->monitor().execute("query-named-block-nodes").items()) {
            EXPECT_NE(node["node-name"].text().substr(0, 3), "vs-") << node.dump();
            if (node["node-name"].text() == "n" + disks_[0].id) {
                EXPECT_EQ(node["dirty-bitmaps"].size(), 2u) << node.dump();
            }
        }
    }
    void
    take_base()
    {
        for (const Disk &disk : disks_)
            write(disk.id, "-P 1 0 32M");
        virtsnap_.json({"create", vm_});
        accomplished_ = disks_.size();
    }

    TempDir dir_;
    Virtsnap virtsnap_{dir_.file("repo")};
    std::vector<Disk> disks_;
    std::unique_ptr<QemuProcess> qemu_;
    std::string vm_;
    size_t accomplished_ = 0;
    bool as_drives_ = false;

    void
    SetUp() override
    {
        virtsnap_.json({"repo", "init"});
    }
};

TEST_F(OfflineFinish, AFullSnapshotOutlivesAQuit)
{
    add_disk("dA");
    start();
    write("dA", "-P 1 0 32M");
    auto create = start_slow_create();
    qemu_->quit();
    expect_finished(*create, "full");
    start();
    expect_next({"incremental"});
}

TEST_F(OfflineFinish, AnIncrementalSnapshotOutlivesASigterm)
{
    add_disk("dA");
    start();
    take_base();
    auto create = start_slow_create();
    qemu_->process().signal(SIGTERM);
    ASSERT_TRUE(qemu_->process().wait(kSoon));
    expect_finished(*create, "incremental");
    start();
    expect_next({"incremental"});
    expect_next({"incremental"});
}

TEST_F(OfflineFinish, AnImageThatIsSnapshottedNextByItselfContinuesTheChain)
{
    add_disk("dA");
    start();
    take_base();
    auto create = start_slow_create();
    qemu_->quit();
    expect_finished(*create, "incremental");
    const Disk &disk = disks_[0];
    must_run({"qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk.path, dir_.file("image.x")});
    const Json next = virtsnap_.json({"create", "file:" + disk.path})["snapshots"][0];
    EXPECT_EQ(next["mode"].text(), "incremental") << next.dump();
    expect_content(next, "x");
    const Json info = Json::parse(must_run({"qemu-img", "info", "--output=json", disk.path}));
    EXPECT_EQ(info["format-specific"]["data"]["bitmaps"].size(), 1u) << info.dump();
}

TEST_F(OfflineFinish, ADiskThatWasReadBeforeKeepsItsResultAndTheOtherIsReadOn)
{
    add_disk("dA");
    add_disk("dB");
    start();
    take_base();
    auto create = start_slow_create();
    EXPECT_TRUE(wait_until(kSoon, [&] { return exports() == 1; })) << create->err();
    EXPECT_TRUE(wait_until(kSoon, [&] {
        return count("query-named-block-nodes", "node-name", "vs-filter-") == 1;
    })) << create->err();
    write("dA", "-P 8 0 3M"); // of which nobody keeps what was there before
    qemu_->quit();
    expect_finished(*create, "incremental");
    start();
    expect_next({"incremental", "incremental"});
}

TEST_F(OfflineFinish, AnImageWithABackingFileIsReadOn)
{
    const std::string below = dir_.file("below.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", below, "64M"});
    must_run({"qemu-io", "-c", "write -P 7 0 64M", below});
    add_disk("dA", "qcow2", below);
    start();
    take_base();
    auto create = start_slow_create();
    qemu_->quit();
    expect_finished(*create, "incremental");
    start();
    expect_next({"incremental"});
}

// Nothing then tells what was written to since.
TEST_F(OfflineFinish, ARawDiskIsGivenUp)
{
    add_disk("dA", "raw");
    start();
    take_base();
    auto create = start_slow_create();
    qemu_->quit();
    expect_failed(*create, "can't store which blocks");
    start();
    expect_next({"full"});
}

TEST_F(OfflineFinish, WhatAKilledQemuLeavesOfAFullSnapshotIsNotBelieved)
{
    add_disk("dA");
    start();
    write("dA", "-P 1 0 32M");
    auto create = start_slow_create();
    qemu_->kill();
    expect_failed(*create, "QEMU did not end in order");
    start();
    expect_next({"full"});
}

TEST_F(OfflineFinish, WhatAKilledQemuLeavesOfAnIncrementalOneIsNotBelieved)
{
    add_disk("dA");
    start();
    take_base();
    qemu_->quit(); // the old bitmap is in the image
    start();
    auto create = start_slow_create();
    qemu_->kill();
    expect_failed(*create, "QEMU did not end in order");
    start();
    expect_next({"full"});
    expect_next({"incremental"});
}

// SHUTDOWN is said before anything is written: here by a machine that then stays, paused.
TEST_F(OfflineFinish, AQemuThatIsKilledAfterItsShutdownIsNotBelieved)
{
    add_disk("dA");
    start({"-action", "reboot=shutdown,shutdown=pause"});
    write("dA", "-P 1 0 32M");
    auto create = start_slow_create();
    qemu_->monitor().execute("system_reset");
    qemu_->monitor().wait_event("SHUTDOWN", kSoon);
    qemu_->kill();
    expect_failed(*create, "can't be completed without QEMU");
    start();
    expect_next({"full"});
}

TEST_F(OfflineFinish, AMachineThatIsStartedAgainMeanwhileIsNotKeptFromItAndTheChainGoesOn)
{
    add_disk("dA");
    start();
    take_base();
    auto create = start_slow_create("1M");
    qemu_->quit();
    EXPECT_TRUE(wait_until(kSoon, [&] { return has_server(*create, "\"backing\""); }))
        << create->err();
    start();
    write("dA", "-P 77 5M 1M");
    expect_failed(*create, "can't be completed without QEMU");
    expect_next({"incremental"});
}

TEST_F(OfflineFinish, AnImageThatIsWrittenToAfterwardsIsNotBelieved)
{
    add_disk("dA");
    start();
    take_base();
    auto create = start_slow_create("1M");
    virtsnap_.wait_until_reading();
    create->signal(SIGSTOP);
    qemu_->quit();
    must_run({"qemu-io", "-f", "qcow2", "-c", "write -P 78 50M 1M", disks_[0].path});
    create->signal(SIGCONT);
    expect_failed(*create, "was not kept");
    start();
    expect_next({"incremental"});
}

TEST_F(OfflineFinish, ADiskThatAJobCapturesIsFinishedToo)
{
    as_drives_ = true;
    add_disk("dA");
    start();
    take_base();
    auto create = start_slow_create();
    EXPECT_EQ(count("query-jobs", "id", "vs-job-"), 1u);
    qemu_->quit();
    expect_finished(*create, "incremental");
    start();
    expect_next({"incremental"});
}

// Nobody has noticed before the end that its filter was broken.
TEST_F(OfflineFinish, AFilterThatWasBrokenBeforeTheEndIsNotBelieved)
{
    add_disk("dA");
    start();
    take_base();
    write("dA", "-P 9 0 12M");
    support::SmallFileSystem small(dir_.file("small"), "8m");
    auto create = virtsnap_.start({"create", vm_, "--speed-limit", "1M", "--scratch-dir",
                                   small.path(), "--scratch-size", "1M"});
    ASSERT_TRUE(wait_until(kSoon, [&] { return exports() == 1; })) << create->err();
    virtsnap_.wait_until_reading();
    create->signal(SIGSTOP);
    write("dA", "-P 79 0 12M");
    qemu_->quit();
    create->signal(SIGCONT);
    expect_failed(*create, "");
    start();
    expect_next({"incremental"});
}

TEST_F(OfflineFinish, AJobThatWasCancelledBeforeTheEndIsNotBelieved)
{
    as_drives_ = true;
    add_disk("dA");
    start();
    take_base();
    auto create = start_slow_create("1M");
    auto &monitor = qemu_->monitor();
    const std::string job = monitor.execute("query-jobs")[0]["id"].text();
    monitor.execute("block-job-cancel", "{\"device\":\"" + job + "\",\"force\":true}");
    EXPECT_TRUE(wait_until(kSoon, [&] {
        const Json jobs = monitor.execute("query-jobs");
        return jobs.size() == 0 || jobs[0]["status"].text() == "concluded";
    }));
    write("dA", "-P 79 0 12M");
    qemu_->quit();
    expect_failed(*create, "was not kept");
    start();
    expect_next({"incremental"});
}

TEST_F(OfflineFinish, AStagedDiskThatQemuHasCopiedIsFinished)
{
    add_disk("dA");
    start();
    take_base();
    write("dA", "-P 9 0 12M");
    keep_oracles("then");
    auto create = virtsnap_.start(
        {"create", vm_, "--capture", "staged", "--speed-limit", "4M", "--output", "json"});
    EXPECT_TRUE(wait_until(kSoon, [&] { return has_server(*create, "/dev/fd/"); }))
        << create->err();
    write("dA", "-P 5 3M 9M");
    qemu_->quit();
    expect_finished(*create, "incremental");
    start();
    expect_next({"incremental"});
}

} // namespace

VS_TEST_MAIN("qemu", "nbd");
