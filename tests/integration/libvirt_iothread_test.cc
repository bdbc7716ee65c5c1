// SPDX-License-Identifier: LGPL-2.1-or-later
// Disks on iothreads: with QEMU 7.2 an NBD client that dies may take the VM along. By default that
// can't happen, at whatever moment the program is killed.
#include <cmath>
#include <thread>

#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"
#include "tests/support/qemu-process.h"

namespace
{

using namespace libvirt_fixture;
using support::QemuProcess;

constexpr int kKills = 25;
constexpr uint64_t kSize = 6 * kMiB + 3 * 512;

// When to kill, as parts of the time that the command takes: one moment in each of kKills equal
// parts, in disorder.
std::vector<double>
draw_moments(std::mt19937 &random)
{
    std::vector<double> moments;
    for (int i = 0; i < kKills; i++)
        moments.push_back((i + std::uniform_real_distribution<>(0, 1)(random)) / kKills);
    std::shuffle(moments.begin(), moments.end(), random);
    return moments;
}

// Kills it at that moment; whether it was still at work. There is no event to wait for.
bool
kill_at(Process &victim, std::chrono::microseconds moment)
{
    std::this_thread::sleep_for(moment);
    const bool was_running = victim.running();
    if (was_running)
        victim.signal(SIGKILL);
    EXPECT_TRUE(victim.wait(kSoon)) << victim.threads();
    return was_running;
}

class LibvirtIothread : public LibvirtTest
{
  protected:
    void
    SetUp() override
    {
        LibvirtTest::SetUp();
        add_disk("vda", kSize).disk.iothread = true;
        TestDisk &scsi = add_disk("sda", kSize);
        scsi.disk.bus = "scsi";
        scsi.disk.iothread = true;
        add_disk("vdb", kSize);
        define();
        start();
        qemu_ = domain_->pid();
    }
    void
    write_all()
    {
        for (const TestDisk &each : disks_)
            write_some(each.disk.target);
    }
    // As a guest does after what it wants to keep.
    void
    flush_all()
    {
        for (const TestDisk &each : disks_)
            domain_->disk_io(each.disk.target, "flush");
    }
    void
    expect_alive()
    {
        EXPECT_EQ(domain_->state(), "running");
        EXPECT_EQ(domain_->pid(), qemu_);
    }

