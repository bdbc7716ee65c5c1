// SPDX-License-Identifier: LGPL-2.1-or-later
// The storage driver on real images: what a point in time is, who may disturb it, and what is in
// the images afterwards. The images are written by qemu-io and QEMU, read by nbdcopy and nbdinfo,
// and looked at by qemu-img.
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "plugin/error.h"
#include "plugin/hypervisor/image-lock.h"
#include "plugin/hypervisor/storage-daemon.h"
#include "plugin/hypervisor/storage-driver.h"
#include "qmp/block.h"
#include "tests/support/gate.h"
#include "tests/support/json.h"
#include "tests/support/process.h"
#include "tests/support/qemu-process.h"
#include "tests/support/temp-dir.h"

namespace
{

using support::Json;
using support::must_run;
using support::Process;
using support::QemuProcess;
using support::TempDir;
using Strings = std::vector<std::string>;

const char *const kRepository = "r-0123456789abcdefghij";

std::string
bitmap_name(const std::string &snapshot)
{
    return std::string("virtsnap.") + kRepository + "." + snapshot;
}

// Names and flags of the bitmaps in an image.
std::map<std::string, std::set<std::string>>
bitmaps_in(const std::string &path)
{
    std::map<std::string, std::set<std::string>> found;
    Json info = Json::parse(must_run({"qemu-img", "info", "-U", "--output=json", path}));
    Json bitmaps = info["format-specific"]["data"]["bitmaps"];
    for (size_t i = 0; i < bitmaps.size(); i++) {
        std::set<std::string> flags;
        for (const Json &flag : bitmaps[i]["flags"].items())
            flags.insert(flag.text());
        found[bitmaps[i]["name"].text()] = flags;
    }
    return found;
}

const std::set<std::string> kRecording = {"auto"};
const std::set<std::string> kDisabled = {};

void
write_image(const std::string &path, const std::string &format, const std::string &command)
{
    must_run({"qemu-io", "-f", format, "-c", command, path});
}

// An owner of any disks, that can be told to run.
struct Owner {
    std::vector<std::pair<std::string, std::string>> images; // path, format
    bool is_running = false;
    unsigned checks = 0;
    unsigned tidied = 0;
    std::string tidied_name;

    static VsInstance *
    describe(gpointer user_data, GError ** /*error*/)
    {
        auto *self = static_cast<Owner *>(user_data);
        VsInstance *instance = vs_instance_new();
        instance->name = g_strdup("machine");
        instance->kind = g_strdup("libvirt");
        instance->status = g_strdup("stopped");
        for (const auto &[path, format] : self->images) {
            VsDisk *disk = vs_disk_new();
            disk->target = g_strdup_printf("vd%c", 'a' + static_cast<int>(instance->disks->len));
            disk->source = g_strdup(path.c_str());
            disk->format = g_strdup(format.c_str());
            g_ptr_array_add(instance->disks, disk);
        }
        return instance;
    }

    static bool
    check_stopped(gpointer user_data, GError **error)
    {
        auto *self = static_cast<Owner *>(user_data);
        self->checks++;
        if (self->is_running)
            g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS, "the machine runs");
        return !self->is_running;
    }

    static bool
    on_tidied(const VsInstance *instance, const VsKeptBitmap * /*kept*/, unsigned /*count*/,
              gpointer user_data, GError ** /*error*/)
    {
        auto *self = static_cast<Owner *>(user_data);
        self->tidied++;
        self->tidied_name = instance->name;
        return true;
    }

    VsStorageOwner
    callbacks()
    {
        return {describe, check_stopped, on_tidied, this, nullptr};
    }
};

// A driver with what it has described and taken.
class Storage
{
  public:
    explicit Storage(const VsStorageOwner &owner)
        : driver_(vs_storage_driver_new(&owner, kRepository))
    {
    }

    static std::unique_ptr<Storage>
    of_image(const std::string &path)
    {
        VsStorageOwner owner;
        vs_storage_image_owner(&owner, path.c_str());
        return std::make_unique<Storage>(owner);
    }

