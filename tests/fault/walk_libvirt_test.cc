// SPDX-License-Identifier: LGPL-2.1-or-later
// A create of a running libvirt domain that meets one failure on its way to libvirt, or dies there;
// or it is libvirt that falls silent there, or the domain that dies or ends.
#include "tests/fault/walk_fixture.h"
#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using libvirt_fixture::kMiB;
using walk_fixture::Fault;
using walk_fixture::Json;
using walk_fixture::must_run;
using walk_fixture::Outcome;

constexpr unsigned kShare = 3; // of the points of one kind
// Of which a silent daemon makes a tenth (inject.c); but not for each of ten calls.
constexpr auto kPatience = std::chrono::seconds(30);

struct Kind {
    const char *boundary;
    const char *action;
    const char *capture;
};

class LibvirtWalk : public libvirt_fixture::LibvirtTest, public testing::WithParamInterface<Kind>
{
  protected:
    void
    SetUp() override
    {
        LibvirtTest::SetUp();
        add_disk("vda", 12 * kMiB);
        add_disk("vdb", 8 * kMiB);
        define();
        start();
        change();
        expect_next("full");
        keep_base();
    }
    void
    change()
    {
        write_some("vda");
        write_some("vdb");
        for (const auto &each : disks_) // it is on the disk, should QEMU be killed
            domain_->disk_io(each.disk.target, "flush");
    }
    std::vector<std::string>
    command() const
    {
        return {"--connect", daemon_.uri(), "create", "vm", "--capture", GetParam().capture};
    }
    static std::string
    base_of(const libvirt_fixture::TestDisk &disk)
    {
        return disk.reference + ".base";
    }
    // What the disks held at the newest group.
    void
    keep_base()
    {
        for (const libvirt_fixture::TestDisk &disk : disks_)
            must_run({"cp", "--sparse=always", disk.reference, base_of(disk)});
        base_.clear();
        for (const Json &snapshot : accomplished())
            base_.push_back(snapshot["id"].text());
    }
    std::vector<Json>
    accomplished() const
    {
        return virtsnap_.json({"list", "--status", "accomplished"}).items();
    }
    bool
    is_base(const std::string &id) const
    {
        return std::find(base_.begin(), base_.end(), id) != base_.end();
    }
    static bool
    is(const char *action)
    {
        return std::string(GetParam().action) == action;
    }
    // The domain ends as it was told to, now if the create was over before, and comes back. Returns
    // the next create's mode: a QEMU that was killed has not stored its bitmaps, but the create may
    // have seen the domain off, and taken it so.
    std::string
    restart(const Outcome &outcome, pid_t qemu)
    {
        const bool was_on = domain_->state() != "shut off";
        if (was_on)
            domain_->end(qemu, is("peerkill") ? SIGKILL : SIGTERM);
        start();
        if (!is("peerkill"))
            return "incremental";
        return was_on || outcome.exit_code != 0 ? "full" : "";
    }
    // The group is there as a whole or not at all, and so is the one before.
    void
    expect_all_exact()
    {
        size_t base = 0, other = 0;
        for (const Json &snapshot : accomplished()) {
            const auto &from = disk(snapshot["disk"]["target"].text());
            const bool is_old = is_base(snapshot["id"].text());
            expect_content(snapshot, is_old ? base_of(from) : from.reference);
            (is_old ? base : other)++;
        }
        EXPECT_EQ(base, disks_.size());
        EXPECT_TRUE(other == 0 || other == disks_.size()) << other;
    }
    void
    expect_all_well(const Outcome &outcome, const Fault &fault, pid_t qemu)
    {
        walk_fixture::expect_orderly_end(outcome, fault);
        std::string next = "incremental";
        if (is("peerkill") || is("peerquit"))
            next = restart(outcome, qemu);
        EXPECT_EQ(domain_->state(), "running");
        for (const Json &one : virtsnap_.json({"recover"})["recovered"].items())
            EXPECT_TRUE(one["error"].is_null()) << one.dump();
        expect_nothing_left(1);
        EXPECT_EQ(domain_->state(), "running");
        expect_all_exact();
        change();
        forget_all_but(expect_next(next));
        virtsnap_.json({"repo", "check"});
        expect_nothing_left(1);
        keep_base();
    }
    // The newest group is the next one's base; the others only take time to check.
    void
    forget_all_but(const Json &newest)
    {
        const std::string group = newest[0]["group"].text();
        for (const Json &snapshot : accomplished())
            if (snapshot["group"].text() != group)
                virtsnap_.json({"delete", snapshot["id"].text()});
    }

    walk_fixture::Injector injector_{virtsnap_.repository(), dir_.file("count")};
    std::vector<std::string> base_;
};

TEST_P(LibvirtWalk, NothingIsLostAndTheDomainIsNotHurt)
{
    const Kind kind = GetParam();
    change();
    const unsigned points = injector_.count(kind.boundary, command());
    change();
    forget_all_but(expect_next("incremental"));
    keep_base();
    unsigned tried = 0, failed = 0;
    for (const unsigned at : walk_fixture::points_to_try(points, kShare)) {
        const Fault fault = {kind.boundary, kind.action, at};
        SCOPED_TRACE(fault.text());
        change();
        const auto begun = support::Clock::now();
        const pid_t qemu = domain_->pid();
        const Outcome outcome = injector_.run(fault, command(), qemu);
        EXPECT_LT(support::Clock::now() - begun, kPatience) << outcome.err;
        walk_fixture::expect_no_throw([&] { expect_all_well(outcome, fault, qemu); });
        tried++;
        failed += outcome.exit_code == 0 ? 0 : 1;
        if (HasFailure())
            break;
    }
    printf("libvirt %s %s %s: %u of %u points, %u creates failed\n", kind.capture, kind.boundary,
           kind.action, tried, points, failed);
}

INSTANTIATE_TEST_SUITE_P(
    AllBoundaries, LibvirtWalk,
    testing::Values(Kind{"libvirt", "hangup", "live"}, Kind{"libvirt", "kill", "live"},
                    Kind{"nbd", "hangup", "live"}, Kind{"store", "kill", "live"},
                    Kind{"libvirt", "hangup", "staged"}, Kind{"libvirt", "kill", "staged"},
                    Kind{"libvirt", "stall", "live"}, Kind{"libvirt", "stall", "staged"},
                    Kind{"libvirt", "peerkill", "live"}, Kind{"libvirt", "peerquit", "live"},
                    Kind{"libvirt", "peerkill", "staged"}, Kind{"libvirt", "peerquit", "staged"}),
    [](const testing::TestParamInfo<Kind> &info) {
        return std::string(info.param.boundary) + "_" + info.param.action + "_" +
               info.param.capture;
    });

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
