// SPDX-License-Identifier: LGPL-2.1-or-later
// Taking snapshots beside each other, being interrupted, and what kinds of disks are found.
#include <algorithm>
#include <atomic>
#include <gtest/gtest.h>
#include <random>
#include <signal.h>
#include <string.h>
#include <thread>

#include "tests/integration/create_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace create_fixture;

class Create : public CreateTest
{
};

TEST_F(Create, ASecondOneIsRefusedAtOnceNamingTheFirst)
{
    start();
    auto first = start_slow_create();
    std::string id = progressing();
    ASSERT_FALSE(id.empty());
    auto begun = std::chrono::steady_clock::now();
    Outcome second = virtsnap_.run({"create", vm_});
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(2));
    EXPECT_EQ(second.exit_code, 3);
    EXPECT_NE(second.err.find(id), std::string::npos) << second.err;
    first->signal(SIGTERM);
    ASSERT_TRUE(first->wait(kSoon));
}

TEST_F(Create, ASecondOneThroughAnotherMonitorIsRefusedTooAndHarmsNothing)
{
    start();
    auto first = start_slow_create();
    std::string id = progressing();
    Outcome second = virtsnap_.run({"create", "qmp:" + other_});
    EXPECT_EQ(second.exit_code, 3) << second.err;
    EXPECT_NE(second.err.find(id), std::string::npos) << second.err;
    EXPECT_TRUE(has_export());
    first->signal(SIGTERM);
    ASSERT_TRUE(first->wait(kSoon));
    expect_clean_qemu(0);
}

TEST_F(Create, ProgressIsSeenByOthersAndCancelEndsItCleanly)
{
    start();
    auto first = start_slow_create();
    std::string id = progressing();
    ASSERT_TRUE(wait_until(kSoon, [&] {
        Json snapshot = virtsnap_.json({"show", id});
        return snapshot["progress"].number() > 0 && !snapshot["remaining_seconds"].is_null();
    }));
    EXPECT_EQ(virtsnap_.json({"cancel", id})["status"].text(), "failed");
    auto outcome = first->wait(kSoon);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->exit_code, 1);
    expect_clean_qemu(0);
    expect_next("full");
}

TEST_F(Create, DeletingOneInProgressCancelsIt)
{
    start();
    auto first = start_slow_create();
    std::string id = progressing();
    virtsnap_.json({"delete", id});
    ASSERT_TRUE(first->wait(kSoon));
    EXPECT_EQ(virtsnap_.json({"list"}).size(), 0u);
    expect_clean_qemu(0);
}

TEST_F(Create, ASignalEvenTwiceUndoesItInOrderAndKeepsTheChain)
{
    start();
    virtsnap_.json({"create", vm_});
    for (const std::string capture : {"live", "staged"}) {
        for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
            SCOPED_TRACE(capture + " " + strsignal(number));
            auto process = start_slow_create({"--capture", capture});
            const auto begun = std::chrono::steady_clock::now();
            process->signal(number);
            process->signal(number);
            auto outcome = process->wait(kSoon);
            ASSERT_TRUE(outcome);
            EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
            EXPECT_EQ(outcome->exit_code, 1) << outcome->err;
            EXPECT_NE(outcome->err.find("cancelled"), std::string::npos) << outcome->err;
            expect_clean_qemu(1);
        }
    }
    expect_next("incremental");
}

TEST_F(Create, WhatAKilledOneLeftIsCleanedUpByTheNextWhichIsIncremental)
{
    start();
    virtsnap_.json({"create", vm_});
    for (std::string capture : {"live", "staged"}) {
        SCOPED_TRACE(capture);
        std::unique_ptr<Process> second;
        if (capture == "live")
            second = start_slow_create();
        else {
            qemu_->disk_io("dA", "write -P 9 0 32M");
            second = virtsnap_.start({"create", vm_, "--capture", "staged"});
            EXPECT_TRUE(wait_until(
                kSoon, [&] { return qemu_->monitor().execute("query-jobs").size() > 0; }));
        }
        second->signal(SIGKILL);
        ASSERT_TRUE(second->wait(kSoon));
        EXPECT_EQ(progressing(), ""); // shown as failed
        expect_next("incremental");
    }
}

