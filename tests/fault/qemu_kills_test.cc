// SPDX-License-Identifier: LGPL-2.1-or-later
// QEMU killed while its guest writes, during snapshots and between them.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::GuestVm;
using support::Json;
using support::must_run;
using support::QemuProcess;

constexpr unsigned kKills = 20;

class QemuKills : public testing::Test
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
        add_disk("a", "qcow2");
        add_disk("b", "raw");
        virtsnap_.json({"repo", "init"});
    }
    void
    add_disk(const std::string &name, const std::string &format)
    {
        const std::string path = dir_.file(name);
        must_run({"qemu-img", "create", "-q", "-f", format, path, "64M"});
        for (const std::string &argument : QemuProcess::virtio_disk(path, format, "n" + name, name))
            options_.disk_arguments.push_back(argument);
    }
    void
    boot()
    {
        guest_ = std::make_unique<GuestVm>(dir_, options_);
        guest_->wait_for_records(20);
        vm_ = "qmp:" + guest_->qemu().socket();
    }
    unsigned
    draw(unsigned below)
    {
        return std::uniform_int_distribution<unsigned>(0, below - 1)(random_);
    }
    // The next group is a point in time, of that mode.
    void
    expect_next(const std::string &mode)
    {
        const Json next = virtsnap_.json({"create", vm_});
        for (const Json &snapshot : next["snapshots"].items())
            EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
        const std::string target = dir_.file("group");
        virtsnap_.json({"restore", next["group"].text(), "--to", target, "--format", "raw"});
        const support::Outcome check =
            support::check_records({target + "/a.raw", target + "/b.raw"});
        EXPECT_EQ(check.exit_code, 0) << check.out << check.err;
        must_run({"rm", "-r", target});
    }
    // A create that QEMU's end interrupts says so soon, unless it was done before.
    void
    kill_during_create()
    {
        auto create = virtsnap_.start({"create", vm_});
        std::this_thread::sleep_for(std::chrono::milliseconds(draw(250)));
        guest_->qemu().kill();
        const auto killed = std::chrono::steady_clock::now();
        auto outcome = create->wait(std::chrono::seconds(20));
        ASSERT_TRUE(outcome);
        EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(10));
        if (outcome->exit_code == 0)
            finished_++;
        else
            interrupted_++;
    }

    support::TempDir dir_;
    support::Virtsnap virtsnap_{dir_.file("repo")};
    support::GuestOptions options_;
    std::unique_ptr<GuestVm> guest_;
    std::string vm_;
    std::mt19937 random_;
    unsigned finished_ = 0, interrupted_ = 0;
};

TEST_F(QemuKills, MeanOneFullReadAndTheChainGoesOn)
{
    boot();
    expect_next("full");
    for (unsigned i = 0; i < kKills && !HasFailure(); i++) {
        SCOPED_TRACE("kill " + std::to_string(i + 1));
        expect_next("incremental");
        if (i % 2 == 0)
            kill_during_create();
        else
            guest_->qemu().kill();
        guest_.reset();
        boot();
        expect_next("full");
    }
    virtsnap_.json({"repo", "check"});
    printf("%u kills, %u of them interrupted a create, %u came when it had ended\n", kKills,
           interrupted_, finished_);
}

// What QEMU could write down before it ended is not lost.
TEST_F(QemuKills, AfterAnOrderlyEndOnlyTheDiskWhoseBitmapWasLostIsReadInFull)
{
    boot();
    expect_next("full");
    guest_->power_off();
    guest_.reset();
    boot();
    const Json next = virtsnap_.json({"create", vm_});
    for (const Json &snapshot : next["snapshots"].items())
        EXPECT_EQ(snapshot["mode"].text(),
                  snapshot["disk"]["target"].text() == "a" ? "incremental" : "full")
            << snapshot.dump();
    expect_next("incremental");
}

} // namespace

VS_TEST_MAIN("qemu", "guest");
