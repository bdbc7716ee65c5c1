// SPDX-License-Identifier: LGPL-2.1-or-later
// The typed QMP commands on answers that a real QEMU gives rarely, or never.
#include <atomic>

#include "qmp/block.h"
#include "qmp/export.h"
#include "qmp/job.h"
#include "tests/component/qmp_client_fixture.h"

namespace
{

using QmpCommands = QmpClientFixture;

TEST_F(QmpCommands, AnswersOfTheWrongTypeAreProtocolErrorsThatNameTheCommand)
{
    for (const char *answer : {"{}", "[1]", "\"x\"", "[{}]", "[null]"}) {
        SCOPED_TRACE(answer);
        FakeQmpPeer peer([answer](FakeQmpSession &session) {
            session.Negotiate();
            auto lie = [answer](const FakeQmpCommand &) { return std::string(answer); };
            session.Serve({{"query-block", lie},
                           {"query-named-block-nodes", lie},
                           {"query-jobs", lie},
                           {"query-block-exports", lie},
                           {"query-fdsets", lie},
                           {"add-fd", lie}});
        });
        Connect(peer);
        GPtrArray *(*queries[])(VsQmpClient *, GCancellable *, GError **) = {
            vs_qmp_query_devices, vs_qmp_query_nodes, vs_qmp_query_jobs, vs_qmp_query_exports,
            vs_qmp_query_fdsets};
        const char *names[] = {"query-block", "query-named-block-nodes", "query-jobs",
                               "query-block-exports", "query-fdsets"};
        for (size_t i = 0; i < G_N_ELEMENTS(queries); i++) {
            EXPECT_EQ(queries[i](client_, nullptr, &error_), nullptr);
            EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
            EXPECT_TRUE(Says(std::string("'") + names[i] + "'")) << Why();
            g_clear_error(&error_);
        }
        int64_t id = 0;
        EXPECT_FALSE(vs_qmp_fdset_add(client_, 0, "l", &id, nullptr, &error_));
        EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
        g_clear_error(&error_);
        g_clear_pointer(&client_, vs_qmp_client_free);
    }
}

std::string
Job(const std::string &status, const std::string &more = "")
{
    return "[{\"id\":\"other\",\"type\":\"backup\",\"status\":\"running\",\"current-progress\":0,"
           "\"total-progress\":1},{\"id\":\"j\",\"type\":\"backup\",\"status\":\"" +
           status + "\",\"current-progress\":0,\"total-progress\":1" + more + "}]";
}

TEST_F(QmpCommands, JobThatConcludesBetweenQuestionAndAnswerIsNotMissed)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("query-jobs");
        session.SendEvent("JOB_STATUS_CHANGE", "{\"id\":\"j\",\"status\":\"concluded\"}");
        session.Return(Job("running"));
        session.Expect("query-jobs");
        session.Return(Job("concluded"));
        session.Expect("job-dismiss");
        session.Return("{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    EXPECT_TRUE(vs_qmp_job_finish(client_, "j", kTimeoutMs, nullptr, &error_)) << Why();
}

TEST_F(QmpCommands, JobWhoseEventIsLostIsNoticedAllTheSame)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("query-jobs");
        session.Return(Job("running"));
        session.Expect("query-jobs");
        session.Return(Job("concluded", ",\"error\":\"disk on fire\""));
        session.Expect("job-dismiss");
        session.Return("{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    EXPECT_FALSE(vs_qmp_job_finish(client_, "j", kTimeoutMs, nullptr, &error_));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_COMMAND)) << Why();
    EXPECT_EQ(Why(), "finishing job 'j': disk on fire");
}

TEST_F(QmpCommands, EventMakesAJobsStatusBeAskedForAtOnceAndOnlyOnce)
{
    constexpr int kRounds = 20;
    std::atomic<int> questions{0};
    FakeQmpPeer peer([&questions](FakeQmpSession &session) {
        session.Negotiate();
        for (int i = 0; i < kRounds; i++) {
            session.Expect("query-jobs");
            session.Return(Job("running"));
            session.SendEvent("JOB_STATUS_CHANGE", "{\"id\":\"other\",\"status\":\"paused\"}");
            session.SendEvent("JOB_STATUS_CHANGE", "{\"id\":\"j\",\"status\":\"paused\"}");
        }
        session.Serve({{"query-jobs", [&questions](const FakeQmpCommand &) {
                            questions++;
                            return Job("running");
                        }}});
    });
    Connect(peer);
    // Waiting for the time instead of the events would take far longer than the deadline.
    EXPECT_FALSE(vs_qmp_job_finish(client_, "j", 2000, nullptr, &error_));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
    g_clear_pointer(&client_, vs_qmp_client_free);
    EXPECT_GE(questions, 1) << "all rounds are over";
    EXPECT_LE(questions, 10) << "asks again and again";
}

TEST_F(QmpCommands, JobIsCancelledInEveryStatus)
{
    for (const char *status : {"created", "running", "paused", "ready", "standby", "waiting",
                               "pending", "aborting", "concluded", "null"}) {
        SCOPED_TRACE(status);
        std::string first = status;
        bool on_its_way = first == "aborting" || first == "null";
        FakeQmpPeer peer([=](FakeQmpSession &session) {
            session.Negotiate();
            session.Expect("query-jobs");
            session.Return(Job(first));
            if (!on_its_way && first != "concluded") {
                session.Expect("job-cancel");
                session.Return("{}");
                // It takes its time, and is not to be told twice.
                session.Expect("query-jobs");
                session.Return(Job(first));
                session.SendEvent("JOB_STATUS_CHANGE", "{\"id\":\"j\",\"status\":\"aborting\"}");
                session.Expect("query-jobs");
                session.Return(Job("aborting"));
            }
            if (first != "concluded") {
                session.SendEvent("JOB_STATUS_CHANGE", "{\"id\":\"j\",\"status\":\"concluded\"}");
                session.Expect("query-jobs");
                session.Return(Job("concluded", ",\"error\":\"Operation canceled\""));
            }
            session.Expect("job-dismiss");
            session.Return("{}");
            session.Expect("query-jobs");
            session.Return("[]");
            session.WaitForHangUp();
        });
        Connect(peer);
        EXPECT_TRUE(vs_qmp_job_cancel(client_, "j", kTimeoutMs, nullptr, &error_)) << Why();
        g_clear_pointer(&client_, vs_qmp_client_free);
    }
}

TEST_F(QmpCommands, JobThatVanishesWhileItIsCancelledIsCancelled)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("query-jobs");
        session.Return(Job("running"));
        session.Expect("job-cancel");
        session.Fail("Job not found");
        session.Expect("query-jobs");
        session.Return("[]");
        session.WaitForHangUp();
    });
    Connect(peer);
    EXPECT_TRUE(vs_qmp_job_cancel(client_, "j", kTimeoutMs, nullptr, &error_)) << Why();
}

