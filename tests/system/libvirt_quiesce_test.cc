// SPDX-License-Identifier: LGPL-2.1-or-later
// A libvirt domain's guest frozen by its real agent for the point in time, and thawed whatever
// happens.
#include <csignal>

#include "tests/support/gate.h"
#include "tests/support/libvirt-domain.h"
#include "tests/system/quiesce_fixture.h"

namespace
{

using namespace quiesce_fixture;
using support::LibvirtDaemon;
using support::LibvirtDomain;

class LibvirtQuiesce : public QuiesceTest
{
  protected:
    void
    SetUp() override
    {
        daemon_ = std::make_unique<LibvirtDaemon>(dir_);
        virtsnap_ = std::make_unique<Virtsnap>(dir_.file("repo"), daemon_->uri());
        virtsnap_->json({"repo", "init"});
        options_.agent = true;
        instance_ = "vm";
    }
    void
    add_disk(const std::string &target, const std::string &path)
    {
        support::LibvirtDisk disk;
        disk.target = target;
        disk.path = path;
        options_.disks.push_back(disk);
    }
    void
    start()
    {
        domain_ = std::make_unique<LibvirtDomain>(*daemon_, options_);
        domain_->define();
        domain_->start();
    }
    // Disks vda and vdb for the writer, and vdc with the file system.
    void
    boot()
    {
        add_disk("vda", make_disk("a"));
        add_disk("vdb", make_disk("b"));
        add_disk("vdc", make_filesystem());
        options_.guest = support::WriterOptions();
        options_.guest->slots = 256;
        options_.agent_filesystem = "/dev/vdc";
        options_.memory_mib = 128;
        start();
        ASSERT_TRUE(wait_until(kSoon, [&] { return has_agent() && files() >= 10; })) << console();
    }
    void
    boot_with_proxy()
    {
        options_.agent_socket = dir_.file("agent");
        proxy_ =
            std::make_unique<AgentProxy>(options_.agent_socket, AgentProxy::Place::kBetweenClients);
        boot();
    }
    bool
    has_agent()
    {
        return daemon_->virsh({"qemu-agent-command", "vm", R"({"execute":"guest-ping"})"})
                   .exit_code == 0;
    }
    std::string
    console() const override
    {
        return domain_->console().text();
    }
    void
    wait_for_records(uint64_t records) override
    {
        domain_->console().wait_for_records(records, kSoon);
    }
    std::string
    leftovers() override
    {
        if (!domain_->is_running())
            return "";
        std::string found;
        support::QmpSession &monitor = domain_->monitor();
        for (const std::string command : {"query-jobs", "query-block-exports"})
            for (const Json &each : monitor.execute(command).items())
                found += command + ": " + each.dump() + "\n";
        for (const Json &node : monitor.execute("query-named-block-nodes").items())
            if (accomplished_ == 0)
                found += bitmaps_of(node);
        if (daemon_->virsh({"backup-dumpxml", "vm"}).exit_code == 0)
            found += "a backup job\n";
        return found;
    }

    support::LibvirtDomainOptions options_;
    std::unique_ptr<LibvirtDaemon> daemon_;
    std::unique_ptr<LibvirtDomain> domain_;
};

TEST_F(LibvirtQuiesce, FileSystemIsCleanInTheSnapshotAndGoesOnAfterwards)
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
    for (int group = 0; group < 3; group++) {
        const std::vector<Json> disks = snapshots({"--disk", "vda", "--disk", "vdc", "--quiesce"});
        ASSERT_EQ(disks.size(), 2u);
        expect_frozen(disks[1]);
        expect_clean(disks[1], true);
    }
    // Off: there is nothing to freeze, and what was asked for can't be had.
    accomplished_ = 9;
    domain_->destroy();
    expect_refused(run_create({"--quiesce"}), "IncorrectInstanceStatus", "no guest runs", 3);
}

TEST_F(LibvirtQuiesce, DomainWithoutAnAgentIsRefused)
{
    add_disk("vda", make_disk("a"));
    start();
    expect_refused_soon("not connected");
    domain_->destroy();
    options_.agent = false;
    start();
    expect_refused_soon("not configured");
}

TEST_F(LibvirtQuiesce, AgentThatDoesNotFreezeIsRefused)
{
    boot_with_proxy();
    proxy_->answer(kFreeze, R"({"return": 0})");
    expect_refused_soon("found no file system to freeze");
    proxy_->answer(kFreeze, R"({"error": {"class": "GenericError", "desc": "not today"}})");
    expect_refused_soon("not today");
    expect_files_go_on();
    // What an agent is sent that does not answer would freeze the guest once it does.
    proxy_->hold("guest-get-time");
    expect_refused_soon("not respond");
    EXPECT_EQ(proxy_->count(kFreeze), 2u);
}

TEST_F(LibvirtQuiesce, GuestIsNotFrozenForWhatCanBeKnownBefore)
{
    boot_with_proxy();
    expect_refused(run_create({"--quiesce", "--scratch-dir", dir_.file("none")}), "InternalError",
                   "none");
    EXPECT_EQ(proxy_->count(kFreeze), 0u);
}

TEST_F(LibvirtQuiesce, GuestIsThawedWhenTheBackupDoesNotBegin)
{
    boot_with_proxy();
    // Libvirt wants to start its own.
    const std::string server =
        R"({"addr": {"type": "unix", "data": {"path": ")" + daemon_->file("other") + R"("}}})";
    domain_->monitor().execute("nbd-server-start", server);
    expect_refused(run_create({"--quiesce"}), "InternalError", "NBD server");
    EXPECT_EQ(proxy_->count(kFreeze), 1u);
    EXPECT_EQ(proxy_->count(kThaw), 1u);
    expect_files_go_on();
    domain_->monitor().execute("nbd-server-stop");
    EXPECT_EQ(snapshots({"--quiesce"}).size(), 3u);
}

TEST_F(LibvirtQuiesce, InterruptDuringTheFreezeThawsTheGuest)
{
    boot_with_proxy();
    auto process = start_frozen();
    process->signal(SIGINT);
    proxy_->release();
    expect_refused(end_of(process), "OperationCancelled", "cancelled");
    EXPECT_GE(proxy_->count(kThaw), 1u);
    expect_files_go_on();
}

TEST_F(LibvirtQuiesce, ThawThatIsNotAnsweredFailsTheSnapshot)
{
    boot_with_proxy();
    proxy_->hold(kThaw);
    expect_refused(run_create({"--quiesce"}), "QuiesceFailed",
                   "may be frozen still (`virsh domfsthaw`): domain 'vm': having its guest agent "
                   "thaw the file systems: "
                   "Guest agent");
    EXPECT_EQ(proxy_->count(kFreeze), 1u);
    expect_files_go_on();
}

TEST_F(LibvirtQuiesce, FreezeThatTakesTooLongIsGivenUpAndThawed)
{
    boot_with_proxy();
    auto process = start_frozen();
    release_when_given_up();
    expect_refused(end_of(process), "QuiesceFailed", "freeze");
    EXPECT_GE(proxy_->count(kThaw), 1u);
    expect_files_go_on();
}

// What a killed program has frozen stays so until the next one comes, whatever that one wants.
TEST_F(LibvirtQuiesce, GuestThatAKilledProgramLeftFrozenIsThawedByTheNext)
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

VS_TEST_MAIN("qemu", "libvirt", "guest");
