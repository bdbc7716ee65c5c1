// SPDX-License-Identifier: LGPL-2.1-or-later
// SIGKILL at random moments of everything that changes something, while a guest writes.
//
// Whatever dies: the guest runs on unpaused, what was accomplished restores to a point in time, and
// after a recover nothing of ours is left and the next group is incremental.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>
#include <signal.h>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::GuestVm;
using support::Json;
using support::must_run;
using support::QemuProcess;

constexpr unsigned kKills = 200;
constexpr unsigned kRound = 10; // kills between two looks at everything
// About as long as the commands take here: some end before, and don't count.
constexpr unsigned kCreateMs = 500, kOtherMs = 50;
constexpr size_t kMostGroups = 12;

class Kills : public testing::Test
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
        support::GuestOptions options;
        for (const std::string name : {"a", "b"}) {
            const std::string path = dir_.file(name + ".qcow2");
            must_run({"qemu-img", "create", "-q", "-f", "qcow2", path, "64M"});
            for (const std::string &argument :
                 QemuProcess::virtio_disk(path, "qcow2", "n" + name, name))
                options.disk_arguments.push_back(argument);
        }
        virtsnap_.json({"repo", "init"});
        guest_ = std::make_unique<GuestVm>(dir_, options);
        guest_->wait_for_records(20);
        vm_ = "qmp:" + guest_->qemu().socket();
    }
    unsigned
    draw(unsigned below)
    {
        return std::uniform_int_distribution<unsigned>(0, below - 1)(random_);
    }
    // Groups of which both snapshots are there.
    std::vector<std::string>
    groups()
    {
        std::map<std::string, unsigned> members;
        for (const Json &snapshot : virtsnap_.json({"list", "--status", "accomplished"}).items())
            members[snapshot["group"].text()]++;
        std::vector<std::string> whole;
        for (const auto &[group, count] : members)
            if (count == 2)
                whole.push_back(group);
        return whole;
    }
    std::vector<std::string>
    draw_command()
    {
        const std::vector<std::string> known = groups();
        const unsigned choice = known.size() > kMostGroups ? 60 : draw(100);
        if (choice < 45)
            return {"create", vm_};
        if (choice < 60)
            return {"create", vm_, "--capture", "staged"};
        if (choice < 75 && !known.empty())
            return {"delete", known[draw(static_cast<unsigned>(known.size()))]};
        if (choice < 85)
            return {"repo", "prune"};
        return {"recover"};
    }
    void
    kill_one()
    {
        const std::vector<std::string> command = draw_command();
        const std::string name = command[0] == "repo" ? "prune" : command[0];
        auto process = virtsnap_.start(command);
        const unsigned longest_ms = name == "create" ? kCreateMs : kOtherMs;
        std::this_thread::sleep_for(std::chrono::microseconds(draw(longest_ms * 1000)));
        const bool was_running = process->running();
        process->signal(SIGKILL);
        ASSERT_TRUE(process->wait(std::chrono::seconds(10)));
        (was_running ? killed_ : ended_)[name]++;
        kills_ += was_running ? 1 : 0;
        const Json status = guest_->qemu().monitor().execute("query-status");
        ASSERT_EQ(status["status"].text(), "running") << name;
    }
    void
    expect_clean_qemu()
    {
        auto &monitor = guest_->qemu().monitor();
        EXPECT_EQ(monitor.execute("query-jobs").size(), 0u);
        EXPECT_EQ(monitor.execute("query-block-exports").size(), 0u);
        EXPECT_EQ(monitor.execute("query-fdsets").size(), 0u);
        for (const Json &node : monitor.execute("query-named-block-nodes").items())
            EXPECT_NE(node["node-name"].text().substr(0, 3), "vs-") << node.dump();
    }
    void
    expect_point_in_time(const std::string &group)
    {
        const std::string target = dir_.file("group");
        virtsnap_.json({"restore", group, "--to", target, "--format", "raw"});
        const support::Outcome check =
            support::check_records({target + "/a.raw", target + "/b.raw"});
        EXPECT_EQ(check.exit_code, 0) << group << check.out << check.err;
        must_run({"rm", "-r", target});
    }
    void
    look_at_everything(bool is_first)
    {
        for (const Json &one : virtsnap_.json({"recover"})["recovered"].items())
            EXPECT_TRUE(one["error"].is_null()) << one.dump();
        expect_clean_qemu();
        guest_->wait_for_records(20);
        const Json next = virtsnap_.json({"create", vm_});
        for (const Json &snapshot : next["snapshots"].items()) {
            if (!is_first) {
                EXPECT_EQ(snapshot["mode"].text(), "incremental") << snapshot.dump();
            }
        }
        expect_clean_qemu();
        expect_point_in_time(next["group"].text());
    }

    support::TempDir dir_;
    support::Virtsnap virtsnap_{dir_.file("repo")};
    std::unique_ptr<GuestVm> guest_;
    std::string vm_;
    std::mt19937 random_;
    std::map<std::string, unsigned> killed_, ended_;
    unsigned kills_ = 0;
};

TEST_F(Kills, AtRandomMomentsLoseNothingAndHurtNobody)
{
    look_at_everything(true);
    while (kills_ < kKills && !HasFailure()) {
        SCOPED_TRACE("kill " + std::to_string(kills_ + 1));
        for (const unsigned next = kills_ + kRound; kills_ < next && !HasFailure();)
            kill_one();
        look_at_everything(false);
    }
    unsigned proved = 0;
    for (const std::string &group : groups()) {
        expect_point_in_time(group);
        proved++;
    }
    virtsnap_.json({"repo", "check"});
    for (const auto &[name, count] : killed_)
        printf("%s: %u killed, %u had ended\n", name.c_str(), count, ended_[name]);
    printf("groups that were there at the end, all proved: %u; worst write of the guest: %ld ms\n",
           proved, static_cast<long>(guest_->status().worst_ms));
}

} // namespace

VS_TEST_MAIN("qemu", "guest");
