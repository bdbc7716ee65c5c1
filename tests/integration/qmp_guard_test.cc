// SPDX-License-Identifier: LGPL-2.1-or-later
// Whatever becomes of the scratch space, and of the program: the guest's writes succeed, nobody
// pauses it, and nothing that is wrong becomes a snapshot. Disks of which that can't be had are
// captured as ever.
#include "tests/integration/create_fixture.h"
#include "tests/support/gate.h"
#include "tests/support/small-file-system.h"

namespace
{

using create_fixture::kSoon;
using support::Json;
using support::must_run;
using support::Outcome;
using support::Process;
using support::QemuProcess;
using support::SmallFileSystem;
using support::wait_until;

using Arguments = std::vector<std::string>;

// A disk: its id is also the image's name; its node is n<id>.
struct Disk {
    std::string id;
    std::string path; // of the device, as writes of its guest name it
    Arguments arguments;
};

class QmpGuard : public create_fixture::CreateTest
{
  protected:
    std::string
    image(const std::string &id, const std::string &format)
    {
        const std::string path = dir_.file(id + ".img");
        must_run({"qemu-img", "create", "-q", "-f", format, path, "64M"});
        return path;
    }
    void
    add_blockdev(const std::string &id, const std::string &format, const std::string &device)
    {
        const bool is_scsi = device.rfind("scsi", 0) == 0;
        Arguments arguments = QemuProcess::virtio_disk(image(id, format), format, "n" + id, id);
        arguments.back() = device + ",drive=n" + id + ",id=" + id;
        disks_.push_back(
            {id, "/machine/peripheral/" + id + (is_scsi ? "" : "/virtio-backend"), arguments});
        formats_.push_back(format);
    }
    void
    add_drive(const std::string &id)
    {
        disks_.push_back(
            {id,
             "/machine/peripheral/" + id + "/virtio-backend",
             {"-drive", "if=none,format=qcow2,id=n" + id + ",file=" + image(id, "qcow2"), "-device",
              "virtio-blk-pci,drive=n" + id + ",id=" + id}});
        formats_.push_back("qcow2");
    }
    void
    start_disks(const Arguments &options = {})
    {
        Arguments arguments = {"-qmp",    "unix:" + other_ + ",server=on,wait=off",
                               "-device", "virtio-scsi-pci",
                               "-object", "iothread,id=io"};
        if (!has_iothread_)
            arguments.resize(arguments.size() - 2);
        arguments.insert(arguments.end(), options.begin(), options.end());
        for (const Disk &disk : disks_)
            arguments.insert(arguments.end(), disk.arguments.begin(), disk.arguments.end());
        qemu_ = std::make_unique<QemuProcess>(dir_, QemuProcess::idle(arguments));
        qemu_->monitor().execute("cont");
        vm_ = "qmp:" + qemu_->socket();
    }
    // As the guests do.
    void
    write_all(const std::string &what)
    {
        for (const Disk &disk : disks_)
            qemu_->qemu_io(disk.path, what);
    }
    size_t
    count_nodes(const std::string &prefix)
    {
        size_t found = 0;
        for (const Json &node : qemu_->monitor().execute("query-named-block-nodes").items())
            found += node["node-name"].text().rfind(prefix, 0) == 0;
        return found;
    }
    std::unique_ptr<Process>
    start_create(const Arguments &more, const std::string &speed = "8M")
    {
        Arguments arguments = {"create", vm_, "--speed-limit", speed};
        arguments.insert(arguments.end(), more.begin(), more.end());
        auto process = virtsnap_.start(arguments);
        EXPECT_TRUE(wait_until(kSoon, [&] { return count_exports() == disks_.size(); }))
            << process->err();
        return process;
    }
    size_t
    count_exports()
    {
        size_t found = 0;
        for (const Json &one : qemu_->monitor().execute("query-block-exports").items())
            found += one["node-name"].text().rfind("vs-fleece-", 0) == 0;
        return found;
    }
    void
    expect_running()
    {
        EXPECT_EQ(qemu_->monitor().execute("query-status")["status"].text(), "running");
    }
    void
    keep_oracles()
    {
        write_all("flush");
        for (size_t i = 0; i < disks_.size(); i++)
            must_run({"qemu-img", "convert", "-U", "-f", formats_[i], "-O", "raw",
                      dir_.file(disks_[i].id + ".img"), dir_.file(disks_[i].id + ".oracle")});
    }
    // The group in `list` that was accomplished last is what keep_oracles() kept.
    void
    expect_content(const Json &snapshots, const std::string &mode)
    {
        ASSERT_EQ(snapshots.size(), disks_.size());
        for (const Json &snapshot : snapshots.items()) {
            EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
            const std::string restored = dir_.file("restored");
            virtsnap_.json({"restore", snapshot["id"].text(), "--to", restored, "--format", "raw"});
            const Outcome compared = support::run(
                {"cmp", restored, dir_.file(snapshot["disk"]["target"].text() + ".oracle")});
            EXPECT_EQ(compared.exit_code, 0) << compared.out << snapshot.dump();
            must_run({"rm", restored});
        }
    }
    void
    expect_next_exact(const std::string &mode)
    {
        write_all("write -P 3 5M 1M");
        keep_oracles();
        expect_content(virtsnap_.json({"create", vm_})["snapshots"], mode);
        expect_nothing_left();
    }
    // Each device is on its own disk again, with one bitmap and its companion.
    void
    expect_nothing_left()
    {
        auto &monitor = qemu_->monitor();
        EXPECT_EQ(monitor.execute("query-jobs").size(), 0u);
        EXPECT_EQ(monitor.execute("query-block-exports").size(), 0u);
        EXPECT_EQ(monitor.execute("query-fdsets").size(), 0u);
        EXPECT_EQ(count_nodes("vs-"), 0u);
        for (const Json &device : monitor.execute("query-block").items()) {
            const Json &inserted = device["inserted"];
            EXPECT_EQ(inserted["dirty-bitmaps"].size(), 2u) << device.dump();
            if (device["device"].text().empty()) {
                EXPECT_EQ(inserted["node-name"].text()[0], 'n') << device.dump();
            }
        }
    }
    // A point in time of which the guest overwrites, zeroes and discards what is not read yet.
    void
    expect_exact_under_writes(const std::string &mode)
    {
        write_all("write -P 9 0 16M");
        keep_oracles();
        auto create = start_create({"--output", "json"});
        const bool is_filtered = qemu_->monitor().execute("query-jobs").size() == 0;
        EXPECT_EQ(is_filtered, wants_filter_);
        for (const std::string what : {"write -P 5 8M 4M", "write -P 6 40M 1M", "write -z 12M 1M",
                                       "write -z 13M 100k", "write -z -u 14M 1M", "discard 15M 1M"})
            write_all(what);
        const auto outcome = create->wait(kSoon);
        ASSERT_TRUE(outcome);
        ASSERT_EQ(outcome->exit_code, 0) << outcome->err;
        expect_content(Json::parse(outcome->out)["snapshots"], mode);
        expect_nothing_left();
    }

