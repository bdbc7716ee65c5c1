// SPDX-License-Identifier: LGPL-2.1-or-later
// One chain of snapshots, however a libvirt domain is stopped, started and tampered with between.
#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace libvirt_fixture;

constexpr uint64_t kSizeA = 24 * kMiB + 3 * 512;
constexpr uint64_t kSizeB = 8 * kMiB + 70 * 512;

class LibvirtChain : public LibvirtTest
{
  protected:
    void
    SetUp() override
    {
        LibvirtTest::SetUp();
        add_disk("vda", kSizeA);
        add_disk("vdb", kSizeB, "raw");
        define();
    }
    void
    copy(const std::string &from, const std::string &to)
    {
        must_run({"cp", "--sparse=always", "--preserve=ownership", from, to});
    }
    // The disks' snapshots are as expected of qcow2, and exact; a raw disk can't be incremental.
    Json
    expect_qcow2(const std::string &mode)
    {
        Json snapshots = expect_next("");
        const Json snapshot = of(snapshots, "vda");
        EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
        EXPECT_EQ(snapshot["mode_reason"].is_null(), mode == "incremental") << snapshot.dump();
        return snapshot;
    }
    void
    write_both()
    {
        write_some("vda");
        write_some("vdb");
    }
};

TEST_F(LibvirtChain, FirstRunningThenStoppedThenRunningIsOneIncrementalChain)
{
    start();
    write_both();
    expect_qcow2("full");
    domain_->destroy();
    EXPECT_EQ(expect_qcow2("incremental")["read_bytes"].number(), 0);
    expect_nothing_left(1);
    start();
    write_both();
    EXPECT_GT(expect_qcow2("incremental")["read_bytes"].number(), 0);
    expect_nothing_left(1);
    write_both();
    domain_->quit();
    EXPECT_GT(expect_qcow2("incremental")["read_bytes"].number(), 0);
    EXPECT_EQ(expect_qcow2("incremental")["read_bytes"].number(), 0);
    expect_nothing_left(1);
    virtsnap_.json({"repo", "check"});
}

TEST_F(LibvirtChain, FirstStoppedThenRunningThenStoppedIsOneIncrementalChain)
{
    write_offline("vda", 3 * kMiB, 3 * kCluster);
    write_offline("vdb", 1 * kMiB, 512);
    expect_qcow2("full");
    start();
    write_both();
    EXPECT_GT(expect_qcow2("incremental")["read_bytes"].number(), 0);
    expect_nothing_left(1);
    write_both();
    domain_->quit();
    expect_qcow2("incremental");
    write_offline("vda", 5 * kMiB, 512);
    EXPECT_GT(expect_qcow2("incremental")["read_bytes"].number(), 0);
    expect_nothing_left(1);
}

TEST_F(LibvirtChain, QemuKilledMeansOneFullReadWhetherStoppedOrRunning)
{
    start();
    write_both();
    expect_qcow2("full");
    for (const bool is_running : {false, true}) {
        SCOPED_TRACE(is_running ? "running" : "stopped");
        write_both();
        for (const TestDisk &each : disks_)
            domain_->disk_io(each.disk.target, "flush");
        domain_->crash();
        if (is_running)
            start();
        expect_qcow2("full");
        if (!is_running) {
            EXPECT_EQ(expect_qcow2("incremental")["read_bytes"].number(), 0);
            start();
        }
        write_both();
        expect_qcow2("incremental");
        expect_nothing_left(1);
    }
}

TEST_F(LibvirtChain, AnImageReplacedByAnOlderCopyIsExact)
{
    start();
    write_both();
    expect_qcow2("full");
    domain_->destroy();
    TestDisk &vda = disk("vda");
    copy(vda.disk.path, dir_.file("older"));
    copy(vda.reference, dir_.file("older.reference"));
    start();
    write_both();
    expect_qcow2("incremental");
    domain_->destroy();
    copy(dir_.file("older"), vda.disk.path);
    copy(dir_.file("older.reference"), vda.reference);
    expect_qcow2("full");
    start();
    write_both();
    expect_qcow2("incremental");
}

TEST_F(LibvirtChain, AnInternalSnapshotRevertedToIsExact)
{
    TestDisk &vda = disk("vda");
    write_offline("vda", 2 * kMiB, 3 * kCluster);
    must_run({"qemu-img", "snapshot", "-c", "inner", vda.disk.path});
    copy(vda.reference, dir_.file("inner.reference"));
    write_offline("vda", 2 * kMiB, 2 * kCluster);
    write_offline("vda", 4 * kMiB, 2 * kCluster);
    expect_qcow2("full");
    // QEMU refuses to revert an image with bitmaps, so that somebody has removed them.
    const Json info = Json::parse(must_run({"qemu-img", "info", "--output=json", vda.disk.path}));
    for (const Json &bitmap : info["format-specific"]["data"]["bitmaps"].items())
        must_run({"qemu-img", "bitmap", "--remove", vda.disk.path, bitmap["name"].text()});
    must_run({"qemu-img", "snapshot", "-a", "inner", vda.disk.path});
    copy(dir_.file("inner.reference"), vda.reference);
    // Refused or read in full: an incremental would be wrong.
    const Outcome outcome = virtsnap_.run({"--output", "json", "create", "vm"});
    if (outcome.exit_code == 0) {
        const Json snapshots = Json::parse(outcome.out)["snapshots"];
        EXPECT_EQ(of(snapshots, "vda")["mode"].text(), "full") << of(snapshots, "vda").dump();
        expect_exact(snapshots);
    } else {
        EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
        EXPECT_NE(outcome.err.find("snapshot"), std::string::npos) << outcome.err;
    }
}

