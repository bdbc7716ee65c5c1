// SPDX-License-Identifier: LGPL-2.1-or-later
// A running domain that stops while its disks are pulled: the snapshot is finished from the images
// and what was captured, or given up where that is not sound.
#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace libvirt_fixture;

constexpr uint64_t kSize = 24 * kMiB + 3 * 512;
constexpr uint64_t kDirty = 6 * kMiB;
constexpr char kTwoSeconds[] = "3000000";
// How soon a snapshot that can't be finished must have failed.
constexpr auto kClearly = std::chrono::seconds(10);

class LibvirtOffline : public LibvirtTest
{
  protected:
    void
    SetUp() override
    {
        LibvirtTest::SetUp();
        add_disk("vda", kSize);
        add_disk("vdb", kSize);
        define();
        start();
        write_some("vda");
        write_some("vdb");
    }
    // A create that is at work on what the reference images "vda.before" and "vdb.before" hold;
    // the guest has written in and beside what is pulled since.
    std::unique_ptr<Process>
    start_pull()
    {
        for (const TestDisk &each : disks_) {
            write(each.disk.target, 0, kDirty);
            must_run(
                {"cp", "--sparse=always", each.reference, dir_.file(each.disk.target + ".before")});
        }
        auto create = start_slow_create(kTwoSeconds);
        EXPECT_TRUE(wait_until(kSoon, [&] { return has_exports(); })) << create->err();
        for (const TestDisk &each : disks_) {
            write(each.disk.target, kDirty / 2, kDirty);
            write(each.disk.target, 20 * kMiB, 100 * 512);
        }
        return create;
    }
    void
    expect_finished(Process &create, const std::string &mode)
    {
        const auto outcome = create.wait(kSoon);
        ASSERT_TRUE(outcome) << create.err();
        ASSERT_EQ(outcome->exit_code, 0) << outcome->err;
        EXPECT_EQ(outcome->err.find("warning"), std::string::npos) << outcome->err;
        const Json snapshots = Json::parse(outcome->out)["snapshots"];
        expect_mode(snapshots, mode);
        for (const TestDisk &each : disks_)
            expect_content(of(snapshots, each.disk.target),
                           dir_.file(each.disk.target + ".before"));
    }
    // Of a disk, and not only the newest checkpoint's.
    void
    expect_one_bitmap()
    {
        size_t images = 0;
        for (const Json &node : domain_->monitor().execute("query-named-block-nodes").items()) {
            if (node["drv"].text() != "qcow2")
                continue;
            images++;
            EXPECT_EQ(node["dirty-bitmaps"].size(), 1u) << node.dump();
        }
        EXPECT_EQ(images, disks_.size());
    }
    void
    expect_failed(Process &create)
    {
        const auto outcome = create.wait(kClearly);
        ASSERT_TRUE(outcome) << create.err();
        EXPECT_NE(outcome->exit_code, 0);
        EXPECT_NE(outcome->err.find("can't be completed without QEMU"), std::string::npos)
            << outcome->err;
    }
};

TEST_F(LibvirtOffline, AFullSnapshotOutlivesTheDomainsDestruction)
{
    auto create = start_pull();
    domain_->destroy();
    expect_finished(*create, "full");
    expect_next("incremental");
    expect_nothing_left(1);
}

TEST_F(LibvirtOffline, AnIncrementalOneOutlivesItAndTheNextOfTheStoppedDomainContinuesTheChain)
{
    expect_next("full");
    auto create = start_pull();
    domain_->destroy();
    expect_finished(*create, "incremental");
    expect_next("incremental");
    expect_nothing_left(1);
    start();
    write_some("vda");
    expect_next("incremental");
    expect_nothing_left(1);
}

TEST_F(LibvirtOffline, AnIncrementalOneOutlivesAPoweroffAndTheNextOfTheRunningDomainContinuesIt)
{
    expect_next("full");
    auto create = start_pull();
    domain_->quit();
    expect_finished(*create, "incremental");
    start();
    write_some("vdb");
    expect_next("incremental");
    expect_nothing_left(1);
    expect_one_bitmap();
}

TEST_F(LibvirtOffline, WhatACrashLeavesIsNotBelieved)
{
    auto create = start_pull();
    for (const TestDisk &each : disks_) // what a crash takes with it is no matter here
        domain_->disk_io(each.disk.target, "flush");
    domain_->crash();
    expect_failed(*create);
    start();
    expect_next("full");
    write_some("vda");
    expect_next("incremental");
    expect_nothing_left(1);
}

TEST_F(LibvirtOffline, AJobThatWasAbortedBeforeTheEndIsNotBelievedAndTheChainIsKept)
{
    expect_next("full");
    auto create = start_pull();
    // Should the program see the abort before the end, it would not even ask.
    virtsnap_.wait_until_reading();
    create->signal(SIGSTOP);
    daemon_.must_virsh({"domjobabort", "vm"});
    write("vda", 0, kDirty);
    write("vda", 15 * kMiB, kMiB);
    domain_->destroy();
    create->signal(SIGCONT);
    expect_failed(*create);
    expect_next("incremental");
    start();
    write_some("vda");
    expect_next("incremental");
    expect_nothing_left(1);
}

} // namespace

VS_TEST_MAIN("libvirt", "qemu", "nbd");