TEST_F(Create, KilledAtRandomMomentsTheNextIsExactAndIncremental)
{
    unsigned seed = std::random_device{}();
    printf("seed %u\n", seed);
    std::mt19937 random(seed);
    start();
    virtsnap_.json({"create", vm_});
    for (int round = 0; round < 12; round++) {
        SCOPED_TRACE("round " + std::to_string(round));
        qemu_->disk_io("dA", "write -P 9 0 8M");
        auto victim = virtsnap_.start({"create", vm_});
        // The whole of it takes about as long; there is no event to wait for at a random moment.
        std::this_thread::sleep_for(std::chrono::milliseconds(random() % 150));
        victim->signal(SIGKILL);
        ASSERT_TRUE(victim->wait(kSoon));
        expect_next("incremental");
    }
}

TEST_F(Create, OtherMonitorsMayAskForNodesAllTheTime)
{
    start();
    support::QmpSession poller(other_);
    std::atomic<bool> stop{false};
    std::thread polling([&] {
        while (!stop)
            poller.execute("query-named-block-nodes");
    });
    for (int i = 0; i < 10; i++) {
        qemu_->disk_io("dA", "write -P 9 0 1M");
        EXPECT_EQ(virtsnap_.run({"create", vm_}).exit_code, 0);
    }
    stop = true;
    EXPECT_TRUE(
        qemu_->process().running()); // QEMU 7.2 aborts where blockdev-create meets such a query
    polling.join();
}

TEST_F(Create, ADamagedNewestSnapshotMeansAFullReadAndNotTheEnd)
{
    start();
    qemu_->disk_io("dA", "write -P 9 0 1M");
    std::string id = virtsnap_.json({"create", vm_})["snapshots"][0]["id"].text();
    must_run({"sh", "-c", "echo damage > '" + virtsnap_.repository() + "/snapshots/" + id + "'"});
    Json next = virtsnap_.json({"create", vm_})["snapshots"][0];
    EXPECT_EQ(next["mode"].text(), "full");
    EXPECT_NE(next["mode_reason"].text().find("damaged"), std::string::npos) << next.dump();
    virtsnap_.json({"delete", id});
    expect_next("incremental");
    // A pack that is cut short is not relied on by the next snapshot of the same content.
    must_run({"sh", "-c",
              "for p in '" + virtsnap_.repository() + "/packs'/*/*; do truncate -s 1000 $p; done"});
    next = virtsnap_.json({"create", vm_, "--full"})["snapshots"][0];
    virtsnap_.json({"restore", next["id"].text(), "--to", dir_.file("again"), "--format", "raw"});
    // The same where the content is lost.
    must_run({"sh", "-c", "rm -r '" + virtsnap_.repository() + "/packs'/*"});
    next = virtsnap_.json({"create", vm_})["snapshots"][0];
    EXPECT_EQ(next["mode"].text(), "full") << next.dump();
}

TEST_F(Create, QemuKilledMeanwhileIsAClearFailureAndTheNextIsFull)
{
    start();
    virtsnap_.json({"create", vm_});
    auto second = start_slow_create();
    qemu_->kill();
    auto outcome = second->wait(std::chrono::seconds(10));
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->exit_code, 1);
    EXPECT_NE(outcome->err.find("QEMU ended"), std::string::npos) << outcome->err;
    start();
    expect_next("full");
    expect_next("incremental");
}

TEST_F(Create, AFullScratchGivesTheSnapshotUpAndNotTheGuestsWrite)
{
    start();
    virtsnap_.json({"create", vm_});
    auto second = start_slow_create({"--scratch-size", "4M"});
    // The guest overwrites what the snapshot still needs, more than the scratch may take; each
    // write must succeed.
    for (int i = 0; i < 32 && second->running(); i++)
        qemu_->disk_io("dA", "write -P 8 " + std::to_string(i) + "M 1M");
    auto outcome = second->wait(kSoon);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->exit_code, 1);
    EXPECT_NE(outcome->err.find("scratch"), std::string::npos) << outcome->err;
    EXPECT_EQ(qemu_->monitor().execute("query-status")["status"].text(), "running");
    expect_next("incremental");
}

