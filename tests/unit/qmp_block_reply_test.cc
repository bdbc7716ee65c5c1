// SPDX-License-Identifier: LGPL-2.1-or-later
// What query-block and query-named-block-nodes of QEMU 7.2 answer, and what they must not.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "qmp/block.h"

namespace
{

struct PutJson {
    void
    operator()(json_object *object) const
    {
        json_object_put(object);
    }
};
using Json = std::unique_ptr<json_object, PutJson>;

Json
Parse(const std::string &text)
{
    Json object(json_tokener_parse(text.c_str()));
    EXPECT_NE(object, nullptr) << text;
    return object;
}

const VsQmpDevice *
Device(const GPtrArray *devices, guint index)
{
    return static_cast<const VsQmpDevice *>(g_ptr_array_index(devices, index));
}

// Replaces the one occurrence of what by with.
std::string
Replace(std::string text, const std::string &what, const std::string &with)
{
    size_t at = text.find(what);
    EXPECT_NE(at, std::string::npos) << what;
    return text.replace(at, what.size(), with);
}

const char *const kDevices = R"([
 {"io-status":"ok","device":"","locked":false,"removable":false,
  "inserted":{"node-name":"dA","drv":"qcow2","ro":false,"file":"/a.qcow2"},
  "qdev":"/machine/peripheral/vdA/virtio-backend","type":"unknown"},
 {"io-status":"ok","device":"ide1-cd0","locked":false,"removable":true,"tray_open":false,
  "qdev":"/machine/unattached/device[23]","type":"unknown"},
 {"device":"pflash0","locked":false,"removable":false,
  "inserted":{"node-name":"#block1","drv":"raw","ro":true},"type":"unknown"}])";

const char *const kNode = R"([{
  "iops_rd":0,"detect_zeroes":"off","write_threshold":0,
  "image":{"virtual-size":18446744073709551615,"filename":"/a","cluster-size":65536,
    "format":"qcow2","actual-size":200704,"dirty-flag":false,
    "format-specific":{"type":"qcow2","data":{"compat":"1.1","lazy-refcounts":false}}},
  "node-name":"dA","ro":false,"drv":"qcow2","encrypted":false,"file":"/a","backing_file":"/base",
  "dirty-bitmaps":[
    {"name":"old","recording":true,"persistent":true,"busy":false,"granularity":65536,"count":131072},
    {"recording":false,"persistent":false,"busy":true,"granularity":4096,"count":0},
    {"name":"bad","recording":false,"persistent":true,"busy":false,"granularity":65536,"count":0,
     "inconsistent":true}]}])";

TEST(QmpBlockReply, DevicesKeepWhatQemuSaysAndNothingElse)
{
    g_autoptr(GError) error = nullptr;
    g_autoptr(GPtrArray) devices = vs_qmp_parse_devices(Parse(kDevices).get(), &error);
    ASSERT_NE(devices, nullptr) << error->message;
    ASSERT_EQ(devices->len, 3u);
    const VsQmpDevice *disk = Device(devices, 0);
    EXPECT_STREQ(disk->device, "");
    EXPECT_STREQ(disk->qdev, "/machine/peripheral/vdA/virtio-backend");
    EXPECT_STREQ(disk->node, "dA");
    EXPECT_STREQ(disk->node_driver, "qcow2");
    EXPECT_FALSE(disk->removable);
    EXPECT_FALSE(disk->read_only);
    EXPECT_TRUE(disk->has_io_status);
    const VsQmpDevice *empty = Device(devices, 1);
    EXPECT_EQ(empty->node, nullptr);
    EXPECT_EQ(empty->node_driver, nullptr);
    EXPECT_TRUE(empty->removable);
    const VsQmpDevice *flash = Device(devices, 2);
    EXPECT_EQ(flash->qdev, nullptr);
    EXPECT_TRUE(flash->read_only);
    EXPECT_FALSE(flash->has_io_status);
}

TEST(QmpBlockReply, NodesKeepSizesNamesAndBitmaps)
{
    g_autoptr(GError) error = nullptr;
    g_autoptr(GPtrArray) nodes = vs_qmp_parse_nodes(Parse(kNode).get(), &error);
    ASSERT_NE(nodes, nullptr) << error->message;
    const VsQmpNode *node = vs_qmp_find_node(nodes, "dA");
    ASSERT_NE(node, nullptr);
    EXPECT_STREQ(node->driver, "qcow2");
    EXPECT_STREQ(node->filename, "/a");
    EXPECT_STREQ(node->backing_filename, "/base");
    EXPECT_STREQ(node->compat, "1.1");
    EXPECT_EQ(node->virtual_size_bytes, UINT64_MAX) << "more than fits an int64";
    EXPECT_EQ(node->cluster_size_bytes, 65536u);
    ASSERT_EQ(node->bitmaps->len, 3u);
    const VsQmpBitmap *old = vs_qmp_find_bitmap(node, "old");
    ASSERT_NE(old, nullptr);
    EXPECT_TRUE(old->recording && old->persistent && !old->busy && !old->inconsistent);
    EXPECT_EQ(old->granularity_bytes, 65536u);
    EXPECT_EQ(old->count_bytes, 131072u);
    auto *anonymous = static_cast<const VsQmpBitmap *>(g_ptr_array_index(node->bitmaps, 1));
    EXPECT_EQ(anonymous->name, nullptr);
    EXPECT_TRUE(anonymous->busy && !anonymous->recording && !anonymous->persistent);
    ASSERT_NE(vs_qmp_find_bitmap(node, "bad"), nullptr);
    EXPECT_TRUE(vs_qmp_find_bitmap(node, "bad")->inconsistent);
    EXPECT_EQ(vs_qmp_find_bitmap(node, "none"), nullptr);
    EXPECT_EQ(vs_qmp_find_bitmap(node, nullptr), nullptr)
        << "the anonymous one has no name to find";
    EXPECT_EQ(vs_qmp_find_node(nodes, "none"), nullptr);
}

