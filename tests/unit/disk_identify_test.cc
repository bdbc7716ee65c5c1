// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/catalogue/catalogue.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace
{

// The disks known, and what an image is taken for.
class DiskIdentify : public testing::Test
{
  protected:
    void
    Know(const std::string &id, const char *instance, const char *target,
         const std::vector<std::string> &chain)
    {
        VsKnownDisk *disk = g_new0(VsKnownDisk, 1);
        disk->id = g_strdup(id.c_str());
        disk->instance_id = g_strdup(instance);
        disk->target = g_strdup(target);
        disk->source = g_strdup(chain[0].c_str());
        std::string json = "[";
        for (const std::string &file : chain)
            json += (json.size() > 1 ? ",\"" : "\"") + file + "\"";
        disk->chain = g_strdup((json + "]").c_str());
        g_ptr_array_add(known_, disk);
    }
    std::string
    Identify(const char *instance, const char *target, const std::vector<std::string> &chain,
             const char *host = "host")
    {
        g_autoptr(GPtrArray) files = g_ptr_array_new();
        for (const std::string &file : chain)
            g_ptr_array_add(files, const_cast<char *>(file.c_str()));
        g_autofree char *id = vs_disk_identify(known_, host, instance, target, files);
        return id;
    }
    void
    TearDown() override
    {
        g_ptr_array_unref(known_);
    }

    GPtrArray *known_ = g_ptr_array_new_with_free_func((GDestroyNotify)vs_known_disk_free);
};

TEST_F(DiskIdentify, NewDiskGetsAnIdFromHostAndSource)
{
    std::string id = Identify("i-1", "vda", {"/a"});
    EXPECT_TRUE(vs_id_is_valid(id.c_str(), "d-"));
    EXPECT_EQ(Identify("i-2", "vdb", {"/a"}), id);
    EXPECT_NE(Identify("i-1", "vda", {"/b"}), id);
    EXPECT_NE(Identify("i-1", "vda", {"/a"}, "other"), id);
}

TEST_F(DiskIdentify, SameSourceIsTheSameDiskWhereverItIsAttached)
{
    Know("d-known", "i-1", "vda", {"/a"});
    EXPECT_EQ(Identify("i-1", "vda", {"/a"}), "d-known");
    EXPECT_EQ(Identify("i-2", "sda", {"/a"}), "d-known");
    EXPECT_EQ(Identify(nullptr, "file", {"/a"}), "d-known");
}

TEST_F(DiskIdentify, OverlayOnTopOfAKnownDiskIsThatDisk)
{
    Know("d-known", "i-1", "vda", {"/a"});
    EXPECT_EQ(Identify("i-1", "vda", {"/overlay", "/a"}), "d-known");
}

TEST_F(DiskIdentify, CommittedOverlayLeavesTheDiskItWas)
{
    Know("d-known", "i-1", "vda", {"/overlay", "/a"});
    EXPECT_EQ(Identify("i-1", "vda", {"/a"}), "d-known");
}

TEST_F(DiskIdentify, SharedBackingFileOfAnotherDiskSaysNothing)
{
    Know("d-known", "i-1", "vda", {"/template"});
    EXPECT_NE(Identify("i-1", "vdb", {"/b", "/template"}), "d-known");
    EXPECT_NE(Identify("i-2", "vda", {"/b", "/template"}), "d-known");
    EXPECT_NE(Identify(nullptr, "vda", {"/b", "/template"}), "d-known");
}

TEST_F(DiskIdentify, AnotherImageInTheSamePlaceIsAnotherDisk)
{
    Know("d-known", "i-1", "vda", {"/a"});
    EXPECT_NE(Identify("i-1", "vda", {"/b"}), "d-known");
}

TEST_F(DiskIdentify, SourceDecidesBeforeTheChain)
{
    Know("d-chain", "i-1", "vda", {"/a"});
    Know("d-source", "i-2", "vdb", {"/overlay"});
    EXPECT_EQ(Identify("i-1", "vda", {"/overlay", "/a"}), "d-source");
}

TEST_F(DiskIdentify, OfSeveralWithTheSourceTheOneInItsPlaceIsMeant)
{
    Know("d-elsewhere", "i-2", "vda", {"/a"});
    Know("d-instance", "i-1", "vdb", {"/a"});
    EXPECT_EQ(Identify("i-1", "vda", {"/a"}), "d-instance");
    Know("d-place", "i-1", "vda", {"/a"});
    EXPECT_EQ(Identify("i-1", "vda", {"/a"}), "d-place");
    EXPECT_EQ(Identify("i-9", "vda", {"/a"}), "d-elsewhere");
}

TEST_F(DiskIdentify, AnIdThatIsTakenIsNotGivenAgain)
{
    // The disk that began as /a lives in /overlay now; /a has become the image of another VM.
    std::string first = Identify("i-1", "vda", {"/a"});
    Know(first, "i-1", "vda", {"/overlay"});
    std::string second = Identify("i-2", "vda", {"/a"});
    EXPECT_NE(second, first);
    EXPECT_TRUE(vs_id_is_valid(second.c_str(), "d-"));
    Know(second, "i-2", "vda", {"/elsewhere"});
    std::string third = Identify("i-3", "vda", {"/a"});
    EXPECT_NE(third, first);
    EXPECT_NE(third, second);
}

TEST_F(DiskIdentify, BackingFilesMatterOnlyWhereAnotherImageWasKnownInThePlace)
{
    auto needs_chain = [&](const char *instance, const char *target, const char *source) {
        return vs_disk_needs_chain(known_, instance, target, source);
    };
    EXPECT_FALSE(needs_chain("i-1", "vda", "/a"));
    Know("d-known", "i-1", "vda", {"/a"});
    EXPECT_FALSE(needs_chain("i-1", "vda", "/a"));
    EXPECT_TRUE(needs_chain("i-1", "vda", "/b"));
    EXPECT_FALSE(needs_chain("i-1", "vdb", "/b"));
    EXPECT_FALSE(needs_chain("i-2", "vda", "/b"));
    EXPECT_FALSE(needs_chain(nullptr, "vda", "/b"));
    Know("d-other", "i-2", "vda", {"/b"});
    EXPECT_FALSE(needs_chain("i-1", "vda", "/b"));
}

TEST_F(DiskIdentify, DamagedChainTextIsNoMatch)
{
    for (const char *text : {"", "not json", "{}", "[1,null]", "\"/a\""}) {
        Know("d-known", "i-1", "vda", {"/other"});
        auto disk = static_cast<VsKnownDisk *>(g_ptr_array_index(known_, known_->len - 1));
        g_free(disk->chain);
        disk->chain = g_strdup(text);
        EXPECT_NE(Identify("i-1", "vda", {"/a"}), "d-known") << text;
    }
}

} // namespace
