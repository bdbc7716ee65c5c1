// SPDX-License-Identifier: LGPL-2.1-or-later
// The typed QMP commands on a real QEMU's block layer: nodes, bitmaps, exports, scratch files.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <functional>
#include <vector>

#include "qmp/export.h"
#include "qmp/schema.h"
#include "tests/integration/qmp_block_fixture.h"
#include "tests/support/gate.h"

namespace
{

int
Listen(const std::string &path)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    g_strlcpy(address.sun_path, path.c_str(), sizeof address.sun_path);
    EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    EXPECT_EQ(listen(fd, 8), 0);
    return fd;
}

class QmpBlock : public QmpBlockFixture
{
};

TEST_F(QmpBlock, GreetingTellsVersionAndProcess)
{
    EXPECT_GE(vs_qmp_client_qemu_version(client_), 7002000u);
    EXPECT_EQ(vs_qmp_client_peer_pid(client_), qemu_->pid());
    EXPECT_TRUE(vs_qmp_client_is_open(client_));
}

TEST_F(QmpBlock, SecondClientIsToldThatTheMonitorIsTaken)
{
    VsQmpClient *second = vs_qmp_client_connect(Path("qmp").c_str(), 200, nullptr, &error_);
    EXPECT_EQ(second, nullptr);
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN)) << Why();
    vs_qmp_client_free(second);
}

TEST_F(QmpBlock, ManyClientsThatWaitOverflowTheQueueAndAreToldTooWithinTheirDeadline)
{
    for (int i = 0; i < 4; i++) {
        g_clear_error(&error_);
        // Sockets that stay connected fill the listener's queue.
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        g_strlcpy(address.sun_path, Path("qmp").c_str(), sizeof address.sun_path);
        (void)!connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address);
    }
    gint64 start = g_get_monotonic_time();
    VsQmpClient *second = vs_qmp_client_connect(Path("qmp").c_str(), 200, nullptr, &error_);
    EXPECT_EQ(second, nullptr);
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN)) << Why();
    EXPECT_LT(g_get_monotonic_time() - start, 2 * G_USEC_PER_SEC);
}

TEST_F(QmpBlock, DevicesAndNodesDescribeBothDisks)
{
    g_autoptr(GPtrArray) devices = vs_qmp_query_devices(client_, nullptr, &error_);
    ASSERT_NE(devices, nullptr) << Why();
    ASSERT_EQ(devices->len, 2u);
    auto *a = static_cast<const VsQmpDevice *>(g_ptr_array_index(devices, 0));
    auto *b = static_cast<const VsQmpDevice *>(g_ptr_array_index(devices, 1));
    if (g_strcmp0(a->device, "") != 0)
        std::swap(a, b);
    EXPECT_STREQ(a->node, "dA");
    EXPECT_STREQ(a->node_driver, "qcow2");
    EXPECT_STREQ(a->qdev, "/machine/peripheral/vdA/virtio-backend");
    EXPECT_FALSE(a->removable);
    EXPECT_FALSE(a->read_only);
    EXPECT_TRUE(a->has_io_status);
    EXPECT_STREQ(b->device, "driveB");
    EXPECT_STREQ(b->node_driver, "raw");
    ASSERT_NE(b->node, nullptr);
    EXPECT_EQ(b->node[0], '#') << "QEMU names it";

    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(client_, nullptr, &error_);
    ASSERT_NE(nodes, nullptr) << Why();
    const VsQmpNode *node = vs_qmp_find_node(nodes, "dA");
    ASSERT_NE(node, nullptr);
    EXPECT_STREQ(node->driver, "qcow2");
    EXPECT_STREQ(node->filename, Path("a.qcow2").c_str());
    EXPECT_STREQ(node->compat, "1.1");
    EXPECT_EQ(node->backing_filename, nullptr);
    EXPECT_EQ(node->virtual_size_bytes, (uint64_t)kDiskBytes);
    EXPECT_EQ(node->cluster_size_bytes, 65536u);
    EXPECT_EQ(node->bitmaps->len, 0u);
    const VsQmpNode *raw = vs_qmp_find_node(nodes, b->node);
    ASSERT_NE(raw, nullptr);
    EXPECT_EQ(raw->compat, nullptr);
    EXPECT_EQ(raw->virtual_size_bytes, (uint64_t)kDiskBytes);
    EXPECT_EQ(vs_qmp_find_node(nodes, "none"), nullptr);
}

