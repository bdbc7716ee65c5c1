// SPDX-License-Identifier: LGPL-2.1-or-later
// The support library's own promises: what it starts ends, what it waits for has a deadline.
#include "tests/support/gate.h"
#include "tests/support/json.h"
#include "tests/support/qemu-process.h"
#include "tests/support/temp-dir.h"

#include <csignal>
#include <filesystem>
#include <gtest/gtest.h>
#include <stdexcept>
#include <system_error>

using namespace support;

namespace
{

TEST(TempDir, IsRemovedWithItsContent)
{
    std::string path;
    {
        TempDir dir;

        path = dir.path();
        std::filesystem::create_directories(dir.file("a/b"));
    }
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Process, GivesBackExitCodeAndBothOutputs)
{
    Outcome outcome = run({"sh", "-c", "cat; echo oops >&2; exit 3"}, {{}, "hello", ""});

    EXPECT_EQ(3, outcome.exit_code);
    EXPECT_EQ("hello", outcome.out);
    EXPECT_EQ("oops\n", outcome.err);
}

TEST(Process, PassesEnvironmentAndDirectory)
{
    TempDir dir;

    EXPECT_EQ("x " + dir.path() + "\n",
              must_run({"sh", "-c", "echo $WORD $PWD"}, {{{"WORD", "x"}}, "", dir.path()}));
}

TEST(Process, TellsASignalFromAnExit)
{
    Outcome outcome = run({"sh", "-c", "kill -TERM $$"});

    EXPECT_EQ(-1, outcome.exit_code);
    EXPECT_EQ(SIGTERM, outcome.signal);
}

TEST(Process, GivesUpAtTheDeadline)
{
    EXPECT_THROW(run({"sleep", "60"}, {}, Milliseconds(50)), std::runtime_error);
}

TEST(Process, SaysWhatItsThreadsDo)
{
    support::Process process({"sleep", "60"});
    EXPECT_NE(process.threads().find("State:"), std::string::npos);
}

TEST(Process, NamesAProgramThatDoesNotExist)
{
    EXPECT_THROW(run({"no-such-program-anywhere"}), std::system_error);
}

TEST(Process, DiesWithItsObject)
{
    pid_t pid;
    {
        Process process({"sleep", "60"});

        pid = process.pid();
        EXPECT_TRUE(process.running());
    }
    EXPECT_EQ(-1, kill(pid, 0));
}

TEST(WaitUntil, EndsWithThePredicateOrTheDeadline)
{
    int calls = 0;

    EXPECT_TRUE(wait_until(Milliseconds(1000), [&] { return ++calls == 3; }));
    EXPECT_EQ(3, calls);
    EXPECT_FALSE(wait_until(Milliseconds(20), [] { return false; }));
}

TEST(Json, ReadsADocument)
{
    Json json = Json::parse(R"({"a":[1,{"b":"x"}],"c":null,"d":true})");

    EXPECT_EQ(1, json["a"][size_t(0)].number());
    EXPECT_EQ("x", json["a"][1]["b"].text());
    EXPECT_TRUE(json["c"].is_null());
    EXPECT_TRUE(json.has("c"));
    EXPECT_FALSE(json.has("e"));
    EXPECT_TRUE(json["d"].boolean());
    EXPECT_EQ(2u, json["a"].items().size());
    EXPECT_THROW(json["c"].text(), std::runtime_error);
    EXPECT_THROW(json["a"][2], std::runtime_error);
}

TEST(Json, RefusesAnythingButOneDocument)
{
    EXPECT_THROW(Json::parse(""), std::runtime_error);
    EXPECT_THROW(Json::parse("{"), std::runtime_error);
    EXPECT_THROW(Json::parse("{} {}"), std::runtime_error);
    EXPECT_EQ("{}", Json::parse(" {}\n").dump());
}

class IdleQemu : public testing::Test
{
  protected:
    IdleQemu()
    {
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", dir_.file("a.qcow2"), "16M"});
        qemu_ = std::make_unique<QemuProcess>(
            dir_, QemuProcess::idle(
                      QemuProcess::virtio_disk(dir_.file("a.qcow2"), "qcow2", "nodeA", "vdA")));
    }

    TempDir dir_;
    std::unique_ptr<QemuProcess> qemu_;
};

TEST_F(IdleQemu, LeavesTheOtherMonitorToTheProgramUnderTest)
{
    QmpSession second(qemu_->socket());

    EXPECT_EQ("prelaunch", second.execute("query-status")["status"].text());
    EXPECT_EQ(1u, qemu_->monitor().execute("query-block").size());
}

TEST_F(IdleQemu, WritesWhatTheTestReads)
{
    qemu_->disk_io("vdA", "write -P 0xaa 1M 64k");
    EXPECT_NO_THROW(qemu_->disk_io("vdA", "read -P 0xaa 1M 64k"));
    EXPECT_THROW(qemu_->disk_io("vdA", "read -P 0xbb 1M 64k"), std::runtime_error);
    EXPECT_THROW(qemu_->disk_io("vdA", "write -P 0xaa 1G 64k"), std::runtime_error);
    EXPECT_THROW(qemu_->disk_io("vdB", "write -P 0xaa 1M 64k"), std::runtime_error);
}

TEST_F(IdleQemu, WritesAboveTheFilterOfARunningBackup)
{
    qemu_->disk_io("vdA", "write -P 0xaa 0 64k");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", dir_.file("fleece"), "16M"});
    qemu_->monitor().execute("blockdev-add",
                             R"({"driver":"qcow2","node-name":"fl","backing":"nodeA",)"
                             R"("file":{"driver":"file","filename":")" +
                                 dir_.file("fleece") + "\"}}");
    qemu_->monitor().execute("blockdev-backup",
                             R"({"job-id":"j","device":"nodeA","target":"fl","sync":"none"})");
    qemu_->disk_io("vdA", "write -P 0xbb 0 64k");
    EXPECT_NO_THROW(qemu_->qemu_io("fl", "read -P 0xaa 0 64k"));
    EXPECT_NO_THROW(qemu_->disk_io("vdA", "read -P 0xbb 0 64k"));
}

TEST_F(IdleQemu, QuitsInOrderAndReportsEvents)
{
    qemu_->monitor().execute("cont");
    qemu_->monitor().wait_event("RESUME");
    qemu_->quit();
    EXPECT_FALSE(qemu_->process().running());
    EXPECT_NO_THROW(must_run({"qemu-img", "check", dir_.file("a.qcow2")}));
}

TEST_F(IdleQemu, DiesByKill)
{
    qemu_->kill();
    EXPECT_FALSE(qemu_->process().running());
}

TEST(QemuProcess, TellsWhyItDidNotStart)
{
    TempDir dir;

    try {
        QemuProcess qemu(dir, {"-no-such-option"});
        FAIL() << "must throw";
    } catch (const std::runtime_error &error) {
        EXPECT_NE(std::string::npos, std::string(error.what()).find("no-such-option"));
    }
}

} // namespace

VS_TEST_MAIN("qemu");
