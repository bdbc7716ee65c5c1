// SPDX-License-Identifier: LGPL-2.1-or-later
// A bare QEMU with one disk, whose snapshots are interrupted in all kinds of ways.
#ifndef TESTS_INTEGRATION_CREATE_FIXTURE_H
#define TESTS_INTEGRATION_CREATE_FIXTURE_H

#include <algorithm>
#include <chrono>
#include <gtest/gtest.h>
#include <memory>
#include <signal.h>
#include <string>
#include <vector>

#include "tests/support/qemu-process.h"
#include "tests/support/virtsnap.h"

namespace create_fixture
{

using support::Json;
using support::must_run;
using support::Outcome;
using support::Process;
using support::QemuProcess;
using support::TempDir;
using support::Virtsnap;
using support::wait_until;

constexpr auto kSoon = std::chrono::seconds(20);

class CreateTest : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", image_, "64M"});
        virtsnap_.json({"repo", "init"});
    }
    void
    start(std::vector<std::string> more = {})
    {
        std::vector<std::string> arguments = QemuProcess::virtio_disk(image_, "qcow2", "nA", "dA");
        arguments.insert(arguments.end(), {"-qmp", "unix:" + other_ + ",server=on,wait=off"});
        arguments.insert(arguments.end(), more.begin(), more.end());
        qemu_ = std::make_unique<QemuProcess>(dir_, QemuProcess::idle(arguments));
        qemu_->monitor().execute("cont");
        vm_ = "qmp:" + qemu_->socket();
    }
    // A create that takes its time, and has passed the point in time.
    std::unique_ptr<Process>
    start_slow_create(const std::vector<std::string> &more = {})
    {
        qemu_->disk_io("dA", "write -P 9 0 32M");
        std::vector<std::string> arguments = {"create", vm_, "--speed-limit", "1000000"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        auto process = virtsnap_.start(arguments);
        const bool is_staged = std::find(more.begin(), more.end(), "staged") != more.end();
        EXPECT_TRUE(wait_until(kSoon, [&] {
            return is_staged ? !progressing().empty() : has_export();
        })) << process->err();
        return process;
    }
    bool
    has_export()
    {
        return qemu_->monitor().execute("query-block-exports").size() > 0;
    }
    std::string
    progressing()
    {
        Json list = virtsnap_.json({"list", "--status", "progressing"});
        return list.size() == 1 ? list[0]["id"].text() : "";
    }
    void
    expect_clean_qemu(size_t bitmaps)
    {
        auto &monitor = qemu_->monitor();
        EXPECT_EQ(monitor.execute("query-jobs").size(), 0u);
        EXPECT_EQ(monitor.execute("query-block-exports").size(), 0u);
        EXPECT_EQ(monitor.execute("query-fdsets").size(), 0u);
        for (const Json &node : monitor.execute("query-named-block-nodes").items()) {
            EXPECT_NE(node["node-name"].text().substr(0, 3), "vs-") << node.dump();
            if (node["node-name"].text() == "nA") { // each has a companion
                EXPECT_EQ(node["dirty-bitmaps"].size(), 2 * bitmaps) << node.dump();
            }
        }
    }
    // The next create works, as told, and is exact.
    void
    expect_next(const std::string &mode)
    {
        qemu_->disk_io("dA", "write -P 3 5M 1M");
        qemu_->disk_io("dA", "flush");
        std::string oracle = dir_.file("oracle"), restored = dir_.file("restored");
        must_run({"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", image_, oracle});
        Json snapshot = virtsnap_.json({"create", vm_})["snapshots"][0];
        EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
        virtsnap_.json({"restore", snapshot["id"].text(), "--to", restored, "--format", "raw"});
        must_run({"cmp", oracle, restored});
        must_run({"rm", oracle, restored});
        virtsnap_.json({"repo", "check"});
        expect_clean_qemu(1);
    }

    TempDir dir_;
    std::string image_ = dir_.file("a.qcow2");
    std::string other_ = dir_.file("other.qmp");
    Virtsnap virtsnap_{dir_.file("repo")};
    std::unique_ptr<QemuProcess> qemu_;
    std::string vm_;
};

} // namespace create_fixture

#endif