TEST_F(QmpBlock, QomPropertyIsReadAndAMissingOneIsACommandError)
{
    g_autofree char *type =
        vs_qmp_qom_get_string(client_, "/machine/peripheral/vdA", "type", nullptr, &error_);
    EXPECT_STREQ(type, "virtio-blk-pci") << Why();
    EXPECT_EQ(vs_qmp_qom_get_string(client_, "/machine/peripheral/vdA", "nix", nullptr, &error_),
              nullptr);
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << Why();
    g_clear_error(&error_);
    EXPECT_EQ(
        vs_qmp_qom_get_string(client_, "/machine/peripheral/vdA", "realized", nullptr, &error_),
        nullptr);
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL)) << Why();
}

TEST_F(QmpBlock, FrozenCopyKeepsWhatTheOldBitmapHadAndBothNewAndOldRecordOn)
{
    AddBitmap("dA", "old", true);
    Write(kDeviceA, kMiB, 65536);

    g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
    EXPECT_TRUE(vs_qmp_transaction_is_empty(transaction));
    const VsQmpBitmapAdd fresh = {"dA", "new", 65536, true, false};
    const VsQmpBitmapAdd frozen = {"dA", "frozen", 65536, false, true};
    vs_qmp_transaction_bitmap_add(transaction, &fresh);
    vs_qmp_transaction_bitmap_add(transaction, &frozen);
    vs_qmp_transaction_bitmap_merge(transaction, "dA", "frozen", "dA", "old");
    EXPECT_FALSE(vs_qmp_transaction_is_empty(transaction));
    ASSERT_TRUE(vs_qmp_transaction_run(transaction, client_, nullptr, &error_)) << Why();
    Write(kDeviceA, 3 * kMiB, 2 * 65536);

    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(client_, nullptr, &error_);
    ASSERT_NE(nodes, nullptr) << Why();
    const VsQmpNode *node = vs_qmp_find_node(nodes, "dA");
    ASSERT_NE(node, nullptr);
    const VsQmpBitmap *old = vs_qmp_find_bitmap(node, "old");
    const VsQmpBitmap *copy = vs_qmp_find_bitmap(node, "frozen");
    const VsQmpBitmap *next = vs_qmp_find_bitmap(node, "new");
    ASSERT_TRUE(old != nullptr && copy != nullptr && next != nullptr);
    EXPECT_EQ(old->count_bytes, 3u * 65536);
    EXPECT_TRUE(old->recording);
    EXPECT_TRUE(old->persistent);
    EXPECT_FALSE(old->busy);
    EXPECT_FALSE(old->inconsistent);
    EXPECT_EQ(old->granularity_bytes, 65536u);
    EXPECT_EQ(copy->count_bytes, 65536u);
    EXPECT_FALSE(copy->recording);
    EXPECT_FALSE(copy->persistent);
    EXPECT_EQ(next->count_bytes, 2u * 65536);
}

