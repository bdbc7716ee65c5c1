// SPDX-License-Identifier: LGPL-2.1-or-later
// What the tests of the storage driver share: images, an owner that can be told to run, a driver
// with what it has described and taken, and a machine that has an image.
#ifndef TESTS_INTEGRATION_STORAGE_FIXTURE_H
#define TESTS_INTEGRATION_STORAGE_FIXTURE_H

#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "plugin/error.h"
#include "plugin/hypervisor/storage-driver.h"
#include "tests/support/json.h"
#include "tests/support/process.h"
#include "tests/support/qemu-process.h"
#include "tests/support/temp-dir.h"

namespace storage_test
{

using support::Json;
using support::must_run;
using support::Process;
using support::QemuProcess;
using support::TempDir;
using Strings = std::vector<std::string>;
using Bitmaps = std::map<std::string, std::set<std::string>>; // name → flags

const char *const kRepository = "r-0123456789abcdefghij";

inline std::string
bitmap_name(const std::string &snapshot)
{
    return std::string("virtsnap.") + kRepository + "." + snapshot;
}

// Names and flags of the bitmaps in an image.
inline Bitmaps
bitmaps_in(const std::string &path)
{
    Bitmaps found;
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

inline void
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
        g_autoptr(VsDisk) defined = vs_disk_new();
        defined->source = g_strdup(path.c_str());
        defined->format = g_strdup(g_str_has_suffix(path.c_str(), "raw") ? "raw" : "qcow2");
        vs_storage_image_owner(&owner, path.c_str(), defined);
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
inline std::set<int64_t>
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
inline bool
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

} // namespace storage_test

#endif
