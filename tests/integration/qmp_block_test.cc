// SPDX-License-Identifier: LGPL-2.1-or-later
// The typed QMP commands against a real QEMU: no guest (-S), TCG, a qcow2 and a raw disk.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "qmp/block.h"
#include "qmp/export.h"
#include "qmp/job.h"
#include "qmp/schema.h"

namespace
{

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kDiskBytes = 64 * kMiB;
constexpr unsigned kTimeoutMs = 10000;
constexpr const char *kDeviceA = "/machine/peripheral/vdA/virtio-backend";

// Starts a program that dies with this one. Gives its process id.
pid_t
Start(const std::vector<std::string> &arguments)
{
    std::vector<char *> pointers;
    for (const std::string &argument : arguments)
        pointers.push_back(const_cast<char *>(argument.c_str()));
    pointers.push_back(nullptr);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(126);
    execvp(pointers[0], pointers.data());
    _exit(127);
}

int
RunProgram(const std::vector<std::string> &arguments)
{
    int status = 0;
    pid_t pid = Start(arguments);
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                           : -1;
}

class QmpBlock : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        g_autofree char *made = g_dir_make_tmp("vs-qmp-XXXXXX", nullptr);
        ASSERT_NE(made, nullptr);
        directory_ = made;
        ASSERT_EQ(RunProgram({"qemu-img", "create", "-q", "-f", "qcow2", Path("a.qcow2"),
                              std::to_string(kDiskBytes)}),
                  0);
        ASSERT_EQ(RunProgram({"qemu-img", "create", "-q", "-f", "raw", Path("b.raw"),
                              std::to_string(kDiskBytes)}),
                  0);
        qemu_ =
            Start({"qemu-system-x86_64", "-S", "-nodefaults", "-accel", "tcg", "-display", "none",
                   "-m", "64", "-qmp", "unix:" + Path("qmp") + ",server=on,wait=off", "-blockdev",
                   "driver=qcow2,node-name=dA,file.driver=file,file.filename=" + Path("a.qcow2"),
                   "-device", "virtio-blk-pci,drive=dA,id=vdA", "-drive",
                   "if=virtio,id=driveB,format=raw,file=" + Path("b.raw")});
        ASSERT_GT(qemu_, 0);
        Connect();
    }

    void
    TearDown() override
    {
        vs_qmp_client_free(client_);
        g_clear_error(&error_);
        if (qemu_ > 0) {
            kill(qemu_, SIGKILL);
            waitpid(qemu_, nullptr, 0);
        }
        if (!directory_.empty())
            (void)RunProgram({"rm", "-rf", directory_});
    }

    // Retries while QEMU is not listening yet.
    void
    Connect()
    {
        gint64 deadline = g_get_monotonic_time() + kTimeoutMs * G_GINT64_CONSTANT(1000);
        while (client_ == nullptr && g_get_monotonic_time() < deadline) {
            g_clear_error(&error_);
            client_ = vs_qmp_client_connect(Path("qmp").c_str(), kTimeoutMs, nullptr, &error_);
            if (client_ == nullptr && waitpid(qemu_, nullptr, WNOHANG) != 0)
                break;
            if (client_ == nullptr)
                g_usleep(5000);
        }
        ASSERT_NE(client_, nullptr) << error_->message;
        g_clear_error(&error_);
    }

    std::string
    Path(const std::string &name) const
    {
        return directory_ + "/" + name;
    }

    // The error's text, for the messages of failed expectations.
    std::string
    Why() const
    {
        return error_ != nullptr ? error_->message : "(no error)";
    }

    // Writes a pattern into a node as a guest would.
    void
    Write(const std::string &device, int64_t offset, int64_t length)
    {
        g_autofree char *line = g_strdup_printf("qemu-io -d %s \"write -P 0x5a %" G_GINT64_FORMAT
                                                " %" G_GINT64_FORMAT "\"",
                                                device.c_str(), offset, length);
        json_object *arguments = vs_qmp_args("command-line", vs_qmp_str(line), NULL);
        json_object *reply =
            vs_qmp_client_call(client_, "human-monitor-command", arguments, nullptr, &error_);
        ASSERT_NE(reply, nullptr) << Why();
        EXPECT_STREQ(json_object_get_string(reply), "");
        json_object_put(reply);
    }

    void
    AddBitmap(const char *node, const char *name, bool persistent)
    {
        g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
        const VsQmpBitmapAdd bitmap = {node, name, 65536, persistent, false};
        vs_qmp_transaction_bitmap_add(transaction, &bitmap);
        ASSERT_TRUE(vs_qmp_transaction_run(transaction, client_, nullptr, &error_)) << Why();
    }

    // Adds the node "fl": an empty qcow2 over dA, as the scratch of a backup.
    void
    AddFleece()
    {
        ASSERT_EQ(RunProgram({"qemu-img", "create", "-q", "-f", "qcow2", Path("fl"),
                              std::to_string(kDiskBytes)}),
                  0);
        json_object *file =
            vs_qmp_args("driver", vs_qmp_str("file"), "filename", vs_qmp_str(Path("fl").c_str()),
                        "node-name", vs_qmp_str("fl-file"), NULL);
        json_object *options =
            vs_qmp_args("driver", vs_qmp_str("qcow2"), "node-name", vs_qmp_str("fl"), "file", file,
                        "backing", vs_qmp_str("dA"), NULL);
        ASSERT_TRUE(vs_qmp_node_add(client_, options, nullptr, &error_)) << Why();
    }

    void
    StartBackup(const char *sync, const char *bitmap)
    {
        g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
        const VsQmpBackup backup = {"job", "dA", "fl", sync, bitmap, "cbw"};
        vs_qmp_transaction_backup(transaction, &backup);
        ASSERT_TRUE(vs_qmp_transaction_run(transaction, client_, nullptr, &error_)) << Why();
    }

    unsigned
    CountJobs()
    {
        g_autoptr(GPtrArray) jobs = vs_qmp_query_jobs(client_, nullptr, &error_);
        EXPECT_NE(jobs, nullptr) << Why();
        return jobs != nullptr ? jobs->len : 99;
    }

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

    std::string directory_;
    pid_t qemu_ = 0;
    VsQmpClient *client_ = nullptr;
    GError *error_ = nullptr;
};

