// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>
#include <json-c/json.h>
#include <string>
#include <vector>

#include "plugin/hypervisor/qmp-disks.h"

namespace
{

std::string
take(char *text)
{
    std::string copy = text ? text : "(null)";
    g_free(text);
    return copy;
}

TEST(ImageName, IsAbsoluteWhereTheWorkingDirectoryIsKnown)
{
    EXPECT_EQ(take(vs_qmp_image_name("a.qcow2", "/nowhere/vm")), "/nowhere/vm/a.qcow2");
    EXPECT_EQ(take(vs_qmp_image_name("./x/../a.qcow2", "/nowhere")), "/nowhere/a.qcow2");
    EXPECT_EQ(take(vs_qmp_image_name("a.qcow2", nullptr)), "a.qcow2");
    EXPECT_EQ(take(vs_qmp_image_name("/nowhere/a b:c.raw", "/x")), "/nowhere/a b:c.raw");
}

TEST(ImageName, LooksIntoJsonNamesAndKeepsUris)
{
    EXPECT_EQ(take(vs_qmp_image_name("json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
                                     "\"filename\":\"a.qcow2\"}}",
                                     "/nowhere")),
              "/nowhere/a.qcow2");
    EXPECT_EQ(take(vs_qmp_image_name("json:{\"file.filename\":\"/nowhere/b\"}", nullptr)),
              "/nowhere/b");
    EXPECT_EQ(take(vs_qmp_image_name("rbd:pool/image", "/x")), "rbd:pool/image");
    EXPECT_EQ(take(vs_qmp_image_name("nbd://host/e", "/x")), "nbd://host/e");
    EXPECT_EQ(take(vs_qmp_image_name("json:garbage", "/x")), "json:garbage");
}

TEST(DevicePath, ComesFromEitherFormOfQdev)
{
    EXPECT_EQ(take(vs_qmp_device_path("/machine/peripheral/vdA/virtio-backend")),
              "/machine/peripheral/vdA");
    EXPECT_EQ(take(vs_qmp_device_path("sdB")), "/machine/peripheral/sdB");
    EXPECT_EQ(take(vs_qmp_device_path("/machine/peripheral-anon/device[0]/virtio-backend")),
              "/machine/peripheral-anon/device[0]");
}

// Disks that find_disks makes of replies like QEMU's, as "target:node:source:bitmaps" texts.
class FindDisks : public testing::Test
{
  protected:
    void
    device(const char *qdev, const char *name, const char *node, const char *type,
           bool removable = false, bool read_only = false)
    {
        VsQmpDevice *device = g_new0(VsQmpDevice, 1);
        device->qdev = g_strdup(qdev);
        device->device = g_strdup(name);
        device->node = g_strdup(node);
        device->node_driver = g_strdup("qcow2");
        device->removable = removable;
        device->read_only = read_only;
        g_ptr_array_add(devices_, device);
        VsQmpDeviceFacts facts = {g_strdup(type), false, false};
        facts_.push_back(facts);
    }
    void
    node(const char *name, const char *driver, const char *file, const char *backing = nullptr)
    {
        VsQmpNode *node = g_new0(VsQmpNode, 1);
        node->name = g_strdup(name);
        node->driver = g_strdup(driver);
        node->filename = g_strdup(file);
        node->backing_filename = g_strdup(backing);
        node->compat = g_strdup(g_str_equal(driver, "qcow2") ? "1.1" : nullptr);
        node->virtual_size_bytes = 4096;
        node->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_bitmap_free);
        g_ptr_array_add(nodes_, node);
    }
    GPtrArray *
    find()
    {
        found_ = vs_qmp_find_disks(devices_, facts_.data(), nodes_, "/cwd");
        return found_;
    }
    VsDisk *
    disk(unsigned index)
    {
        return static_cast<VsDisk *>(found_->pdata[index]);
    }
    void
    TearDown() override
    {
        for (VsQmpDeviceFacts &facts : facts_)
            g_free(facts.type);
        g_ptr_array_unref(devices_);
        g_ptr_array_unref(nodes_);
        if (found_)
            g_ptr_array_unref(found_);
    }

    GPtrArray *devices_ = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_device_free);
    GPtrArray *nodes_ = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_node_free);
    std::vector<VsQmpDeviceFacts> facts_;
    GPtrArray *found_ = nullptr;
};

