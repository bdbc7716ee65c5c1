// SPDX-License-Identifier: LGPL-2.1-or-later
// A create that meets one failure at one of its boundaries.
#include "tests/fault/walk_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace walk_fixture;

constexpr unsigned kShare = 5; // of the points of one kind

struct Kind {
    const char *boundary;
    const char *action;
    const char *capture;
};

class Walk : public WalkTest, public testing::WithParamInterface<Kind>
{
  protected:
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
    // The create ended in order or died, was noticed or not: what holds in any case.
    void
    expect_all_well(const Outcome &outcome, const Fault &fault)
    {
        expect_orderly_end(outcome, fault);
        expect_guest_unharmed();
        expect_recovered();
        expect_clean_qemu(1);
        note_new_snapshots();
        expect_all_restorable();
        expect_next_alone("incremental");
    }
};

TEST_P(Walk, NothingIsLostAndNobodyIsHurt)
{
    const unsigned points = count_points();
    unsigned tried = 0, failed = 0;
    for (const unsigned at : points_to_try(points, kShare)) {
        const Fault fault = {GetParam().boundary, GetParam().action, at};
        SCOPED_TRACE(fault.text());
        change();
        keep_content();
        const Outcome outcome = injector_.run(fault, command());
        expect_no_throw([&] { expect_all_well(outcome, fault); });
        tried++;
        failed += outcome.exit_code == 0 ? 0 : 1;
        if (HasFailure())
            break;
    }
    printf("%s %s %s: %u of %u points, %u creates failed\n", GetParam().capture,
           GetParam().boundary, GetParam().action, tried, points, failed);
}

INSTANTIATE_TEST_SUITE_P(
    AllBoundaries, Walk,
    testing::Values(Kind{"store", "eio", "live"}, Kind{"store", "enospc", "live"},
                    Kind{"store", "kill", "live"}, Kind{"catalogue", "eio", "live"},
                    Kind{"catalogue", "kill", "live"}, Kind{"qmp", "hangup", "live"},
                    Kind{"qmp", "kill", "live"}, Kind{"nbd", "hangup", "live"},
                    Kind{"nbd", "kill", "live"}, Kind{"qmp", "hangup", "staged"},
                    Kind{"qmp", "kill", "staged"}, Kind{"nbd", "kill", "staged"}),
    [](const testing::TestParamInfo<Kind> &info) {
        return std::string(info.param.boundary) + "_" + info.param.action + "_" +
               info.param.capture;
    });

} // namespace

VS_TEST_MAIN("qemu");