    std::vector<Disk> disks_;
    std::vector<std::string> formats_;
    bool has_iothread_ = false;
    bool wants_filter_ = true;
};

struct Device {
    const char *name;
    const char *device;
    const char *format;
};

class QmpGuardOf : public QmpGuard, public testing::WithParamInterface<Device>
{
};

TEST_P(QmpGuardOf, ASnapshotIsExactWhateverTheGuestDoesAndTheDeviceIsBackOnItsDisk)
{
    add_blockdev("dA", GetParam().format, GetParam().device);
    start_disks();
    expect_exact_under_writes("full");
    expect_exact_under_writes("incremental");
    expect_next_exact("incremental");
}

TEST_P(QmpGuardOf, TwoDisksAreCapturedByFiltersToo)
{
    add_blockdev("dA", GetParam().format, GetParam().device);
    add_blockdev("dB", "qcow2", "virtio-blk-pci");
    start_disks();
    expect_exact_under_writes("full");
    expect_exact_under_writes("incremental");
    expect_next_exact("incremental");
}

INSTANTIATE_TEST_SUITE_P(All, QmpGuardOf,
                         testing::Values(Device{"Virtio", "virtio-blk-pci", "qcow2"},
                                         Device{"VirtioRaw", "virtio-blk-pci", "raw"},
                                         Device{"Scsi", "scsi-hd", "qcow2"}),
                         [](const auto &info) { return info.param.name; });

// As the guest sees it a snapshot's nodes are not there: what it discards is given back.
TEST_F(QmpGuard, DiscardsPass)
{
    add_blockdev("dA", "qcow2", "virtio-blk-pci");
    add_blockdev("dB", "qcow2", "virtio-blk-pci");
    start_disks();
    write_all("write -P 9 0 8M");
    auto create = start_create({}, "1M");
    write_all("discard 0 4M");
    write_all("flush");
    for (const Disk &disk : disks_) {
        const Json map = Json::parse(
            must_run({"qemu-img", "map", "-U", "--output=json", dir_.file(disk.id + ".img")}));
        EXPECT_FALSE(map[0]["data"].boolean()) << map.dump();
    }
    create->signal(SIGTERM);
    ASSERT_TRUE(create->wait(kSoon));
    EXPECT_EQ(count_nodes("vs-"), 0u);
}

// The program hears nothing of it, as of a write to the scratch that fails or takes long.
TEST_F(QmpGuard, AScratchThatFailsCostsTheSnapshotAndNoWriteOfTheGuest)
{
    SmallFileSystem small(dir_.file("small"), "8m");
    add_blockdev("dA", "qcow2", "virtio-blk-pci");
    add_blockdev("dB", "qcow2", "virtio-blk-pci");
    start_disks();
    expect_next_exact("full");
    write_all("write -P 9 0 16M");
    auto create = start_create({"--scratch-dir", small.path(), "--scratch-size", "1M"});
    for (const Json &node : qemu_->monitor().execute("query-named-block-nodes").items())
        if (node["node-name"].text().rfind("vs-file-", 0) == 0)
            qemu_->monitor().execute("block-set-write-threshold",
                                     R"({"write-threshold": 0, "node-name": ")" +
                                         node["node-name"].text() + "\"}");
    write_all("write -P 7 0 30M");
    expect_running();
    const auto outcome = create->wait(kSoon);
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->exit_code, 1) << outcome->err;
    EXPECT_NE(outcome->err.find("disk 'dA'"), std::string::npos) << outcome->err;
    EXPECT_NE(outcome->err.find(small.path()), std::string::npos) << outcome->err;
    EXPECT_NE(outcome->err.find("the guest was spared"), std::string::npos) << outcome->err;
    EXPECT_EQ(std::count(outcome->err.begin(), outcome->err.end(), '\n'), 1) << outcome->err;
    expect_running();
    expect_nothing_left();
    expect_next_exact("incremental");
}

