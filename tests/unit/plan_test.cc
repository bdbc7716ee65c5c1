// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

#include "plugin/error.h"
#include "plugin/snapshot/plan.h"
#include "qmp/block.h"

namespace
{

const char *const kBitmap = "virtsnap.r-aaaaaaaaaaaaaaaaaaaa.s-aaaaaaaaaaaaaaaaaaaa";

VsQmpBitmap *
add_bitmap(VsDisk *disk, const char *name)
{
    VsQmpBitmap *bitmap = g_new0(VsQmpBitmap, 1);
    bitmap->name = g_strdup(name);
    bitmap->recording = true;
    bitmap->granularity_bytes = 65536;
    g_ptr_array_add(disk->bitmaps, bitmap);
    return bitmap;
}

// A disk whose next snapshot would be incremental; each test spoils one thing.
class FullReason : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        disk_->source = g_strdup("/images/a.qcow2");
        disk_->virtual_size_bytes = 1 << 30;
        disk_->persistent_bitmaps = disk_->can_track = true;
        g_ptr_array_add(disk_->chain, g_strdup("/images/a.qcow2"));
        g_ptr_array_add(disk_->chain, g_strdup("/images/base.qcow2"));
        bitmap_ = add_bitmap(disk_, kBitmap);
        end_ = add_bitmap(disk_, (std::string(kBitmap) + ".end").c_str());
        end_->recording = false;
        end_->count_bytes = 65536;
        base_->bitmap = g_strdup(kBitmap);
        base_->disk_chain = vs_plan_chain(disk_);
        base_->disk_chain_identity = g_strdup("[\"12\",\"34:65536:1600000000000000000\"]");
        disk_->chain_identity = g_strdup(base_->disk_chain_identity);
        base_->virtual_size_bytes = 1 << 30;
    }
    void
    TearDown() override
    {
        vs_disk_free(disk_);
        vs_manifest_free(base_);
    }
    std::string
    reason()
    {
        VsBase newest = {base_, nullptr, 1};
        std::unique_ptr<char, decltype(&g_free)> text(vs_plan_full_reason(disk_, &newest), g_free);
        return text ? text.get() : "";
    }

    VsDisk *disk_ = vs_disk_new();
    VsManifest *base_ = vs_manifest_new();
    VsQmpBitmap *bitmap_ = nullptr;
    VsQmpBitmap *end_ = nullptr;
};

TEST_F(FullReason, IsNoneWhereEverythingIsSound)
{
    EXPECT_EQ(reason(), "");
}

TEST_F(FullReason, IsNoneWhereTheDiskHasGrown)
{
    disk_->virtual_size_bytes += 512;
    EXPECT_EQ(reason(), "");
}

TEST_F(FullReason, IsThatItShrank)
{
    disk_->virtual_size_bytes -= 512;
    EXPECT_EQ(reason(), "the disk has shrunk");
}

TEST_F(FullReason, IsThatItShrankAndGrewAgain)
{
    end_->count_bytes = 0;
    EXPECT_EQ(reason(), "the disk has been shorter meanwhile");
}

TEST_F(FullReason, IsASharedImage)
{
    disk_->is_shared = true;
    EXPECT_NE(reason().find("shared"), std::string::npos);
}

TEST_F(FullReason, IsAMissingBase)
{
    vs_manifest_free(base_);
    base_ = nullptr;
    EXPECT_EQ(reason(), "first snapshot of this disk");
}

TEST_F(FullReason, IsAnotherChain)
{
    g_ptr_array_insert(disk_->chain, 0, g_strdup("/images/overlay.qcow2"));
    EXPECT_NE(reason().find("backing chain"), std::string::npos);
}

TEST_F(FullReason, IsAnotherFileOfTheSameName)
{
    g_free(base_->disk_chain_identity);
    base_->disk_chain_identity = g_strdup("[\"12\",\"34:65536:1700000000000000000\"]");
    EXPECT_NE(reason().find("replaced"), std::string::npos);
    g_free(disk_->chain_identity);
    disk_->chain_identity = g_strdup(base_->disk_chain_identity);
    EXPECT_EQ(reason(), "");
}

TEST_F(FullReason, IsThatTheFilesCannotBeToldToBeTheSame)
{
    g_clear_pointer(&disk_->chain_identity, g_free);
    EXPECT_NE(reason().find("can't be told"), std::string::npos);
    g_clear_pointer(&base_->disk_chain_identity, g_free);
    EXPECT_NE(reason().find("can't be told"), std::string::npos);
}

TEST_F(FullReason, IsAMissingBitmap)
{
    g_ptr_array_set_size(disk_->bitmaps, 0);
    EXPECT_NE(reason().find("has no dirty bitmap"), std::string::npos);
    disk_->persistent_bitmaps = false;
    EXPECT_NE(reason().find("went with the QEMU"), std::string::npos);
}

TEST_F(FullReason, IsABitmapOfAnOlderSnapshotOnly)
{
    g_ptr_array_set_size(disk_->bitmaps, 0);
    add_bitmap(disk_, "virtsnap.r-aaaaaaaaaaaaaaaaaaaa.s-bbbbbbbbbbbbbbbbbbbb");
    EXPECT_NE(reason(), "");
}

