// SPDX-License-Identifier: LGPL-2.1-or-later
// Bad input of every kind: one clear line, the right exit status, soon, and nothing left behind.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

#include "tests/support/file.h"
#include "tests/support/gate.h"
#include "tests/support/qemu-process.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::Json;
using support::must_run;
using support::Outcome;
using support::QemuProcess;
using support::TempDir;
using support::Virtsnap;

// A unix socket that accepts, says something for ever or once, and never hangs up.
class Impostor
{
  public:
    Impostor(const std::string &path, std::string text, bool endless)
        : text_(std::move(text)), endless_(endless)
    {
        struct sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof address.sun_path - 1);
        listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        EXPECT_EQ(bind(listener_, reinterpret_cast<struct sockaddr *>(&address), sizeof address),
                  0);
        EXPECT_EQ(listen(listener_, 4), 0);
        thread_ = std::thread([this] { serve(); });
    }
    ~Impostor()
    {
        stop_ = true;
        shutdown(listener_, SHUT_RDWR);
        if (peer_ >= 0)
            shutdown(peer_, SHUT_RDWR);
        thread_.join();
        close(listener_);
        if (peer_ >= 0)
            close(peer_);
    }

  private:
    void
    serve()
    {
        peer_ = accept(listener_, nullptr, nullptr);
        while (peer_ >= 0 && !stop_) {
            if (send(peer_, text_.data(), text_.size(), MSG_NOSIGNAL) < 0 || !endless_)
                break;
        }
    }
    std::string text_;
    bool endless_;
    int listener_ = -1;
    std::atomic<int> peer_{-1};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

class BadInput : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", dir_.file("a.qcow2"), "16M"});
        must_run({"mkdir", scratch_});
        virtsnap_.json({"repo", "init"});
    }

    void
    start_qemu()
    {
        qemu_ = std::make_unique<QemuProcess>(
            dir_,
            QemuProcess::idle(QemuProcess::virtio_disk(dir_.file("a.qcow2"), "qcow2", "nA", "dA")));
        qemu_->monitor().execute("cont");
        vm_ = "qmp:" + qemu_->socket();
    }

    // Files of the repository but the catalogue's own, which every command may touch.
    std::string
    files(const std::string &folder)
    {
        return must_run(
            {"sh", "-c",
             "cd '" + folder +
                 "' && find . ! -type d ! -name 'catalogue.db*' ! -path './locks/*' | sort"});
    }

    // Runs it and expects a failure: status, one line, in time, nothing new in repository or
    // scratch.
    void
    refused(const Virtsnap &program, const std::vector<std::string> &arguments, int status,
            const std::string &about = "")
    {
        std::string shown;
        for (const std::string &argument : arguments)
            shown += argument.substr(0, 60) + " ";
        SCOPED_TRACE(shown);
        auto start = std::chrono::steady_clock::now();
        Outcome outcome = program.run(arguments);
        EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
        EXPECT_EQ(outcome.exit_code, status) << outcome.err.substr(0, 500);
        EXPECT_EQ(outcome.err.rfind("virtsnap: ", 0), 0u) << outcome.err.substr(0, 500);
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1)
            << outcome.err.substr(0, 500);
        EXPECT_LT(outcome.err.size(), 1500u);
        EXPECT_NE(outcome.err.find(about), std::string::npos) << outcome.err.substr(0, 500);
    }
    void
    refused(const std::vector<std::string> &arguments, int status, const std::string &about = "")
    {
        std::string before = files(virtsnap_.repository());
        refused(virtsnap_, arguments, status, about);
        EXPECT_EQ(files(virtsnap_.repository()), before);
        EXPECT_EQ(files(scratch_), "");
    }

    void
    expect_clean_qemu()
    {
        auto &monitor = qemu_->monitor();
        EXPECT_EQ(monitor.execute("query-jobs").size(), 0u);
        EXPECT_EQ(monitor.execute("query-block-exports").size(), 0u);
        EXPECT_EQ(monitor.execute("query-fdsets").size(), 0u);
        for (const Json &node : monitor.execute("query-named-block-nodes").items()) {
            EXPECT_NE(node["node-name"].text().substr(0, 3), "vs-") << node.dump();
            EXPECT_EQ(node["dirty-bitmaps"].size(), 0u) << node.dump();
        }
    }

    TempDir dir_;
    std::string scratch_ = dir_.file("scratch");
    Virtsnap virtsnap_{dir_.file("repo")};
    std::unique_ptr<QemuProcess> qemu_;
    std::string vm_;
};

