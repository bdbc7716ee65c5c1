// SPDX-License-Identifier: LGPL-2.1-or-later
// A create whose Nth call across one of its boundaries fails, or is its last, for one N after the
// other (inject.c); each time one oracle looks at everything.
//
// All N take several minutes: VIRTSNAP_FAULT_WALK=all. Else a share of them, beginning somewhere
// else each time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <random>
#include <string>
#include <vector>

#include "tests/integration/create_fixture.h"
#include "tests/support/gate.h"

namespace
{

using support::Json;
using support::must_run;
using support::Outcome;

constexpr unsigned kShare = 8; // of the points of one kind

struct Kind {
    const char *boundary;
    const char *action;
    const char *capture;
};

class Walk : public create_fixture::CreateTest, public testing::WithParamInterface<Kind>
{
  protected:
    void
    SetUp() override
    {
        CreateTest::SetUp();
        start();
        change();
        virtsnap_.json({"create", vm_});
    }
    // What the next snapshot will find: noise, so that chunks and packs are written.
    void
    change()
    {
        const std::string noise = dir_.file("noise");
        must_run({"dd", "if=/dev/urandom", "of=" + noise, "bs=64K", "count=4", "status=none"});
        qemu_->disk_io("dA", "write -s " + noise + " " + std::to_string(changes_++ % 240 * 256) +
                                 "k 256k");
        qemu_->disk_io("dA", "flush");
        must_run({"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", image_, oracle_});
    }
    Outcome
    create(const std::string &action, unsigned at)
    {
        support::ProcessOptions options;
        options.env = {{"LD_PRELOAD", getenv("VIRTSNAP_FAULT_INJECTOR")},
                       {"VIRTSNAP_FAULT",
                        std::string(GetParam().boundary) + ":" + action + ":" + std::to_string(at)},
                       {"VIRTSNAP_FAULT_REPO", virtsnap_.repository()},
                       {"VIRTSNAP_FAULT_COUNT", count_}};
        return support::run({getenv("VIRTSNAP_PROGRAM"), "--repo", virtsnap_.repository(), "create",
                             vm_, "--capture", GetParam().capture},
                            options, std::chrono::seconds(60));
    }
    unsigned
    count_points()
    {
        change();
        EXPECT_EQ(create("count", 0).exit_code, 0);
        unsigned points = 0;
        std::ifstream(count_) >> points;
        return points;
    }
    std::vector<std::string>
    accomplished()
    {
        std::vector<std::string> ids;
        for (const Json &snapshot : virtsnap_.json({"list", "--status", "accomplished"}).items())
            ids.push_back(snapshot["id"].text());
        return ids;
    }
    void
    expect_content(const std::string &id)
    {
        const std::string restored = dir_.file("restored");
        virtsnap_.json({"restore", id, "--to", restored, "--format", "raw"});
        EXPECT_EQ(support::run({"cmp", restored, oracle_}).exit_code, 0) << id;
        must_run({"rm", restored});
    }
    // The create ended in order or died, was noticed or not: what holds in any case.
    void
    expect_all_well(const Outcome &outcome, const std::vector<std::string> &before)
    {
        const bool was_killed = outcome.signal == SIGKILL;
        EXPECT_TRUE(was_killed || outcome.exit_code == 0 || outcome.exit_code == 1)
            << outcome.signal << " " << outcome.exit_code << outcome.err;
        EXPECT_EQ(qemu_->monitor().execute("query-status")["status"].text(), "running");
        for (const Json &one : virtsnap_.json({"recover"})["recovered"].items())
            EXPECT_TRUE(one["error"].is_null()) << one.dump();
        expect_clean_qemu(1);
        for (const std::string &id : accomplished())
            if (std::find(before.begin(), before.end(), id) == before.end())
                expect_content(id);
        const Json next = virtsnap_.json({"create", vm_})["snapshots"][0];
        EXPECT_EQ(next["mode"].text(), "incremental") << next.dump();
        expect_content(next["id"].text());
        virtsnap_.json({"repo", "check"});
        // The newest is the next one's base; the others only take time to check.
        for (const std::string &id : accomplished())
            if (id != next["id"].text())
                virtsnap_.json({"delete", id});
    }

    std::string oracle_ = dir_.file("oracle");
    std::string count_ = dir_.file("count");
    unsigned changes_ = 0;
};

TEST_P(Walk, NothingIsLostAndNobodyIsHurt)
{
    const char *walk = getenv("VIRTSNAP_FAULT_WALK");
    const unsigned points = count_points();
    ASSERT_GT(points, 0u);
    const bool is_all = walk != nullptr && std::string(walk) == "all";
    const unsigned step = is_all ? 1 : std::max(1u, points / kShare);
    unsigned tried = 0, failed = 0;
    for (unsigned at = 1 + std::random_device{}() % step; at <= points; at += step) {
        SCOPED_TRACE(std::string(GetParam().boundary) + ":" + GetParam().action + ":" +
                     std::to_string(at));
        const std::vector<std::string> before = accomplished();
        change();
        const Outcome outcome = create(GetParam().action, at);
        expect_all_well(outcome, before);
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