    ~Storage()
    {
        settle();
        vs_driver_free(driver_);
        vs_instance_free(instance_);
        g_clear_error(&error_);
    }

    bool
    describe()
    {
        vs_instance_free(instance_);
        return ended((instance_ = driver_->ops->describe(driver_, nullptr, clean_error())) !=
                     nullptr);
    }

    VsInstance *
    instance()
    {
        return instance_;
    }

    VsDisk &
    disk(unsigned index = 0)
    {
        return *static_cast<VsDisk *>(g_ptr_array_index(instance_->disks, index));
    }

    // Keeps the bitmap of that snapshot, on all disks. "": none.
    bool
    tidy(const std::string &snapshot)
    {
        const std::string name = bitmap_name(snapshot);
        std::vector<VsKeptBitmap> kept;
        for (unsigned i = 0; i < instance_->disks->len; i++)
            kept.push_back({&disk(i), snapshot.empty() ? nullptr : name.c_str(), true});
        return ended(driver_->ops->tidy(driver_, kept.data(), kept.size(), clean_error()));
    }

    // All disks. old: the snapshot whose bitmap counts, "": none.
    bool
    begin(const std::string &snapshot, const std::string &old, unsigned freeze_timeout_ms = 0)
    {
        snapshot_ = snapshot;
        new_ = bitmap_name(snapshot);
        old_ = bitmap_name(old);
        disks_.clear();
        for (unsigned i = 0; i < instance_->disks->len; i++) {
            VsPointDisk point = {};
            point.disk = &disk(i);
            point.snapshot_id = snapshot_.c_str();
            point.bitmap = disk(i).can_track ? new_.c_str() : nullptr;
            point.old_bitmap = disk(i).can_track && !old.empty() ? old_.c_str() : nullptr;
            disks_.push_back(point);
        }
        point_ = {};
        point_.disks = disks_.data();
        point_.count = disks_.size();
        point_.freeze_timeout_ms = freeze_timeout_ms;
        has_begun_ = driver_->ops->begin(driver_, &point_, nullptr, clean_error());
        return ended(has_begun_);
    }

    const VsPoint &
    point() const
    {
        return point_;
    }

    // The command that serves disk @index.
    Strings
    open_source(unsigned index = 0)
    {
        VsPullSource source = {};
        VsStageReport report = {};
        EXPECT_TRUE(ended(
            driver_->ops->open_source(driver_, index, &source, &report, nullptr, clean_error())))
            << message();
        EXPECT_EQ(source.socket, -1);
        EXPECT_FALSE(source.live);
        EXPECT_STREQ(source.export_name, "");
        EXPECT_STREQ(source.bitmap, disks_[index].old_bitmap);
        Strings command;
        for (const char *const *word = source.command; word && *word; word++)
            command.push_back(*word);
        return command;
    }

    bool
    close_source(unsigned index = 0)
    {
        return driver_->ops->detach_source(driver_, index, nullptr) &&
               driver_->ops->close_source(driver_, index, nullptr);
    }

    bool
    confirm()
    {
        return ended(driver_->ops->confirm(driver_, clean_error()));
    }

    bool
    is_lost()
    {
        const bool lost = driver_->ops->is_lost(driver_, clean_error());
        EXPECT_EQ(lost, error_ != nullptr);
        return lost;
    }

    bool
    settle()
    {
        const bool had_begun = has_begun_;
        has_begun_ = false;
        return !had_begun || ended(driver_->ops->settle(driver_, clean_error()));
    }

    std::string
    message() const
    {
        return error_ ? error_->message : "";
    }

    bool
    failed_with(VsError code) const
    {
        return g_error_matches(error_, VS_ERROR, code);
    }

  private:
    GError **
    clean_error()
    {
        g_clear_error(&error_);
        return &error_;
    }

    // A failure has an error, and only a failure.
    bool
    ended(bool ok)
    {
        EXPECT_EQ(ok, error_ == nullptr) << message();
        return ok;
    }

    VsDriver *driver_;
    VsInstance *instance_ = nullptr;
    VsPoint point_ = {};
    std::vector<VsPointDisk> disks_;
    std::string snapshot_, new_, old_;
    bool has_begun_ = false;
    GError *error_ = nullptr;
};

