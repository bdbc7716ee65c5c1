// SPDX-License-Identifier: LGPL-2.1-or-later
// A domain of a private libvirtd, and beside each of its disks a raw reference image that gets the
// same writes: what a snapshot must restore to.
#ifndef TESTS_INTEGRATION_LIBVIRT_FIXTURE_H
#define TESTS_INTEGRATION_LIBVIRT_FIXTURE_H

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include "tests/support/libvirt-daemon.h"
#include "tests/support/libvirt-domain.h"
#include "tests/support/process.h"
#include "tests/support/temp-dir.h"
#include "tests/support/virtsnap.h"
#include "tests/support/wait.h"

namespace libvirt_fixture
{

using support::Json;
using support::must_run;
using support::Outcome;
using support::Process;
using support::Virtsnap;
using support::wait_until;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kCluster = 64 * 1024; // of a qcow2 image: what a bitmap counts in
constexpr auto kSoon = std::chrono::seconds(30);

// The seed of what is random, printed so that it can be given again.
inline unsigned
draw_seed()
{
    const char *fixed = getenv("VIRTSNAP_TEST_SEED");
    const unsigned seed =
        fixed ? static_cast<unsigned>(strtoul(fixed, nullptr, 0)) : std::random_device{}();
    printf("seed %u (VIRTSNAP_TEST_SEED)\n", seed);
    return seed;
}

// A temporary folder of the program's own, so that what it leaves behind is seen.
class OwnTmp
{
  public:
    explicit OwnTmp(std::string path) : path_(std::move(path))
    {
        std::filesystem::create_directory(path_);
        if (const char *before = getenv("TMPDIR"))
            before_ = before;
        setenv("TMPDIR", path_.c_str(), 1);
    }
    ~OwnTmp()
    {
        if (before_.empty())
            unsetenv("TMPDIR");
        else
            setenv("TMPDIR", before_.c_str(), 1);
    }
    OwnTmp(const OwnTmp &) = delete;
    OwnTmp &operator=(const OwnTmp &) = delete;
    std::string
    content() const
    {
        return must_run({"find", path_, "-mindepth", "1"});
    }

  private:
    std::string path_;
    std::string before_;
};

struct TestDisk {
    support::LibvirtDisk disk;
    uint64_t size;
    std::string reference;
    std::set<uint64_t> touched; // clusters, since the newest snapshot

