// SPDX-License-Identifier: LGPL-2.1-or-later
// Commands whose Nth call across one of the program's boundaries fails, or is its last, for one N
// after the other (inject.c); each time one oracle looks at everything.
//
// All N of all kinds take long: VIRTSNAP_FAULT_WALK=all, or one of them: =N. Else a share of them,
// beginning somewhere else each time.
#ifndef TESTS_FAULT_WALK_FIXTURE_H
#define TESTS_FAULT_WALK_FIXTURE_H

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <sys/types.h>
#include <vector>

#include "tests/integration/create_fixture.h"
#include "tests/support/environment.h"

namespace walk_fixture
{

using support::Json;
using support::must_run;
using support::Outcome;
using support::Virtsnap;

struct Fault {
    std::string boundary;
    std::string action;
    unsigned at = 0;

    std::string
    text() const
    {
        return boundary + ":" + action + ":" + std::to_string(at);
    }
};

// Runs the program with a fault.
class Injector
{
  public:
    Injector(std::string repository, std::string count_file)
        : repository_(std::move(repository)), count_file_(std::move(count_file))
    {
    }
    Outcome
    run(const Fault &fault, const std::vector<std::string> &arguments, pid_t peer = 0) const
    {
        std::vector<std::string> argv = {support::environment("VIRTSNAP_PROGRAM"), "--repo",
                                         repository_};
        argv.insert(argv.end(), arguments.begin(), arguments.end());
        support::ProcessOptions options;
        options.env = {{"LD_PRELOAD", support::environment("VIRTSNAP_FAULT_INJECTOR")},
                       {"VIRTSNAP_FAULT", fault.text()},
                       {"VIRTSNAP_FAULT_REPO", repository_},
                       {"VIRTSNAP_FAULT_PEER", std::to_string(peer)},
                       {"VIRTSNAP_FAULT_COUNT", count_file_}};
        return support::run(argv, options, std::chrono::seconds(60));
    }
    // How many calls there are without a fault.
    unsigned
    count(const std::string &boundary, const std::vector<std::string> &arguments) const
    {
        const Outcome outcome = run({boundary, "count"}, arguments);
        EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
        unsigned calls = 0;
        std::ifstream(count_file_) >> calls;
        EXPECT_GT(calls, 0u) << boundary;
        return calls;
    }

