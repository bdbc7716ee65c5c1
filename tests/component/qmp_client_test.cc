// SPDX-License-Identifier: LGPL-2.1-or-later
// The connected QMP client against a peer that answers, lies, stalls and hangs up.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "qmp/args.h"
#include "tests/component/qmp_client_fixture.h"

namespace
{

using QmpClient = QmpClientFixture;

TEST_F(QmpClient, RepliesReachTheirCommandsInWhateverOrder)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        FakeQmpCommand a = session.Expect("a");
        FakeQmpCommand b = session.Expect("b");
        FakeQmpCommand c = session.Expect("c");
        session.ReturnTo(c, "3");
        session.FailTo(a, "no a");
        session.ReturnTo(b, "\"two\"");
        session.WaitForHangUp();
    });
    Connect(peer);
    Replies replies;
    for (const char *name : {"a", "b", "c"})
        Send(client_, name, &replies);
    Await(replies, 3);
    EXPECT_EQ(replies.texts, (std::vector<std::string>{"3", "no a", "\"two\""}));
}

TEST_F(QmpClient, CommandIsOneLineWithItsArguments)
{
    std::string line;
    FakeQmpPeer peer([&line](FakeQmpSession &session) {
        session.Negotiate();
        line = session.Expect("do-it").line;
        session.Return("{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    json_object *arguments =
        vs_qmp_args("path", vs_qmp_str("/a\nb"), "left-out", vs_qmp_str(nullptr), "size",
                    vs_qmp_size(UINT64_MAX), NULL);
    EXPECT_TRUE(vs_qmp_client_do(client_, "do-it", arguments, nullptr, &error_)) << Why();
    EXPECT_EQ(line, "{\"execute\":\"do-it\",\"arguments\":{\"path\":\"/a\\nb\",\"size\":"
                    "18446744073709551615},\"id\":2}");
}

TEST_F(QmpClient, CommandWithBrokenTextIsNotSent)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("next");
        session.Return("{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    json_object *arguments = vs_qmp_args("path", vs_qmp_str("/\xff"), NULL);
    EXPECT_FALSE(vs_qmp_client_do(client_, "do-it", arguments, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT)) << Why();
    g_clear_error(&error_);
    EXPECT_TRUE(vs_qmp_client_do(client_, "next", nullptr, nullptr, &error_)) << Why();
}

TEST_F(QmpClient, DeadlineEndsOneCommandAndItsLateReplyIsIgnored)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        FakeQmpCommand slow = session.Expect("slow");
        FakeQmpCommand next = session.Expect("next");
        session.ReturnTo(slow, "{\"late\":true}");
        session.ReturnTo(slow, "{\"twice\":true}");
        session.ReturnTo(next, "{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    const VsQmpCommand slow = {"slow", nullptr, nullptr, 0, kShortMs};
    EXPECT_EQ(vs_qmp_client_run(client_, &slow, nullptr, &error_), nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
    EXPECT_EQ(Why(), "QMP command 'slow': no reply within 100 ms");
    json_object *reply = Call("next");
    EXPECT_NE(reply, nullptr) << Why();
    json_object_put(reply);
}

TEST_F(QmpClient, SilenceOnceWaitedForShortensDeadlinesUntilThePeerSpeaksAgain)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("first");
        FakeQmpCommand undo = session.Expect("undo");
        session.Expect("undo-more");
        session.ReturnTo(undo, "{}");
        session.Expect("next");
        session.Return("{}");
        session.Expect("last");
        session.WaitForHangUp();
    });
    Connect(peer);
    const VsQmpCommand first = {"first", nullptr, nullptr, 0, VS_QMP_SILENT_TIMEOUT_MS};
    EXPECT_EQ(vs_qmp_client_run(client_, &first, nullptr, &error_), nullptr);
    EXPECT_EQ(Call("undo"), nullptr);
    EXPECT_EQ(Why(), "QMP command 'undo': no reply within 2000 ms");
    const VsQmpCommand undo_more = {"undo-more", nullptr, nullptr, 0, kShortMs};
    g_clear_error(&error_);
    EXPECT_EQ(vs_qmp_client_run(client_, &undo_more, nullptr, &error_), nullptr);
    EXPECT_EQ(Why(), "QMP command 'undo-more': no reply within 100 ms");
    json_object *reply = Call("next");
    EXPECT_NE(reply, nullptr) << Why();
    json_object_put(reply);
    const VsQmpCommand last = {"last", nullptr, nullptr, 0, VS_QMP_SILENT_TIMEOUT_MS + kShortMs};
    EXPECT_EQ(vs_qmp_client_run(client_, &last, nullptr, &error_), nullptr);
    EXPECT_EQ(Why(), "QMP command 'last': no reply within 2100 ms");
}

TEST_F(QmpClient, CancellationEndsOneCommandAndTheOthersGoOn)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        FakeQmpCommand a = session.Expect("a");
        FakeQmpCommand b = session.Expect("b");
        session.Expect("go");
        session.Return("{}");
        session.ReturnTo(a, "1");
        session.ReturnTo(b, "2");
        session.WaitForHangUp();
    });
    Connect(peer);
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    Replies cancelled, others;
    Send(client_, "a", &cancelled, cancellable);
    Send(client_, "b", &others);
    g_cancellable_cancel(cancellable);
    EXPECT_TRUE(cancelled.texts.empty()) << "called from the main loop only";
    Await(cancelled, 1);
    EXPECT_TRUE(others.texts.empty());
    Send(client_, "go", &others);
    Send(client_, "never sent", &cancelled, cancellable);
    EXPECT_EQ(cancelled.texts.size(), 1u) << "called from the main loop only";
    Await(others, 2);
    Await(cancelled, 2);
    EXPECT_EQ(others.texts, (std::vector<std::string>{"{ }", "2"}));
    EXPECT_EQ(cancelled.texts[0].rfind("QMP command 'a': ", 0), 0u);
    EXPECT_EQ(cancelled.texts[1].rfind("QMP command 'never sent': ", 0), 0u);
}

