// SPDX-License-Identifier: LGPL-2.1-or-later
// What goes wrong beside a snapshot of a running domain: libvirt, the program, the domain, the
// scratch space.
#include <thread>

#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace libvirt_fixture;

constexpr uint64_t kSize = 12 * kMiB + 3 * 512;
constexpr uint64_t kDirty = 6 * kMiB;
constexpr char kTwoSeconds[] = "3000000";
constexpr char kAges[] = "300000";

class LibvirtFaults : public LibvirtTest
{
  protected:
    void
    SetUp() override
    {
        LibvirtTest::SetUp();
        add_disk("vda", kSize);
        add_disk("vdb", kSize);
        define();
        start();
        write_some("vdb");
        expect_next("full");
    }
    // A create under way, at that speed, of what the reference image "before" holds.
    std::unique_ptr<Process>
    start_pull(const std::string &bytes_per_second, const std::vector<std::string> &more = {})
    {
        write("vda", 0, kDirty);
        must_run({"cp", "--sparse=always", disk("vda").reference, dir_.file("before")});
        return start_slow_create(bytes_per_second, more);
    }
    // Done and exact, or failed with a word of it, and then without a trace.
    void
    expect_done_or_failed(Process &process)
    {
        const auto outcome = process.wait(std::chrono::seconds(60));
        ASSERT_TRUE(outcome) << process.err();
        printf("exit %d %s", outcome->exit_code, outcome->err.c_str());
        if (outcome->exit_code == 0) {
            const Json snapshots = Json::parse(outcome->out)["snapshots"];
            expect_content(of(snapshots, "vda"), dir_.file("before"));
        } else {
            EXPECT_EQ(outcome->exit_code, 1) << outcome->err;
            EXPECT_NE(outcome->err.find("virtsnap: "), std::string::npos) << outcome->err;
            EXPECT_EQ(accomplished(), 2u);
        }
    }
    size_t
    accomplished()
    {
        return virtsnap_.json({"list", "--status", "accomplished"}).size();
    }
    // QEMU tells each pause by an event, also one that has passed.
    void
    expect_never_paused()
    {
        domain_->monitor().execute("query-status"); // what came before is read now
        EXPECT_THROW(domain_->monitor().wait_event("STOP", support::Milliseconds(0)),
                     std::runtime_error);
    }
    void
    expect_chain_goes_on()
    {
        EXPECT_EQ(domain_->state(), "running");
        write_some("vda");
        expect_next("incremental");
        expect_nothing_left(1);
    }
};

TEST_F(LibvirtFaults, LibvirtRestartedMeanwhileIsSurvivedOrACleanFailure)
{
    auto create = start_pull(kTwoSeconds);
    daemon_.restart();
    EXPECT_TRUE(create->running()) << "the restart came too late to matter";
    write("vda", kMiB, kMiB);
    expect_done_or_failed(*create);
    expect_chain_goes_on();
}

TEST_F(LibvirtFaults, LibvirtKilledWhileItBeginsTheBackupIsSurvivedOrACleanFailure)
{
    write("vda", 0, kDirty);
    must_run({"cp", "--sparse=always", disk("vda").reference, dir_.file("before")});
    domain_->monitor(); // connected already, so that no moment is lost
    auto create = virtsnap_.start(create_arguments({"--output", "json"}));
    ASSERT_TRUE(wait_until(kSoon, [&] { return has_exports() || !create->running(); }));
    daemon_.kill();
    daemon_.start();
    expect_done_or_failed(*create);
    expect_chain_goes_on();
}

TEST_F(LibvirtFaults, LibvirtKilledMeanwhileIsSurvivedOrACleanFailure)
{
    auto create = start_pull(kTwoSeconds);
    daemon_.kill();
    daemon_.start();
    EXPECT_TRUE(create->running()) << "the crash came too late to matter";
    write("vda", kMiB, kMiB);
    expect_done_or_failed(*create);
    expect_chain_goes_on();
}

TEST_F(LibvirtFaults, LibvirtThatStaysAwayIsSaidAndTheNextIsRight)
{
    auto create = start_pull(kTwoSeconds);
    daemon_.stop();
    const auto outcome = create->wait(std::chrono::seconds(60));
    ASSERT_TRUE(outcome) << create->err();
    printf("exit %d %s", outcome->exit_code, outcome->err.c_str());
    EXPECT_NE(outcome->err.find("libvirt"), std::string::npos) << outcome->err;
    const Outcome next = virtsnap_.run({"create", "vm"});
    EXPECT_EQ(next.exit_code, 1);
    EXPECT_NE(next.err.find("libvirt"), std::string::npos) << next.err;
    daemon_.start();
    if (outcome->exit_code == 0)
        expect_content(of(Json::parse(outcome->out)["snapshots"], "vda"), dir_.file("before"));
    expect_chain_goes_on();
}

TEST_F(LibvirtFaults, KilledAtRandomMomentsItNeverPausesTheDomainAndTheNextIsExact)
{
    for (int round = 0; round < 10; round++) {
        const auto moment = std::chrono::milliseconds(draw(500));
        SCOPED_TRACE("killed " + std::to_string(moment.count()) + " ms into the pull");
        auto victim = start_pull(kTwoSeconds);
        write("vda", draw(kDirty / 512) * 512, kMiB);
        std::this_thread::sleep_for(moment); // there is no event to wait for at a random moment
        EXPECT_TRUE(victim->running());
        victim->signal(SIGKILL);
        ASSERT_TRUE(victim->wait(kSoon));
        write("vda", draw(kDirty / 512) * 512, kMiB); // the job goes on without its maker
        EXPECT_EQ(domain_->state(), "running");
        EXPECT_EQ(virtsnap_.json({"list", "--status", "progressing"}).size(), 0u);
        expect_chain_goes_on();
    }
    expect_never_paused();
}

TEST_F(LibvirtFaults, ScratchSpaceThatEndsGivesTheSnapshotUpAndNotTheGuestsWrite)
{
    auto create = start_pull(kAges, {"--scratch-size", "2M"});
    for (int i = 0; i < 48 && create->running(); i++)
        write("vda", static_cast<uint64_t>(i) % 48 * (kDirty / 48), kDirty / 48);
    const auto outcome = create->wait(kSoon);
    ASSERT_TRUE(outcome) << create->err();
    EXPECT_EQ(outcome->exit_code, 1);
    EXPECT_NE(outcome->err.find("scratch"), std::string::npos) << outcome->err;
    expect_never_paused();
    EXPECT_EQ(accomplished(), 2u);
    expect_chain_goes_on();
}

TEST_F(LibvirtFaults, InterruptedOrCancelledItLeavesNothingAndTheChainGoesOn)
{
    auto interrupted = start_pull(kAges);
    interrupted->signal(SIGINT);
    auto outcome = interrupted->wait(kSoon);
    ASSERT_TRUE(outcome);
    EXPECT_NE(outcome->exit_code, 0);
    expect_nothing_left(1);

    auto cancelled = start_pull(kAges);
    const Json list = virtsnap_.json({"list", "--status", "progressing"});
    ASSERT_EQ(list.size(), 2u);
    virtsnap_.json({"cancel", list[0]["id"].text()});
    outcome = cancelled->wait(kSoon);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->exit_code, 1) << outcome->err;
    expect_nothing_left(1);
    expect_chain_goes_on();
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
