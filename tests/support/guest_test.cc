// SPDX-License-Identifier: LGPL-2.1-or-later
// The guest of vm-images/ as an oracle: it writes, survives a crash and a restart, and its disks
// pass the check at the end of each.
#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/support/temp-dir.h"

#include <gtest/gtest.h>
#include <stdexcept>

using namespace support;

namespace
{

class Guest : public testing::Test
{
  protected:
    Guest()
    {
        for (const char *disk : {"a", "b"}) {
            const std::vector<std::string> arguments =
                QemuProcess::virtio_disk(image(disk), "qcow2", disk, std::string("vd") + disk);

            must_run({"qemu-img", "create", "-q", "-f", "qcow2", image(disk), "64M"});
            options_.disk_arguments.insert(options_.disk_arguments.end(), arguments.begin(),
                                           arguments.end());
        }
        options_.slots = 256;
    }
    std::string
    image(const std::string &disk) const
    {
        return dir_.file(disk + ".qcow2");
    }
    Outcome
    check() const
    {
        for (const char *disk : {"a", "b"})
            must_run({"qemu-img", "convert", "-O", "raw", image(disk), dir_.file(disk)});
        return check_records({dir_.file("a"), dir_.file("b")});
    }

    TempDir dir_;
    GuestOptions options_;
};

TEST_F(Guest, ContinuesAfterACrashAndAfterAPowerOff)
{
    uint64_t crashed_at;
    Outcome outcome;
    {
        GuestVm guest(dir_, options_);

        crashed_at = guest.wait_for_records(300).sequence;
        guest.qemu().kill();
    }
    outcome = check();
    EXPECT_EQ(0, outcome.exit_code) << outcome.err;
    EXPECT_NE(std::string::npos, outcome.out.find("records_ok=512")) << outcome.out;

    GuestVm guest(dir_, options_);
    EXPECT_GE(guest.status().sequence, crashed_at);
    EXPECT_GT(guest.wait_for_records(100).worst_ms, -1);
    guest.power_off();
    outcome = check();
    EXPECT_EQ(0, outcome.exit_code) << outcome.err;
}

TEST_F(Guest, RefusesDisksThatContradictTheWriteOrder)
{
    {
        GuestVm guest(dir_, options_);

        guest.wait_for_records(100);
        guest.power_off();
    }
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", image("b"), "64M"});
    EXPECT_THROW(GuestVm(dir_, options_), std::runtime_error);
}

} // namespace

VS_TEST_MAIN("qemu", "guest");