TEST_F(QmpClient, BigRepliesAndBigCommandsPassInPieces)
{
    std::string big(3 << 20, 'y');
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        FakeQmpCommand command = session.Expect("echo");
        session.ReturnTo(command, command.arguments);
        session.WaitForHangUp();
    });
    Connect(peer);
    json_object *reply = vs_qmp_client_call(
        client_, "echo", vs_qmp_args("x", vs_qmp_str(big.c_str()), NULL), nullptr, &error_);
    ASSERT_NE(reply, nullptr) << Why();
    EXPECT_EQ(json_object_get_string(json_object_object_get(reply, "x")), big);
    json_object_put(reply);
}

TEST_F(QmpClient, PeerThatReadsNothingDoesNotBlockSending)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Stall();
    });
    Connect(peer);
    std::string big(4 << 20, 'z');
    const VsQmpCommand command = {"big", vs_qmp_args("x", vs_qmp_str(big.c_str()), NULL), nullptr,
                                  0, kShortMs};
    EXPECT_EQ(vs_qmp_client_run(client_, &command, nullptr, &error_), nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
}

TEST_F(QmpClient, HangingUpFailsEverythingInFlightAndTellsSubscribersOnce)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("a");
        session.Expect("b");
        session.Send("{\"return\":");
    });
    Connect(peer);
    int closings = 0;
    vs_qmp_client_subscribe(
        client_,
        [](const char *name, json_object *, gpointer user_data) {
            EXPECT_EQ(name, nullptr);
            ++*static_cast<int *>(user_data);
        },
        &closings);
    Replies replies;
    Send(client_, "a", &replies);
    Send(client_, "b", &replies);
    Await(replies, 2);
    EXPECT_FALSE(vs_qmp_client_is_open(client_));
    EXPECT_EQ(closings, 1);
    Send(client_, "c", &replies);
    EXPECT_EQ(replies.texts.size(), 2u) << "called from the main loop only";
    Await(replies, 3);
    EXPECT_EQ(replies.texts[2], "QMP command 'c': the peer hung up");
    EXPECT_EQ(Call("d"), nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CLOSED)) << Why();
    EXPECT_EQ(closings, 1);
}

TEST_F(QmpClient, LastWordsOfAPeerThatHangsUpCount)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("quit");
        session.Return("{}");
        session.SendEvent("SHUTDOWN", "{\"guest\":false}");
    });
    Connect(peer);
    std::vector<std::string> events;
    vs_qmp_client_subscribe(
        client_,
        [](const char *name, json_object *, gpointer user_data) {
            static_cast<std::vector<std::string> *>(user_data)->push_back(name ? name : "closed");
        },
        &events);
    EXPECT_TRUE(vs_qmp_client_do(client_, "quit", nullptr, nullptr, &error_)) << Why();
    while (vs_qmp_client_is_open(client_))
        g_main_context_iteration(nullptr, TRUE);
    EXPECT_EQ(events, (std::vector<std::string>{"SHUTDOWN", "closed"}));
}

TEST_F(QmpClient, NonsenseWhileACommandIsInFlightFailsItAsAProtocolError)
{
    for (const char *nonsense :
         {"{\"execute\":\"a\",\"id\":2}", "{\"return\":{},\"id\":99}", "{\"return\":{},\"id\":0}",
          "{\"return\":{},\"id\":\"2\"}", "{\"return\":{}}",
          "{\"error\":{\"class\":\"GenericError\",\"desc\":\"JSON parse error\"}}", "{\"event\":7}",
          "{}", "[1]", "what?", "{\"return\":null,\"id\":2}", "{\"error\":\"text\",\"id\":2}",
          "{\"error\":{\"class\":\"GenericError\"},\"id\":2}"}) {
        SCOPED_TRACE(nonsense);
        FakeQmpPeer peer([nonsense](FakeQmpSession &session) {
            session.Negotiate();
            session.Expect("a");
            session.SendLine(nonsense);
            session.WaitForHangUp();
        });
        Connect(peer);
        EXPECT_EQ(Call("a"), nullptr);
        EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
        EXPECT_TRUE(Says("QMP command 'a': ")) << Why();
        g_clear_pointer(&client_, vs_qmp_client_free);
        g_clear_error(&error_);
    }
}

