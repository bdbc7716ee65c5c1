// SPDX-License-Identifier: LGPL-2.1-or-later
// The test guest in a domain that libvirt has nothing to say against.
#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/support/libvirt-daemon.h"
#include "tests/support/libvirt-domain.h"
#include "tests/support/temp-dir.h"

#include <gtest/gtest.h>

using namespace support;

namespace
{

TEST(LibvirtGuest, WritesUntaintedUntilItIsPoweredOff)
{
    TempDir dir;
    LibvirtDaemon daemon(dir);
    LibvirtDomainOptions options;
    WriterOptions writer;

    for (const char *target : {"vda", "vdb"}) {
        LibvirtDisk disk;

        disk.target = target;
        disk.path = dir.file(target);
        disk.format = "raw";
        must_run({"qemu-img", "create", "-q", "-f", "raw", disk.path, "64M"});
        options.disks.push_back(disk);
    }
    writer.slots = 256;
    options.guest = writer;
    options.memory_mib = 128;
    options.monitor = false;

    LibvirtDomain domain(daemon, options);
    domain.define();
    domain.start();
    EXPECT_GE(domain.console().wait_for_records(300).sequence, 300u);
    EXPECT_FALSE(domain.is_tainted());
    domain.shutdown();
    EXPECT_EQ("shut off", domain.state());

    const Outcome outcome = check_records({dir.file("vda"), dir.file("vdb")});
    EXPECT_EQ(0, outcome.exit_code) << outcome.err;
    EXPECT_NE(std::string::npos, outcome.out.find("records_ok=512")) << outcome.out;
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt", "guest");
