// SPDX-License-Identifier: LGPL-2.1-or-later
// The private libvirtd's promises: it is the test's own, its domains are what they are asked to be,
// and nothing of it outlives the test.
#include "tests/support/gate.h"
#include "tests/support/libvirt-daemon.h"
#include "tests/support/libvirt-domain.h"
#include "tests/support/process-keeper.h"
#include "tests/support/temp-dir.h"
#include "tests/support/virtsnap.h"

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>

using namespace support;

namespace
{

constexpr std::chrono::seconds DEADLINE(20);

std::string
image(const TempDir &dir, const std::string &name, const std::string &format = "qcow2")
{
    must_run({"qemu-img", "create", "-q", "-f", format, dir.file(name), "16M"});
    return dir.file(name);
}

LibvirtDomainOptions
one_disk(const TempDir &dir)
{
    LibvirtDomainOptions options;

    options.disks.push_back({"vda", image(dir, "a.qcow2")});
    return options;
}

// A disk of each kind.
LibvirtDomainOptions
many_disks(const TempDir &dir)
{
    LibvirtDomainOptions options = one_disk(dir);
    LibvirtDisk raw;
    LibvirtDisk scsi;
    LibvirtDisk cdrom;

    options.disks[0].iothread = true;
    raw.target = "vdb";
    raw.path = image(dir, "b.raw", "raw");
    raw.format = "raw";
    raw.shareable = true;
    scsi.target = "sda";
    scsi.path = image(dir, "c.qcow2");
    scsi.bus = "scsi";
    scsi.iothread = true;
    cdrom.target = "sdb";
    cdrom.path = image(dir, "d.iso", "raw");
    cdrom.format = "raw";
    cdrom.bus = "sata";
    cdrom.cdrom = true;
    options.disks.insert(options.disks.end(), {raw, scsi, cdrom});
    options.agent = true;
    return options;
}

TEST(ProcessKeeper, EndsWhatHasDetachedItself)
{
    TempDir dir;
    pid_t detached = -1;
    {
        ProcessKeeper keeper;
        const pid_t shell =
            keeper.start({"sh", "-c", "(setsid sleep 600 & echo $!) | cat"}, dir.file("log"));

        ASSERT_TRUE(wait_until(DEADLINE, [&] {
            std::ifstream log(dir.file("log"));

            return static_cast<bool>(log >> detached) && log.get() == '\n';
        }));
        kill(shell, SIGKILL);
        ASSERT_TRUE(wait_until(DEADLINE, [&] { return !process_exists(shell); }));
        EXPECT_TRUE(process_exists(detached));
    }
    EXPECT_FALSE(process_exists(detached));
}

TEST(ProcessKeeper, SaysInTheLogWhyNothingStarted)
{
    TempDir dir;
    ProcessKeeper keeper;
    const pid_t pid = keeper.start({"no-such-program-anywhere"}, dir.file("log"));

    ASSERT_TRUE(wait_until(DEADLINE, [&] { return !process_exists(pid); }));
    EXPECT_EQ("No such file or directory", must_run({"cat", dir.file("log")}));
}

TEST(LibvirtDaemon, LivesBesideAnother)
{
    TempDir dir;
    LibvirtDaemon first(dir, "one");
    LibvirtDaemon second(dir, "two");
    LibvirtDomain domain(first, one_disk(dir));

    domain.define();
    EXPECT_EQ("vm\n", first.must_virsh({"list", "--all", "--name"}));
    EXPECT_EQ("", second.must_virsh({"list", "--all", "--name"}));
    EXPECT_THROW(second.must_virsh({"start", "vm"}), std::runtime_error);
    EXPECT_NE(0, second.virsh({"start", "vm"}).exit_code);
}

TEST(LibvirtDaemon, KeepsItsDomainsWhenItRestartsOrCrashes)
{
    TempDir dir;
    LibvirtDaemon daemon(dir);
    LibvirtDomain domain(daemon, one_disk(dir));

    domain.define();
    domain.start();
    const pid_t qemu = domain.pid();
    const pid_t first = daemon.pid();

    daemon.restart();
    EXPECT_NE(first, daemon.pid());
    EXPECT_FALSE(process_exists(first));
    EXPECT_TRUE(domain.is_running());
    daemon.kill();
    EXPECT_NE(0, daemon.virsh({"version"}).exit_code);
    EXPECT_TRUE(process_exists(qemu));
    daemon.start();
    EXPECT_TRUE(domain.is_running());
    EXPECT_EQ(qemu, domain.pid());
    domain.disk_io("vda", "write -P 0xaa 0 64k");
}

// By virsh alone, so that no LibvirtDomain tidies up.
TEST(LibvirtDaemon, LeavesNoProcess)
{
    TempDir dir;
    std::vector<pid_t> pids;
    {
        LibvirtDaemon daemon(dir);

        std::ofstream(dir.file("xml")) << "<domain type='qemu'><name>bare</name>"
                                          "<memory unit='MiB'>64</memory><os><type>hvm</type></os>"
                                          "</domain>";
        daemon.must_virsh({"create", dir.file("xml")});
        pids = {std::stoi(must_run({"cat", daemon.qemu_pid_file("bare")})), daemon.pid()};
        daemon.restart();
        pids.push_back(daemon.pid());
        EXPECT_TRUE(process_exists(pids[0]));
    }
    for (pid_t pid : pids)
        EXPECT_FALSE(process_exists(pid));
}

TEST(LibvirtDaemon, LeavesNoProcessWhenTheTestIsKilled)
{
    TempDir dir;
    int report[2];
    pid_t pids[2] = {-1, -1};
    pid_t test;

    image(dir, "a.qcow2");
    ASSERT_EQ(0, pipe(report));
    test = fork();
    if (test == 0) {
        try {
            LibvirtDaemon daemon(dir);
            LibvirtDomain domain(daemon, one_disk(dir));

            domain.define();
            domain.start();
            daemon.restart();
            pids[0] = daemon.pid();
            pids[1] = domain.pid();
            if (write(report[1], pids, sizeof pids) == sizeof pids)
                pause();
        } catch (const std::exception &error) {
            fprintf(stderr, "%s\n", error.what());
        }
        _exit(1);
    }
    close(report[1]);
    ASSERT_EQ(static_cast<ssize_t>(sizeof pids), read(report[0], pids, sizeof pids));
    close(report[0]);
    EXPECT_TRUE(process_exists(pids[0]));
    EXPECT_TRUE(process_exists(pids[1]));
    kill(test, SIGKILL);
    waitpid(test, nullptr, 0);
    EXPECT_TRUE(wait_until(DEADLINE, [&] { return !process_exists(pids[0]); }));
    EXPECT_TRUE(wait_until(DEADLINE, [&] { return !process_exists(pids[1]); }));
}

// One daemon for each test: its start is the smaller part.
class Domain : public testing::Test
{
  protected:
    LibvirtDomain &
    start(const LibvirtDomainOptions &options)
    {
        domain_ = std::make_unique<LibvirtDomain>(daemon_, options);
        domain_->define();
        domain_->start();
        return *domain_;
    }