class QmpGuardOfAKilledProgram : public QmpGuard, public testing::WithParamInterface<unsigned>
{
};

TEST_P(QmpGuardOfAKilledProgram, SparesTheGuestWhenTheScratchIsFull)
{
    SmallFileSystem small(dir_.file("small"), "8m");
    for (unsigned i = 0; i < GetParam(); i++)
        add_blockdev("d" + std::to_string(i), "qcow2", "virtio-blk-pci");
    start_disks();
    expect_next_exact("full");
    write_all("write -P 9 0 16M");
    auto create = start_create({"--scratch-dir", small.path(), "--scratch-size", "1M"}, "1M");
    create->signal(SIGKILL);
    ASSERT_TRUE(create->wait(kSoon));
    write_all("write -P 7 0 30M");
    write_all("write -P 8 0 30M");
    expect_running();
    EXPECT_EQ(count_nodes("vs-filter-"), disks_.size());
    const Json recovered = virtsnap_.json({"recover"})["recovered"];
    EXPECT_TRUE(recovered[0]["error"].is_null()) << recovered.dump();
    expect_nothing_left();
    expect_next_exact("incremental");
}

INSTANTIATE_TEST_SUITE_P(Disks, QmpGuardOfAKilledProgram, testing::Values(1u, 2u));