TEST_F(QmpBlock, GreetingTellsVersionAndProcess)
{
    EXPECT_GE(vs_qmp_client_qemu_version(client_), 7002000u);
    EXPECT_EQ(vs_qmp_client_peer_pid(client_), qemu_);
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
    EXPECT_EQ(RunProgram({"sh", "-c",
                          "nbdinfo --map=qemu:dirty-bitmap:frozen 'nbd+unix:///snap-A?socket=" +
                              Path("nbd") + "' >/dev/null"}),
              0);

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

TEST_F(QmpBlock, FullBackupJobFinishesAndIsDismissed)
{
    Write(kDeviceA, 0, kMiB);
    AddFleece();
    StartBackup("full", nullptr);
    EXPECT_TRUE(vs_qmp_job_finish(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(CountJobs(), 0u);
    EXPECT_TRUE(vs_qmp_node_delete(client_, "fl", nullptr, &error_)) << Why();
}

TEST_F(QmpBlock, BitmapBackupCopiesWhatTheBitmapSays)
{
    AddBitmap("dA", "b", false);
    Write(kDeviceA, kMiB, 65536);
    AddFleece();
    StartBackup("bitmap", "b");
    g_autoptr(GPtrArray) jobs = vs_qmp_query_jobs(client_, nullptr, &error_);
    ASSERT_NE(jobs, nullptr) << Why();
    ASSERT_EQ(jobs->len, 1u);
    auto *job = static_cast<const VsQmpJob *>(g_ptr_array_index(jobs, 0));
    EXPECT_STREQ(job->id, "job");
    EXPECT_STREQ(job->type, "backup");
    EXPECT_EQ(job->total_progress, 65536u);
    EXPECT_TRUE(vs_qmp_job_finish(client_, "job", 0, nullptr, &error_)) << Why();
}

TEST_F(QmpBlock, JobThatRunsForEverMissesItsDeadlineAndIsCancelled)
{
    AddFleece();
    StartBackup("none", nullptr);
    EXPECT_FALSE(vs_qmp_job_finish(client_, "job", 100, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT)) << Why();
    g_clear_error(&error_);
    EXPECT_EQ(CountJobs(), 1u);
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(CountJobs(), 0u);
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_FALSE(vs_qmp_job_finish(client_, "job", kTimeoutMs, nullptr, &error_)) << "gone";
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << Why();
}

TEST_F(QmpBlock, PausedAndConcludedJobsAreCancelledToo)
{
    AddFleece();
    StartBackup("none", nullptr);
    ASSERT_TRUE(vs_qmp_client_do(client_, "job-pause", vs_qmp_args("id", vs_qmp_str("job"), NULL),
                                 nullptr, &error_))
        << Why();
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(CountJobs(), 0u);

    StartBackup("none", nullptr);
    ASSERT_TRUE(vs_qmp_client_do(client_, "job-cancel", vs_qmp_args("id", vs_qmp_str("job"), NULL),
                                 nullptr, &error_))
        << Why();
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(CountJobs(), 0u);
}

TEST_F(QmpBlock, JobThatDismissesItselfIsCancelledToo)
{
    AddFleece();
    json_object *arguments = vs_qmp_args("job-id", vs_qmp_str("job"), "device", vs_qmp_str("dA"),
                                         "target", vs_qmp_str("fl"), "sync", vs_qmp_str("none"),
                                         "auto-dismiss", vs_qmp_bool(true), NULL);
    ASSERT_TRUE(vs_qmp_client_do(client_, "blockdev-backup", arguments, nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(CountJobs(), 0u);
}

TEST_F(QmpBlock, JobThatFailsReportsItsErrorAndIsDismissed)
{
    // A size that is not a multiple of a sector makes the job fail, not the command that starts it.
    ASSERT_TRUE(g_file_set_contents(Path("t").c_str(), "", 0, nullptr));
    json_object *options = vs_qmp_args("driver", vs_qmp_str("file"), "node-name", vs_qmp_str("t"),
                                       "filename", vs_qmp_str(Path("t").c_str()), NULL);
    ASSERT_TRUE(vs_qmp_node_add(client_, options, nullptr, &error_)) << Why();
    EXPECT_FALSE(vs_qmp_create_qcow2(client_, "create", "t", kMiB + 1, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << Why();
    EXPECT_NE(strstr(error_->message, "512"), nullptr) << Why();
    EXPECT_EQ(CountJobs(), 0u);
}

TEST_F(QmpBlock, ScratchIsMadeOnADescriptorWhoseNameIsGone)
{
    int fd = open(Path("scratch").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    g_unlink(Path("scratch").c_str());
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
    ASSERT_TRUE(vs_qmp_create_qcow2(client_, "create", "f", kDiskBytes, nullptr, &error_)) << Why();
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

TEST_F(QmpBlock, QemuThatDiesFailsTheWaitingJobAtOnce)
{
    AddFleece();
    StartBackup("none", nullptr);
    GSource *timer = g_timeout_source_new(50);
    g_source_set_callback(
        timer,
        [](gpointer user_data) -> gboolean {
            kill(*static_cast<pid_t *>(user_data), SIGKILL);
            return G_SOURCE_REMOVE;
        },
        &qemu_, nullptr);
    g_source_attach(timer, nullptr);
    g_source_unref(timer);
    EXPECT_FALSE(vs_qmp_job_finish(client_, "job", kTimeoutMs, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_CLOSED)) << Why();
    EXPECT_FALSE(vs_qmp_client_is_open(client_));
}

} // namespace

int
main(int argc, char **argv)
{
    testing::InitGoogleTest(&argc, argv);
    g_autofree char *qemu = g_find_program_in_path("qemu-system-x86_64");
    g_autofree char *image_tool = g_find_program_in_path("qemu-img");
    const char *required = g_getenv("VIRTSNAP_TEST_REQUIRE");
    if ((qemu == nullptr || image_tool == nullptr) &&
        (required == nullptr || strstr(required, "qemu") == nullptr)) {
        g_printerr("skipped: no qemu-system-x86_64 and qemu-img here\n");
        return 77;
    }
    return RUN_ALL_TESTS();
}