TEST_F(BadInput, Sockets)
{
    refused({"create", "qmp:" + dir_.file("absent")}, 1, "absent");
    std::ofstream(dir_.file("file")) << "no socket";
    refused({"create", "qmp:" + dir_.file("file")}, 1);
    refused({"create", "qmp:" + std::string(300, 'x')}, 1);
    refused({"create", "qmp:"}, 2);
    {
        Impostor silent(dir_.file("silent"), "", false);
        refused({"create", "qmp:" + dir_.file("silent")}, 3, "greeting");
    }
    {
        Impostor garbage(dir_.file("garbage"), "HTTP/1.0 200 OK\r\n\r\n", false);
        refused({"create", "qmp:" + dir_.file("garbage")}, 1);
    }
    {
        Impostor endless(dir_.file("endless"), std::string(1 << 16, 'x'), true);
        refused({"create", "qmp:" + dir_.file("endless")}, 1);
    }
    {
        Impostor nested(dir_.file("nested"), std::string(1 << 16, '['), true);
        refused({"create", "qmp:" + dir_.file("nested")}, 1);
    }
}

TEST_F(BadInput, AMonitorThatSomebodyElseHolds)
{
    start_qemu();
    support::QmpSession holder(qemu_->socket());
    refused({"create", vm_}, 3);
    refused({"disks", vm_}, 3);
    expect_clean_qemu();
}

TEST_F(BadInput, DisksIdsAndInstances)
{
    start_qemu();
    refused({"create", vm_, "--disk", "absent"}, 1, "absent");
    refused({"create", vm_, "--disk", "../../etc"}, 1);
    refused({"create", vm_, "--disk", "dA", "--disk", "nA"}, 2, "twice");
    refused({"create", vm_, "--disk", std::string(10000, 'd')}, 1);
    for (std::string id : {"s-aaaaaaaaaaaaaaaaaaaa", "../../etc/passwd", "s-../../../../etc/x", "",
                           "s-", "S-AAAAAAAAAAAAAAAAAAAA", "ssg-aaaaaaaaaaaaaaaaaaaa",
                           "s-aaaaaaaaaaaaaaaaaaa\n", "\xff\xfe"}) {
        refused({"show", id}, 1);
        refused({"delete", id}, 1);
        refused({"modify", id, "--name", "x"}, 1);
        refused({"cancel", id}, 1);
        refused({"restore", id, "--to", dir_.file("out")}, 1);
        refused({"diff", id, id}, 1);
    }
    refused({"show", std::string(10000, 's')}, 1);
    EXPECT_NE(access(dir_.file("out").c_str(), F_OK), 0);
    expect_clean_qemu();
}

TEST_F(BadInput, Values)
{
    start_qemu();
    std::vector<std::vector<std::string>> wrong = {
        {"--name", std::string(10000, 'n')},
        {"--name", "bell\a"},
        {"--name", "line\nbreak"},
        {"--name", "\xff\xfe"},
        {"--name", "http://x"},
        {"--description", std::string(10000, 'd')},
        {"--description", "\x1b[31m"},
        {"--tag", "novalue"},
        {"--tag", "=v"},
        {"--tag", "k=" + std::string(10000, 'v')},
        {"--tag", std::string(10000, 'k') + "=v"},
        {"--tag", "k\t=v"},
        {"--tag", "\xc3\x28=v"},
        {"--tag", "k=1", "--tag", "k=2"},
        {"--retain", "0d"},
        {"--retain", "-1d"},
        {"--retain", "30"},
        {"--retain", "yesterday"},
        {"--retain", "99999999999999999999d"},
        {"--speed-limit", "-5"},
        {"--speed-limit", "fast"},
        {"--speed-limit", "99999999999999999999999"},
        {"--scratch-size", "0"},
        {"--scratch-size", "1.5"},
        {"--capture", "sideways"},
        {"--output", "xml"},
        {"--unknown"},
        {"surplus"},
        {"--name"},
    };
    for (std::vector<std::string> arguments : wrong) {
        arguments.insert(arguments.begin(), {"create", vm_});
        refused(arguments, 2);
    }
    std::vector<std::string> many = {"create", vm_};
    for (int i = 0; i < 21; i++)
        many.insert(many.end(), {"--tag", "k" + std::to_string(i) + "=v"});
    refused(many, 2);
    refused({"create", vm_, "--scratch-dir", dir_.file("absent")}, 1, "absent");
    EXPECT_EQ(virtsnap_.json({"list"}).size(), 0u); // not even a failed snapshot
    refused({"frobnicate"}, 2);
    refused({}, 2);
    refused({"list", "--status", "odd"}, 2);
    refused({"repo", "check", "--sample", "0"}, 2);
    refused({"repo", "check", "--sample", "x"}, 2);
    refused({"repo", "init", "--chunk-size", "100000"}, 2);
    expect_clean_qemu();
}

