// SPDX-License-Identifier: LGPL-2.1-or-later
// A guest that writes numbered records to two disks all the time, and what must hold of its
// snapshots whatever dies.
#ifndef TESTS_FAULT_GUEST_FIXTURE_H
#define TESTS_FAULT_GUEST_FIXTURE_H

#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <string>

#include "tests/support/guest-vm.h"
#include "tests/support/virtsnap.h"

namespace guest_fixture
{

class GuestTest : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        const char *fixed = getenv("VIRTSNAP_TEST_SEED");
        const unsigned seed =
            fixed ? static_cast<unsigned>(strtoul(fixed, nullptr, 0)) : std::random_device{}();
        printf("seed %u (VIRTSNAP_TEST_SEED)\n", seed);
        random_.seed(seed);
        virtsnap_.json({"repo", "init"});
    }
    void
    add_disk(const std::string &name, const std::string &format)
    {
        const std::string path = dir_.file(name);
        support::must_run({"qemu-img", "create", "-q", "-f", format, path, "64M"});
        for (const std::string &argument :
             support::QemuProcess::virtio_disk(path, format, "n" + name, name))
            options_.disk_arguments.push_back(argument);
    }
    // Also again, on the same disks.
    void
    boot()
    {
        guest_ = std::make_unique<support::GuestVm>(dir_, options_);
        guest_->wait_for_records(20);
        vm_ = "qmp:" + guest_->qemu().socket();
    }
    unsigned
    draw(unsigned below)
    {
        return std::uniform_int_distribution<unsigned>(0, below - 1)(random_);
    }
    void
    expect_point_in_time(const std::string &group)
    {
        const std::string target = dir_.file("group");
        virtsnap_.json({"restore", group, "--to", target, "--format", "raw"});
        const support::Outcome check =
            support::check_records({target + "/a.raw", target + "/b.raw"});
        EXPECT_EQ(check.exit_code, 0) << group << check.out << check.err;
        support::must_run({"rm", "-r", target});
    }
    // The next group is a point in time, of that mode.
    void
    expect_next(const std::string &mode)
    {
        const support::Json next = virtsnap_.json({"create", vm_});
        for (const support::Json &snapshot : next["snapshots"].items())
            EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
        expect_point_in_time(next["group"].text());
    }

    support::TempDir dir_;
    support::Virtsnap virtsnap_{dir_.file("repo")};
    support::GuestOptions options_;
    std::unique_ptr<support::GuestVm> guest_;
    std::string vm_;
    std::mt19937 random_;
};

} // namespace guest_fixture

#endif