    int64_t
    touched_bytes() const
    {
        uint64_t bytes = 0;
        for (const uint64_t cluster : touched)
            bytes += std::min(kCluster, size - cluster * kCluster);
        return static_cast<int64_t>(bytes);
    }
};

class LibvirtTest : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        random_.seed(draw_seed());
        virtsnap_.json({"repo", "init"});
    }

    // The domain --------------------------------------------------------------------------------

    TestDisk &
    add_disk(const std::string &target, uint64_t size, const std::string &format = "qcow2")
    {
        TestDisk disk;
        disk.disk.target = target;
        disk.disk.path = dir_.file(target + "." + format);
        disk.disk.format = format;
        disk.size = size;
        disk.reference = dir_.file(target + ".reference");
        must_run({"qemu-img", "create", "-q", "-f", format, disk.disk.path, std::to_string(size)});
        must_run({"truncate", "-s", std::to_string(size), disk.reference});
        disks_.push_back(disk);
        return disks_.back();
    }
    void
    define()
    {
        support::LibvirtDomainOptions options;
        for (const TestDisk &disk : disks_)
            options.disks.push_back(disk.disk);
        options.disks.insert(options.disks.end(), media_.begin(), media_.end());
        domain_ = std::make_unique<support::LibvirtDomain>(daemon_, options);
        domain_->define();
    }
    void
    start()
    {
        domain_->start();
        remember_nodes();
    }
    TestDisk &
    disk(const std::string &target)
    {
        for (TestDisk &each : disks_)
            if (each.disk.target == target)
                return each;
        throw std::runtime_error("the test has no disk " + target);
    }
    // Changes the inactive definition.
    void
    redefine(const std::string &old_text, const std::string &new_text)
    {
        std::string xml = daemon_.must_virsh({"dumpxml", "vm", "--inactive"});
        const size_t at = xml.find(old_text);
        if (at == std::string::npos)
            throw std::runtime_error("no " + old_text + " in " + xml);
        xml.replace(at, old_text.size(), new_text);
        std::ofstream(daemon_.file("new.xml")) << xml;
        daemon_.must_virsh({"define", daemon_.file("new.xml")});
    }

    // Writing -----------------------------------------------------------------------------------

    uint64_t
    draw(uint64_t below)
    {
        return std::uniform_int_distribution<uint64_t>(0, below - 1)(random_);
    }
    // Writes to the reference alone, and notes the clusters.
    void
    write_reference(const std::string &target, uint64_t offset, uint64_t length, int pattern)
    {
        TestDisk &to = disk(target);
        const std::string data(length, static_cast<char>(pattern));
        const int fd = open(to.reference.c_str(), O_WRONLY | O_CLOEXEC);
        const ssize_t written = pwrite(fd, data.data(), length, static_cast<off_t>(offset));
        close(fd);
        ASSERT_EQ(written, static_cast<ssize_t>(length));
        for (uint64_t c = offset / kCluster; c <= (offset + length - 1) / kCluster; c++)
            to.touched.insert(c);
    }
    static std::string
    write_command(uint64_t offset, uint64_t length, int pattern)
    {
        return "write -P " + std::to_string(pattern) + " " + std::to_string(offset) + " " +
               std::to_string(length);
    }
    void
    write(const std::string &target, uint64_t offset, uint64_t length)
    {
        const int pattern = static_cast<int>(1 + draw(255));
        domain_->disk_io(target, write_command(offset, length, pattern));
        write_reference(target, offset, length, pattern);
    }
    // Some writes of all kinds: a sector, the disk's end, across clusters.
    void
    write_some(const std::string &target)
    {
        const uint64_t size = disk(target).size;
        write(target, draw(size / 512) * 512, 512);
        write(target, size - 512 * (1 + draw(100)), 512);
        const uint64_t length = 512 * (1 + draw(600));
        write(target, draw((size - length) / 512) * 512, length);
    }
    // What the stopped domain's image is changed to by somebody else, who tells the bitmaps.
    void
    write_offline(const std::string &target, uint64_t offset, uint64_t length)
    {
        const int pattern = static_cast<int>(1 + draw(255));
        must_run({"qemu-io", "-f", disk(target).disk.format, "-c",
                  write_command(offset, length, pattern), disk(target).disk.path});
        write_reference(target, offset, length, pattern);
    }
    void
    resize_reference(const std::string &target, uint64_t size)
    {
        disk(target).size = size;
        must_run({"truncate", "-s", std::to_string(size), disk(target).reference});
    }

    // Snapshots ---------------------------------------------------------------------------------

    static std::vector<std::string>
    create_arguments(const std::vector<std::string> &more)
    {
        std::vector<std::string> arguments = {"create", "vm"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return arguments;
    }
    Json
    create(const std::vector<std::string> &more = {})
    {
        return virtsnap_.json(create_arguments(more))["snapshots"];
    }
    static Json
    of(const Json &snapshots, const std::string &target)
    {
        for (const Json &snapshot : snapshots.items())
            if (snapshot["disk"]["target"].text() == target)
                return snapshot;
        throw std::runtime_error("no snapshot of " + target + " in " + snapshots.dump());
    }
    // Whether the snapshot restores to the reference image (or a copy of it that was kept).
    void
    expect_content(const Json &snapshot, const std::string &reference)
    {
        const std::string restored = dir_.file("restored");
        virtsnap_.json(
            {"restore", snapshot["id"].text(), "--to", restored, "--format", "raw", "--quiet"});
        const Outcome outcome = support::run({"cmp", restored, reference});
        EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err << snapshot.dump();
        std::filesystem::remove(restored);
    }
    // Exact, and as cheap as an incremental must be; the writes so far are then behind it.
    void
    expect_exact(const Json &snapshots)
    {
        for (const Json &snapshot : snapshots.items()) {
            TestDisk &from = disk(snapshot["disk"]["target"].text());
            expect_content(snapshot, from.reference);
            if (snapshot["mode"].text() == "incremental") {
                EXPECT_LE(snapshot["read_bytes"].number(), from.touched_bytes()) << snapshot.dump();
            } else {
                EXPECT_FALSE(snapshot["mode_reason"].is_null()) << snapshot.dump();
            }
            from.touched.clear();
        }
    }
    static void
    expect_mode(const Json &snapshots, const std::string &mode)
    {
        EXPECT_GT(snapshots.size(), 0u);
        for (const Json &snapshot : snapshots.items())
            EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
    }
    // The next create works, as told, and is exact. Mode "": whichever.
    Json
    expect_next(const std::string &mode, const std::vector<std::string> &more = {})
    {
        Json snapshots = create(more);
        if (!mode.empty())
            expect_mode(snapshots, mode);
        expect_exact(snapshots);
        return snapshots;
    }
    // Starts a create that takes its time, and waits until the point in time has passed.
    std::unique_ptr<Process>
    start_slow_create(const std::string &bytes_per_second,
                      const std::vector<std::string> &more = {})
    {
        std::vector<std::string> arguments =
            create_arguments({"--speed-limit", bytes_per_second, "--output", "json"});
        arguments.insert(arguments.end(), more.begin(), more.end());
        auto process = virtsnap_.start(arguments);
        const auto is_under_way = [&] {
            return virtsnap_.json({"list", "--status", "progressing"}).size() > 0;
        };
        EXPECT_TRUE(wait_until(kSoon, [&] { return is_under_way() || !process->running(); }));
        EXPECT_TRUE(process->running()) << process->err();
        return process;
    }
    // From the moment in which libvirt begins the backup.
    bool
    has_exports()
    {
        return domain_->monitor().execute("query-block-exports").size() > 0;
    }

    // What must not stay ------------------------------------------------------------------------

    std::vector<std::string>
    checkpoints() const
    {
        std::vector<std::string> names;
        std::istringstream lines(daemon_.must_virsh({"checkpoint-list", "vm", "--name"}));
        for (std::string line; std::getline(lines, line);)
            if (!line.empty())
                names.push_back(line);
        return names;
    }
    size_t
    our_checkpoints() const
    {
        const auto names = checkpoints();
        return static_cast<size_t>(
            std::count_if(names.begin(), names.end(),
                          [](const std::string &name) { return name.rfind("virtsnap.", 0) == 0; }));
    }
    // After the domain's chain of images was changed by others.
    void
    remember_nodes()
    {
        nodes_ = domain_->monitor().execute("query-named-block-nodes").size();
    }
    void
    expect_nothing_left(size_t kept_checkpoints)
    {
        EXPECT_EQ(tmp_.content(), "");
        EXPECT_EQ(our_checkpoints(), kept_checkpoints);
        if (domain_->state() == "shut off")
            return;
        auto &monitor = domain_->monitor();
        EXPECT_NE(daemon_.virsh({"backup-dumpxml", "vm"}).exit_code, 0);
        EXPECT_EQ(monitor.execute("query-jobs").size(), 0u);
        EXPECT_EQ(monitor.execute("query-block-exports").size(), 0u);
        EXPECT_EQ(monitor.execute("query-named-block-nodes").size(), nodes_);
    }

    support::TempDir dir_;
    support::LibvirtDaemon daemon_{dir_};
    OwnTmp tmp_{dir_.file("tmp")};
    Virtsnap virtsnap_{dir_.file("repo"), daemon_.uri()};
    std::deque<TestDisk> disks_; // what add_disk() returns must not move
    std::vector<support::LibvirtDisk> media_;
    std::unique_ptr<support::LibvirtDomain> domain_;
    std::mt19937 random_;
    size_t nodes_ = 0;
};

} // namespace libvirt_fixture

#endif
