// SPDX-License-Identifier: LGPL-2.1-or-later
// Consistent groups of a libvirt domain whose guest writes to two disks all the time, and which
// nothing has tainted.
#include <gtest/gtest.h>

#include "tests/support/file.h"
#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/support/libvirt-daemon.h"
#include "tests/support/libvirt-domain.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::Json;
using support::LibvirtDaemon;
using support::LibvirtDisk;
using support::LibvirtDomain;
using support::must_run;
using support::TempDir;
using support::Virtsnap;

class LibvirtGroups : public testing::Test
{
  protected:
    void
    boot(bool with_iothread)
    {
        support::LibvirtDomainOptions options;
        for (const std::string target : {"vda", "vdb"}) {
            LibvirtDisk disk;
            disk.target = target;
            disk.path = dir_.file(target + ".qcow2");
            disk.iothread = with_iothread && target == "vda";
            must_run({"qemu-img", "create", "-q", "-f", "qcow2", disk.path, "1G"});
            options.disks.push_back(disk);
        }
        options.guest = support::WriterOptions();
        options.memory_mib = 128;
        options.monitor = false; // it would taint the domain
        domain_ = std::make_unique<LibvirtDomain>(daemon_, options);
        domain_->define();
        domain_->start();
        ASSERT_FALSE(domain_->is_tainted());
        virtsnap_.json({"repo", "init"});
    }
    void
    expect_order(const std::string &group)
    {
        const std::string target = dir_.file("group");
        virtsnap_.json({"restore", group, "--to", target, "--format", "raw"});
        const support::Outcome check =
            support::check_records({target + "/vda.raw", target + "/vdb.raw"});
        EXPECT_EQ(check.exit_code, 0) << check.out << check.err;
        must_run({"rm", "-r", target});
    }
    // Groups under full load, each held against the guest's records.
    void
    take_groups(unsigned count, const std::vector<std::string> &more)
    {
        for (unsigned group = 0; group < count; group++) {
            SCOPED_TRACE("group " + std::to_string(group));
            domain_->console().wait_for_records(50);
            std::vector<std::string> arguments = {"create", "vm"};
            arguments.insert(arguments.end(), more.begin(), more.end());
            const Json result = virtsnap_.json(arguments);
            ASSERT_EQ(result["snapshots"].size(), 2u);
            for (const Json &snapshot : result["snapshots"].items())
                EXPECT_EQ(snapshot["mode"].text(), taken_ ? "incremental" : "full")
                    << snapshot.dump();
            taken_++;
            expect_order(result["group"].text());
        }
    }
    // The next group, wherever the domain is.
    void
    expect_incremental(const Virtsnap &virtsnap, const LibvirtDaemon &daemon)
    {
        const support::Outcome created = virtsnap.run({"create", "vm", "--output", "json"});
        ASSERT_EQ(created.exit_code, 0) << created.err << "libvirtd: " << daemon.log()
                                        << "QEMU: " << support::read_file(daemon.qemu_log("vm"));
        const Json result = Json::parse(created.out);
        for (const Json &snapshot : result["snapshots"].items())
            EXPECT_EQ(snapshot["mode"].text(), "incremental") << snapshot.dump();
        expect_order(result["group"].text());
    }
    void
    expect_unharmed()
    {
        domain_->console().wait_for_records(50);
        printf("worst write of the guest: %ld ms\n",
               static_cast<long>(domain_->console().status().worst_ms));
        EXPECT_LE(domain_->console().status().worst_ms, 1000);
        EXPECT_TRUE(domain_->is_running());
        EXPECT_FALSE(domain_->is_tainted());
    }

    TempDir dir_;
    LibvirtDaemon daemon_{dir_};
    Virtsnap virtsnap_{dir_.file("repo"), daemon_.uri()};
    std::unique_ptr<LibvirtDomain> domain_;
    unsigned taken_ = 0;
};

TEST_F(LibvirtGroups, TenInARowKeepTheWriteOrderAndTheDomainUntainted)
{
    boot(false);
    take_groups(10, {});
    expect_unharmed();
    // And over a stop in order, with nobody writing.
    domain_->shutdown();
    const Json stopped = virtsnap_.json({"create", "vm"});
    for (const Json &snapshot : stopped["snapshots"].items())
        EXPECT_EQ(snapshot["mode"].text(), "incremental") << snapshot.dump();
    expect_order(stopped["group"].text());
    domain_->start();
    take_groups(2, {});
}

TEST_F(LibvirtGroups, OneDiskOnAnIothreadKeepsTheWriteOrderToo)
{
    boot(true);
    take_groups(5, {});
    expect_unharmed();
}

// From one libvirtd to another, with the images on storage that both have, while the guest writes.
TEST_F(LibvirtGroups, MigratedDomainCanBeMigratedAndKeepsItsChain)
{
    boot(false);
    take_groups(2, {});
    LibvirtDaemon other(dir_, "l2");
    const Virtsnap there(dir_.file("repo"), other.uri());
    const auto migrate = [](const LibvirtDaemon &from, const LibvirtDaemon &to) {
        from.must_virsh({"migrate", "--live", "--unsafe", "--p2p", "vm", to.uri(),
                         "unix://" + to.file("migration")});
    };
    migrate(daemon_, other);
    EXPECT_FALSE(domain_->is_running());
    for (int group = 0; group < 2 && !HasFailure(); group++) {
        SCOPED_TRACE("group " + std::to_string(group));
        expect_incremental(there, other);
    }
    migrate(other, daemon_);
    EXPECT_TRUE(domain_->is_running());
    expect_incremental(virtsnap_, daemon_);
    EXPECT_FALSE(domain_->is_tainted());
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt", "guest");