TEST_F(BadInput, ErrorsAreOneJsonDocumentToo)
{
    for (std::vector<std::string> arguments : std::vector<std::vector<std::string>>{
             {"show", "s-aaaaaaaaaaaaaaaaaaaa"}, {"list", "--status", "odd"}, {"frobnicate"}}) {
        arguments.insert(arguments.begin(), {"--output", "json"});
        Outcome outcome = virtsnap_.run(arguments);
        Json error = Json::parse(outcome.out)["error"];
        EXPECT_FALSE(error["code"].text().empty());
        EXPECT_NE(outcome.err.find(error["message"].text().substr(0, 20)), std::string::npos);
    }
    Outcome outcome = virtsnap_.run({"show", "s-aaaaaaaaaaaaaaaaaaaa", "--output", "json"});
    EXPECT_EQ(Json::parse(outcome.out)["error"]["code"].text(), "InvalidSnapshotId.NotFound");
}

TEST_F(BadInput, RepositoriesThatAreNone)
{
    start_qemu();
    refused(Virtsnap(dir_.file("absent")), {"create", vm_}, 1, "virtsnap repo init");
    EXPECT_NE(access(dir_.file("absent").c_str(), F_OK), 0);
    must_run({"mkdir", dir_.file("foreign")});
    std::ofstream(dir_.file("foreign") + "/thesis.txt") << "years of work";
    for (std::vector<std::string> arguments : std::vector<std::vector<std::string>>{
             {"create", vm_}, {"list"}, {"repo", "init"}, {"repo", "prune"}, {"repo", "check"}})
        refused(Virtsnap(dir_.file("foreign")), arguments, 1);
    EXPECT_EQ(files(dir_.file("foreign")), "./thesis.txt\n");
    refused(Virtsnap(dir_.file("a.qcow2")), {"create", vm_}, 1);
    refused({"repo", "init"}, 1);
    expect_clean_qemu();
}

TEST_F(BadInput, ARepositoryOfANewerFormatOrWithADamagedConfiguration)
{
    start_qemu();
    std::string config = virtsnap_.repository() + "/config";
    std::string text = support::read_file(config);
    std::string newer = text;
    size_t at = newer.find("\"format\":");
    ASSERT_NE(at, std::string::npos) << text;
    at = newer.find_first_of("0123456789", at);
    newer.replace(at, 1, "7");
    // The digest line is made to fit, so that it is the number that is refused.
    size_t seal = newer.rfind("sha256:");
    std::ofstream(dir_.file("body")) << newer.substr(0, seal);
    std::string sum = must_run({"sha256sum", dir_.file("body")}).substr(0, 64);
    std::ofstream(config) << newer.substr(0, seal) << "sha256:" << sum << "\n";
    refused({"create", vm_}, 1, "format");
    refused({"list"}, 1, "format");
    std::ofstream(config) << text.substr(0, text.size() / 2);
    refused({"create", vm_}, 1);
    expect_clean_qemu();
}