    pid_t qemu_ = -1;
};

// A guest flushes sooner or later. Before it does the witness, which looks at the image from
// outside, may not see what was written, and the disk is read in full: right, but slow.
TEST_F(LibvirtIothread, AGroupIsExactThenIncrementalAndTheDomainLives)
{
    write_all();
    flush_all();
    EXPECT_EQ(expect_next("full").size(), 3u);
    for (int i = 0; i < 2; i++) {
        write_all();
        flush_all();
        expect_next("incremental");
        expect_nothing_left(1);
        expect_alive();
    }
    expect_next("incremental", {"--disk", "vdb"});
    write_all();
    flush_all();
    expect_next("incremental", {"--disk", "sda"});
    write_all();
    flush_all();
    expect_next("incremental");
    expect_nothing_left(1);
    expect_alive();
}

TEST_F(LibvirtIothread, KilledAtAnyMomentItLeavesTheDomainRunningAndTheChainIntact)
{
    write_all();
    expect_next("full");
    write_all();
    flush_all();
    const auto begun = support::Clock::now();
    expect_mode(create(), "incremental");
    auto whole =
        std::chrono::duration_cast<std::chrono::microseconds>(support::Clock::now() - begun);
    int hits = 0;
    for (const double part : draw_moments(random_)) {
        const auto moment = std::chrono::microseconds(std::llround(whole.count() * part));
        SCOPED_TRACE("killed after " + std::to_string(moment.count()) + " us of " +
                     std::to_string(whole.count()));
        write("vda", draw(kSize / 512 - 2000) * 512, kMiB / 2);
        write("sda", draw(kSize / 512 - 2000) * 512, kMiB / 2);
        write_some("vdb");
        flush_all();
        auto victim = virtsnap_.start(create_arguments({}));
        if (kill_at(*victim, moment))
            hits++;
        else
            whole = moment; // it takes less time than it took
        expect_alive();
        const Json next = create();
        expect_mode(next, "incremental");
        for (const Json &snapshot : next.items())
            expect_content(snapshot, disk(snapshot["disk"]["target"].text()).reference);
        expect_alive();
        if (HasFailure())
            break;
    }
    printf("%d of %d were killed at work\n", hits, kKills);
    EXPECT_GE(hits, kKills / 2);
    expect_nothing_left(1);
    virtsnap_.json({"repo", "check"});
}

TEST_F(LibvirtIothread, ALiveCaptureThatIsAskedForWarnsAndTheDomainLives)
{
    write_all();
    expect_next("full");
    for (int i = 0; i < 3; i++) {
        write_all();
        const Outcome outcome =
            virtsnap_.run({"--output", "json", "create", "vm", "--capture", "live"});
        ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
        EXPECT_NE(outcome.err.find("warning"), std::string::npos) << outcome.err;
        EXPECT_NE(outcome.err.find("iothread"), std::string::npos) << outcome.err;
        const Json snapshots = Json::parse(outcome.out)["snapshots"];
        expect_mode(snapshots, "incremental");
        expect_exact(snapshots);
        expect_alive();
        expect_nothing_left(1);
    }
}

TEST_F(LibvirtIothread, ALiveCaptureThatIsInterruptedLeavesTheDomainRunning)
{
    expect_next("full");
    for (const int number : {SIGINT, SIGTERM}) {
        for (const TestDisk &each : disks_)
            write(each.disk.target, 0, 4 * kMiB);
        auto slow = start_slow_create("1000000", {"--capture", "live"});
        write("vda", kMiB, kMiB);
        slow->signal(number);
        const auto outcome = slow->wait(kSoon);
        ASSERT_TRUE(outcome);
        EXPECT_NE(outcome->exit_code, 0);
        expect_alive();
        expect_nothing_left(1);
        expect_next("incremental");
        expect_alive();
    }
}

// The same for a QEMU without libvirt ------------------------------------------------------------

class BareIothread : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        random_.seed(draw_seed());
        std::vector<std::string> arguments = {"-object", "iothread,id=io1", "-device",
                                              "virtio-scsi-pci,id=hba,iothread=io1"};
        for (const std::string id : {"dA", "dS", "dN"}) {
            const std::string path = dir_.file(id);
            must_run({"qemu-img", "create", "-q", "-f", "qcow2", path, std::to_string(kSize)});
            const std::string device = id == "dS" ? "scsi-hd,bus=hba.0,drive=n" + id + ",id=" + id
                                                  : "virtio-blk-pci,drive=n" + id + ",id=" + id +
                                                        (id == "dA" ? ",iothread=io1" : "");
            arguments.insert(arguments.end(), {"-blockdev",
                                               "driver=qcow2,node-name=n" + id +
                                                   ",file.driver=file,file.filename=" + path,
                                               "-device", device});
        }
        qemu_ = std::make_unique<QemuProcess>(dir_, QemuProcess::idle(arguments));
        qemu_->monitor().execute("cont");
        vm_ = "qmp:" + qemu_->socket();
        virtsnap_.json({"repo", "init"});
    }
    void
    write_all()
    {
        for (const std::string id : {"dA", "dS", "dN"}) {
            const uint64_t offset = random_() % (kSize / 512 - 2000) * 512;
            qemu_->qemu_io(id == "dS" ? "/machine/peripheral/dS"
                                      : "/machine/peripheral/" + id + "/virtio-backend",
                           "write -P " + std::to_string(1 + random_() % 255) + " " +
                               std::to_string(offset) + " 512k");
        }
    }
    void
    expect_next(const std::string &mode)
    {
        std::vector<std::string> oracles;
        for (const std::string id : {"dA", "dS", "dN"}) {
            qemu_->qemu_io(id == "dS" ? "/machine/peripheral/dS"
                                      : "/machine/peripheral/" + id + "/virtio-backend",
                           "flush");
            must_run({"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", dir_.file(id),
                      dir_.file("oracle." + id)});
        }
        const Json snapshots = virtsnap_.json({"create", vm_})["snapshots"];
        ASSERT_EQ(snapshots.size(), 3u);
        for (const Json &snapshot : snapshots.items()) {
            EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
            const std::string restored = dir_.file("restored");
            virtsnap_.json({"restore", snapshot["id"].text(), "--to", restored, "--format", "raw"});
            EXPECT_EQ(support::run({"cmp", restored,
                                    dir_.file("oracle." + snapshot["disk"]["target"].text())})
                          .exit_code,
                      0)
                << snapshot.dump();
            std::filesystem::remove(restored);
        }
    }

    support::TempDir dir_;
    Virtsnap virtsnap_{dir_.file("repo")};
    std::unique_ptr<QemuProcess> qemu_;
    std::string vm_;
    std::mt19937 random_;
};

TEST_F(BareIothread, KilledAtAnyMomentItLeavesTheVmRunningAndTheChainIntact)
{
    write_all();
    expect_next("full");
    write_all();
    const auto begun = support::Clock::now();
    virtsnap_.json({"create", vm_});
    auto whole =
        std::chrono::duration_cast<std::chrono::microseconds>(support::Clock::now() - begun);
    int hits = 0;
    for (const double part : draw_moments(random_)) {
        const auto moment = std::chrono::microseconds(std::llround(whole.count() * part));
        SCOPED_TRACE("killed after " + std::to_string(moment.count()) + " us of " +
                     std::to_string(whole.count()));
        write_all();
        auto victim = virtsnap_.start({"create", vm_});
        if (kill_at(*victim, moment))
            hits++;
        else
            whole = moment; // it takes less time than it took
        ASSERT_TRUE(qemu_->process().running()) << qemu_->process().err();
        write_all();
        expect_next("incremental");
        ASSERT_TRUE(qemu_->process().running()) << qemu_->process().err();
        if (HasFailure())
            break;
    }
    printf("%d of %d were killed at work\n", hits, kKills);
    EXPECT_GE(hits, kKills / 2);
    EXPECT_EQ(qemu_->monitor().execute("query-status")["status"].text(), "running");
    EXPECT_EQ(qemu_->monitor().execute("query-jobs").size(), 0u);
    EXPECT_EQ(qemu_->monitor().execute("query-fdsets").size(), 0u);
    virtsnap_.json({"repo", "check"});
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