TEST_F(FullReason, IsAnInconsistentBitmap)
{
    bitmap_->inconsistent = true;
    bitmap_->recording = false;
    EXPECT_NE(reason().find("inconsistent"), std::string::npos);
}

TEST_F(FullReason, IsABitmapThatDoesNotRecord)
{
    bitmap_->recording = false;
    EXPECT_NE(reason().find("not been recording"), std::string::npos);
}

TEST_F(FullReason, IsABusyBitmap)
{
    bitmap_->busy = true;
    EXPECT_NE(reason().find("in use"), std::string::npos);
}

TEST_F(FullReason, IsABaseWithoutABitmap)
{
    g_clear_pointer(&base_->bitmap, g_free);
    EXPECT_NE(reason(), "");
}

TEST_F(FullReason, IsThatNothingCanBeRecorded)
{
    g_clear_pointer(&base_->bitmap, g_free);
    disk_->can_track = false;
    EXPECT_NE(reason().find("no record of changes"), std::string::npos);
}

TEST_F(FullReason, IsNoneWhereOnlyTheContentCanTellThatItShrank)
{
    g_ptr_array_remove_index(disk_->bitmaps, 1);
    EXPECT_EQ(reason(), "");
}

// Plans of a disk that FullReason finds sound.
class Plan : public FullReason
{
  protected:
    void
    SetUp() override
    {
        FullReason::SetUp();
        disk_->id = (g_free(disk_->id), g_strdup("d-aaaaaaaaaaaaaaaaaaaa"));
        disk_->target = g_strdup("vda");
        instance_->name = g_strdup("web1");
        instance_->id = g_strdup("i-aaaaaaaaaaaaaaaaaaaa");
    }
    void
    TearDown() override
    {
        for (VsPlanDisk *plan : plans_)
            vs_plan_disk_free(plan);
        FullReason::TearDown();
        vs_instance_free(instance_);
    }
    VsPlanDisk *
    plan(const char *group = nullptr, const char *distrust = nullptr)
    {
        GHashTable *distrusted = g_hash_table_new(g_str_hash, g_str_equal);
        if (distrust)
            g_hash_table_insert(distrusted, disk_->id, const_cast<char *>(distrust));
        VsPlanContext context = {instance_, &request_, "r-aaaaaaaaaaaaaaaaaaaa", group, distrusted};
        VsBase base = {};
        base.manifest = vs_manifest_copy(base_);
        plans_.push_back(vs_plan_disk(&context, disk_, &base));
        vs_base_clear(&base);
        g_hash_table_unref(distrusted);
        return plans_.back();
    }
    // The plans made so far, as one request's.
    void
    settle_capture()
    {
        VsPlanContext context = {instance_, &request_, "r-aaaaaaaaaaaaaaaaaaaa", nullptr, nullptr};
        GPtrArray *all = g_ptr_array_new();
        for (VsPlanDisk *plan : plans_)
            g_ptr_array_add(all, plan);
        vs_plan_settle_capture(&context, all);
        g_ptr_array_unref(all);
    }

    VsInstance *instance_ = vs_instance_new();
    VsCreateRequest request_ = {};
    std::vector<VsPlanDisk *> plans_;
};

TEST_F(Plan, NamesTheBitmapAfterTheGroupElseTheSnapshot)
{
    EXPECT_STREQ(plan("ssg-bbbbbbbbbbbbbbbbbbbb")->manifest->bitmap,
                 "virtsnap.r-aaaaaaaaaaaaaaaaaaaa.ssg-bbbbbbbbbbbbbbbbbbbb");
    VsPlanDisk *single = plan();
    EXPECT_EQ(std::string("virtsnap.r-aaaaaaaaaaaaaaaaaaaa.") + single->manifest->id,
              single->manifest->bitmap);
}

TEST_F(Plan, StartsNoBitmapWhereNoneCanBe)
{
    disk_->can_track = false;
    EXPECT_EQ(plan()->manifest->bitmap, nullptr);
}

TEST_F(Plan, WantsAWitnessForEveryIncremental)
{
    VsPlanDisk *incremental = plan();
    VsPlanDisk *distrusted = plan(nullptr, "the bitmap proved wrong");
    settle_capture();
    EXPECT_TRUE(incremental->needs_witness);
    EXPECT_FALSE(distrusted->needs_witness);
}

TEST_F(Plan, WantsAWitnessForAStagedDiskWithoutTheCompanionBitmapOnly)
{
    disk_->iothread = true;
    VsPlanDisk *staged = plan();
    settle_capture();
    EXPECT_TRUE(staged->incremental);
    EXPECT_FALSE(staged->needs_witness);
    g_ptr_array_remove_index(disk_->bitmaps, 1);
    settle_capture();
    EXPECT_TRUE(staged->incremental);
    EXPECT_TRUE(staged->needs_witness);
}