// Descriptors.

TEST_F(QmpClient, DescriptorsComeWithTheirCommand)
{
    std::vector<ino_t> inodes;
    std::vector<size_t> counts;
    std::vector<std::string> order;
    FakeQmpPeer peer([&](FakeQmpSession &session) {
        session.Negotiate();
        for (int i = 0; i < 4; i++) {
            FakeQmpCommand command;
            ASSERT_TRUE(session.Receive(&command));
            order.push_back(command.name);
            counts.push_back(command.fds.size());
            struct stat status = {};
            inodes.push_back(
                !command.fds.empty() && fstat(command.fds[0], &status) == 0 ? status.st_ino : 0);
            session.Return("{}");
        }
        session.WaitForHangUp();
    });
    Connect(peer);
    Replies replies;
    std::vector<ino_t> sent;
    for (const char *name : {"first", "second", "third", "plain"}) {
        int fds[2] = {-1, -1};
        ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
        struct stat status = {};
        ASSERT_EQ(fstat(fds[0], &status), 0);
        sent.push_back(strcmp(name, "plain") != 0 ? status.st_ino : 0);
        const VsQmpCommand command = {name, nullptr, fds, strcmp(name, "plain") != 0 ? 1u : 0u, 0};
        vs_qmp_client_send(client_, &command, nullptr, Keep, &replies);
        close(fds[0]);
        close(fds[1]);
    }
    Await(replies, 4);
    EXPECT_EQ(order, (std::vector<std::string>{"first", "second", "third", "plain"}));
    EXPECT_EQ(counts, (std::vector<size_t>{1, 1, 1, 0}));
    EXPECT_EQ(inodes, sent);
}

TEST_F(QmpClient, CommandWithDescriptorsWaitsForTheOneBeforeAndCanBeCancelledMeanwhile)
{
    std::vector<std::string> order;
    FakeQmpPeer peer([&](FakeQmpSession &session) {
        session.Negotiate();
        FakeQmpCommand first = session.Expect("first");
        FakeQmpCommand plain = session.Expect("plain");
        session.ReturnTo(plain, "1");
        session.ReturnTo(first, "2");
        session.WaitForHangUp();
    });
    Connect(peer);
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    Replies replies;
    const int fds[] = {0};
    const VsQmpCommand first = {"first", nullptr, fds, 1, 0};
    const VsQmpCommand second = {"second", nullptr, fds, 1, 0};
    vs_qmp_client_send(client_, &first, nullptr, Keep, &replies);
    vs_qmp_client_send(client_, &second, cancellable, Keep, &replies);
    Send(client_, "plain", &replies);
    g_cancellable_cancel(cancellable);
    Await(replies, 3);
    EXPECT_EQ(replies.texts[1], "1");
    EXPECT_EQ(replies.texts[2], "2");
}

TEST_F(QmpClient, DescriptorOfACommandThatIsSentInPiecesComesOnce)
{
    size_t count = 0;
    FakeQmpPeer peer([&count](FakeQmpSession &session) {
        session.Negotiate();
        count = session.Expect("big").fds.size();
        session.Return("{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    std::string big(4 << 20, 'z');
    const int fds[] = {0};
    const VsQmpCommand command = {"big", vs_qmp_args("x", vs_qmp_str(big.c_str()), NULL), fds, 1,
                                  0};
    json_object *reply = vs_qmp_client_run(client_, &command, nullptr, &error_);
    EXPECT_NE(reply, nullptr) << Why();
    json_object_put(reply);
    EXPECT_EQ(count, 1u);
}

TEST_F(QmpClient, TooManyOrClosedDescriptorsAreRefused)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.WaitForHangUp();
    });
    Connect(peer);
    const int fds[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    const VsQmpCommand many = {"many", nullptr, fds, 9, 0};
    EXPECT_EQ(vs_qmp_client_run(client_, &many, nullptr, &error_), nullptr);
    EXPECT_TRUE(g_error_matches(error_, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT)) << Why();
    g_clear_error(&error_);
    const int closed[] = {1000000};
    const VsQmpCommand bad = {"bad", nullptr, closed, 1, 0};
    EXPECT_EQ(vs_qmp_client_run(client_, &bad, nullptr, &error_), nullptr);
    EXPECT_NE(error_, nullptr);
}

} // namespace
