// SPDX-License-Identifier: LGPL-2.1-or-later
// A hypervisor driver at work on a World, step by step as the engine does it.
#ifndef TESTS_INTEGRATION_DRIVER_SESSION_H
#define TESTS_INTEGRATION_DRIVER_SESSION_H

#include <optional>
#include <set>

#include "nbd-export/store/snapshot-reader.h"
#include "qmp/block.h"
#include "tests/integration/driver_worlds.h"

namespace driver_test
{

const char *const kRepositories[] = {"r-aaaaaaaaaaaaaaaaaaaa", "r-bbbbbbbbbbbbbbbbbbbb"};
const char *const kSnapshots[] = {"s-aaaaaaaaaaaaaaaaaaaa", "s-bbbbbbbbbbbbbbbbbbbb"};
constexpr size_t kMiB = 1 << 20;

inline std::string
bitmap_name(const std::string &point, unsigned repository = 0)
{
    return std::string("virtsnap.") + kRepositories[repository] + "." + point;
}

inline bool
not_busy(const char * /*instance*/, gpointer /*user_data*/)
{
    return false;
}

inline void
ignore_stage(uint64_t /*done*/, uint64_t /*total*/, gpointer /*user_data*/)
{
}

// What was read of a disk.
struct Reading {
    std::string content;
    uint64_t read_bytes = 0;
};

// A driver at work: opened, recovered, described.
class Session
{
  public:
    explicit Session(World &world, unsigned repository = 0)
    {
        driver_ = world.open(kRepositories[repository], &error_);
        VsOwnerCheck check = {not_busy, nullptr};
        ok_ = driver_ && driver_->ops->recover(driver_, &check, nullptr, &error_) &&
              (instance_ = driver_->ops->describe(driver_, nullptr, &error_)) != nullptr;
    }
    ~Session()
    {
        if (begun_ && !driver_->ops->settle(driver_, nullptr))
            ADD_FAILURE() << "settle failed in the end";
        vs_driver_free(driver_);
        vs_instance_free(instance_);
        g_clear_error(&error_);
    }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    // Whether the last step went well.
    explicit operator bool() const
    {
        return ok_;
    }
    std::string
    message() const
    {
        return error_ ? error_->message : "";
    }
    const VsInstance *
    instance() const
    {
        return instance_;
    }
    const VsDisk *
    disk(unsigned index) const
    {
        return vs_instance_find_disk(instance_, kTargets[index]);
    }

    // The names of this repository's sound bitmaps on a disk, without companions.
    std::set<std::string>
    bitmaps(unsigned index) const
    {
        std::set<std::string> names;
        if (!instance_)
            return {"not described: " + message()};
        const GPtrArray *all = disk(index)->bitmaps;
        for (unsigned i = 0; i < all->len; i++) {
            auto *bitmap = static_cast<const VsQmpBitmap *>(g_ptr_array_index(all, i));
            std::string name = bitmap->name ? bitmap->name : "";
            if (bitmap->recording && !bitmap->inconsistent && name.find(".end") == name.npos)
                names.insert(name);
        }
        return names;
    }

    // Begins a point in time of some disks, each on top of the bitmap old, if any.
    Session &
    begin(const std::vector<unsigned> &disks, const std::string &point, const std::string &old = "",
          bool staged = false, GCancellable *cancellable = nullptr)
    {
        new_ = bitmap_name(point), old_ = old.empty() ? "" : bitmap_name(old);
        points_.clear();
        for (unsigned i = 0; i < disks.size(); i++) {
            VsPointDisk entry = {};
            entry.disk = disk(disks[i]);
            entry.snapshot_id = kSnapshots[i];
            entry.bitmap = new_.c_str();
            entry.old_bitmap = old_.empty() ? nullptr : old_.c_str();
            entry.staged = staged;
            points_.push_back(entry);
        }
        point_ = {};
        point_.disks = points_.data();
        point_.count = points_.size();
        point_.scratch.folder = scratch_.empty() ? nullptr : scratch_.c_str();
        g_clear_error(&error_);
        ok_ = begun_ = driver_->ops->begin(driver_, &point_, cancellable, &error_);
        return *this;
    }