TEST_F(LibvirtChain, TwoRepositoriesInAlternationStayIncrementalAndExact)
{
    Virtsnap other(dir_.file("repo2"), daemon_.uri());
    other.json({"repo", "init"});
    std::set<uint64_t> touched;
    for (int round = 0; round < 6; round++) {
        SCOPED_TRACE("round " + std::to_string(round));
        if (round % 3 == 1)
            start();
        if (round % 3 == 1 || round % 3 == 2)
            write_both();
        if (round % 3 == 2)
            domain_->destroy();
        // What was written since this repository's newest, not since the newest of both.
        TestDisk &vda = disk("vda");
        const std::set<uint64_t> newest = vda.touched;
        vda.touched.insert(touched.begin(), touched.end());
        touched = newest;
        std::swap(virtsnap_, other);
        expect_qcow2(round < 2 ? "full" : "incremental");
    }
    expect_nothing_left(2);
}

TEST_F(LibvirtChain, AnOverlayAddedOfflineIsExact)
{
    write_offline("vda", 3 * kMiB, 3 * kCluster);
    expect_qcow2("full");
    TestDisk &vda = disk("vda");
    const std::string overlay = dir_.file("overlay.qcow2");
    must_run(
        {"qemu-img", "create", "-q", "-f", "qcow2", "-b", vda.disk.path, "-F", "qcow2", overlay});
    daemon_.give(overlay);
    redefine(vda.disk.path, overlay);
    vda.disk.path = overlay;
    write_offline("vda", 3 * kMiB, kCluster);
    expect_qcow2("full");
    write_offline("vda", 5 * kMiB, kCluster);
    expect_qcow2("incremental");
    start();
    write_both();
    expect_qcow2("incremental");
}

TEST_F(LibvirtChain, AnImageGrownOfflineIsIncrementalAndOneThatShrankMeanwhileExact)
{
    write_offline("vda", kSizeA - 4 * kCluster, 2 * kCluster);
    write_offline("vda", 20 * kMiB, 2 * kCluster);
    expect_qcow2("full");
    TestDisk &vda = disk("vda");
    const uint64_t grown = kSizeA + 3 * kMiB;
    must_run({"qemu-img", "resize", "-q", "-f", "qcow2", vda.disk.path, std::to_string(grown)});
    resize_reference("vda", grown);
    write_offline("vda", grown - 512, 512);
    for (uint64_t c = kSizeA / kCluster; c < (grown + kCluster - 1) / kCluster; c++)
        vda.touched.insert(c);
    expect_qcow2("incremental");
    for (const uint64_t size : {8 * kMiB, grown}) {
        must_run({"qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", vda.disk.path,
                  std::to_string(size)});
        resize_reference("vda", size);
    }
    expect_qcow2("full");
    start();
    write_both();
    expect_qcow2("incremental");
}

TEST_F(LibvirtChain, ADomainStartedAmidTheReadRunsAndNothingTornIsStored)
{
    write_offline("vda", 0, 8 * kMiB);
    expect_qcow2("full");
    write_offline("vda", 4 * kMiB, 8 * kMiB);
    copy(disk("vda").reference, dir_.file("before"));
    auto slow = virtsnap_.start(
        create_arguments({"--disk", "vda", "--speed-limit", "2000000", "--output", "json"}));
    ASSERT_TRUE(wait_until(kSoon, [&] {
        const Json list = virtsnap_.json({"list", "--status", "progressing"});
        return (list.size() > 0 && list[0]["progress"].number() > 0) || !slow->running();
    }));
    ASSERT_TRUE(slow->running()) << slow->err();
    start();
    EXPECT_EQ(domain_->state(), "running");
    write("vda", 0, 12 * kMiB);
    const auto outcome = slow->wait(kSoon);
    ASSERT_TRUE(outcome);
    if (outcome->exit_code == 0) {
        expect_content(Json::parse(outcome->out)["snapshots"][0], dir_.file("before"));
    } else {
        EXPECT_EQ(virtsnap_.json({"list", "--status", "accomplished", "--disk", "vda"}).size(), 1u);
        EXPECT_NE(outcome->err.find("started"), std::string::npos) << outcome->err;
    }
    EXPECT_EQ(domain_->state(), "running");
    expect_qcow2("incremental");
    expect_nothing_left(1);
}

TEST_F(LibvirtChain, TheImageOfAnUndefinedDomainContinuesItsChain)
{
    start();
    write_both();
    expect_qcow2("full");
    write("vda", 0, kCluster);
    domain_->destroy();
    daemon_.must_virsh({"undefine", "vm", "--checkpoints-metadata"});
    const Json snapshots = virtsnap_.json({"create", "file:" + disk("vda").disk.path})["snapshots"];
    ASSERT_EQ(snapshots.size(), 1u);
    EXPECT_EQ(snapshots[0]["mode"].text(), "incremental") << snapshots[0].dump();
    EXPECT_EQ(snapshots[0]["read_bytes"].number(), static_cast<int64_t>(kCluster));
    expect_content(snapshots[0], disk("vda").reference);
    disk("vda").touched.clear();
    domain_->define();
    start();
    write_both();
    expect_qcow2("incremental");
}

TEST_F(LibvirtChain, AnImageThatNeverWasAttachedIsRefused)
{
    const std::string path = dir_.file("never.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", path, "8M"});
    const Outcome outcome = virtsnap_.run({"--output", "json", "create", "file:" + path});
    EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
    EXPECT_EQ(Json::parse(outcome.out)["error"]["code"].text(),
              "IncorrectDiskStatus.NeverAttached");
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