TEST_F(QmpGuard, ADeviceThatWasUnpluggedMeanwhileIsNoObstacle)
{
    add_blockdev("dA", "qcow2", "scsi-hd");
    add_blockdev("dB", "qcow2", "scsi-hd");
    start_disks();
    expect_next_exact("full");
    auto create = start_create({"--full"}, "1M");
    create->signal(SIGKILL);
    ASSERT_TRUE(create->wait(kSoon));
    qemu_->monitor().execute("device_del", R"({"id": "dA"})");
    EXPECT_TRUE(
        wait_until(kSoon, [&] { return qemu_->monitor().execute("query-block").size() == 1; }));
    const Json recovered = virtsnap_.json({"recover"})["recovered"];
    EXPECT_TRUE(recovered[0]["error"].is_null()) << recovered.dump();
    expect_nothing_left();
}

TEST_F(QmpGuard, WhoeverLooksMeanwhileSeesTheDiskAsItIs)
{
    add_blockdev("dA", "qcow2", "virtio-blk-pci");
    add_blockdev("dB", "qcow2", "virtio-blk-pci");
    start_disks();
    const Json before = virtsnap_.json({"disks", vm_});
    write_all("write -P 9 0 8M");
    auto create = start_create({}, "1M");
    const Json meanwhile = virtsnap_.json({"disks", "qmp:" + other_});
    ASSERT_EQ(meanwhile.size(), before.size());
    for (size_t i = 0; i < before.size(); i++)
        for (const char *member : {"id", "target", "source", "format", "virtual_size"})
            EXPECT_EQ(meanwhile[i][member].dump(), before[i][member].dump());
    const Outcome refused = virtsnap_.run({"create", "qmp:" + other_});
    EXPECT_EQ(refused.exit_code, 3) << refused.err;
    create->signal(SIGTERM);
    ASSERT_TRUE(create->wait(kSoon));
    EXPECT_EQ(count_nodes("vs-"), 0u);
}

class QmpGuardFallsBack : public QmpGuard
{
  protected:
    void
    expect_jobs()
    {
        wants_filter_ = false;
        expect_exact_under_writes("full");
        expect_exact_under_writes("incremental");
    }
};

TEST_F(QmpGuardFallsBack, ForADriveThatQemuOwns)
{
    add_drive("dA");
    start_disks();
    expect_jobs();
}

TEST_F(QmpGuardFallsBack, ForAllDisksOfAPointOneOfWhichIsSuchADrive)
{
    add_blockdev("dA", "qcow2", "virtio-blk-pci");
    add_drive("dB");
    start_disks();
    expect_jobs();
}

TEST_F(QmpGuardFallsBack, ForADiskThatOthersMayWriteTo)
{
    add_blockdev("dA", "qcow2", "virtio-blk-pci,share-rw=on");
    start_disks();
    wants_filter_ = false;
    expect_exact_under_writes("full");
}

TEST_F(QmpGuardFallsBack, ForADiskOnAnIothreadAndItsNeighbour)
{
    has_iothread_ = true;
    add_blockdev("dA", "qcow2", "virtio-blk-pci,iothread=io");
    add_blockdev("dB", "qcow2", "virtio-blk-pci");
    start_disks();
    write_all("write -P 9 0 8M");
    auto create = virtsnap_.start({"create", vm_, "--speed-limit", "1M"});
    EXPECT_TRUE(wait_until(kSoon, [&] { return count_exports() == 1; })) << create->err();
    EXPECT_EQ(count_nodes("vs-access-"), 0u);
    create->signal(SIGTERM);
    ASSERT_TRUE(create->wait(kSoon));
    EXPECT_EQ(count_nodes("vs-"), 0u);
}

} // namespace

VS_TEST_MAIN("qemu");