TEST_F(Create, TwoRepositoriesDoNotDisturbEachOther)
{
    start();
    Virtsnap other(dir_.file("repo2"));
    other.json({"repo", "init"});
    virtsnap_.json({"create", vm_});
    other.json({"create", vm_});
    qemu_->disk_io("dA", "write -P 4 1M 64k");
    EXPECT_EQ(virtsnap_.json({"create", vm_})["snapshots"][0]["mode"].text(), "incremental");
    Json snapshot = other.json({"create", vm_})["snapshots"][0];
    EXPECT_EQ(snapshot["mode"].text(), "incremental");
    EXPECT_EQ(snapshot["read_bytes"].number(), 65536);
    expect_clean_qemu(2);
}

TEST_F(Create, AnOverlayMeansAFullReadOfTheSameDisk)
{
    start();
    Json first = virtsnap_.json({"create", vm_})["snapshots"][0];
    qemu_->monitor().execute("blockdev-snapshot-sync",
                             "{\"node-name\":\"nA\",\"snapshot-node-name\":\"over\","
                             "\"snapshot-file\":\"" +
                                 dir_.file("over.qcow2") + "\"}");
    qemu_->disk_io("dA", "write -P 6 3M 1M");
    qemu_->disk_io("dA", "flush");
    Json second = virtsnap_.json({"create", vm_})["snapshots"][0];
    EXPECT_EQ(second["mode"].text(), "full");
    EXPECT_EQ(second["disk"]["id"].text(), first["disk"]["id"].text());
    must_run({"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", dir_.file("over.qcow2"),
              dir_.file("oracle")});
    virtsnap_.json({"restore", second["id"].text(), "--to", dir_.file("r"), "--format", "raw"});
    must_run({"cmp", dir_.file("oracle"), dir_.file("r")});
}

TEST_F(Create, AnIothreadDiskIsCapturedStagedByDefault)
{
    std::string path = dir_.file("io.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", path, "16M"});
    start({"-object", "iothread,id=io1", "-blockdev",
           "driver=qcow2,node-name=nI,file.driver=file,file.filename=" + path, "-device",
           "virtio-blk-pci,drive=nI,id=dI,iothread=io1"});
    qemu_->disk_io("dI", "write -P 7 0 4M");
    qemu_->disk_io("dA", "write -P 7 0 4M");
    for (std::string mode : {"full", "incremental"}) {
        Json snapshots = virtsnap_.json({"create", vm_})["snapshots"];
        ASSERT_EQ(snapshots.size(), 2u);
        for (const Json &snapshot : snapshots.items())
            EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
        for (std::string id : {"dA", "dI"})
            qemu_->disk_io(id, "write -P 8 2M 1M");
    }
    auto killed = virtsnap_.start({"create", vm_});
    killed->signal(SIGKILL);
    killed->wait(kSoon);
    EXPECT_TRUE(qemu_->process().running());
    virtsnap_.json({"create", vm_});
    EXPECT_TRUE(qemu_->process().running());
}

TEST_F(Create, AnIothreadDiskSurvivesALiveCaptureThatIsAskedForAndItsCancellation)
{
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", image_, "64M"});
    qemu_ = std::make_unique<QemuProcess>(
        dir_,
        QemuProcess::idle({"-object", "iothread,id=io1", "-blockdev",
                           "driver=qcow2,node-name=nA,file.driver=file,file.filename=" + image_,
                           "-device", "virtio-blk-pci,drive=nA,id=dA,iothread=io1"}));
    qemu_->monitor().execute("cont");
    vm_ = "qmp:" + qemu_->socket();
    for (int i = 0; i < 3; i++) {
        qemu_->disk_io("dA", "write -P 5 0 4M");
        Outcome outcome = virtsnap_.run({"create", vm_, "--capture", "live"});
        EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
        EXPECT_NE(outcome.err.find("warning"), std::string::npos);
        EXPECT_TRUE(qemu_->process().running());
    }
    auto slow = start_slow_create({"--capture", "live"});
    slow->signal(SIGTERM);
    ASSERT_TRUE(slow->wait(kSoon));
    EXPECT_TRUE(qemu_->process().running());
    expect_clean_qemu(1);
}