    TempDir dir_;
    LibvirtDaemon daemon_{dir_};
    std::unique_ptr<LibvirtDomain> domain_;
};

TEST_F(Domain, HasTheDisksItWasAskedFor)
{
    LibvirtDomain &domain = start(many_disks(dir_));
    const std::string xml = domain.xml();

    EXPECT_TRUE(domain.is_running());
    for (const char *part : {"<shareable/>", "device='cdrom'", "org.qemu.guest_agent.0",
                             "<driver iothread='1'/>", "discard='unmap' iothread='1'"})
        EXPECT_NE(std::string::npos, xml.find(part)) << part << " in " << xml;
    for (const char *target : {"vda", "vdb", "sda"}) {
        domain.disk_io(target, "write -P 0xaa 1M 64k");
        EXPECT_NO_THROW(domain.disk_io(target, "read -P 0xaa 1M 64k"));
        EXPECT_THROW(domain.disk_io(target, "read -P 0xbb 1M 64k"), std::runtime_error);
    }
    EXPECT_THROW(domain.disk_io("sdb", "write -P 0xaa 1M 64k"), std::runtime_error);
    EXPECT_THROW(domain.disk_io("vdz", "read 0 64k"), std::runtime_error);
}

// Whether a new persistent bitmap of the disk is in its image after @end.
class DomainEnd : public Domain
{
  protected:
    void
    run_until(const std::function<void(LibvirtDomain &)> &end)
    {
        LibvirtDomain &domain = start(one_disk(dir_));
        const pid_t qemu = domain.pid();
        const Json disk = domain.monitor().execute("query-block")[0]["inserted"];

        domain.monitor().execute("block-dirty-bitmap-add",
                                 R"({"node":")" + disk["node-name"].text() +
                                     R"(","name":"b","persistent":true})");
        domain.disk_io("vda", "write -P 0xaa 0 64k");
        end(domain);
        EXPECT_EQ("shut off", domain.state());
        EXPECT_FALSE(process_exists(qemu));
    }
    bool
    bitmap_stored() const
    {
        const Json info =
            Json::parse(must_run({"qemu-img", "info", "--output=json", dir_.file("a.qcow2")}));

        return info["format-specific"]["data"].has("bitmaps");
    }
};

