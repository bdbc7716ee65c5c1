// SPDX-License-Identifier: LGPL-2.1-or-later
// What a create leaves that was killed, and who removes it.
#include "tests/integration/create_fixture.h"
#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using support::Json;
using support::Outcome;

class Recover : public create_fixture::CreateTest
{
  protected:
    // A first snapshot, then a create that is killed after its point in time.
    void
    leave_work(const std::vector<std::string> &more = {})
    {
        start();
        expect_next("full");
        kill_create(more);
    }
    void
    kill_create(const std::vector<std::string> &more = {})
    {
        auto process = start_slow_create(more);
        process->signal(SIGKILL);
        ASSERT_TRUE(process->wait(create_fixture::kSoon));
        ASSERT_TRUE(has_export());
    }
    Json
    recover()
    {
        return virtsnap_.json({"recover"})["recovered"];
    }
    std::string
    first_snapshot()
    {
        return virtsnap_.json({"list"})[0]["id"].text();
    }
    static size_t
    count_lines(const std::string &text)
    {
        return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
    }
};

TEST_F(Recover, RemovesAllThatAKilledCreateLeftAndKeepsTheChain)
{
    leave_work();
    const Json recovered = recover();
    ASSERT_EQ(recovered.size(), 1u);
    EXPECT_EQ(recovered[0]["instance"].text(), vm_);
    EXPECT_TRUE(recovered[0]["error"].is_null()) << recovered.dump();
    expect_clean_qemu(1);
    EXPECT_EQ(virtsnap_.json({"list", "--status", "failed"}).size(), 1u);
    expect_next("incremental");
}

// QEMU forgets descriptors that nobody uses when its last monitor hangs up and its guest runs.
TEST_F(Recover, FindsWhatIsOursWhenNoOtherMonitorWasConnected)
{
    start();
    expect_next("full");
    for (const std::string command : {"recover", "create"}) {
        SCOPED_TRACE(command);
        auto process = start_slow_create();
        qemu_->without_monitor([&] {
            process->signal(SIGKILL);
            ASSERT_TRUE(process->wait(create_fixture::kSoon));
            if (command == "recover")
                recover();
            else
                virtsnap_.json({"create", vm_});
        });
        expect_clean_qemu(1);
        expect_next("incremental");
    }
}

TEST_F(Recover, IsDoneByEachCommandThatWrites)
{
    start();
    expect_next("full");
    const std::vector<std::vector<std::string>> commands = {
        {"modify", first_snapshot(), "--name", "kept"},
        {"repo", "prune"},
        {"create", vm_, "--full"},
        {"delete", first_snapshot()}};
    for (const auto &command : commands) {
        SCOPED_TRACE(command[0]);
        kill_create();
        virtsnap_.json(command);
        expect_clean_qemu(1);
    }
    expect_next("incremental");
}

TEST_F(Recover, IsNotDoneByACommandThatOnlyReads)
{
    leave_work();
    virtsnap_.json({"list"});
    virtsnap_.json({"repo", "check"});
    EXPECT_TRUE(has_export());
    recover();
    expect_clean_qemu(1);
}

TEST_F(Recover, LeavesTheWorkOfALiveProcessAlone)
{
    start();
    auto process = start_slow_create();
    const Json recovered = recover();
    ASSERT_EQ(recovered.size(), 0u) << recovered.dump();
    EXPECT_TRUE(has_export());
    EXPECT_TRUE(process->running());
    EXPECT_FALSE(progressing().empty());
    process->signal(SIGTERM);
    ASSERT_TRUE(process->wait(create_fixture::kSoon));
    expect_clean_qemu(0);
}

TEST_F(Recover, LeavesAnotherRepositorysWorkAlone)
{
    start();
    auto process = start_slow_create();
    process->signal(SIGKILL);
    ASSERT_TRUE(process->wait(create_fixture::kSoon));
    const support::Virtsnap other(dir_.file("other"));
    other.json({"repo", "init"});
    other.json({"disks", vm_});
    other.json({"recover"});
    EXPECT_TRUE(has_export());
    recover();
    expect_clean_qemu(0);
}

TEST_F(Recover, WhatCannotBeReachedNowIsSaidAndDoneLater)
{
    leave_work();
    {
        support::QmpSession holder(qemu_->socket());
        const Outcome refused = virtsnap_.run({"recover"});
        EXPECT_EQ(refused.exit_code, 1);
        EXPECT_EQ(count_lines(refused.err), 1u) << refused.err;
        EXPECT_NE(refused.err.find(vm_), std::string::npos) << refused.err;
        const Outcome modified = virtsnap_.run({"modify", first_snapshot(), "--name", "new"});
        EXPECT_EQ(modified.exit_code, 0) << modified.err;
        EXPECT_NE(modified.err.find("warning"), std::string::npos) << modified.err;
        EXPECT_TRUE(has_export());
    }
    recover();
    expect_clean_qemu(1);
    expect_next("incremental");
}

TEST_F(Recover, AMachineThatHasGoneHasNothingLeft)
{
    leave_work();
    qemu_->kill();
    const Json recovered = recover();
    ASSERT_EQ(recovered.size(), 1u);
    EXPECT_TRUE(recovered[0]["error"].is_null()) << recovered.dump();
    EXPECT_EQ(recover().size(), 0u);
    start();
    expect_next("full");
    expect_next("incremental");
}

TEST_F(Recover, WhereNothingIsLeftChangesNothing)
{
    EXPECT_EQ(recover().size(), 0u);
    start();
    expect_next("full");
    const Json recovered = recover();
    ASSERT_EQ(recovered.size(), 1u);
    EXPECT_TRUE(recovered[0]["error"].is_null());
    expect_next("incremental");
}

class RecoverLibvirt : public libvirt_fixture::LibvirtTest
{
};

TEST_F(RecoverLibvirt, RemovesWhatAKilledCreateLeftInADomainRunningOrStopped)
{
    add_disk("vda", 32 * libvirt_fixture::kMiB);
    define();
    start();
    for (const bool is_running : {true, false}) {
        SCOPED_TRACE(is_running ? "running" : "stopped");
        write("vda", 0, 8 * libvirt_fixture::kMiB);
        expect_next("");
        write("vda", 8 * libvirt_fixture::kMiB, 8 * libvirt_fixture::kMiB);
        if (!is_running)
            domain_->quit();
        auto process = start_slow_create("1000000");
        process->signal(SIGKILL);
        ASSERT_TRUE(process->wait(libvirt_fixture::kSoon));
        const Json recovered = virtsnap_.json({"recover"})["recovered"];
        ASSERT_EQ(recovered.size(), 1u);
        EXPECT_EQ(recovered[0]["instance"].text(), "vm");
        EXPECT_TRUE(recovered[0]["error"].is_null()) << recovered.dump();
        expect_nothing_left(1);
        expect_next("incremental");
    }
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
