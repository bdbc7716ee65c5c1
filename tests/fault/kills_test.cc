// SPDX-License-Identifier: LGPL-2.1-or-later
// SIGKILL at random moments of everything that changes something, while a guest writes.
//
// Whatever dies: the guest runs on unpaused, what was accomplished restores to a point in time, and
// after a recover nothing of ours is left and the next group is incremental.
#include <chrono>
#include <map>
#include <signal.h>
#include <thread>
#include <vector>

#include "tests/fault/guest_fixture.h"
#include "tests/support/gate.h"

namespace
{

using support::Json;

constexpr unsigned kKills = 200;
constexpr unsigned kRound = 10; // kills between two looks at everything
// About as long as the commands take here: some end before, and don't count.
constexpr unsigned kCreateMs = 500, kOtherMs = 50;
constexpr size_t kMostGroups = 12;

class Kills : public guest_fixture::GuestTest
{
  protected:
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
    look_at_everything(const std::string &mode)
    {
        for (const Json &one : virtsnap_.json({"recover"})["recovered"].items())
            EXPECT_TRUE(one["error"].is_null()) << one.dump();
        expect_clean_qemu();
        guest_->wait_for_records(20);
        expect_next(mode);
        expect_clean_qemu();
    }

    std::map<std::string, unsigned> killed_, ended_;
    unsigned kills_ = 0;
};

TEST_F(Kills, AtRandomMomentsLoseNothingAndHurtNobody)
{
    for (const std::string name : {"a", "b"})
        add_disk(name, "qcow2");
    boot();
    look_at_everything("full");
    while (kills_ < kKills && !HasFailure()) {
        SCOPED_TRACE("kill " + std::to_string(kills_ + 1));
        for (const unsigned next = kills_ + kRound; kills_ < next && !HasFailure();)
            kill_one();
        look_at_everything("incremental");
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
