// SPDX-License-Identifier: LGPL-2.1-or-later
// A create whose peer falls silent, dies or leaves at one step: QEMU, by its monitor or as an NBD
// server, and qemu-nbd.
#include "tests/fault/walk_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace walk_fixture;

// A deadline is 30 s at most, of which a silent peer makes 3 (inject.c); but not for each of ten
// commands.
constexpr auto kPatience = std::chrono::seconds(15);

struct Kind {
    const char *boundary;
    const char *action;
    const char *capture;
    unsigned share; // of the points
};

class PeerWalk : public WalkTest, public testing::WithParamInterface<Kind>
{
  protected:
    Outcome
    create(const Fault &fault)
    {
        return injector_.run(fault, command(), qemu_->process().pid());
    }
    std::vector<std::string>
    command() const
    {
        return {"create", vm_, "--capture", GetParam().capture};
    }
    unsigned
    count_points()
    {
        change();
        keep_content();
        const unsigned points = injector_.count(GetParam().boundary, command());
        note_new_snapshots();
        return points;
    }
    bool
    is(const char *action) const
    {
        return std::string(GetParam().action) == action;
    }
    // QEMU ends as it was told to, now if the create was over before, and comes back on the same
    // image. Returns the next create's mode, "" where it may be any.
    std::string
    restart()
    {
        qemu_->process().signal(is("peerkill") ? SIGKILL : SIGTERM);
        const auto ended = qemu_->process().wait(create_fixture::kSoon);
        if (!ended)
            throw std::runtime_error("QEMU goes on");
        // QEMU 7.2 may die of its own end while a client negotiates with its NBD server: the export
        // is freed under the coroutine that answers (nbd_negotiate_meta_queries). It is ending
        // anyway, and nobody can tell the client before. Whether it has stored its bitmaps by then
        // is a matter of luck.
        const bool is_known =
            ended->signal == SIGSEGV && is("peerquit") && GetParam().boundary == std::string("nbd");
        died_ += is_known ? 1 : 0;
        if (!is_known) {
            EXPECT_EQ(ended->signal, is("peerkill") ? SIGKILL : 0) << ended->err;
            EXPECT_EQ(ended->exit_code, is("peerkill") ? -1 : 0) << ended->err;
        }
        qemu_.reset();
        start();
        // One that was killed has not stored its bitmaps; one that ends in order has.
        return is_known ? "" : is("peerkill") ? "full" : "incremental";
    }
    void
    expect_all_well(const Outcome &outcome, const Fault &fault)
    {
        expect_orderly_end(outcome, fault);
        const std::string next = is("stall") ? "incremental" : restart();
        expect_guest_unharmed();
        expect_recovered();
        EXPECT_EQ(virtsnap_.json({"list", "--status", "progressing"}).size(), 0u);
        note_new_snapshots();
        expect_all_restorable();
        change();
        expect_next_alone(next);
        expect_clean_qemu(1);
    }

    unsigned died_ = 0; // of its own end
};

TEST_P(PeerWalk, NothingIsLostAndTheNextIsRight)
{
    const Kind kind = GetParam();
    const unsigned points = count_points();
    unsigned tried = 0, failed = 0;
    for (const unsigned at : points_to_try(points, kind.share)) {
        const Fault fault = {kind.boundary, kind.action, at};
        SCOPED_TRACE(fault.text());
        change();
        keep_content();
        const auto begun = support::Clock::now();
        const Outcome outcome = create(fault);
        EXPECT_LT(support::Clock::now() - begun, kPatience) << outcome.err;
        expect_no_throw([&] { expect_all_well(outcome, fault); });
        tried++;
        failed += outcome.exit_code == 0 ? 0 : 1;
        if (HasFailure())
            break;
    }
    printf("%s %s %s: %u of %u points, %u creates failed, QEMU died of its end %u times\n",
           kind.capture, kind.boundary, kind.action, tried, points, failed, died_);
}

INSTANTIATE_TEST_SUITE_P(
    AllBoundaries, PeerWalk,
    testing::Values(Kind{"qmp", "stall", "live", 5}, Kind{"nbd", "stall", "live", 5},
                    Kind{"qmp", "stall", "staged", 4}, Kind{"nbd", "stall", "staged", 4},
                    Kind{"qmp", "peerkill", "live", 6}, Kind{"nbd", "peerkill", "live", 6},
                    Kind{"qmp", "peerkill", "staged", 4}, Kind{"nbd", "peerkill", "staged", 4},
                    Kind{"qmp", "peerquit", "live", 6}, Kind{"nbd", "peerquit", "live", 6},
                    Kind{"qmp", "peerquit", "staged", 4}, Kind{"nbd", "peerquit", "staged", 4}),
    [](const testing::TestParamInfo<Kind> &info) {
        return std::string(info.param.boundary) + "_" + info.param.action + "_" +
               info.param.capture;
    });

} // namespace

VS_TEST_MAIN("qemu");