// The offsets that the bitmap of a source says are dirty, in units of 64 KiB.
std::set<int64_t>
dirty_clusters(const Strings &command, const std::string &bitmap)
{
    Strings line = {"nbdinfo", "--json", "--map=qemu:dirty-bitmap:" + bitmap, "--", "["};
    line.insert(line.end(), command.begin(), command.end());
    line.push_back("]");
    std::set<int64_t> clusters;
    for (const Json &extent : Json::parse(must_run(line)).items())
        for (int64_t at = 0; extent["type"].number() == 1 && at < extent["length"].number();
             at += 65536)
            clusters.insert((extent["offset"].number() + at) / 65536);
    return clusters;
}

// Whether what the source serves is what the image holds, by two programs.
bool
serves_content(const TempDir &dir, const Strings &command, const std::string &format,
               const std::string &path)
{
    const std::string copy = dir.file("copy.raw");
    Strings line = {"nbdcopy", "--", "["};
    line.insert(line.end(), command.begin(), command.end());
    line.insert(line.end(), {"]", copy});
    must_run(line);
    const support::Outcome outcome =
        support::run({"qemu-img", "compare", "-f", "raw", "-F", format, copy, path});
    return outcome.exit_code == 0;
}

class StorageDriver : public testing::Test
{
  protected:
    std::string
    make_image(const std::string &name, const std::string &format = "qcow2")
    {
        const std::string path = dir_.file(name);
        must_run({"qemu-img", "create", "-q", "-f", format, path, "16M"});
        write_image(path, format, "write -q -P 0x11 0 2M");
        return path;
    }

    // One whole round on all disks.
    void
    take(Storage &storage, const std::string &snapshot, const std::string &old)
    {
        ASSERT_TRUE(storage.describe()) << storage.message();
        ASSERT_TRUE(storage.tidy(old)) << storage.message();
        ASSERT_TRUE(storage.begin(snapshot, old)) << storage.message();
        ASSERT_FALSE(storage.is_lost());
        ASSERT_TRUE(storage.confirm()) << storage.message();
        ASSERT_TRUE(storage.settle());
        ASSERT_TRUE(storage.tidy(snapshot)) << storage.message();
    }

    // A QEMU that has the image as a disk and runs no guest.
    std::unique_ptr<QemuProcess>
    start_machine(const std::string &path, const std::string &format = "qcow2")
    {
        return std::make_unique<QemuProcess>(
            dir_, QemuProcess::idle(QemuProcess::virtio_disk(path, format, "node", "vda")));
    }

    TempDir dir_;
};

// Describing ------------------------------------------------------------------------------------

TEST_F(StorageDriver, ImageIsDescribedAsItIs)
{
    const std::string path = make_image("a.qcow2");
    must_run({"qemu-img", "bitmap", "--add", path, "one"});
    must_run({"qemu-img", "bitmap", "--add", "--disable", path, "one.end"});
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe()) << storage->message();
    const VsInstance *instance = storage->instance();
    EXPECT_EQ(instance->id, nullptr);
    EXPECT_EQ(instance->kind, nullptr);
    EXPECT_EQ(instance->name, "file:" + path);
    EXPECT_STREQ(instance->status, "stopped");
    ASSERT_EQ(instance->disks->len, 1u);
    const VsDisk &disk = storage->disk();
    EXPECT_STREQ(disk.target, "image");
    EXPECT_EQ(disk.source, path);
    EXPECT_STREQ(disk.format, "qcow2");
    EXPECT_EQ(disk.virtual_size_bytes, 16u << 20);
    EXPECT_EQ(disk.unavailable, nullptr);
    EXPECT_TRUE(disk.can_track && disk.persistent_bitmaps);
    ASSERT_EQ(disk.chain->len, 1u);
    ASSERT_EQ(disk.bitmaps->len, 1u);
    auto *bitmap = static_cast<VsQmpBitmap *>(g_ptr_array_index(disk.bitmaps, 0));
    EXPECT_STREQ(bitmap->name, "one");
    EXPECT_TRUE(bitmap->recording && !bitmap->inconsistent);
}