  private:
    std::string repository_;
    std::string count_file_;
};

// Which of so many points are tried: about share of them, unless told otherwise.
inline std::vector<unsigned>
points_to_try(unsigned points, unsigned share)
{
    const char *told = getenv("VIRTSNAP_FAULT_WALK");
    const std::string walk = told != nullptr ? told : "";
    if (!walk.empty() && walk != "all")
        return {static_cast<unsigned>(std::stoul(walk))};
    const unsigned step = walk == "all" ? 1 : std::max(1u, points / share);
    std::vector<unsigned> tried;
    for (unsigned at = 1 + std::random_device{}() % step; at <= points; at += step)
        tried.push_back(at);
    return tried;
}

// Beside warnings, and what qemu-nbd may say of a connection that ends.
inline void
expect_one_clear_line(const std::string &text)
{
    const auto begins = [](const std::string &line, const char *with) {
        return line.rfind(with, 0) == 0;
    };
    std::istringstream lines(text);
    unsigned errors = 0;
    for (std::string line; std::getline(lines, line);) {
        const bool is_ours = begins(line, "virtsnap: ");
        EXPECT_TRUE(is_ours || begins(line, "qemu-nbd: ")) << text;
        errors += is_ours && !begins(line, "virtsnap: warning: ") ? 1 : 0;
    }
    EXPECT_EQ(errors, 1u) << text;
}

// It ended in order, or was killed as it was to be; an error is one clear line.
inline void
expect_orderly_end(const Outcome &outcome, const Fault &fault)
{
    if (outcome.signal != 0) {
        EXPECT_TRUE(outcome.signal == SIGKILL && fault.action == "kill")
            << "signal " << outcome.signal << " " << outcome.err;
        return;
    }
    // 3: a monitor that does not even greet looks like one that another client holds, and a machine
    // that has ended is in no state to be snapshotted.
    const bool is_refused =
        outcome.exit_code == 3 && (fault.action == "stall" || fault.action.rfind("peer", 0) == 0);
    EXPECT_TRUE(outcome.exit_code == 0 || outcome.exit_code == 1 || is_refused)
        << outcome.exit_code << outcome.err;
    if (outcome.exit_code != 0)
        expect_one_clear_line(outcome.err);
}

// What throws fails as an expectation does: with the trace, which names the fault.
inline void
expect_no_throw(const std::function<void()> &body)
{
    try {
        body();
    } catch (const std::exception &exception) {
        ADD_FAILURE() << exception.what();
    }
}

// A bare QEMU, and what its disk held when each snapshot was made.
class WalkTest : public create_fixture::CreateTest
{
  protected:
    void
    SetUp() override
    {
        CreateTest::SetUp();
        start();
        change();
        create_next();
    }
    // What the next snapshot will find: noise, so that chunks and packs are written. Returns where.
    std::string
    change()
    {
        const std::string at = std::to_string(changes_++ % 240 * 256) + "k";
        change_at(at);
        return at;
    }
    void
    change_at(const std::string &at)
    {
        const std::string noise = dir_.file("noise");
        must_run({"dd", "if=/dev/urandom", "of=" + noise, "bs=64K", "count=4", "status=none"});
        qemu_->disk_io("dA", "write -s " + noise + " " + at + " 256k");
        qemu_->disk_io("dA", "flush");
    }
    // A copy of what the disk holds now, for the snapshots that are to be made.
    void
    keep_content()
    {
        content_ = dir_.file("content-" + std::to_string(contents_made_++));
        must_run({"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", image_, content_});
    }
    std::vector<std::string>
    accomplished() const
    {
        std::vector<std::string> ids;
        for (const Json &snapshot : virtsnap_.json({"list", "--status", "accomplished"}).items())
            ids.push_back(snapshot["id"].text());
        return ids;
    }
    bool
    is_accomplished(const std::string &id) const
    {
        const std::vector<std::string> ids = accomplished();
        return std::find(ids.begin(), ids.end(), id) != ids.end();
    }
    // Whatever came of a create: what it has accomplished is of the content kept before.
    void
    note_new_snapshots()
    {
        for (const std::string &id : accomplished())
            contents_.emplace(id, content_);
    }
    void
    expect_content(const std::string &id) const
    {
        const std::string restored = dir_.file("restored");
        virtsnap_.json({"restore", id, "--to", restored, "--format", "raw"});
        EXPECT_EQ(support::run({"cmp", restored, contents_.at(id)}).exit_code, 0) << id;
        must_run({"rm", restored});
    }
    void
    expect_all_restorable() const
    {
        for (const std::string &id : accomplished())
            expect_content(id);
    }
    void
    expect_recovered() const
    {
        for (const Json &one : virtsnap_.json({"recover"})["recovered"].items())
            EXPECT_TRUE(one["error"].is_null()) << one.dump();
    }
    void
    expect_guest_unharmed()
    {
        EXPECT_TRUE(qemu_->process().running()) << qemu_->process().err();
        EXPECT_EQ(qemu_->monitor().execute("query-status")["status"].text(), "running");
    }
    // A snapshot that must succeed.
    Json
    create_next()
    {
        keep_content();
        const Json snapshot = virtsnap_.json({"create", vm_})["snapshots"][0];
        contents_[snapshot["id"].text()] = content_;
        return snapshot;
    }
    // The next one is of that mode and exact, and so is the repository; it is kept as a base for
    // what follows, while the others only take time to check.
    void
    expect_next_alone(const std::string &mode)
    {
        const Json next = create_next();
        const std::string kept = next["id"].text();
        if (!mode.empty()) { // "": any
            EXPECT_EQ(next["mode"].text(), mode) << next.dump();
        }
        if (next["mode"].text() == "full") {
            EXPECT_FALSE(next["mode_reason"].is_null()) << next.dump();
        }
        expect_content(kept);
        virtsnap_.json({"repo", "check"});
        for (const std::string &id : accomplished())
            if (id != kept)
                virtsnap_.json({"delete", id});
        for (auto each = contents_.begin(); each != contents_.end();)
            each = each->first == kept ? std::next(each) : contents_.erase(each);
        must_run({"find", dir_.path(), "-name", "content-*", "!", "-path", contents_.at(kept),
                  "-delete"});
    }

    Injector injector_{virtsnap_.repository(), dir_.file("count")};
    std::string content_;
    std::map<std::string, std::string> contents_; // of snapshots: a raw image
    unsigned contents_made_ = 0;
    unsigned changes_ = 0;
};

} // namespace walk_fixture

#endif