TEST(QmpBlockReply, RawNodeHasNoClustersCompatOrBitmaps)
{
    g_autoptr(GError) error = nullptr;
    g_autoptr(GPtrArray) nodes =
        vs_qmp_parse_nodes(Parse(R"([{"node-name":"r","ro":true,"drv":"raw","file":"b",
                   "image":{"virtual-size":512,"format-specific":{"type":"file","data":{}}}}])")
                               .get(),
                           &error);
    ASSERT_NE(nodes, nullptr) << error->message;
    const VsQmpNode *node = vs_qmp_find_node(nodes, "r");
    ASSERT_NE(node, nullptr);
    EXPECT_EQ(node->cluster_size_bytes, 0u);
    EXPECT_EQ(node->compat, nullptr);
    EXPECT_EQ(node->backing_filename, nullptr);
    EXPECT_EQ(node->bitmaps->len, 0u);
    EXPECT_TRUE(node->read_only);
}

TEST(QmpBlockReply, NodeWithAWrongMemberIsAProtocolErrorThatNamesIt)
{
    const struct {
        const char *what, *with, *member;
    } cases[] = {
        {"\"node-name\":\"dA\"", "\"node-name\":7", "node-name"},
        {"\"node-name\":\"dA\",", "", "node-name"},
        {"\"node-name\":\"dA\"", "\"node-name\":\"d\\u0000A\"", "node-name"},
        {"\"drv\":\"qcow2\"", "\"drv\":null", "drv"},
        {"\"ro\":false", "\"ro\":0", "ro"},
        {"\"backing_file\":\"/base\"", "\"backing_file\":{}", "backing_file"},
        {"18446744073709551615", "-1", "virtual-size"},
        {"18446744073709551615", "1.5", "virtual-size"},
        {"\"cluster-size\":65536", "\"cluster-size\":\"64k\"", "cluster-size"},
        {"\"compat\":\"1.1\"", "\"compat\":1.1", "compat"},
        {"\"data\":{\"compat\"", "\"date\":{\"compat\"", "data"},
        {"\"count\":131072", "\"count\":[]", "count"},
        {"\"persistent\":false,", "", "persistent"},
        {"\"inconsistent\":true", "\"inconsistent\":\"yes\"", "inconsistent"},
    };
    for (const auto &changed : cases) {
        SCOPED_TRACE(changed.with);
        g_autoptr(GError) error = nullptr;
        Json reply = Parse(Replace(kNode, changed.what, changed.with));
        GPtrArray *nodes = vs_qmp_parse_nodes(reply.get(), &error);
        EXPECT_EQ(nodes, nullptr);
        ASSERT_TRUE(g_error_matches(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL));
        EXPECT_NE(strstr(error->message, "'query-named-block-nodes'"), nullptr) << error->message;
        EXPECT_NE(strstr(error->message, changed.member), nullptr) << error->message;
    }
}

TEST(QmpBlockReply, DeviceWithAWrongMemberIsAProtocolError)
{
    const std::pair<const char *, const char *> cases[] = {
        {"\"device\":\"\"", "\"device\":null"},
        {"\"removable\":true", "\"removable\":1"},
        {"\"inserted\":{\"node-name\":\"dA\",\"drv\":\"qcow2\",\"ro\":false,\"file\":\"/a.qcow2\"}",
         "\"inserted\":[]"},
        {"\"drv\":\"raw\",", ""},
        {"\"qdev\":\"/machine/unattached/device[23]\"", "\"qdev\":23"},
    };
    for (const auto &[what, with] : cases) {
        SCOPED_TRACE(with);
        g_autoptr(GError) error = nullptr;
        EXPECT_EQ(vs_qmp_parse_devices(Parse(Replace(kDevices, what, with)).get(), &error),
                  nullptr);
        EXPECT_TRUE(g_error_matches(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL));
    }
}

TEST(QmpBlockReply, ReplyThatIsNoArrayOfObjectsIsAProtocolError)
{
    for (const char *reply : {"{}", "[[]]", "[{},7]", "\"x\"", "3"}) {
        SCOPED_TRACE(reply);
        EXPECT_EQ(vs_qmp_parse_devices(Parse(reply).get(), nullptr), nullptr);
        EXPECT_EQ(vs_qmp_parse_nodes(Parse(reply).get(), nullptr), nullptr);
    }
    EXPECT_EQ(vs_qmp_parse_nodes(nullptr, nullptr), nullptr);
}

} // namespace
