// SPDX-License-Identifier: LGPL-2.1-or-later
// The command line as a script meets it: documents, exit status, groups, repeated options.
#include <gtest/gtest.h>
#include <set>
#include <signal.h>

#include "tests/support/environment.h"
#include "tests/support/gate.h"
#include "tests/support/qemu-process.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::Json;
using support::must_run;
using support::Outcome;
using support::Process;
using support::QemuProcess;
using support::TempDir;
using support::Virtsnap;
using support::wait_until;

using Words = std::vector<std::string>;

constexpr auto kSoon = std::chrono::seconds(20);

class Cli : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        Words arguments;
        for (std::string name : {"A", "B"}) {
            std::string image = dir_.file(name + ".qcow2");
            must_run({"qemu-img", "create", "-q", "-f", "qcow2", image, "64M"});
            Words disk = QemuProcess::virtio_disk(image, "qcow2", "n" + name, "d" + name);
            arguments.insert(arguments.end(), disk.begin(), disk.end());
        }
        qemu_ = std::make_unique<QemuProcess>(dir_, QemuProcess::idle(arguments));
        vm_ = "qmp:" + qemu_->socket();
        virtsnap_.json({"repo", "init"});
    }
    Json
    create(const Words &more = {})
    {
        Words arguments = {"create", vm_};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return virtsnap_.json(arguments);
    }
    // A create of both disks that takes its time; its group.
    std::unique_ptr<Process>
    start_slow_create(std::string *group)
    {
        qemu_->disk_io("dA", "write -P 9 0 32M");
        auto process = virtsnap_.start({"create", vm_, "--speed-limit", "1M"});
        EXPECT_TRUE(wait_until(kSoon, [&] {
            Json list = virtsnap_.json({"list", "--status", "progressing"});
            if (list.size() > 0)
                *group = list[0]["group"].text();
            return list.size() == 2 && list[1]["progress"].number() > 0;
        })) << process->err();
        return process;
    }
    void
    refused(const Words &arguments, int exit_code, const std::string &because)
    {
        Outcome outcome = virtsnap_.run(arguments);
        EXPECT_EQ(outcome.exit_code, exit_code) << arguments[0] << ": " << outcome.err;
        EXPECT_NE(outcome.err.find(because), std::string::npos) << outcome.err;
        EXPECT_EQ(outcome.out, "");
    }
    // The program with its standard output as the shell's @redirection says.
    static Outcome
    run_redirected(const std::string &words, const std::string &redirection)
    {
        return support::run({"sh", "-c", "\"$VIRTSNAP_PROGRAM\" " + words + " " + redirection});
    }

    TempDir dir_;
    Virtsnap virtsnap_{dir_.file("repo")};
    std::unique_ptr<QemuProcess> qemu_;
    std::string vm_;
};

TEST_F(Cli, AnAnswerThatIsLostIsAnError)
{
    std::string repo = "--repo '" + virtsnap_.repository() + "' ";
    for (std::string command :
         {repo + "list", repo + "list --output json", repo + "create '" + vm_ + "'",
          std::string("--help"), std::string("list --help"), std::string("--version")}) {
        for (std::string redirection : {">&-", ">/dev/full"}) {
            Outcome outcome = run_redirected(command, redirection);
            EXPECT_EQ(outcome.exit_code, 1) << command << redirection << outcome.err;
            EXPECT_NE(outcome.err.find("standard output"), std::string::npos) << outcome.err;
        }
    }
    // Nothing of it went into a file of the repository that was opened as descriptor 1.
    EXPECT_EQ(virtsnap_.json({"repo", "check"})["problems"].size(), 0u);
}

TEST_F(Cli, TheSpeedOfWhatIsInProgressIsChangedByAnotherProcess)
{
    std::string group;
    auto process = start_slow_create(&group);
    refused({"modify", group, "--speed-limit", "0", "--name", "n"}, 2, "--speed-limit");
    refused({"modify", group, "--speed-limit", "fast"}, 2, "--speed-limit");
    refused({"modify", group, "--name", "n"}, 3, "in progress");
    Json changed = virtsnap_.json({"modify", group, "--speed-limit", "1000"});
    EXPECT_EQ(changed.size(), 2u) << changed.dump();
    EXPECT_TRUE(process->running());
    virtsnap_.json({"modify", group, "--speed-limit", "0"});
    auto outcome = process->wait(std::chrono::seconds(15)); // of the 32 at the speed it began with
    ASSERT_TRUE(outcome) << process->err();
    EXPECT_EQ(outcome->exit_code, 0) << outcome->err;
    refused({"modify", group, "--speed-limit", "1M"}, 3, "accomplished");
}