TEST_F(Plan, ReadsInFullWhatIsStagedAndHasNoWitness)
{
    disk_->iothread = true;
    g_ptr_array_remove_index(disk_->bitmaps, 1);
    VsPlanDisk *encrypted = plan();
    disk_->live_only = g_strdup("its image is encrypted");
    settle_capture();
    EXPECT_FALSE(encrypted->incremental);
    EXPECT_STREQ(encrypted->manifest->mode, "full");
    EXPECT_NE(std::string(encrypted->manifest->mode_reason).find("can't be told"),
              std::string::npos);
    g_clear_pointer(&disk_->live_only, g_free);
    g_free(disk_->source);
    disk_->source = g_strdup("nbd://localhost/disk");
    VsPlanDisk *remote = plan();
    settle_capture();
    EXPECT_FALSE(remote->incremental);
    request_.capture = VS_CAPTURE_LIVE;
    VsPlanDisk *live = plan();
    settle_capture();
    EXPECT_TRUE(live->incremental);
}

TEST_F(Plan, ReadsInFullWhatIsDistrusted)
{
    VsPlanDisk *distrusted = plan(nullptr, "the bitmap proved wrong");
    EXPECT_FALSE(distrusted->incremental);
    EXPECT_STREQ(distrusted->manifest->mode_reason, "the bitmap proved wrong");
    g_free(disk_->id);
    disk_->id = g_strdup("d-bbbbbbbbbbbbbbbbbbbb");
    EXPECT_TRUE(plan()->incremental);
}

TEST_F(Plan, StagesDisksOnAnIothreadUnlessLiveIsAskedFor)
{
    disk_->iothread = true;
    EXPECT_TRUE(plan()->staged);
    request_.capture = VS_CAPTURE_LIVE;
    EXPECT_FALSE(plan()->staged);
}

TEST_F(Plan, StagesAllWhereTheInstanceHasOneKindOfCapture)
{
    VsPlanDisk *live = plan();
    disk_->iothread = true;
    plan();
    settle_capture();
    EXPECT_FALSE(live->staged);
    instance_->one_capture = true;
    settle_capture();
    EXPECT_TRUE(live->staged);
}

TEST_F(Plan, ReadsAGrownDiskInFullWhereItIsStaged)
{
    disk_->virtual_size_bytes += 65536;
    VsPlanDisk *live = plan();
    EXPECT_TRUE(live->incremental);
    disk_->iothread = true;
    VsPlanDisk *staged = plan();
    settle_capture();
    EXPECT_TRUE(live->incremental);
    EXPECT_FALSE(staged->incremental);
    EXPECT_STREQ(staged->manifest->mode, "full");
}

TEST_F(Plan, SaysFilesystemConsistencyWhereTheGuestIsQuiesced)
{
    EXPECT_STREQ(plan()->manifest->consistency, "crash");
    request_.quiesce = true;
    EXPECT_STREQ(plan()->manifest->consistency, "filesystem");
}

class Choose : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        instance_->name = g_strdup("qmp:/x");
        for (const char *name : {"vda", "vdb", "vdc"}) {
            VsDisk *disk = vs_disk_new();
            disk->target = g_strdup(name);
            g_ptr_array_add(disk->aliases, g_strconcat("node-", name, NULL));
            g_ptr_array_add(instance_->disks, disk);
        }
    }
    void
    TearDown() override
    {
        vs_instance_free(instance_);
    }
    std::string
    choose(std::vector<const char *> names, int code = -1)
    {
        names.push_back(nullptr);
        GError *error = nullptr;
        GPtrArray *chosen = vs_plan_choose(instance_, names.data(), &error);
        std::string text;
        for (unsigned i = 0; chosen && i < chosen->len; i++)
            text += std::string(static_cast<VsDisk *>(chosen->pdata[i])->target) + " ";
        EXPECT_EQ(error ? error->code : -1, code) << (error ? error->message : "");
        g_clear_error(&error);
        if (chosen)
            g_ptr_array_unref(chosen);
        return text;
    }
    VsInstance *instance_ = vs_instance_new();
};

TEST_F(Choose, TakesAllWithoutNames)
{
    EXPECT_EQ(choose({}), "vda vdb vdc ");
}

TEST_F(Choose, TakesTheNamedInTheInstancesOrder)
{
    EXPECT_EQ(choose({"node-vdc", "vda"}), "vda vdc ");
}

TEST_F(Choose, RefusesADiskNamedTwiceByWhateverName)
{
    choose({"vda", "node-vda"}, VS_ERROR_INVALID_PARAMETER);
}

TEST_F(Choose, RefusesAnUnknownDisk)
{
    choose({"vdz"}, VS_ERROR_NO_SUCH_DISK);
}

TEST_F(Choose, RefusesADiskThatIsNotAvailableOnlyIfItIsChosen)
{
    VsDisk *disk = static_cast<VsDisk *>(instance_->disks->pdata[1]);
    disk->unavailable = g_strdup("a backup job of someone else is active on it");
    EXPECT_EQ(choose({"vda"}), "vda ");
    choose({}, VS_ERROR_DISK_STATUS);
}

} // namespace