TEST_F(StorageDriver, OldQcow2AndRawHaveNoBitmaps)
{
    Owner owner;
    const std::string old = dir_.file("old.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "1M"});
    owner.images = {{old, "qcow2"}, {make_image("a.raw", "raw"), "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe()) << storage.message();
    EXPECT_FALSE(storage.disk(0).can_track);
    EXPECT_FALSE(storage.disk(1).can_track);
    EXPECT_EQ(storage.disk(1).virtual_size_bytes, 16u << 20);
}

TEST_F(StorageDriver, MissingImageIsAnErrorOnlyWhereItIsAllThereIs)
{
    auto alone = Storage::of_image(dir_.file("nothing"));
    EXPECT_FALSE(alone->describe());
    EXPECT_TRUE(alone->failed_with(VS_ERROR_NO_SUCH_DISK)) << alone->message();
    auto folder = Storage::of_image(dir_.path());
    EXPECT_FALSE(folder->describe());
    EXPECT_TRUE(folder->failed_with(VS_ERROR_NO_SUCH_DISK)) << folder->message();

    Owner owner;
    owner.images = {{dir_.file("nothing"), "qcow2"},
                    {make_image("a.qcow2"), "qcow2"},
                    {"rbd:pool/image", "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe()) << storage.message();
    ASSERT_NE(storage.disk(0).unavailable, nullptr);
    EXPECT_NE(std::string(storage.disk(0).unavailable).find("No such file"), std::string::npos);
    EXPECT_EQ(storage.disk(1).unavailable, nullptr);
    EXPECT_NE(storage.disk(2).unavailable, nullptr);
}

// A guest can write a qcow2 header into its raw disk, with a backing file of the host in it.
TEST_F(StorageDriver, FormatOfTheDefinitionIsNeverGuessedAnew)
{
    Owner owner;
    owner.images = {{make_image("really.qcow2"), "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe()) << storage.message();
    EXPECT_STREQ(storage.disk().format, "raw");
    EXPECT_NE(storage.disk().virtual_size_bytes, 16u << 20);
    ASSERT_TRUE(storage.begin("s-1", "")) << storage.message();
    EXPECT_TRUE(serves_content(dir_, storage.open_source(), "raw", owner.images[0].first));
}

TEST_F(StorageDriver, ImageOfARunningQemuIsUnavailable)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    auto machine = start_machine(path);
    EXPECT_FALSE(storage->begin("s-1", ""));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_DISK_STATUS)) << storage->message();
    ASSERT_TRUE(storage->describe()) << storage->message();
    ASSERT_NE(storage->disk().unavailable, nullptr);
    EXPECT_NE(std::string(storage->disk().unavailable).find("running QEMU"), std::string::npos);
    machine->quit();
    EXPECT_TRUE(bitmaps_in(path).empty());
}

// The point in time -----------------------------------------------------------------------------

TEST_F(StorageDriver, SecondRoundSeesExactlyWhatWasWrittenBetween)
{
    Owner owner;
    const std::string qcow2 = make_image("a.qcow2"), raw = make_image("b.raw", "raw");
    owner.images = {{qcow2, "qcow2"}, {raw, "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    ASSERT_TRUE(storage.tidy(""));
    const int64_t before = g_get_real_time();
    ASSERT_TRUE(storage.begin("s-1", "")) << storage.message();
    EXPECT_GE(storage.point().at_us, before);
    EXPECT_LE(storage.point().at_us, g_get_real_time());
    EXPECT_EQ(storage.point().frozen_us, 0);
    EXPECT_EQ(storage.point().disks[0].dirty_bytes, 16u << 20);
    EXPECT_EQ(storage.point().disks[1].dirty_bytes, 16u << 20);
    EXPECT_TRUE(serves_content(dir_, storage.open_source(0), "qcow2", qcow2));
    EXPECT_TRUE(storage.close_source(0));
    EXPECT_TRUE(serves_content(dir_, storage.open_source(1), "raw", raw));
    EXPECT_TRUE(storage.close_source(1));
    EXPECT_TRUE(storage.confirm()) << storage.message();
    EXPECT_TRUE(storage.settle());
    EXPECT_TRUE(storage.tidy("s-1"));
    EXPECT_EQ(owner.tidied, 2u);
    EXPECT_EQ(owner.tidied_name, "machine");
    EXPECT_EQ(bitmaps_in(qcow2)[bitmap_name("s-1")], kRecording);

    write_image(qcow2, "qcow2", "write -q -P 0x22 640k 4k");
    write_image(qcow2, "qcow2", "write -q -P 0x22 8M 130k");
    ASSERT_TRUE(storage.describe());
    ASSERT_TRUE(storage.begin("s-2", "s-1")) << storage.message();
    EXPECT_EQ(storage.point().disks[0].dirty_bytes, 4u * 65536);
    EXPECT_FALSE(storage.point().disks[0].is_estimate);
    const Strings command = storage.open_source(0);
    EXPECT_EQ(dirty_clusters(command, bitmap_name("s-1")), (std::set<int64_t>{10, 128, 129, 130}));
    EXPECT_TRUE(serves_content(dir_, command, "qcow2", qcow2));
    EXPECT_TRUE(storage.confirm()) << storage.message();
    EXPECT_TRUE(storage.settle());
    EXPECT_EQ(bitmaps_in(qcow2)[bitmap_name("s-1")], kRecording);
    EXPECT_TRUE(storage.tidy("s-2"));
    EXPECT_EQ(bitmaps_in(qcow2).count(bitmap_name("s-1")), 0u);

    take(storage, "s-3", "s-2");
    EXPECT_EQ(storage.point().disks[0].dirty_bytes, 0u);
    EXPECT_EQ(bitmaps_in(qcow2),
              (std::map<std::string, std::set<std::string>>{
                  {bitmap_name("s-3"), kRecording}, {bitmap_name("s-3") + ".end", kDisabled}}));
}

// What an image is opened for is seen in its times.
TEST_F(StorageDriver, TidyDoesNotTouchAnImageWithoutStaleBitmaps)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    const std::string before = must_run({"stat", "-c", "%y %z", path});
    EXPECT_TRUE(storage->tidy("s-1"));
    EXPECT_EQ(must_run({"stat", "-c", "%y %z", path}), before);
}

TEST_F(StorageDriver, TidyLeavesOthersBitmapsAndDisksAlone)
{
    const std::string path = make_image("a.qcow2");
    const std::string mine = bitmap_name("s-9");
    for (const std::string &name : {mine, mine + ".end", mine + ".frozen", std::string("theirs"),
                                    std::string("virtsnap.r-other.s-1")})
        must_run({"qemu-img", "bitmap", "--add", path, name});
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    Owner owner;
    owner.images = {{path, "qcow2"}};
    Storage other(owner.callbacks());
    ASSERT_TRUE(other.describe());
    EXPECT_TRUE(storage->tidy("s-9"));
    EXPECT_EQ(bitmaps_in(path).size(), 4u);
    EXPECT_TRUE(storage->tidy("")) << storage->message();
    const auto left = bitmaps_in(path);
    EXPECT_EQ(left.size(), 2u);
    EXPECT_EQ(left.count("theirs"), 1u);
    EXPECT_EQ(left.count("virtsnap.r-other.s-1"), 1u);
}

TEST_F(StorageDriver, ImageWithABackingFileIsReadWhole)
{
    make_image("base.qcow2");
    const std::string path = dir_.file("top.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", path});
    write_image(path, "qcow2", "write -q -P 0x33 1M 64k");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe()) << storage->message();
    ASSERT_EQ(storage->disk().chain->len, 2u);
    EXPECT_EQ(static_cast<char *>(g_ptr_array_index(storage->disk().chain, 1)),
              dir_.file("base.qcow2"));
    ASSERT_TRUE(storage->begin("s-1", "")) << storage->message();
    EXPECT_TRUE(serves_content(dir_, storage->open_source(), "qcow2", path));
    EXPECT_TRUE(storage->confirm()) << storage->message();
    write_image(dir_.file("base.qcow2"), "qcow2", "write -q -P 0x44 3M 64k");
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
}

TEST_F(StorageDriver, NameMayHoldWhatQemusOptionSyntaxUses)
{
    for (const std::string format : {"qcow2", "raw"}) {
        const std::string path = make_image("file:a, b=c,,d%20:driver=raw;\"'" + format, format);
        auto storage = Storage::of_image(path);
        take(*storage, "s-1", "");
        write_image(path, format, "write -q -P 0x22 1M 64k");
        const bool tracks = format == "qcow2";
        ASSERT_TRUE(storage->begin("s-2", tracks ? "s-1" : "")) << storage->message();
        EXPECT_TRUE(serves_content(dir_, storage->open_source(), format, path)) << path;
        EXPECT_TRUE(storage->confirm()) << storage->message();
    }
}

TEST_F(StorageDriver, GuestThatDoesNotRunCannotBeFrozen)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    EXPECT_FALSE(storage->begin("s-1", "", 1000));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
    EXPECT_TRUE(bitmaps_in(path).empty());
}

TEST_F(StorageDriver, OwnerThatRunsIsRefused)
{
    Owner owner;
    owner.images = {{make_image("a.qcow2"), "qcow2"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    owner.is_running = true;
    EXPECT_FALSE(storage.begin("s-1", ""));
    EXPECT_TRUE(storage.failed_with(VS_ERROR_INSTANCE_STATUS)) << storage.message();
    EXPECT_TRUE(bitmaps_in(owner.images[0].first).empty());
}

// The second disk can't be opened: a reader that wants no writer beside it has it.
TEST_F(StorageDriver, NothingIsLeftWhereOneDiskFails)
{
    Owner owner;
    owner.images = {{make_image("a.qcow2"), "qcow2"}, {make_image("b.qcow2"), "qcow2"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    Process reader({"qemu-nbd", "--read-only", "--persistent", "--socket", dir_.file("nbd"),
                    owner.images[1].first});
    ASSERT_TRUE(support::wait_until(std::chrono::seconds(10),
                                    [&] { return access(dir_.file("nbd").c_str(), F_OK) == 0; }));
    EXPECT_FALSE(storage.begin("s-1", ""));
    EXPECT_TRUE(storage.failed_with(VS_ERROR_DISK_STATUS)) << storage.message();
    EXPECT_NE(storage.message().find("lock"), std::string::npos) << storage.message();
    EXPECT_TRUE(bitmaps_in(owner.images[0].first).empty());
    EXPECT_TRUE(bitmaps_in(owner.images[1].first).empty());
}

// The second image has the bitmap already: the transaction fails.
TEST_F(StorageDriver, NothingIsLeftWhereTheTransactionFails)
{
    Owner owner;
    owner.images = {{make_image("a.qcow2"), "qcow2"}, {make_image("b.qcow2"), "qcow2"}};
    must_run({"qemu-img", "bitmap", "--add", owner.images[1].first, bitmap_name("s-1")});
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    EXPECT_FALSE(storage.begin("s-1", ""));
    EXPECT_TRUE(bitmaps_in(owner.images[0].first).empty());
    EXPECT_EQ(bitmaps_in(owner.images[1].first).size(), 1u);
}

// Bitmaps that are not what they seem -----------------------------------------------------------

TEST_F(StorageDriver, BitmapOfAShrunkenAndGrownDiskIsDistrusted)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    must_run({"qemu-img", "resize", "-q", "--shrink", path, "8M"});
    must_run({"qemu-img", "resize", "-q", path, "16M"});
    ASSERT_TRUE(storage->describe());
    EXPECT_FALSE(storage->begin("s-2", "s-1"));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_BITMAP_DISTRUSTED)) << storage->message();
    EXPECT_EQ(bitmaps_in(path).count(bitmap_name("s-2")), 0u);
    EXPECT_TRUE(storage->begin("s-2", "")) << storage->message();
}

TEST_F(StorageDriver, BitmapThatDoesNotRecordIsDistrusted)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    must_run({"qemu-img", "bitmap", "--disable", path, bitmap_name("s-1")});
    EXPECT_FALSE(storage->begin("s-2", "s-1"));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_BITMAP_DISTRUSTED)) << storage->message();
    EXPECT_FALSE(storage->begin("s-2", "s-none"));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_BITMAP_DISTRUSTED)) << storage->message();
}

