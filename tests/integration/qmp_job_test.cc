// SPDX-License-Identifier: LGPL-2.1-or-later
// Jobs of a real QEMU: waited for, cancelled, failed, and lost with it.
#include <csignal>

#include "tests/integration/qmp_block_fixture.h"
#include "tests/support/gate.h"

namespace
{

class QmpJob : public QmpBlockFixture
{
};

TEST_F(QmpJob, FullBackupJobFinishesAndIsDismissed)
{
    Write(kDeviceA, 0, kMiB);
    AddFleece();
    StartBackup("full", nullptr);
    EXPECT_TRUE(vs_qmp_job_finish(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(CountJobs(), 0u);
    EXPECT_TRUE(vs_qmp_node_delete(client_, "fl", nullptr, &error_)) << Why();
}

TEST_F(QmpJob, BitmapBackupCopiesWhatTheBitmapSays)
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

TEST_F(QmpJob, JobThatRunsForEverMissesItsDeadlineAndIsCancelled)
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

TEST_F(QmpJob, PausedAndConcludedJobsAreCancelledToo)
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

TEST_F(QmpJob, JobThatDismissesItselfIsCancelledToo)
{
    AddFleece();
    json_object *arguments = vs_qmp_args("job-id", vs_qmp_str("job"), "device", vs_qmp_str("dA"),
                                         "target", vs_qmp_str("fl"), "sync", vs_qmp_str("none"),
                                         "auto-dismiss", vs_qmp_bool(true), NULL);
    ASSERT_TRUE(vs_qmp_client_do(client_, "blockdev-backup", arguments, nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "job", kTimeoutMs, nullptr, &error_)) << Why();
    EXPECT_EQ(CountJobs(), 0u);
}

TEST_F(QmpJob, JobThatFailsReportsItsErrorAndIsDismissed)
{
    // A size that is not a multiple of a sector makes the job fail, not the command that starts it.
    ASSERT_TRUE(g_file_set_contents(Path("t").c_str(), "", 0, nullptr));
    json_object *options = vs_qmp_args("driver", vs_qmp_str("file"), "node-name", vs_qmp_str("t"),
                                       "filename", vs_qmp_str(Path("t").c_str()), NULL);
    ASSERT_TRUE(vs_qmp_node_add(client_, options, nullptr, &error_)) << Why();
    json_object *image = vs_qmp_args("driver", vs_qmp_str("qcow2"), "file", vs_qmp_str("t"), "size",
                                     vs_qmp_int(kMiB + 1), NULL);
    json_object *create = vs_qmp_args("job-id", vs_qmp_str("create"), "options", image, NULL);
    ASSERT_TRUE(vs_qmp_client_do(client_, "blockdev-create", create, nullptr, &error_)) << Why();
    EXPECT_FALSE(vs_qmp_job_finish(client_, "create", kTimeoutMs, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << Why();
    EXPECT_NE(strstr(error_->message, "512"), nullptr) << Why();
    EXPECT_EQ(CountJobs(), 0u);
}

TEST_F(QmpJob, QemuThatDiesFailsTheWaitingJobAtOnce)
{
    AddFleece();
    StartBackup("none", nullptr);
    GSource *timer = g_timeout_source_new(50);
    g_source_set_callback(
        timer,
        [](gpointer user_data) -> gboolean {
            static_cast<support::Process *>(user_data)->signal(SIGKILL);
            return G_SOURCE_REMOVE;
        },
        qemu_.get(), nullptr);
    g_source_attach(timer, nullptr);
    g_source_unref(timer);
    EXPECT_FALSE(vs_qmp_job_finish(client_, "job", kTimeoutMs, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_CLOSED)) << Why();
    EXPECT_FALSE(vs_qmp_client_is_open(client_));
}

} // namespace

VS_TEST_MAIN("qemu");