TEST_F(FindDisks, LeavesOutWhatIsNoWritableDisk)
{
    node("n", "qcow2", "a");
    device("ide1-cd0", "cd", "n", "ide-cd", true);
    device("floppy0", "fd", "n", "floppy", true);
    device("/machine/system.flash0", "pflash0", "n", "cfi.pflash01");
    device("ro", "", "n", "virtio-blk-pci", false, true);
    device("empty", "", nullptr, "virtio-blk-pci");
    device(nullptr, "unused", "n", nullptr);
    EXPECT_EQ(find()->len, 0u);
}

TEST_F(FindDisks, NamesThemByWhatTheUserChose)
{
    node("nA", "qcow2", "a");
    node("#block165", "raw", "/b");
    node("nC", "raw", "/c");
    device("/machine/peripheral/vdA/virtio-backend", "", "nA", "virtio-blk-pci");
    device("/machine/peripheral-anon/device[0]/virtio-backend", "virtio0", "#block165",
           "virtio-blk-pci");
    device("/machine/peripheral-anon/device[1]", "", "nC", "nvme");
    ASSERT_EQ(find()->len, 3u);
    EXPECT_STREQ(disk(0)->target, "vdA");
    EXPECT_STREQ(disk(0)->source, "/cwd/a");
    EXPECT_TRUE(disk(0)->persistent_bitmaps);
    EXPECT_TRUE(g_ptr_array_find_with_equal_func(disk(0)->aliases, "nA", g_str_equal, nullptr));
    EXPECT_STREQ(disk(1)->target, "virtio0");
    EXPECT_FALSE(disk(1)->persistent_bitmaps);
    EXPECT_TRUE(
        g_ptr_array_find_with_equal_func(disk(1)->aliases, "#block165", g_str_equal, nullptr));
    EXPECT_STREQ(disk(2)->target, "nC");
}

TEST_F(FindDisks, FollowsTheBackingChain)
{
    node("top", "qcow2", "/i/top", "/i/mid");
    node("mid", "qcow2", "/i/mid", "/i/base");
    node("base", "raw", "/i/base");
    device("vda", "", "top", "virtio-blk-pci");
    ASSERT_EQ(find()->len, 1u);
    ASSERT_EQ(disk(0)->chain->len, 3u);
    EXPECT_STREQ(static_cast<char *>(disk(0)->chain->pdata[2]), "/i/base");
}

TEST_F(FindDisks, ABackingChainThatIsALoopEnds)
{
    node("top", "qcow2", "/i/top", "/i/mid");
    node("mid", "qcow2", "/i/mid", "/i/top");
    device("vda", "", "top", "virtio-blk-pci");
    EXPECT_EQ(find()->len, 1u);
}

TEST_F(FindDisks, OneImageAsTwoDisksIsShared)
{
    node("a", "raw", "/i/a");
    node("b", "raw", "/i/a");
    node("c", "raw", "/i/c");
    for (const char *name : {"a", "b", "c"})
        device(name, "", name, "virtio-blk-pci");
    ASSERT_EQ(find()->len, 3u);
    EXPECT_TRUE(disk(0)->is_shared);
    EXPECT_TRUE(disk(1)->is_shared);
    EXPECT_FALSE(disk(2)->is_shared);
}

TEST_F(FindDisks, ADiskUnderSomebodyElsesBackupIsNotAvailable)
{
    node("cbw", "copy-before-write", "/i/a");
    device("vda", "", "cbw", "virtio-blk-pci");
    ASSERT_EQ(find()->len, 1u);
    EXPECT_NE(disk(0)->unavailable, nullptr);
}

TEST_F(FindDisks, ADiskUnderASnapshotsNodesIsDescribedAsWithoutThem)
{
    const char *const json =
        R"(json:{"driver":"raw","file":{"driver":"qcow2","file":{"driver":"file","filename":"/i/b"}}})";
    node("vs-filter-1", "copy-before-write", "/i/a");
    node("vs-top-2", "raw", json);
    node("p", "file", "/i/a");
    node("a", "qcow2", "/i/a");
    node("b", "qcow2", "/i/b");
    device("", "", "vs-filter-1", "virtio-blk-pci");
    device("vdb", "", "vs-top-2", "virtio-blk-pci");
    ASSERT_EQ(find()->len, 2u);
    for (unsigned i = 0; i < 2; i++) {
        EXPECT_STREQ(disk(i)->node, i == 0 ? "a" : "b");
        EXPECT_STREQ(disk(i)->source, i == 0 ? "/i/a" : "/i/b");
        EXPECT_STREQ(disk(i)->format, "qcow2");
        EXPECT_NE(disk(i)->unavailable, nullptr);
    }
}

} // namespace
