// SPDX-License-Identifier: LGPL-2.1-or-later
// A standalone QEMU's guest frozen by its real agent for the point in time, and thawed whatever
// happens.
#include <csignal>

#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/system/quiesce_fixture.h"

namespace
{

using namespace quiesce_fixture;
using support::GuestVm;
using support::QemuProcess;

class Quiesce : public QuiesceTest
{
  protected:
    void
    SetUp() override
    {
        virtsnap_ = std::make_unique<Virtsnap>(dir_.file("repo"));
        virtsnap_->json({"repo", "init"});
    }
    std::vector<std::string>
    channel() const
    {
        return {"-device",  "virtio-serial-pci",
                "-chardev", "socket,id=ga0,server=on,wait=off,path=" + dir_.file("agent"),
                "-device",  "virtserialport,chardev=ga0,name=org.qemu.guest_agent.0"};
    }
    void
    add(const std::vector<std::string> &arguments)
    {
        options_.disk_arguments.insert(options_.disk_arguments.end(), arguments.begin(),
                                       arguments.end());
    }
    void
    add_disk(const std::string &path, const std::string &name)
    {
        add(QemuProcess::virtio_disk(path, "qcow2", "n" + name, name));
    }
    // Disks vda and vdb for the writer, and vdc with the file system.
    void
    boot()
    {
        add_disk(make_disk("a"), "vda");
        add_disk(make_disk("b"), "vdb");
        add_disk(make_filesystem(), "vdc");
        add(channel());
        options_.slots = 256;
        // QEMU takes the last of each.
        add({"-initrd", support::guest_initramfs() + "-agent", "-append",
             guest_command_line(options_) + " agent.fs=/dev/vdc"});
        guest_ = std::make_unique<GuestVm>(dir_, options_);
        monitor_ = &guest_->qemu().monitor();
        instance_ = "qmp:" + guest_->qemu().socket();
        ASSERT_TRUE(wait_until(kSoon, [&] { return has_agent() && files() >= 10; })) << console();
    }
    void
    boot_with_proxy()
    {
        boot();
        proxy_ =
            std::make_unique<AgentProxy>(dir_.file("agent"), AgentProxy::Place::kInFrontOfSocket);
    }
    bool
    has_agent()
    {
        const Json devices = monitor_->execute("query-chardev");
        for (const Json &device : devices.items())
            if (device["label"].text() == "ga0")
                return device["frontend-open"].boolean();
        return false;
    }
    std::string
    console() const override
    {
        return guest_->console();
    }
    void
    wait_for_records(uint64_t records) override
    {
        guest_->wait_for_records(records, kSoon);
    }
    std::string
    leftovers() override
    {
        std::string found;
        for (const std::string command : {"query-jobs", "query-block-exports", "query-fdsets"})
            for (const Json &each : monitor_->execute(command).items())
                found += command + ": " + each.dump() + "\n";
        for (const Json &node : monitor_->execute("query-named-block-nodes").items()) {
            if (node["node-name"].text().rfind("vs-", 0) == 0)
                found += node["node-name"].text() + "\n";
            if (accomplished_ == 0)
                found += bitmaps_of(node);
        }
        return found;
    }
    std::string
    find_node(const std::string &prefix)
    {
        for (const Json &node : monitor_->execute("query-named-block-nodes").items())
            if (node["node-name"].text().rfind(prefix, 0) == 0)
                return node["node-name"].text();
        return "";
    }