TEST_F(StorageDriver, BitmapOfAKilledQemuIsDistrustedAndRemoved)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    auto machine = start_machine(path);
    machine->disk_io("vda", "write -P 0x55 1M 64k");
    machine->kill();
    ASSERT_TRUE(storage->describe());
    EXPECT_EQ(storage->disk().unavailable, nullptr);
    auto *bitmap = static_cast<VsQmpBitmap *>(g_ptr_array_index(storage->disk().bitmaps, 0));
    EXPECT_TRUE(bitmap->inconsistent);
    EXPECT_FALSE(storage->begin("s-2", "s-1"));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_BITMAP_DISTRUSTED)) << storage->message();
    EXPECT_TRUE(storage->tidy("")) << storage->message();
    EXPECT_TRUE(bitmaps_in(path).empty());
}

// Somebody starts the machine -------------------------------------------------------------------

TEST_F(StorageDriver, MachineStartsDuringTheReadAndTheSnapshotIsGivenUp)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    write_image(path, "qcow2", "write -q -P 0x22 5M 64k");
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-2", "s-1")) << storage->message();
    storage->open_source();
    EXPECT_FALSE(storage->is_lost());
    auto machine = start_machine(path); // throws unless it comes up
    EXPECT_TRUE(storage->is_lost());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
    machine->disk_io("vda", "write -P 0x66 9M 64k");
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->settle());
    EXPECT_FALSE(storage->tidy("s-1"));
    EXPECT_NE(storage->message().find("running QEMU"), std::string::npos) << storage->message();
    machine->quit();

    EXPECT_TRUE(storage->tidy("s-1")) << storage->message();
    EXPECT_EQ(bitmaps_in(path),
              (std::map<std::string, std::set<std::string>>{
                  {bitmap_name("s-1"), kRecording}, {bitmap_name("s-1") + ".end", kDisabled}}));
    ASSERT_TRUE(storage->begin("s-3", "s-1")) << storage->message();
    EXPECT_EQ(dirty_clusters(storage->open_source(), bitmap_name("s-1")),
              (std::set<int64_t>{80, 144}));
}