TEST_F(Create, FindsDisksOfEveryKindAndNothingElse)
{
    std::vector<std::string> more;
    for (std::string name : {"drive", "scsi", "nvme", "ide"})
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", dir_.file(name), "8M"});
    must_run({"qemu-img", "create", "-q", "-f", "raw", dir_.file("medium"), "8M"});
    must_run({"qemu-img", "create", "-q", "-f", "raw", dir_.file("flash"), "4M"});
    std::string file = ",file.driver=file,file.filename=";
    start({"-drive",
           "if=virtio,format=qcow2,file=" + dir_.file("drive"),
           "-device",
           "virtio-scsi-pci,id=hba",
           "-blockdev",
           "driver=qcow2,node-name=nS" + file + dir_.file("scsi"),
           "-device",
           "scsi-hd,drive=nS,bus=hba.0",
           "-drive",
           "if=none,id=nvmedrive,format=qcow2,file=" + dir_.file("nvme"),
           "-device",
           "nvme,drive=nvmedrive,serial=1,id=nv",
           "-blockdev",
           "driver=qcow2,node-name=nIde" + file + dir_.file("ide"),
           "-device",
           "ide-hd,drive=nIde,bus=ide.0,id=hd0",
           "-drive",
           "if=none,id=cd,media=cdrom,format=raw,readonly=on,file=" + dir_.file("medium"),
           "-device",
           "ide-cd,drive=cd,bus=ide.1",
           "-drive",
           "if=pflash,format=raw,file=" + dir_.file("flash"),
           "-blockdev",
           "driver=raw,node-name=nRo,read-only=on" + file + dir_.file("medium"),
           "-device",
           "virtio-blk-pci,drive=nRo,id=ro"});
    Json disks = virtsnap_.json({"disks", vm_});
    std::vector<std::string> targets, ids;
    for (const Json &disk : disks.items()) {
        targets.push_back(disk["target"].text());
        ids.push_back(disk["id"].text());
        EXPECT_EQ(disk["status"].text(), "in_use");
    }
    std::sort(targets.begin(), targets.end());
    EXPECT_EQ(targets, (std::vector<std::string>{"dA", "hd0", "nS", "nv", "virtio0"}));
    Json group = virtsnap_.json({"create", vm_});
    EXPECT_EQ(group["snapshots"].size(), 5u);
    Json again = virtsnap_.json({"create", vm_});
    for (const Json &snapshot : again["snapshots"].items())
        EXPECT_EQ(snapshot["mode"].text(), "incremental") << snapshot.dump();
    // By any of its names; and the ids stay over a restart.
    virtsnap_.json({"create", vm_, "--disk", "nvmedrive"});
    virtsnap_.json({"create", vm_, "--disk", ids[0]});
    EXPECT_EQ(qemu_->monitor().execute("query-block-exports").size(), 0u);
}

TEST_F(Create, AnNbdServerOfSomebodyElseIsSaidAndLeftAlone)
{
    start();
    const std::string socket = dir_.file("theirs");
    qemu_->monitor().execute("nbd-server-start",
                             R"({"addr":{"type":"unix","data":{"path":")" + socket + R"("}}})");
    const Outcome refused = virtsnap_.run({"create", vm_});
    EXPECT_EQ(refused.exit_code, 3) << refused.err;
    EXPECT_NE(refused.err.find("--capture staged"), std::string::npos) << refused.err;
    expect_clean_qemu(0);
    must_run({"nbdinfo", "--list", "nbd+unix:///?socket=" + socket});
    virtsnap_.json({"create", vm_, "--capture", "staged"});
    must_run({"nbdinfo", "--list", "nbd+unix:///?socket=" + socket});
}

TEST_F(Create, ABlockJobOfSomebodyElseIsSaid)
{
    start();
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", dir_.file("copy.qcow2"), "64M"});
    qemu_->monitor().execute(
        "drive-mirror", R"({"job-id":"theirs","device":"nA","target":")" + dir_.file("copy.qcow2") +
                            R"(","sync":"full","mode":"existing","format":"qcow2"})");
    const Outcome refused = virtsnap_.run({"create", vm_});
    EXPECT_EQ(refused.exit_code, 3) << refused.err;
    EXPECT_NE(refused.err.find("another job"), std::string::npos) << refused.err;
    EXPECT_EQ(qemu_->monitor().execute("query-jobs").size(), 1u);
}

} // namespace

VS_TEST_MAIN("qemu");
