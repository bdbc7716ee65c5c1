// SPDX-License-Identifier: LGPL-2.1-or-later
// Events, waiting for them, and freeing the client from within its callbacks.
#include <vector>

#include "tests/component/qmp_client_fixture.h"

namespace
{

class QmpEvents : public QmpClientFixture
{
  protected:
    // Commands a and b are in flight when the callback of the one that ends first frees the client.
    void
    SendTwoAndFreeAtTheFirstReply(Replies *replies)
    {
        VsQmpClient *client = std::exchange(client_, nullptr);
        replies->to_free = client;
        Send(client, "a", replies);
        Send(client, "b", replies);
        Await(*replies, 2);
    }
};

TEST_F(QmpEvents, EventsReachSubscribersUntilTheyUnsubscribe)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("end");
        for (int i = 0; i < 3; i++)
            session.SendEvent("E", "{\"n\":" + std::to_string(i) + "}");
        session.SendLine("{\"event\":\"BARE\"}");
        session.Return("{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    struct State {
        VsQmpClient *client;
        unsigned first, second;
        std::string seen;
    } state = {client_, 0, 0, ""};
    // The first unsubscribes both at the second event, before it is the other one's turn.
    state.first = vs_qmp_client_subscribe(
        client_,
        [](const char *, json_object *data, gpointer user_data) {
            auto *shared = static_cast<State *>(user_data);
            json_object *n = json_object_object_get(data, "n");
            shared->seen += "a" + std::string(json_object_get_string(n));
            if (json_object_get_int(n) == 1) {
                vs_qmp_client_unsubscribe(shared->client, shared->first);
                vs_qmp_client_unsubscribe(shared->client, shared->second);
            }
        },
        &state);
    state.second = vs_qmp_client_subscribe(
        client_,
        [](const char *, json_object *data, gpointer user_data) {
            static_cast<State *>(user_data)->seen +=
                "b" + std::string(json_object_get_string(json_object_object_get(data, "n")));
        },
        &state);
    std::string bare;
    vs_qmp_client_subscribe(
        client_,
        [](const char *name, json_object *data, gpointer user_data) {
            if (g_strcmp0(name, "BARE") == 0)
                *static_cast<std::string *>(user_data) = data == nullptr ? "no data" : "data";
        },
        &bare);
    EXPECT_NE(state.first, 0u);
    EXPECT_NE(state.first, state.second);
    EXPECT_TRUE(vs_qmp_client_do(client_, "end", nullptr, nullptr, &error_)) << Why();
    EXPECT_EQ(state.seen, "a0b0a1");
    EXPECT_EQ(bare, "no data");
}

TEST_F(QmpEvents, SubscriberMayRunACommand)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        FakeQmpCommand outer = session.Expect("outer");
        session.SendEvent("E", "{}");
        FakeQmpCommand inner = session.Expect("inner");
        session.ReturnTo(inner, "{}");
        session.ReturnTo(outer, "{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    struct State {
        VsQmpClient *client;
        bool ran;
    } state = {client_, false};
    vs_qmp_client_subscribe(
        client_,
        [](const char *name, json_object *, gpointer user_data) {
            auto *shared = static_cast<State *>(user_data);
            if (name != nullptr)
                shared->ran = vs_qmp_client_do(shared->client, "inner", nullptr, nullptr, nullptr);
        },
        &state);
    EXPECT_TRUE(vs_qmp_client_do(client_, "outer", nullptr, nullptr, &error_)) << Why();
    EXPECT_TRUE(state.ran);
}

TEST_F(QmpEvents, WaitingEndsByConditionErrorDeadlineCancellationOrHangUp)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("begin");
        session.SendEvent("E", "{}");
        session.Expect("hang-up");
    });
    Connect(peer);
    int events = 0;
    vs_qmp_client_subscribe(
        client_,
        [](const char *name, json_object *, gpointer user_data) {
            *static_cast<int *>(user_data) += name != nullptr;
        },
        &events);
    auto one_event = [](gpointer user_data, GError **) {
        return *static_cast<int *>(user_data) == 1;
    };
    auto never = [](gpointer, GError **) { return false; };
    auto gives_up = [](gpointer, GError **error) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "given up");
        return false;
    };
    Replies replies;
    Send(client_, "begin", &replies);
    EXPECT_TRUE(vs_qmp_client_wait(client_, one_event, &events, kTimeoutMs, nullptr, &error_))
        << Why();
    EXPECT_TRUE(vs_qmp_client_wait(client_, one_event, &events, 0, nullptr, &error_)) << Why();
    EXPECT_FALSE(vs_qmp_client_wait(client_, gives_up, nullptr, kTimeoutMs, nullptr, &error_));
    EXPECT_EQ(Why(), "given up");
    g_clear_error(&error_);
    EXPECT_FALSE(vs_qmp_client_wait(client_, never, nullptr, 50, nullptr, &error_));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
    g_clear_error(&error_);
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_cancellable_cancel(cancellable);
    EXPECT_FALSE(vs_qmp_client_wait(client_, never, nullptr, kTimeoutMs, cancellable, &error_));
    EXPECT_TRUE(g_error_matches(error_, G_IO_ERROR, G_IO_ERROR_CANCELLED)) << Why();
    g_clear_error(&error_);
    Send(client_, "hang-up", &replies);
    EXPECT_FALSE(vs_qmp_client_wait(client_, never, nullptr, kTimeoutMs, nullptr, &error_));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CLOSED)) << Why();
}

TEST_F(QmpEvents, EventsWithoutEndDoNotKeepADeadlineFromPassing)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        for (;;)
            session.SendEvent("NOISE", "{}");
    });
    Connect(peer);
    const VsQmpCommand command = {"x", nullptr, nullptr, 0, kShortMs};
    EXPECT_EQ(vs_qmp_client_run(client_, &command, nullptr, &error_), nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
}

// Freeing.

TEST_F(QmpEvents, FreeingCallsBackWhatIsInFlight)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.WaitForHangUp();
    });
    Connect(peer);
    Replies replies;
    Send(client_, "a", &replies);
    Send(client_, "b", &replies);
    vs_qmp_client_free(std::exchange(client_, nullptr));
    ASSERT_EQ(replies.texts.size(), 2u);
    EXPECT_NE(replies.texts[0].find("the client was closed"), std::string::npos);
}

TEST_F(QmpEvents, ReplyCallbackMayFreeTheClient)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("a");
        session.Return("1");
        session.SendEvent("E", "{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    Replies replies;
    SendTwoAndFreeAtTheFirstReply(&replies);
    EXPECT_EQ(replies.texts[1], "QMP command 'b': the client was closed");
}

TEST_F(QmpEvents, SubscriberMayFreeTheClientUnderAWaitingCommand)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("a");
        session.SendEvent("E", "{}");
        session.SendEvent("E", "{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    VsQmpClient *client = client_;
    vs_qmp_client_subscribe(
        client,
        [](const char *, json_object *, gpointer user_data) {
            vs_qmp_client_free(std::exchange(*static_cast<VsQmpClient **>(user_data), nullptr));
        },
        &client_);
    EXPECT_EQ(vs_qmp_client_call(client, "a", nullptr, nullptr, &error_), nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CLOSED)) << Why();
    EXPECT_EQ(client_, nullptr);
}

TEST_F(QmpEvents, CallbackOfTheHangUpMayFreeTheClient)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.Expect("a");
    });
    Connect(peer);
    Replies replies;
    SendTwoAndFreeAtTheFirstReply(&replies);
}

} // namespace
