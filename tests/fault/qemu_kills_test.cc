// SPDX-License-Identifier: LGPL-2.1-or-later
// QEMU killed while its guest writes, during snapshots and between them.
#include <chrono>
#include <thread>

#include "tests/fault/guest_fixture.h"
#include "tests/support/gate.h"

namespace
{

using support::Json;

constexpr unsigned kKills = 20;

class QemuKills : public guest_fixture::GuestTest
{
  protected:
    void
    SetUp() override
    {
        GuestTest::SetUp();
        add_disk("a", "qcow2");
        add_disk("b", "raw");
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