TEST_F(DomainEnd, StoresBitmapsWhenItQuits)
{
    run_until([](LibvirtDomain &domain) { domain.quit(); });
    EXPECT_TRUE(bitmap_stored());
    domain_->start();
    EXPECT_TRUE(domain_->is_running());
    EXPECT_NO_THROW(domain_->disk_io("vda", "read -P 0xaa 0 64k"));
}

TEST_F(DomainEnd, StoresBitmapsWhenItIsDestroyed)
{
    run_until([](LibvirtDomain &domain) { domain.destroy(); });
    EXPECT_TRUE(bitmap_stored());
}

TEST_F(DomainEnd, StoresNothingWhenItCrashes)
{
    run_until([](LibvirtDomain &domain) { domain.crash(); });
    EXPECT_FALSE(bitmap_stored());
}

TEST_F(Domain, IsSuspendedAndResumed)
{
    LibvirtDomain &domain = start(one_disk(dir_));

    EXPECT_EQ("running", domain.state());
    domain.suspend();
    EXPECT_EQ("paused", domain.state());
    EXPECT_FALSE(domain.is_running());
    domain.resume();
    EXPECT_TRUE(domain.is_running());
}

TEST_F(Domain, IsTaintedByTheTestsMonitorAlone)
{
    LibvirtDomainOptions options = one_disk(dir_);

    EXPECT_TRUE(start(options).is_tainted());
    domain_.reset();
    options.monitor = false;
    EXPECT_FALSE(start(options).is_tainted());
}

TEST_F(Domain, IsUndefinedWithItsCheckpoints)
{
    start(one_disk(dir_));
    daemon_.must_virsh({"checkpoint-create-as", "vm", "c1"});
    daemon_.must_virsh({"snapshot-create-as", "vm", "s1", "--disk-only"});
    domain_.reset();
    EXPECT_EQ("", daemon_.must_virsh({"list", "--all", "--name"}));
}

TEST(Virtsnap, ConnectsWhereItIsTold)
{
    setenv("VIRTSNAP_PROGRAM", "echo", 1);
    EXPECT_EQ("--repo r --connect qemu:///x list\n", Virtsnap("r", "qemu:///x").run({"list"}).out);
    EXPECT_EQ("--repo r list\n", Virtsnap("r").run({"list"}).out);
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