    support::GuestOptions options_;
    std::unique_ptr<GuestVm> guest_;
    support::QmpSession *monitor_ = nullptr;
};

TEST_F(Quiesce, FileSystemIsCleanInTheSnapshotAndGoesOnAfterwards)
{
    boot();
    for (const char *mode : {"full", "incremental"}) {
        const Json snapshot = snapshots({"--disk", "vdc", "--quiesce"})[0];
        EXPECT_EQ(snapshot["mode"].text(), mode);
        expect_frozen(snapshot);
        expect_clean(snapshot, true);
        expect_files_go_on();
    }
    const Json crash = snapshots({"--disk", "vdc"})[0];
    expect_not_frozen(crash);
    expect_clean(crash, false);
}

TEST_F(Quiesce, GroupIsFrozenOnceAndBothOrderedAndClean)
{
    boot();
    for (int group = 0; group < 3; group++) {
        const std::vector<Json> disks = snapshots({"--quiesce"});
        ASSERT_EQ(disks.size(), 3u);
        for (const Json &disk : disks)
            EXPECT_EQ(disk["frozen_ms"].number(), disks[0]["frozen_ms"].number());
        expect_frozen(disks[2]);
        expect_clean(disks[2], true);
        const Outcome check = support::check_records({restore(disks[0]), restore(disks[1])});
        EXPECT_EQ(check.exit_code, 0) << check.out << check.err;
        expect_files_go_on();
    }
}

TEST_F(Quiesce, MachineWithoutAnAgentIsRefused)
{
    const std::vector<std::string> disk =
        QemuProcess::virtio_disk(make_disk("a"), "qcow2", "na", "vda");
    QemuProcess bare(dir_, QemuProcess::idle(disk), "bare");
    monitor_ = &bare.monitor();
    instance_ = "qmp:" + bare.socket();
    expect_refused_soon("no guest agent channel");
    bare.quit();

    std::vector<std::string> with_channel = disk;
    for (const std::string &argument : channel())
        with_channel.push_back(argument);
    QemuProcess deaf(dir_, QemuProcess::idle(with_channel), "deaf");
    monitor_ = &deaf.monitor();
    instance_ = "qmp:" + deaf.socket();
    expect_refused_soon("no guest agent runs in the guest");
}

TEST_F(Quiesce, AgentThatDoesNotFreezeIsRefused)
{
    boot_with_proxy();
    proxy_->hold("guest-sync-delimited");
    expect_refused_soon("not answered within");
    EXPECT_EQ(proxy_->count(kFreeze), 0u);
    proxy_->release();

    proxy_->answer(kFreeze, R"({"return": 0})");
    expect_refused_soon("found no file system to freeze");
    EXPECT_EQ(proxy_->count(kThaw), 1u);

    proxy_->answer(kFreeze, R"({"error": {"class": "GenericError", "desc": "not today"}})");
    expect_refused_soon("not today");
    EXPECT_EQ(proxy_->count(kThaw), 2u);
    expect_files_go_on();
}

TEST_F(Quiesce, GuestIsNotFrozenForWhatCanBeKnownBefore)
{
    boot_with_proxy();
    expect_refused(run_create({"--quiesce", "--scratch-dir", dir_.file("none")}), "InternalError",
                   "none");
    expect_refused(run_create({"--quiesce", "--disk", "nothing"}), "InvalidDiskId.NotFound",
                   "nothing");
    EXPECT_EQ(proxy_->count(kFreeze), 0u);
}

TEST_F(Quiesce, GuestIsThawedWhenThePointInTimeFails)
{
    boot_with_proxy();
    // Of one disk, since several are moved by what QEMU 7.2 does not survive if it fails.
    auto process = start_frozen({"--disk", "vdc"});
    // What the device is about to be moved to.
    monitor_->execute("blockdev-del", R"({"node-name": ")" + find_node("vs-filter-") + "\"}");
    proxy_->release();
    const Outcome outcome = end_of(process);
    expect_refused(outcome, "InternalError", "vs-filter-");
    EXPECT_EQ(proxy_->count(kThaw), 1u);
    expect_files_go_on();
}

TEST_F(Quiesce, InterruptDuringTheFreezeThawsTheGuest)
{
    boot_with_proxy();
    auto process = start_frozen();
    process->signal(SIGINT);
    release_when_given_up();
    expect_refused(end_of(process), "OperationCancelled", "cancelled");
    EXPECT_EQ(proxy_->count(kThaw), 1u);
    expect_files_go_on();
}

TEST_F(Quiesce, FreezeThatTakesTooLongIsGivenUpAndThawed)
{
    boot_with_proxy();
    auto process = start_frozen();
    release_when_given_up();
    expect_refused(end_of(process), "QuiesceFailed", "not answered within 10000 ms");
    EXPECT_EQ(proxy_->count(kThaw), 1u);
    expect_files_go_on();
}

TEST_F(Quiesce, AgentThatFallsSilentInTheFreezeIsToldToThawAndTheUserToLook)
{
    boot_with_proxy();
    auto process = start_frozen();
    expect_refused(end_of(process), "QuiesceFailed", "may be frozen still");
    // It was not: the agent had only been kept from saying so.
    EXPECT_GE(proxy_->count(kThaw), 1u);
    expect_files_go_on();
}

TEST_F(Quiesce, ThawThatIsNotAnsweredFailsTheSnapshot)
{
    boot_with_proxy();
    proxy_->hold(kThaw);
    expect_refused(run_create({"--quiesce"}), "QuiesceFailed", "may be frozen still");
    EXPECT_EQ(proxy_->count(kFreeze), 1u);
    expect_files_go_on();
}

// What a killed program has frozen stays so until the next one comes, whatever that one wants.
TEST_F(Quiesce, GuestThatAKilledProgramLeftFrozenIsThawedByTheNext)
{
    boot_with_proxy();
    for (const char *more : {"--quiet", "--quiesce"}) {
        auto process = start_frozen();
        process->signal(SIGKILL);
        EXPECT_EQ(end_of(process).signal, SIGKILL);
        expect_files_stand_still();
        proxy_->release();
        EXPECT_EQ(snapshots({more}).size(), 3u);
        accomplished_ += 3;
        EXPECT_EQ(leftovers(), "");
        expect_files_go_on();
    }
}

} // namespace

VS_TEST_MAIN("qemu", "guest");