TEST_F(QmpBlock, FailedTransactionLeavesNothing)
{
    g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
    const VsQmpBitmapAdd fresh = {"dA", "new", 0, false, false};
    vs_qmp_transaction_bitmap_add(transaction, &fresh);
    vs_qmp_transaction_bitmap_remove(transaction, "dA", "nothing");
    EXPECT_FALSE(vs_qmp_transaction_run(transaction, client_, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << Why();
    g_clear_error(&error_);
    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(client_, nullptr, &error_);
    ASSERT_NE(nodes, nullptr) << Why();
    EXPECT_EQ(vs_qmp_find_bitmap(vs_qmp_find_node(nodes, "dA"), "new"), nullptr);
}

TEST_F(QmpBlock, BitmapIsRemovedOnce)
{
    AddBitmap("dA", "b", false);
    EXPECT_TRUE(vs_qmp_bitmap_remove(client_, "dA", "b", nullptr, &error_)) << Why();
    EXPECT_FALSE(vs_qmp_bitmap_remove(client_, "dA", "b", nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << Why();
    EXPECT_NE(strstr(error_->message, "'b'"), nullptr) << Why();
}

TEST_F(QmpBlock, PersistentBitmapOnARawDiskIsRefused)
{
    g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
    const VsQmpBitmapAdd bitmap = {"driveB", "b", 0, true, false};
    vs_qmp_transaction_bitmap_add(transaction, &bitmap);
    EXPECT_FALSE(vs_qmp_transaction_run(transaction, client_, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << Why();
    g_clear_error(&error_);
    AddBitmap("driveB", "b", false);
}

TEST_F(QmpBlock, FleeceIsExportedWithItsBitmapAndTornDown)
{
    AddBitmap("dA", "old", true);
    AddFleece();
    EXPECT_TRUE(vs_qmp_set_write_threshold(client_, "fl-file", kMiB, nullptr, &error_)) << Why();
    StartBackup("none", nullptr);
    {
        g_autoptr(VsQmpTransaction) frozen = vs_qmp_transaction_new();
        const VsQmpBitmapAdd copy = {"dA", "frozen", 65536, false, true};
        vs_qmp_transaction_bitmap_add(frozen, &copy);
        ASSERT_TRUE(vs_qmp_transaction_run(frozen, client_, nullptr, &error_)) << Why();
    }
    int listener = Listen(Path("nbd"));
    ASSERT_TRUE(vs_qmp_nbd_server_start(client_, listener, nullptr, &error_)) << Why();
    EXPECT_FALSE(vs_qmp_nbd_server_start(client_, listener, nullptr, &error_));
    EXPECT_NE(strstr(error_->message, "already running"), nullptr) << Why();
    g_clear_error(&error_);
    close(listener);

    const VsQmpExport description = {"exp-A", "fl", "snap-A", "dA", "frozen"};
    ASSERT_TRUE(vs_qmp_export_add(client_, &description, nullptr, &error_)) << Why();
    g_autoptr(GPtrArray) exports = vs_qmp_query_exports(client_, nullptr, &error_);
    ASSERT_NE(exports, nullptr) << Why();
    ASSERT_EQ(exports->len, 1u);
    EXPECT_STREQ(static_cast<const char *>(g_ptr_array_index(exports, 0)), "exp-A");
    support::must_run(
        {"nbdinfo", "--map=qemu:dirty-bitmap:frozen", "nbd+unix:///snap-A?socket=" + Path("nbd")});

    EXPECT_FALSE(vs_qmp_nbd_server_stop(client_, nullptr, &error_)) << "an export is there";
    EXPECT_NE(strstr(error_->message, "exp-A"), nullptr) << Why();
    g_clear_error(&error_);
    EXPECT_FALSE(vs_qmp_export_wait_deleted(client_, "exp-A", 50, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT)) << Why();
    g_clear_error(&error_);

    EXPECT_TRUE(vs_qmp_export_begin_delete(client_, "exp-A", nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_export_wait_deleted(client_, "exp-A", kTimeoutMs, nullptr, &error_))
        << Why();
    EXPECT_TRUE(vs_qmp_export_begin_delete(client_, "exp-A", nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(CountJobs(), 0u);
    EXPECT_TRUE(vs_qmp_node_delete(client_, "fl", nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_nbd_server_stop(client_, nullptr, &error_)) << Why();
}

TEST_F(QmpBlock, ScratchIsMadeOnADescriptorWhoseNameIsGone)
{
    int fd = open(Path("scratch").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    support::must_run(
        {"qemu-img", "create", "-q", "-f", "qcow2", Path("scratch"), std::to_string(kDiskBytes)});
    unlink(Path("scratch").c_str());
    int64_t id = -1;
    ASSERT_TRUE(vs_qmp_fdset_add(client_, fd, "virtsnap:a", &id, nullptr, &error_)) << Why();
    close(fd);
    g_autoptr(GPtrArray) sets = vs_qmp_query_fdsets(client_, nullptr, &error_);
    ASSERT_NE(sets, nullptr) << Why();
    ASSERT_EQ(sets->len, 1u);
    auto *set = static_cast<const VsQmpFdset *>(g_ptr_array_index(sets, 0));
    EXPECT_EQ(set->id, id);
    ASSERT_EQ(set->labels->len, 1u);
    EXPECT_STREQ(static_cast<const char *>(g_ptr_array_index(set->labels, 0)), "virtsnap:a");

    std::string filename = "/dev/fdset/" + std::to_string(id);
    json_object *file = vs_qmp_args("driver", vs_qmp_str("file"), "node-name", vs_qmp_str("f"),
                                    "filename", vs_qmp_str(filename.c_str()), NULL);
    ASSERT_TRUE(vs_qmp_node_add(client_, file, nullptr, &error_)) << Why();
    json_object *image = vs_qmp_args("driver", vs_qmp_str("qcow2"), "node-name", vs_qmp_str("fl"),
                                     "file", vs_qmp_str("f"), "backing", vs_qmp_str("dA"), NULL);
    ASSERT_TRUE(vs_qmp_node_add(client_, image, nullptr, &error_)) << Why();
    StartBackup("none", nullptr);
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_node_delete(client_, "fl", nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_node_delete(client_, "f", nullptr, &error_)) << Why();
    // QEMU closes removed descriptors only while the VM runs.
    ASSERT_TRUE(vs_qmp_client_do(client_, "cont", nullptr, nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_fdset_remove(client_, id, nullptr, &error_)) << Why();
    EXPECT_FALSE(vs_qmp_fdset_remove(client_, id, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << Why();
}

TEST_F(QmpBlock, DescriptorsOfCommandsInFlightTogetherReachTheirOwnCommand)
{
    // QEMU keeps only the descriptors that came last: without our waiting, most of these fail.
    constexpr int kCount = 20;
    struct Tally {
        int replies = 0;
        std::string errors;
    } tally;
    auto count = [](json_object *, const GError *error, gpointer user_data) {
        auto *sum = static_cast<Tally *>(user_data);
        sum->replies++;
        if (error != nullptr)
            sum->errors += std::string(error->message) + "; ";
    };
    for (int i = 0; i < kCount; i++) {
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        std::string label = "l" + std::to_string(i);
        const VsQmpCommand command = {
            "add-fd", vs_qmp_args("opaque", vs_qmp_str(label.c_str()), NULL), &fd, 1, 0};
        vs_qmp_client_send(client_, &command, nullptr, count, &tally);
        close(fd);
    }
    auto done = [](gpointer user_data, GError **) {
        return static_cast<Tally *>(user_data)->replies == kCount;
    };
    EXPECT_TRUE(vs_qmp_client_wait(client_, done, &tally, kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(tally.errors, "");
    g_autoptr(GPtrArray) sets = vs_qmp_query_fdsets(client_, nullptr, &error_);
    ASSERT_NE(sets, nullptr) << Why();
    EXPECT_EQ(sets->len, (guint)kCount);
}

TEST_F(QmpBlock, SchemaKnowsWhatThisQemuCanDo)
{
    g_autoptr(VsQmpSchema) schema = vs_qmp_schema_query(client_, nullptr, &error_);
    ASSERT_NE(schema, nullptr) << Why();
    EXPECT_TRUE(vs_qmp_schema_has_command(schema, "blockdev-backup"));
    EXPECT_FALSE(vs_qmp_schema_has_command(schema, "blockdev-frobnicate"));
    EXPECT_FALSE(vs_qmp_schema_has_command(schema, "JOB_STATUS_CHANGE")) << "an event";
    EXPECT_TRUE(vs_qmp_schema_has_argument(schema, "blockdev-backup", "filter-node-name"));
    EXPECT_TRUE(
        vs_qmp_schema_has_argument(schema, "blockdev-add", "[copy-before-write].on-cbw-error"));
    EXPECT_TRUE(vs_qmp_schema_has_argument(schema, "blockdev-add", "[qcow2].file.[file].filename"));
    EXPECT_FALSE(vs_qmp_schema_has_argument(schema, "blockdev-add", "[qcow2].file.[file].nix"));
    EXPECT_TRUE(vs_qmp_schema_has_argument(schema, "transaction",
                                           "actions.[block-dirty-bitmap-merge].data.bitmaps"));
}

} // namespace

VS_TEST_MAIN("qemu", "nbd");
