// SPDX-License-Identifier: LGPL-2.1-or-later
// What the tests of --quiesce share: the file system on which the guest writes files all the time,
// and how a snapshot of it is judged.
#pragma once

#include <cinttypes>
#include <gtest/gtest.h>
#include <memory>

#include "tests/support/temp-dir.h"
#include "tests/support/virtsnap.h"
#include "tests/system/agent_proxy.h"

namespace quiesce_fixture
{

using support::Clock;
using support::Json;
using support::must_run;
using support::Outcome;
using support::Process;
using support::TempDir;
using support::Virtsnap;
using support::wait_until;

constexpr std::chrono::seconds kSoon(60);
// An agent that is not there must not keep anybody waiting for longer.
constexpr std::chrono::seconds kRefusal(10);
constexpr char kFreeze[] = "guest-fsfreeze-freeze";
constexpr char kThaw[] = "guest-fsfreeze-thaw";

// How many files the guest says it has written.
inline unsigned
count_files(const std::string &console)
{
    const size_t line = console.rfind("files: n=", console.rfind('\n'));
    return line == std::string::npos ? 0 : std::stoul(console.substr(line + 9));
}

class QuiesceTest : public testing::Test
{
  protected:
    // A guest that runs, whoever runs it.
    virtual std::string console() const = 0;
    virtual void wait_for_records(uint64_t records) = 0;
    static std::string
    bitmaps_of(const Json &node)
    {
        std::string found;
        if (node.has("dirty-bitmaps"))
            for (const Json &bitmap : node["dirty-bitmaps"].items())
                found += bitmap.dump() + "\n";
        return found;
    }
    // Objects of ours in QEMU, but for the bitmaps of what is accomplished; "" for none.
    virtual std::string leftovers() = 0;

    // A disk for the writer, empty.
    std::string
    make_disk(const std::string &name)
    {
        const std::string path = dir_.file(name + ".qcow2");
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", path, "64M"});
        return path;
    }
    std::string
    make_filesystem()
    {
        const std::string path = dir_.file("fs.qcow2"), raw = dir_.file("fs.raw");
        must_run({"truncate", "--size=16M", raw});
        must_run({"/sbin/mkfs.ext4", "-q", "-F", raw});
        must_run({"qemu-img", "convert", "-O", "qcow2", raw, path});
        return path;
    }
    unsigned
    files() const
    {
        return count_files(console());
    }
    void
    expect_files_go_on()
    {
        const unsigned before = files();
        EXPECT_TRUE(wait_until(kSoon, [&] { return files() >= before + 10; })) << console();
    }
    // While the guest itself goes on: its writer needs no file system.
    void
    expect_files_stand_still()
    {
        wait_for_records(50);
        const unsigned before = files();
        wait_for_records(150);
        EXPECT_EQ(files(), before);
    }

    std::vector<std::string>
    create(const std::vector<std::string> &more) const
    {
        std::vector<std::string> arguments = {"create", instance_};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return arguments;
    }
    Outcome
    run_create(std::vector<std::string> more)
    {
        more.insert(more.end(), {"--output", "json"});
        return virtsnap_->run(create(more));
    }
    std::vector<Json>
    snapshots(const std::vector<std::string> &more)
    {
        return virtsnap_->json(create(more))["snapshots"].items();
    }
    void
    expect_frozen(const Json &snapshot)
    {
        EXPECT_EQ(snapshot["consistency"].text(), "filesystem");
        ASSERT_FALSE(snapshot["frozen_ms"].is_null()) << snapshot.dump();
        const int64_t frozen_ms = snapshot["frozen_ms"].number();
        printf("frozen for %" PRId64 " ms\n", frozen_ms);
        EXPECT_GT(frozen_ms, 0);
        EXPECT_LT(frozen_ms, 5000);
    }
    void
    expect_not_frozen(const Json &snapshot)
    {
        EXPECT_EQ(snapshot["consistency"].text(), "crash");
        EXPECT_TRUE(snapshot["frozen_ms"].is_null()) << snapshot.dump();
    }
    std::string
    restore(const Json &snapshot)
    {
        const std::string id = snapshot["id"].text(), raw = dir_.file(id);
        virtsnap_->json({"restore", id, "--to", raw, "--format", "raw"});
        return raw;
    }
    // What a restore of the file system's snapshot would be mounted as.
    void
    expect_clean(const Json &snapshot, bool clean)
    {
        const std::string raw = restore(snapshot);
        const std::string header = must_run({"/sbin/dumpe2fs", "-h", raw});
        EXPECT_EQ(header.find("needs_recovery") == std::string::npos, clean) << header;
        if (!clean)
            return;
        const Outcome check = support::run({"/sbin/e2fsck", "-f", "-n", raw});
        EXPECT_EQ(check.exit_code, 0) << check.out << check.err;
    }

    // One line that says what is wrong, the same as JSON with its code, and no trace.
    void
    expect_refused(const Outcome &outcome, const std::string &code, const std::string &words,
                   int exit_code = 1)
    {
        SCOPED_TRACE(words);
        EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
        EXPECT_EQ(outcome.err.rfind("virtsnap: ", 0), 0u) << outcome.err;
        EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << outcome.err;
        EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
        EXPECT_EQ(Json::parse(outcome.out)["error"]["code"].text(), code);
        EXPECT_EQ(virtsnap_->json({"list", "--status", "accomplished"}).size(), accomplished_);
        EXPECT_EQ(leftovers(), "");
        printf("%s", outcome.err.c_str());
    }
    void
    expect_refused_soon(const std::string &words)
    {
        const Clock::time_point from = Clock::now();
        expect_refused(run_create({"--quiesce"}), "QuiesceFailed", words);
        EXPECT_LT(Clock::now() - from, kRefusal);
    }
    Outcome
    end_of(const std::unique_ptr<Process> &process)
    {
        const auto outcome = process->wait(kSoon);
        EXPECT_TRUE(outcome) << process->err();
        return outcome.value_or(Outcome());
    }
    // A create that holds the guest frozen till the proxy is told to go on.
    std::unique_ptr<Process>
    start_frozen(std::vector<std::string> more = {})
    {
        proxy_->hold(kFreeze);
        more.insert(more.end(), {"--quiesce", "--output", "json"});
        auto process = virtsnap_->start(create(more));
        EXPECT_TRUE(proxy_->wait_until_held()) << process->err();
        requests_ = proxy_->count();
        expect_files_stand_still();
        return process;
    }
    // The agent is slow: the answer to the freeze comes only when it is not waited for any more.
    void
    release_when_given_up()
    {
        EXPECT_TRUE(wait_until(kSoon, [&] { return proxy_->count() > requests_; }));
        proxy_->release();
    }

    TempDir dir_;
    std::string instance_;
    std::unique_ptr<Virtsnap> virtsnap_;
    size_t accomplished_ = 0;
    std::unique_ptr<AgentProxy> proxy_;
    size_t requests_ = 0; // when it began to hold
};

} // namespace quiesce_fixture