TEST_F(Cli, EveryCommandAnswersOneDocument)
{
    Json first = create({"--name", "one"});
    qemu_->disk_io("dA", "write -P 9 0 1M");
    Json second = create();
    std::string a = first["snapshots"][0]["id"].text(), b = second["snapshots"][0]["id"].text();
    std::string group = first["group"].text();
    std::string folder = dir_.file("out");
    EXPECT_EQ(virtsnap_.json({"instances"})[0]["disks"].size(), 2u);
    EXPECT_EQ(virtsnap_.json({"disks"}).size(), 2u);
    EXPECT_TRUE(virtsnap_.json({"disks", vm_})[0]["incremental"].boolean());
    EXPECT_EQ(virtsnap_.json({"list"}).size(), 4u);
    EXPECT_EQ(virtsnap_.json({"show", a})["id"].text(), a);
    EXPECT_EQ(virtsnap_.json({"modify", a, "--name", "two"})["name"].text(), "two");
    EXPECT_EQ(virtsnap_.json({"diff", a, b})["changed_bytes"].number(), 1 << 20);
    EXPECT_EQ(virtsnap_.json({"restore", a, "--to", folder})["restored"].size(), 1u);
    EXPECT_EQ(virtsnap_.json({"repo", "check"})["problems"].size(), 0u);
    EXPECT_GE(virtsnap_.json({"repo", "usage"})["packs"].number(), 1);
    EXPECT_EQ(virtsnap_.json({"delete", group})["deleted"].size(), 2u);
    EXPECT_TRUE(virtsnap_.json({"repo", "prune"}).has("freed_bytes"));
    EXPECT_EQ(virtsnap_.json({"list", "--status", "failed"}).size(), 0u);
}

TEST_F(Cli, ACleanCheckSaysSoAndDamageHasItsOwnCode)
{
    qemu_->disk_io("dA", "write -P 9 0 1M");
    create();
    Outcome clean = virtsnap_.run({"repo", "check"});
    EXPECT_NE(clean.out.find("problems:    0\n"), std::string::npos) << clean.out;
    must_run({"sh", "-c", "rm -r '" + virtsnap_.repository() + "/packs'/*"});
    Outcome damaged = virtsnap_.run({"repo", "check", "--output", "json"});
    EXPECT_EQ(damaged.exit_code, 1);
    EXPECT_EQ(Json::parse(damaged.out)["error"]["code"].text(), "RepositoryDamaged");
}

TEST_F(Cli, AGroupIsShownAndModifiedAsAWhole)
{
    std::string group = create({"--tag", "env=test"})["group"].text();
    create();
    Json shown = virtsnap_.json({"show", group});
    ASSERT_EQ(shown.size(), 2u);
    Json changed = virtsnap_.json({"modify", group, "--name", "both", "--tag", "more=1"});
    ASSERT_EQ(changed.size(), 2u);
    shown = virtsnap_.json({"show", group});
    for (const Json &snapshot : shown.items()) {
        EXPECT_EQ(snapshot["group"].text(), group);
        EXPECT_EQ(snapshot["name"].text(), "both");
        EXPECT_EQ(snapshot["tags"]["more"].text(), "1");
    }
    EXPECT_EQ(virtsnap_.json({"list", "--tag", "more=1"}).size(), 2u);
    Outcome table = virtsnap_.run({"show", group});
    for (const Json &snapshot : shown.items())
        EXPECT_NE(table.out.find(snapshot["id"].text()), std::string::npos);
    refused({"cancel", group}, 3, group);
    // Too many tags for one of them: none is changed.
    Words many = {"modify", shown[1]["id"].text()};
    for (int i = 0; i < 18; i++)
        many.insert(many.end(), {"--tag", "k" + std::to_string(i) + "=v"});
    virtsnap_.json(many);
    refused({"modify", group, "--tag", "last=1"}, 2, "tags");
    EXPECT_EQ(virtsnap_.json({"list", "--tag", "last=1"}).size(), 0u);
}

