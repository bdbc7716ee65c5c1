// SPDX-License-Identifier: LGPL-2.1-or-later
// Ten generations of writes to a qcow2 and a raw disk of a VM without a guest: each generation must
// restore byte for byte, and from the second on read no more than was written. The oracle is
// qemu-img's view of the disks at each point in time.
#include <algorithm>
#include <cstdio>
#include <gtest/gtest.h>
#include <random>
#include <set>

#include "tests/support/file.h"
#include "tests/support/gate.h"
#include "tests/support/qemu-process.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::Json;
using support::must_run;
using support::QemuProcess;
using support::read_file;
using support::TempDir;
using support::Virtsnap;

constexpr uint64_t kCluster = 64 * 1024;

// A disk of the VM and which of its clusters have been touched since the last snapshot.
struct Disk {
    std::string id;
    std::string path;
    std::string format;
    uint64_t size;
    std::set<uint64_t> touched;

    uint64_t
    touched_bytes() const
    {
        uint64_t bytes = 0;
        for (uint64_t cluster : touched)
            bytes += std::min(kCluster, size - cluster * kCluster);
        return bytes;
    }
};

class Generations : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        seed_ = std::random_device{}();
        if (const char *fixed = getenv("VIRTSNAP_TEST_SEED"))
            seed_ = strtoul(fixed, nullptr, 0);
        printf("seed %u (VIRTSNAP_TEST_SEED)\n", seed_);
        random_.seed(seed_);
        // Sizes that are no multiple of a chunk, nor of a cluster.
        disks_ = {{"dA", dir_.file("a.qcow2"), "qcow2", (48ull << 20) + 3 * 512, {}},
                  {"dB", dir_.file("b.raw"), "raw", (32ull << 20) + 70 * 512, {}}};
        for (const Disk &disk : disks_)
            must_run({"qemu-img", "create", "-q", "-f", disk.format, disk.path,
                      std::to_string(disk.size)});
        start();
        virtsnap_.json({"repo", "init"});
    }

    void
    start()
    {
        std::vector<std::string> arguments;
        for (const Disk &disk : disks_) {
            std::vector<std::string> more = {
                "-blockdev",
                "driver=" + disk.format + ",node-name=n" + disk.id +
                    ",discard=unmap,file.driver=file,file.discard=unmap,file.filename=" + disk.path,
                "-device", "virtio-blk-pci,drive=n" + disk.id + ",id=" + disk.id};
            arguments.insert(arguments.end(), more.begin(), more.end());
        }
        qemu_ = std::make_unique<QemuProcess>(dir_, QemuProcess::idle(arguments));
    }

    void
    restart()
    {
        qemu_->quit();
        qemu_.reset();
        start();
    }

    uint64_t
    draw(uint64_t below)
    {
        return std::uniform_int_distribution<uint64_t>(0, below - 1)(random_);
    }

    void
    touch(Disk &disk, uint64_t offset, uint64_t length)
    {
        for (uint64_t c = offset / kCluster; c <= (offset + length - 1) / kCluster; c++)
            disk.touched.insert(c);
    }

    void
    write_once(Disk &disk)
    {
        uint64_t length = 0, offset = 0;
        switch (draw(5)) {
        case 0: // one sector
            length = 512;
            offset = draw(disk.size / 512) * 512;
            break;
        case 1: // unaligned
            length = 1 + draw(5000);
            offset = draw(disk.size - length);
            break;
        case 2: // the disk's end
            length = 512 * (1 + draw(200));
            offset = disk.size - length;
            break;
        case 3: // across chunks
            length = 512 * (1 + draw(1000));
            offset = draw((disk.size - length) / 512) * 512;
            break;
        default: // whole clusters
            length = kCluster * (1 + draw(4));
            offset = draw((disk.size - length) / kCluster) * kCluster;
        }
        std::string range = std::to_string(offset) + " " + std::to_string(length);
        uint64_t kind = draw(6);
        if (kind == 0)
            qemu_->disk_io(disk.id, "write -z " + range);
        else if (kind == 1)
            qemu_->disk_io(disk.id, "discard " + range);
        else
            qemu_->disk_io(disk.id, "write -P " + std::to_string(1 + draw(255)) + " " + range);
        touch(disk, offset, length);
    }

    void
    write_generation()
    {
        for (Disk &disk : disks_) {
            uint64_t writes = 1 + draw(25);
            for (uint64_t i = 0; i < writes; i++)
                write_once(disk);
        }
    }

    // What the disks hold now, as somebody else sees it.
    std::vector<std::string>
    look()
    {
        std::vector<std::string> contents;
        for (const Disk &disk : disks_) {
            qemu_->disk_io(disk.id, "flush");
            std::string copy = dir_.file("oracle.raw");
            must_run(
                {"qemu-img", "convert", "-U", "-f", disk.format, "-O", "raw", disk.path, copy});
            contents.push_back(read_file(copy));
            remove(copy.c_str());
        }
        return contents;
    }

    Json
    create(const std::vector<std::string> &more = {})
    {
        std::vector<std::string> arguments = {"create", "qmp:" + qemu_->socket()};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return virtsnap_.json(arguments)["snapshots"];
    }

    std::string
    restore_raw(const std::string &id)
    {
        std::string path = dir_.file("restored.raw");
        virtsnap_.json({"restore", id, "--to", path, "--format", "raw"});
        std::string content = read_file(path);
        remove(path.c_str());
        return content;
    }

    std::string
    restore_qcow2(const std::string &id)
    {
        std::string path = dir_.file("restored.qcow2"), raw = dir_.file("restored.raw");
        virtsnap_.json({"restore", id, "--to", path, "--format", "qcow2"});
        must_run({"qemu-img", "check", "-q", path});
        must_run({"qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw});
        std::string content = read_file(raw);
        remove(path.c_str());
        remove(raw.c_str());
        return content;
    }

    void
    run_generations(const std::vector<std::string> &options, unsigned generations)
    {
        struct Generation {
            std::vector<std::string> ids, contents;
        };
        std::vector<Generation> history;
        for (unsigned g = 0; g < generations; g++) {
            SCOPED_TRACE("generation " + std::to_string(g));
            bool restarted = g == generations / 2;
            if (restarted)
                restart();
            write_generation();
            Generation now = {{}, look()};
            Json snapshots = create(options);
            ASSERT_EQ(snapshots.size(), disks_.size());
            for (size_t i = 0; i < disks_.size(); i++) {
                bool incremental = g > 0 && !(restarted && disks_[i].format == "raw");
                Json snapshot = snapshots[i];
                EXPECT_EQ(snapshot["mode"].text(), incremental ? "incremental" : "full")
                    << snapshot.dump();
                EXPECT_EQ(snapshot["mode_reason"].is_null(), incremental);
                if (incremental) {
                    EXPECT_LE((uint64_t)snapshot["read_bytes"].number(), disks_[i].touched_bytes());
                }
                now.ids.push_back(snapshot["id"].text());
                disks_[i].touched.clear();
            }
            history.push_back(now);
        }
        for (const Generation &generation : history) {
            for (size_t i = 0; i < generation.ids.size(); i++) {
                EXPECT_TRUE(restore_raw(generation.ids[i]) == generation.contents[i]);
                EXPECT_TRUE(restore_qcow2(generation.ids[i]) == generation.contents[i]);
            }
        }
        virtsnap_.json({"repo", "check"});
    }

    TempDir dir_;
    Virtsnap virtsnap_{dir_.file("repo")};
    std::vector<Disk> disks_;
    std::unique_ptr<QemuProcess> qemu_;
    std::mt19937 random_;
    unsigned seed_ = 0;
};

TEST_F(Generations, EachOfTenRestoresByteForByte)
{
    run_generations({}, 10);
}

TEST_F(Generations, StagedCaptureIsAsExact)
{
    run_generations({"--capture", "staged"}, 4);
}

TEST_F(Generations, ChunksLargerThanClustersAreCompletedFromTheBase)
{
    must_run({"rm", "-r", virtsnap_.repository()});
    virtsnap_.json({"repo", "init", "--chunk-size", "1048576"});
    run_generations({}, 5);
}

TEST_F(Generations, AnUnchangedDiskIsNotReadAtAll)
{
    write_generation();
    create();
    Json snapshots = create();
    for (const Json &snapshot : snapshots.items()) {
        EXPECT_EQ(snapshot["mode"].text(), "incremental");
        EXPECT_EQ(snapshot["read_bytes"].number(), 0);
        EXPECT_EQ(snapshot["new_bytes"].number(), 0);
    }
}

TEST_F(Generations, AGrownDiskIsIncrementalWithItsNewEnd)
{
    write_generation();
    create();
    Disk &disk = disks_[0];
    qemu_->monitor().execute("block_resize", "{\"node-name\":\"ndA\",\"size\":" +
                                                 std::to_string(disk.size + (5 << 20)) + "}");
    disk.size += 5 << 20;
    qemu_->disk_io(disk.id, "write -P 77 " + std::to_string(disk.size - 4096) + " 4096");
    std::vector<std::string> contents = look();
    Json snapshots = create();
    EXPECT_EQ(snapshots[0]["mode"].text(), "incremental");
    EXPECT_TRUE(restore_raw(snapshots[0]["id"].text()) == contents[0]);
    EXPECT_TRUE(restore_raw(snapshots[1]["id"].text()) == contents[1]);
}

TEST_F(Generations, ADiskThatShrankAndGrewAgainIsReadInFull)
{
    write_generation();
    create();
    for (const Disk &disk : disks_) {
        for (uint64_t size : {uint64_t{16 << 20}, disk.size / 512 * 512})
            qemu_->monitor().execute("block_resize", "{\"node-name\":\"n" + disk.id +
                                                         "\",\"size\":" + std::to_string(size) +
                                                         "}");
    }
    std::vector<std::string> contents = look();
    Json snapshots = create();
    for (size_t i = 0; i < disks_.size(); i++) {
        EXPECT_EQ(snapshots[i]["mode"].text(), "full") << snapshots[i].dump();
        EXPECT_TRUE(restore_raw(snapshots[i]["id"].text()) == contents[i]);
    }
}

TEST_F(Generations, AGrownDiskThatIsCapturedStagedIsExact)
{
    write_generation();
    create({"--capture", "staged"});
    // A raw image that has more behind its end, as a block device has.
    Disk &disk = disks_[1];
    qemu_->quit();
    qemu_.reset();
    must_run({"sh", "-c", "head -c 3M /dev/urandom >> '" + disk.path + "'"});
    disk.size += 3 << 20;
    start();
    std::vector<std::string> contents = look();
    Json snapshots = create({"--capture", "staged"});
    for (size_t i = 0; i < disks_.size(); i++)
        EXPECT_TRUE(restore_raw(snapshots[i]["id"].text()) == contents[i]);
}

TEST_F(Generations, DeletedInAnyOrderTheOthersStayExact)
{
    std::vector<std::string> ids, contents;
    for (unsigned g = 0; g < 6; g++) {
        write_generation();
        contents.push_back(look()[0]);
        ids.push_back(create({"--disk", "dA"})[0]["id"].text());
    }
    std::vector<size_t> order = {0, 1, 2, 3, 4, 5};
    std::shuffle(order.begin(), order.end(), random_);
    std::set<size_t> left(order.begin(), order.end());
    int64_t stored = virtsnap_.json({"repo", "usage"})["stored_bytes"].number();
    for (size_t gone : order) {
        virtsnap_.json({"delete", ids[gone]});
        left.erase(gone);
        virtsnap_.json({"repo", "prune"});
        int64_t now = virtsnap_.json({"repo", "usage"})["stored_bytes"].number();
        EXPECT_LE(now, stored);
        stored = now;
        virtsnap_.json({"repo", "check"});
        for (size_t i : left)
            EXPECT_TRUE(restore_raw(ids[i]) == contents[i]) << "after deleting " << gone;
    }
    // Even with all of them gone the next is incremental: the newest one's tree was kept as the
    // base.
    write_generation();
    std::string content = look()[0];
    Json next = create({"--disk", "dA"})[0];
    EXPECT_EQ(next["mode"].text(), "incremental") << next.dump();
    EXPECT_TRUE(restore_raw(next["id"].text()) == content);
}

TEST_F(Generations, NothingOfOursIsLeftInQemu)
{
    qemu_->monitor().execute("cont"); // a paused QEMU keeps descriptor sets till it runs
    write_generation();
    create();
    write_generation();
    create({"--capture", "staged"});
    auto &monitor = qemu_->monitor();
    EXPECT_EQ(monitor.execute("query-jobs").size(), 0u);
    EXPECT_EQ(monitor.execute("query-block-exports").size(), 0u);
    EXPECT_EQ(monitor.execute("query-fdsets").size(), 0u);
    for (const Json &node : monitor.execute("query-named-block-nodes").items()) {
        EXPECT_NE(node["node-name"].text().substr(0, 3), "vs-") << node.dump();
        EXPECT_LE(node["dirty-bitmaps"].size(), 2u) << node.dump();
    }
}

} // namespace

VS_TEST_MAIN("qemu");