// A file system of its own, which tests may fill up or make read-only. Needs to be root.
class Mounted
{
  public:
    Mounted(std::string path, const std::string &options) : path_(std::move(path))
    {
        must_run({"mkdir", "-p", path_});
        is_mounted_ = mount("none", path_.c_str(), "tmpfs", 0, options.c_str()) == 0;
    }
    ~Mounted()
    {
        if (is_mounted_)
            umount2(path_.c_str(), MNT_DETACH);
    }
    bool
    read_only() const
    {
        return mount("none", path_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0;
    }
    bool
    resize(const std::string &size) const
    {
        return mount("none", path_.c_str(), nullptr, MS_REMOUNT, ("size=" + size).c_str()) == 0;
    }
    bool is_mounted_;

  private:
    std::string path_;
};

TEST_F(BadInput, AReadOnlyRepositoryCanStillBeReadAndIsRefusedForWriting)
{
    start_qemu();
    Mounted place(dir_.file("mnt"), "size=64m");
    ASSERT_TRUE(place.is_mounted_) << "mounting a tmpfs (are you root?)";
    Virtsnap program(dir_.file("mnt") + "/repo");
    program.json({"repo", "init"});
    qemu_->disk_io("dA", "write -P 5 1M 1M");
    std::string id = program.json({"create", vm_})["snapshots"][0]["id"].text();
    ASSERT_TRUE(place.read_only());
    refused(program, {"create", vm_}, 1);
    refused(program, {"delete", id}, 1);
    refused(program, {"repo", "prune"}, 1);
    EXPECT_EQ(program.json({"list"}).size(), 1u);
    program.json({"restore", id, "--to", dir_.file("out.raw"), "--format", "raw"});
    program.json({"repo", "check"});
    EXPECT_EQ(qemu_->monitor().execute("query-jobs").size(), 0u);
}

TEST_F(BadInput, AFullRepositoryKeepsWhatItHasAndGoesOnIncrementallyWithMoreRoom)
{
    start_qemu();
    Mounted place(dir_.file("mnt"), "size=6m");
    ASSERT_TRUE(place.is_mounted_) << "mounting a tmpfs (are you root?)";
    Virtsnap program(dir_.file("mnt") + "/repo");
    program.json({"repo", "init"});
    qemu_->disk_io("dA", "write -P 5 1M 1M");
    std::string first = program.json({"create", vm_})["snapshots"][0]["id"].text();
    // What does not compress: the program's own text, from a file.
    must_run({"sh", "-c", "head -c 12M /dev/urandom > '" + dir_.file("noise") + "'"});
    qemu_->disk_io("dA", "write -s " + dir_.file("noise") + " 2M 12M");
    refused(program, {"create", vm_}, 1, "space");
    EXPECT_EQ(qemu_->monitor().execute("query-jobs").size(), 0u);
    program.json({"restore", first, "--to", dir_.file("out.raw"), "--format", "raw"});
    ASSERT_TRUE(place.resize("64m"));
    Json next = program.json({"create", vm_})["snapshots"][0];
    EXPECT_EQ(next["mode"].text(), "incremental") << next.dump();
    program.json({"repo", "check"});
    std::string out = dir_.file("second.raw");
    program.json({"restore", next["id"].text(), "--to", out, "--format", "raw"});
    must_run({"cmp", "-n", std::to_string(12 << 20), out, dir_.file("noise"), "-i",
              std::to_string(2 << 20) + ":0"});
}

TEST_F(BadInput, RestoreNeverOverwritesNorLeavesAPartialFile)
{
    start_qemu();
    qemu_->disk_io("dA", "write -P 5 1M 1M");
    std::string id = virtsnap_.json({"create", vm_})["snapshots"][0]["id"].text();
    std::string target = dir_.file("precious");
    std::ofstream(target) << "mine";
    for (std::string format : {"raw", "qcow2"})
        refused({"restore", id, "--to", target, "--format", format}, 1, "exists");
    EXPECT_EQ(must_run({"cat", target}), "mine");
    refused({"restore", id, "--to", dir_.file("no/such/folder/x")}, 1);
    refused({"restore", id, "--to", dir_.file("x"), "--format", "vhd"}, 2);
    // A damaged pack: the restore fails and nothing of it is left.
    must_run({"sh", "-c",
              "for p in '" + virtsnap_.repository() +
                  "'/packs/*/*; do printf X | dd of=$p bs=1 seek=200 conv=notrunc "
                  "status=none; done"});
    must_run({"mkdir", dir_.file("new")});
    for (std::string format : {"raw", "qcow2"})
        refused({"restore", id, "--to", dir_.file("new") + "/x", "--format", format}, 1);
    EXPECT_EQ(files(dir_.file("new")), "");
}

} // namespace

VS_TEST_MAIN("qemu");