TEST_F(StorageDriver, LostStaysLostWhenTheMachineHasStopped)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    start_machine(path)->quit();
    EXPECT_FALSE(storage->is_lost());
    auto machine = start_machine(path);
    EXPECT_TRUE(storage->is_lost());
    machine->quit();
    EXPECT_TRUE(storage->is_lost());
    EXPECT_FALSE(storage->confirm());
}

TEST_F(StorageDriver, ConfirmFindsAMachineThatIsRunning)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    auto machine = start_machine(path);
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
}

TEST_F(StorageDriver, ConfirmFindsAWriteOfAMachineThatHasStopped)
{
    for (const std::string format : {"qcow2", "raw"}) {
        Owner owner;
        owner.images = {{make_image("a." + format, format), format}};
        Storage storage(owner.callbacks());
        ASSERT_TRUE(storage.describe());
        ASSERT_TRUE(storage.begin("s-1", ""));
        auto machine = start_machine(owner.images[0].first, format);
        machine->disk_io("vda", "write -P 0x77 1M 4k");
        machine->quit();
        EXPECT_FALSE(storage.confirm()) << format;
        EXPECT_TRUE(storage.failed_with(VS_ERROR_INSTANCE_STATUS)) << storage.message();
    }
}

TEST_F(StorageDriver, MachineThatWroteNothingDoesNoHarm)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    start_machine(path)->quit();
    EXPECT_TRUE(storage->confirm()) << storage->message();
}

