// SPDX-License-Identifier: LGPL-2.1-or-later
// A delete, or a prune, that meets one failure in the repository or the catalogue.
#include "tests/fault/walk_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace walk_fixture;

constexpr unsigned kShare = 3; // of the points of one kind

enum class Command { kDeleteNewest, kDeleteOlder, kPrune };

struct Kind {
    Command command;
    const char *boundary;
    const char *action;
};

const char *
name_of(Command command)
{
    switch (command) {
    case Command::kDeleteNewest:
        return "delete_newest";
    case Command::kDeleteOlder:
        return "delete_older";
    default:
        return "prune";
    }
}

class RepositoryWalk : public WalkTest, public testing::WithParamInterface<Kind>
{
  protected:
    std::string
    create_changed()
    {
        change();
        return create_next()["id"].text();
    }
    // A pack of which a half is still needed, and one that is not needed at all.
    void
    make_garbage()
    {
        const std::string at = change();
        const std::string half = create_changed();
        change_at(at);
        const std::string middle = create_next()["id"].text();
        change_at(at);
        create_next();
        virtsnap_.json({"delete", half, middle});
    }
    // Makes what the command is to work on.
    std::vector<std::string>
    prepare()
    {
        victim_.clear();
        if (GetParam().command == Command::kPrune) {
            make_garbage();
            return {"repo", "prune"};
        }
        victim_ = create_changed();
        if (GetParam().command == Command::kDeleteOlder)
            create_changed();
        survivors_ = accomplished();
        survivors_.erase(std::find(survivors_.begin(), survivors_.end(), victim_));
        return {"delete", victim_};
    }
    bool
    is_listed(const std::string &id) const
    {
        for (const Json &snapshot : virtsnap_.json({"list"}).items())
            if (snapshot["id"].text() == id)
                return true;
        return false;
    }
    // Deleted or whole, nothing between; and it can be deleted then.
    void
    expect_deleted_or_whole(const Outcome &outcome)
    {
        if (outcome.exit_code == 0) {
            EXPECT_FALSE(is_listed(victim_));
        }
        if (is_listed(victim_)) {
            EXPECT_TRUE(is_accomplished(victim_));
            expect_content(victim_);
            virtsnap_.json({"delete", victim_});
        }
        EXPECT_FALSE(is_listed(victim_));
        EXPECT_EQ(virtsnap_.run({"show", victim_}).exit_code, 1);
    }
    // Else a walk would tell nothing of either.
    void
    expect_packs_to_rewrite_and_to_remove()
    {
        prepare();
        const Json pruned = virtsnap_.json({"repo", "prune"});
        EXPECT_GT(pruned["removed_packs"].number(), 0) << pruned.dump();
        EXPECT_GT(pruned["rewritten_packs"].number(), 0) << pruned.dump();
    }
    // What has been left by the one that failed goes with the next.
    void
    expect_pruned()
    {
        virtsnap_.json({"repo", "prune"});
        const Json usage = virtsnap_.json({"repo", "usage"});
        EXPECT_EQ(virtsnap_.json({"repo", "prune"})["freed_bytes"].number(), 0);
        EXPECT_EQ(virtsnap_.json({"repo", "usage"}).dump(), usage.dump());
    }
    void
    expect_all_well(const Outcome &outcome, const Fault &fault)
    {
        expect_orderly_end(outcome, fault);
        expect_recovered();
        if (victim_.empty()) {
            expect_pruned();
        } else {
            expect_deleted_or_whole(outcome);
        }
        EXPECT_EQ(accomplished(), survivors_);
        expect_all_restorable();
        change();
        expect_next_alone("incremental");
        expect_guest_unharmed();
        expect_clean_qemu(1);
    }

    std::string victim_; // asked to be deleted
    std::vector<std::string> survivors_;
};

TEST_P(RepositoryWalk, OnlyWhatWasToGoGoes)
{
    const Kind kind = GetParam();
    if (kind.command == Command::kPrune)
        expect_packs_to_rewrite_and_to_remove();
    const unsigned points = injector_.count(kind.boundary, prepare());
    unsigned tried = 0, failed = 0;
    for (const unsigned at : points_to_try(points, kShare)) {
        const Fault fault = {kind.boundary, kind.action, at};
        SCOPED_TRACE(fault.text());
        const std::vector<std::string> command = prepare();
        if (victim_.empty())
            survivors_ = accomplished();
        const Outcome outcome = injector_.run(fault, command);
        expect_no_throw([&] { expect_all_well(outcome, fault); });
        tried++;
        failed += outcome.exit_code == 0 ? 0 : 1;
        if (HasFailure())
            break;
    }
    printf("%s %s %s: %u of %u points, %u commands failed\n", name_of(kind.command), kind.boundary,
           kind.action, tried, points, failed);
}

std::vector<Kind>
all_kinds()
{
    std::vector<Kind> kinds;
    for (const Command command : {Command::kDeleteNewest, Command::kDeleteOlder, Command::kPrune})
        for (const char *boundary : {"store", "catalogue"})
            for (const char *action : {"eio", "enospc", "kill"})
                kinds.push_back({command, boundary, action});
    return kinds;
}

INSTANTIATE_TEST_SUITE_P(AllCommands, RepositoryWalk, testing::ValuesIn(all_kinds()),
                         [](const testing::TestParamInfo<Kind> &info) {
                             return std::string(name_of(info.param.command)) + "_" +
                                    info.param.boundary + "_" + info.param.action;
                         });

} // namespace

VS_TEST_MAIN("qemu");