    // Reads a disk of the point in time; what need not be read comes out as zeroes.
    std::optional<Reading>
    read(unsigned index)
    {
        VsStageReport report = {ignore_stage, nullptr};
        VsPullSource source = {};
        ok_ = driver_->ops->open_source(driver_, index, &source, &report, nullptr, &error_);
        if (!ok_)
            return std::nullopt;
        uint64_t size = points_[index].disk->virtual_size_bytes;
        VsPull *pull = vs_pull_connect(&source, size, &error_);
        std::optional<Reading> reading;
        if (pull)
            reading = pull_all(pull, size);
        ok_ = reading && driver_->ops->detach_source(driver_, index, &error_);
        vs_pull_free(pull);
        ok_ = driver_->ops->close_source(driver_, index, &error_) && ok_;
        return reading;
    }

    bool
    confirm()
    {
        g_clear_error(&error_);
        return driver_->ops->confirm(driver_, &error_);
    }
    bool
    is_lost()
    {
        g_main_context_iteration(nullptr, FALSE);
        return driver_->ops->is_lost(driver_, nullptr);
    }
    bool
    settle()
    {
        begun_ = false;
        g_clear_error(&error_);
        return ok_ = driver_->ops->settle(driver_, &error_);
    }
    // kept: for each disk the bitmap's point, "" for none; all are locked unless named otherwise.
    bool
    tidy(const std::vector<std::string> &kept, const std::vector<bool> &locked = {true, true})
    {
        std::vector<std::string> names;
        for (const std::string &point : kept)
            names.push_back(point.empty() ? "" : bitmap_name(point));
        std::vector<VsKeptBitmap> entries;
        for (unsigned i = 0; i < kept.size(); i++)
            entries.push_back({disk(i), names[i].empty() ? nullptr : names[i].c_str(), locked[i]});
        g_clear_error(&error_);
        return ok_ = driver_->ops->tidy(driver_, entries.data(), entries.size(), &error_);
    }
    const VsPointDisk &
    point(unsigned index) const
    {
        return points_[index];
    }
    const VsPoint &
    moment() const
    {
        return point_;
    }
    void
    use_scratch(const std::string &folder)
    {
        scratch_ = folder;
    }

  private:
    std::optional<Reading>
    pull_all(VsPull *pull, uint64_t size)
    {
        TempDir dir;
        const std::string path = dir.file("repo");
        VsRepository *repository = vs_repository_init(path.c_str(), 64 << 10, nullptr)
                                       ? vs_repository_open(path.c_str(), nullptr)
                                       : nullptr;
        if (!repository || !vs_repository_lock(repository, VS_REPOSITORY_SHARED, 1000, nullptr))
            return std::nullopt;
        VsIngest *ingest = vs_ingest_new(repository, nullptr, size, 1);
        VsPullOptions options = {size, 0, 0};
        VsIngestResult result = {};
        Reading reading;
        bool ok = vs_pull_run(pull, ingest, &options, &error_) &&
                  vs_ingest_finish(ingest, &result, &error_);
        VsPullProgress progress = {};
        vs_pull_progress(pull, &progress);
        reading.read_bytes = progress.read_bytes;
        reading.content.resize(size);
        if (ok) {
            VsSnapshotReader *reader = vs_snapshot_reader_new(repository, &result.tree, size);
            ok = vs_snapshot_reader_read(reader, 0, reading.content.data(), size, &error_);
            vs_snapshot_reader_free(reader);
        }
        vs_ingest_free(ingest);
        vs_repository_free(repository);
        return ok ? std::optional<Reading>(reading) : std::nullopt;
    }

    VsDriver *driver_ = nullptr;
    VsInstance *instance_ = nullptr;
    GError *error_ = nullptr;
    bool ok_ = false;
    bool begun_ = false;
    std::string new_, old_, scratch_;
    std::vector<VsPointDisk> points_;
    VsPoint point_ = {};
};

} // namespace driver_test

#endif