TEST_F(Cli, OneRequestCancelsAGroup)
{
    std::string group;
    auto process = start_slow_create(&group);
    ASSERT_FALSE(group.empty());
    for (const Json &disk : virtsnap_.json({"disks", vm_}).items()) {
        EXPECT_FALSE(disk["incremental"].boolean());
        EXPECT_NE(disk["reason"].text().find("in progress"), std::string::npos) << disk.dump();
    }
    EXPECT_EQ(virtsnap_.run({"disks", vm_}).out.find(" full "), std::string::npos);
    refused({"modify", group, "--name", "x"}, 3, "in progress");
    Json cancelled = virtsnap_.json({"cancel", group});
    ASSERT_EQ(cancelled.size(), 2u);
    for (const Json &snapshot : cancelled.items())
        EXPECT_EQ(snapshot["status"].text(), "failed");
    auto outcome = process->wait(kSoon);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->exit_code, 1);
    refused({"cancel", group}, 3, group);
    EXPECT_EQ(qemu_->monitor().execute("query-block-exports").size(), 0u);
}

TEST_F(Cli, AGroupIsRestoredIntoAFolderAndOneSnapshotIntoAFile)
{
    qemu_->disk_io("dB", "write -P 7 3M 1M");
    qemu_->disk_io("dB", "flush");
    Json made = create();
    std::string group = made["group"].text(), id = made["snapshots"][0]["id"].text();
    std::string folder = dir_.file("folder");
    Json restored = virtsnap_.json({"restore", group, "--to", folder + "/"})["restored"];
    ASSERT_EQ(restored.size(), 2u);
    for (const Json &file : restored.items()) {
        Json snapshot = virtsnap_.json({"show", file["snapshot"].text()});
        must_run({"qemu-img", "compare", "-U", "-f", "raw", "-F", "qcow2", file["path"].text(),
                  snapshot["disk"]["source"].text()});
    }
    refused({"restore", group, "--to", folder}, 1, "exists");
    refused({"restore", id, "--to", folder}, 2, "folder");
    refused({"restore", id, "--to", dir_.file("absent") + "/"}, 2, "folder");
    refused({"restore", id, "--to", "-"}, 2, "standard output");
    refused({"restore", group, "--to", "-"}, 2, "standard output");
}

TEST_F(Cli, AnOptionOfOneValueIsGivenOnceAndTagsAddUp)
{
    create({"--tag", "env=test", "--tag", "tier=db"});
    create({"--tag", "env=test", "--disk", "dA", "--disk", "dB"});
    EXPECT_EQ(virtsnap_.json({"list", "--tag", "env=test"}).size(), 4u);
    EXPECT_EQ(virtsnap_.json({"list", "--tag", "env=test", "--tag", "tier=db"}).size(), 2u);
    EXPECT_EQ(virtsnap_.json({"list", "--tag", "env=test", "--tag", "tier=web"}).size(), 0u);
    for (const Words &words : {Words{"list", "--disk", "dA", "--disk", "dB"},
                               Words{"create", vm_, "--name", "a", "--name=b"},
                               Words{"modify", "s-x", "--retain", "1d", "--retain", "2d"},
                               Words{"restore", "s-x", "--to", "/a", "--to", "/b"},
                               Words{"repo", "check", "--sample", "1", "--sample", "2"},
                               Words{"list", "--repo", virtsnap_.repository()}})
        refused(words, 2, "given twice");
    EXPECT_EQ(virtsnap_.json({"list"}).size(), 4u);
}

TEST_F(Cli, WhatIsMeantIsSaidWhereAnInstanceIsMisnamed)
{
    create();
    std::string id = virtsnap_.json({"instances"})[0]["id"].text();
    refused({"disks", qemu_->socket()}, 1, "did you mean '" + vm_ + "'");
    refused({"create", id}, 1, "did you mean");
    qemu_->quit();
    for (const Json &disk : virtsnap_.json({"disks"}).items()) {
        EXPECT_FALSE(disk["incremental"].boolean());
        EXPECT_NE(disk["reason"].text().find("does not run"), std::string::npos) << disk.dump();
    }
    EXPECT_EQ(virtsnap_.run({"disks"}).out.find(" full "), std::string::npos);
}

} // namespace

VS_TEST_MAIN("qemu");