TEST_F(QmpCommands, JobThatCanNotBeCancelledIsAnError)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Serve({{"query-jobs", [](const FakeQmpCommand &) { return Job("running"); }}});
    });
    Connect(peer);
    EXPECT_FALSE(vs_qmp_job_cancel(client_, "j", kTimeoutMs, nullptr, &error_));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_COMMAND)) << Why();
    g_clear_error(&error_);
    EXPECT_FALSE(vs_qmp_job_finish(client_, "j", kShortMs, nullptr, &error_));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
    EXPECT_TRUE(Says("running")) << Why();
}

TEST_F(QmpCommands, ExportThatIsShuttingDownIsBegunToDeleteAndWaitedFor)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        const std::string dying = "[{\"id\":\"e\",\"type\":\"nbd\",\"node-name\":\"n\","
                                  "\"shutting-down\":true}]";
        session.Negotiate();
        session.Expect("block-export-del");
        session.Fail("Export 'e' is already shutting down");
        session.Expect("query-block-exports");
        session.Return(dying);
        session.Expect("query-block-exports");
        session.SendEvent("BLOCK_EXPORT_DELETED", "{\"id\":\"e\"}");
        session.Return(dying);
        session.Expect("query-block-exports");
        session.Return("[]");
        session.WaitForHangUp();
    });
    Connect(peer);
    EXPECT_TRUE(vs_qmp_export_begin_delete(client_, "e", nullptr, &error_)) << Why();
    EXPECT_TRUE(vs_qmp_export_wait_deleted(client_, "e", kTimeoutMs, nullptr, &error_)) << Why();
}

TEST_F(QmpCommands, EventMakesTheExportsBeAskedForAtOnce)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        for (int i = 0; i < 20; i++) {
            session.Expect("query-block-exports");
            session.Return("[{\"id\":\"e\",\"type\":\"nbd\",\"node-name\":\"n\","
                           "\"shutting-down\":true}]");
            session.SendEvent("BLOCK_EXPORT_DELETED", "{\"id\":\"e\"}");
        }
        session.Expect("query-block-exports");
        session.Return("[]");
        session.WaitForHangUp();
    });
    Connect(peer);
    // Waiting for the time instead of the events would take far longer than the deadline.
    EXPECT_TRUE(vs_qmp_export_wait_deleted(client_, "e", 3000, nullptr, &error_)) << Why();
}

TEST_F(QmpCommands, ExportThatCanNotBeDeletedIsAnError)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Serve({{"query-block-exports", [](const FakeQmpCommand &) {
                            return "[{\"id\":\"e\",\"type\":\"nbd\",\"node-name\":\"n\","
                                   "\"shutting-down\":false}]";
                        }}});
    });
    Connect(peer);
    EXPECT_FALSE(vs_qmp_export_begin_delete(client_, "e", nullptr, &error_));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_COMMAND)) << Why();
    EXPECT_TRUE(Says("'e'")) << Why();
}

TEST_F(QmpCommands, ListenerOfAServerThatDoesNotStartIsTakenBack)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        EXPECT_EQ(session.Expect("getfd").fds.size(), 1u);
        session.Return("{}");
        session.Expect("nbd-server-start");
        session.Fail("NBD server already running");
        session.Expect("closefd");
        session.Return("{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    EXPECT_FALSE(vs_qmp_nbd_server_start(client_, 0, nullptr, &error_));
    EXPECT_TRUE(Says("already running")) << Why();
}

} // namespace