TEST_F(StorageDriver, ConfirmFindsAMachineThatWasKilled)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    auto machine = start_machine(path);
    machine->disk_io("vda", "write -P 0x77 1M 4k");
    machine->kill();
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
}

TEST_F(StorageDriver, ReplacedImageIsFound)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    must_run({"cp", path, path + ".new"});
    must_run({"mv", path + ".new", path});
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
}

TEST_F(StorageDriver, OwnersWordCounts)
{
    Owner owner;
    owner.images = {{make_image("a.raw", "raw"), "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    ASSERT_TRUE(storage.begin("s-1", ""));
    owner.is_running = true;
    EXPECT_TRUE(support::wait_until(std::chrono::seconds(10), [&] { return storage.is_lost(); }));
    EXPECT_TRUE(storage.failed_with(VS_ERROR_INSTANCE_STATUS)) << storage.message();

    Storage second(owner.callbacks());
    owner.is_running = false;
    ASSERT_TRUE(second.describe());
    ASSERT_TRUE(second.begin("s-1", ""));
    owner.is_running = true;
    EXPECT_FALSE(second.confirm());
}

TEST_F(StorageDriver, OwnerIsNotAskedAllTheTime)
{
    Owner owner;
    owner.images = {{make_image("a.raw", "raw"), "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    ASSERT_TRUE(storage.begin("s-1", ""));
    owner.checks = 0;
    const int64_t from = g_get_monotonic_time();
    for (int i = 0; i < 50; i++)
        EXPECT_FALSE(storage.is_lost());
    EXPECT_LE(owner.checks, 2 + (g_get_monotonic_time() - from) / 500000);
}

// The daemon ------------------------------------------------------------------------------------

// Not a test: what BitmapsAreStoredWhenTheProgramIsKilled runs as a program of its own.
TEST(StorageProgram, DISABLED_HoldsAnImageOpenForWriting)
{
    const char *path = g_getenv("STORAGE_TEST_IMAGE");
    ASSERT_NE(path, nullptr);
    GError *error = nullptr;
    g_autoptr(VsStorageDaemon) daemon = vs_storage_daemon_start(nullptr, &error);
    ASSERT_NE(daemon, nullptr) << error->message;
    ASSERT_TRUE(vs_storage_daemon_open(daemon, "node", path, VS_STORAGE_WRITE, &error));
    for (;;)
        pause();
}

TEST_F(StorageDriver, BitmapsAreStoredWhenTheProgramIsKilled)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    support::ProcessOptions options;
    options.env["STORAGE_TEST_IMAGE"] = path;
    Process program({"/proc/self/exe", "--gtest_also_run_disabled_tests",
                     "--gtest_filter=StorageProgram.*"},
                    options);
    // The last that opening an image for writing does is marking its bitmaps.
    ASSERT_TRUE(support::wait_until(std::chrono::seconds(10), [&] {
        return bitmaps_in(path)[bitmap_name("s-1")].count("in-use") == 1;
    })) << program.out();
    program.signal(SIGKILL);
    ASSERT_TRUE(program.wait(std::chrono::seconds(10)));
    ASSERT_TRUE(support::wait_until(std::chrono::seconds(10), [&] {
        return !vs_image_lock_is_path_written(path.c_str());
    }));
    EXPECT_EQ(bitmaps_in(path)[bitmap_name("s-1")], kRecording);
}

TEST_F(StorageDriver, LockTellsAWriterFromAReader)
{
    const std::string path = make_image("a.qcow2");
    EXPECT_FALSE(vs_image_lock_is_path_written(path.c_str()));
    GError *error = nullptr;
    g_autoptr(VsStorageDaemon) daemon = vs_storage_daemon_start(nullptr, &error);
    ASSERT_NE(daemon, nullptr) << error->message;
    for (VsStorageMode mode : {VS_STORAGE_READ_SHARED, VS_STORAGE_READ_LOCKED, VS_STORAGE_WRITE}) {
        ASSERT_TRUE(vs_storage_daemon_open(daemon, "node", path.c_str(), mode, &error));
        EXPECT_EQ(vs_image_lock_is_path_written(path.c_str()), mode == VS_STORAGE_WRITE);
        ASSERT_TRUE(vs_storage_daemon_close(daemon, "node", &error));
    }
}

} // namespace

VS_TEST_MAIN("qemu", "nbd");
