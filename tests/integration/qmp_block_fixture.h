// SPDX-License-Identifier: LGPL-2.1-or-later
// A real QEMU for the typed QMP commands: no guest (-S), TCG, a qcow2 and a raw disk.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "qmp/block.h"
#include "qmp/job.h"
#include "tests/support/process.h"
#include "tests/support/temp-dir.h"

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kDiskBytes = 64 * kMiB;
constexpr unsigned kTimeoutMs = 10000;
constexpr const char *kDeviceA = "/machine/peripheral/vdA/virtio-backend";

class QmpBlockFixture : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        CreateImage("qcow2", "a.qcow2");
        CreateImage("raw", "b.raw");
        qemu_ = std::make_unique<support::Process>(std::vector<std::string>{
            "qemu-system-x86_64", "-S", "-nodefaults", "-accel", "tcg", "-display", "none", "-m",
            "64", "-qmp", "unix:" + Path("qmp") + ",server=on,wait=off", "-blockdev",
            "driver=qcow2,node-name=dA,file.driver=file,file.filename=" + Path("a.qcow2"),
            "-device", "virtio-blk-pci,drive=dA,id=vdA", "-drive",
            "if=virtio,id=driveB,format=raw,file=" + Path("b.raw")});
        Connect();
    }

    void
    TearDown() override
    {
        vs_qmp_client_free(client_);
        g_clear_error(&error_);
    }

    // Retries while QEMU is not listening yet.
    void
    Connect()
    {
        gint64 deadline = g_get_monotonic_time() + kTimeoutMs * G_GINT64_CONSTANT(1000);
        while (client_ == nullptr && g_get_monotonic_time() < deadline && qemu_->running()) {
            g_clear_error(&error_);
            client_ = vs_qmp_client_connect(Path("qmp").c_str(), kTimeoutMs, nullptr, &error_);
            if (client_ == nullptr)
                g_usleep(5000);
        }
        ASSERT_NE(client_, nullptr) << Why() << qemu_->err();
        g_clear_error(&error_);
    }

    std::string
    Path(const std::string &name) const
    {
        return temp_.file(name);
    }

    void
    CreateImage(const char *format, const std::string &name) const
    {
        support::must_run(
            {"qemu-img", "create", "-q", "-f", format, Path(name), std::to_string(kDiskBytes)});
    }

    // The error's text, for the messages of failed expectations.
    std::string
    Why() const
    {
        return error_ != nullptr ? error_->message : "(no error)";
    }

    // Writes a pattern into a node as a guest would.
    void
    Write(const std::string &device, int64_t offset, int64_t length)
    {
        g_autofree char *line = g_strdup_printf("qemu-io -d %s \"write -P 0x5a %" G_GINT64_FORMAT
                                                " %" G_GINT64_FORMAT "\"",
                                                device.c_str(), offset, length);
        json_object *arguments = vs_qmp_args("command-line", vs_qmp_str(line), NULL);
        json_object *reply =
            vs_qmp_client_call(client_, "human-monitor-command", arguments, nullptr, &error_);
        ASSERT_NE(reply, nullptr) << Why();
        EXPECT_STREQ(json_object_get_string(reply), "");
        json_object_put(reply);
    }

    void
    AddBitmap(const char *node, const char *name, bool persistent)
    {
        g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
        const VsQmpBitmapAdd bitmap = {node, name, 65536, persistent, false};
        vs_qmp_transaction_bitmap_add(transaction, &bitmap);
        ASSERT_TRUE(vs_qmp_transaction_run(transaction, client_, nullptr, &error_)) << Why();
    }

    // Adds the node "fl": an empty qcow2 over dA, as the scratch of a backup.
    void
    AddFleece()
    {
        CreateImage("qcow2", "fl");
        json_object *file =
            vs_qmp_args("driver", vs_qmp_str("file"), "filename", vs_qmp_str(Path("fl").c_str()),
                        "node-name", vs_qmp_str("fl-file"), NULL);
        json_object *options =
            vs_qmp_args("driver", vs_qmp_str("qcow2"), "node-name", vs_qmp_str("fl"), "file", file,
                        "backing", vs_qmp_str("dA"), NULL);
        ASSERT_TRUE(vs_qmp_node_add(client_, options, nullptr, &error_)) << Why();
    }

    void
    StartBackup(const char *sync, const char *bitmap)
    {
        g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
        const VsQmpBackup backup = {"job", "dA", "fl", sync, bitmap, "cbw", nullptr};
        vs_qmp_transaction_backup(transaction, &backup);
        ASSERT_TRUE(vs_qmp_transaction_run(transaction, client_, nullptr, &error_)) << Why();
    }

    unsigned
    CountJobs()
    {
        g_autoptr(GPtrArray) jobs = vs_qmp_query_jobs(client_, nullptr, &error_);
        EXPECT_NE(jobs, nullptr) << Why();
        return jobs != nullptr ? jobs->len : 99;
    }

    support::TempDir temp_;
    std::unique_ptr<support::Process> qemu_;
    VsQmpClient *client_ = nullptr;
    GError *error_ = nullptr;
};
