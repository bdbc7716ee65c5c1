// SPDX-License-Identifier: LGPL-2.1-or-later
// The guest agent's client against an agent that answers, lies, stalls, or hangs up.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "qmp/agent.h"
#include "tests/component/fake_agent.h"

namespace
{

constexpr unsigned kTimeoutMs = 8000;
constexpr unsigned kShortMs = 150;

class GuestAgent : public testing::Test
{
  protected:
    void
    TearDown() override
    {
        vs_qmp_agent_free(agent_);
        g_clear_error(&error_);
    }

    void
    Connect(const FakeAgent &fake)
    {
        agent_ = vs_qmp_agent_connect(fake.path().c_str(), kTimeoutMs, nullptr, &error_);
        ASSERT_NE(agent_, nullptr) << Why();
    }
    bool
    Freeze(unsigned timeout_ms = kTimeoutMs)
    {
        g_clear_error(&error_);
        return agent_ != nullptr &&
               vs_qmp_agent_freeze(agent_, &count_, timeout_ms, nullptr, &error_);
    }
    bool
    Thaw(unsigned timeout_ms = kTimeoutMs)
    {
        g_clear_error(&error_);
        return agent_ != nullptr &&
               vs_qmp_agent_thaw(agent_, &count_, timeout_ms, nullptr, &error_);
    }
    bool
    Status(unsigned timeout_ms = kTimeoutMs)
    {
        g_clear_error(&error_);
        return agent_ != nullptr &&
               vs_qmp_agent_status(agent_, &frozen_, timeout_ms, nullptr, &error_);
    }
    // What freezing does with an agent that gives this answer to it.
    void
    FreezeAnsweredBy(const std::string &answer)
    {
        FakeAgent fake([&](FakeAgentSession &session) {
            session.Synchronise();
            session.Synchronise();
            session.Expect("guest-fsfreeze-freeze");
            session.Send(answer);
            session.ExpectHangUp();
        });
        Connect(fake);
        EXPECT_FALSE(Freeze());
        vs_qmp_agent_free(g_steal_pointer(&agent_));
    }
    bool
    Failed(VsQmpError code) const
    {
        return g_error_matches(error_, VS_QMP_ERROR, code);
    }
    std::string
    Why() const
    {
        return error_ != nullptr ? error_->message : "(no error)";
    }
    bool
    Says(const std::string &text) const
    {
        return Why().find(text) != std::string::npos;
    }

    VsQmpAgent *agent_ = nullptr;
    GError *error_ = nullptr;
    unsigned count_ = 99;
    bool frozen_ = false;
};

void
Answer(FakeAgentSession &session, const std::string &command, const std::string &result)
{
    session.Synchronise();
    session.Expect(command);
    session.SendLine("{\"return\": " + result + "}");
}

TEST_F(GuestAgent, FreezesTellsAndThaws)
{
    FakeAgent fake([](FakeAgentSession &session) {
        session.Synchronise();
        Answer(session, "guest-fsfreeze-freeze", "3");
        Answer(session, "guest-fsfreeze-status", "\"frozen\"");
        Answer(session, "guest-fsfreeze-thaw", "2");
        Answer(session, "guest-fsfreeze-status", "\"thawed\"");
        session.ExpectHangUp();
    });
    Connect(fake);
    ASSERT_TRUE(Freeze()) << Why();
    EXPECT_EQ(count_, 3u);
    ASSERT_TRUE(Status()) << Why();
    EXPECT_TRUE(frozen_);
    ASSERT_TRUE(Thaw()) << Why();
    EXPECT_EQ(count_, 2u);
    ASSERT_TRUE(Status()) << Why();
    EXPECT_FALSE(frozen_);
}

TEST_F(GuestAgent, GuestWithoutAFileSystemToFreezeOrThawIsNoError)
{
    FakeAgent fake([](FakeAgentSession &session) {
        session.Synchronise();
        Answer(session, "guest-fsfreeze-freeze", "0");
        Answer(session, "guest-fsfreeze-thaw", "0");
        session.ExpectHangUp();
    });
    Connect(fake);
    ASSERT_TRUE(Freeze()) << Why();
    EXPECT_EQ(count_, 0u);
    count_ = 99;
    ASSERT_TRUE(Thaw()) << Why();
    EXPECT_EQ(count_, 0u);
}

TEST_F(GuestAgent, WhatStandsBeforeItsSentinelIsDropped)
{
    FakeAgent fake([](FakeAgentSession &session) {
        session.Send("half a line of an earlier client's, \xc3\x28\n{\"return\": 1}\n\xff");
        std::string id = session.ExpectSync();
        session.Send(
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n");
        session.AnswerSync("4711"); // to an earlier client
        session.Send("\xff" + std::string(300000, 'x'));
        session.AnswerSync(id);
        Answer(session, "guest-fsfreeze-freeze", "1");
        session.ExpectHangUp();
    });
    Connect(fake);
    ASSERT_TRUE(Freeze()) << Why();
    EXPECT_EQ(count_, 1u);
}

TEST_F(GuestAgent, AnswerToASynchronisationCountsOnlyBehindItsSentinel)
{
    FakeAgent fake([](FakeAgentSession &session) {
        session.Synchronise();
        session.SendLine("{\"return\": " + session.ExpectSync() + "}");
        session.ExpectHangUp();
    });
    Connect(fake);
    EXPECT_FALSE(Freeze(kShortMs));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
}

TEST_F(GuestAgent, AnswersMayComeByteForByte)
{
    FakeAgent fake([](FakeAgentSession &session) {
        for (char byte : "\xff{\"return\": " + session.ExpectSync() + "}\r\n")
            session.Send(std::string(1, byte));
        session.Synchronise();
        session.Expect("guest-fsfreeze-freeze");
        for (char byte : std::string("{\"return\": 12}\n"))
            session.Send(std::string(1, byte));
        session.ExpectHangUp();
    });
    Connect(fake);
    ASSERT_TRUE(Freeze()) << Why();
    EXPECT_EQ(count_, 12u);
}

TEST_F(GuestAgent, SilenceBehindTheSocketIsATimeoutThatNamesTheReasons)
{
    FakeAgent fake([](FakeAgentSession &session) { session.Stall(); });
    agent_ = vs_qmp_agent_connect(fake.path().c_str(), kShortMs, nullptr, &error_);
    EXPECT_EQ(agent_, nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
    EXPECT_EQ(Why(), "guest agent at '" + fake.path() +
                         "': guest-sync-delimited was not answered within 150 ms (no agent runs in "
                         "the guest, it is stuck, or another client holds its socket)");
}

TEST_F(GuestAgent, AgentThatTalksWithoutEndMeetsTheDeadline)
{
    FakeAgent fake([](FakeAgentSession &session) {
        for (;;)
            session.Send("\xff{\"return\": 1}\n");
    });
    agent_ = vs_qmp_agent_connect(fake.path().c_str(), kShortMs, nullptr, &error_);
    EXPECT_EQ(agent_, nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
}

TEST_F(GuestAgent, SocketThatDoesNotExistIsAConnectError)
{
    agent_ = vs_qmp_agent_connect("/nowhere/at/all", kTimeoutMs, nullptr, &error_);
    EXPECT_EQ(agent_, nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CONNECT)) << Why();
    EXPECT_EQ(Why(), "guest agent at '/nowhere/at/all': No such file or directory");
}

TEST_F(GuestAgent, FreezeIsNotSentToAnAgentThatHasStoppedAnswering)
{
    FakeAgent fake([](FakeAgentSession &session) {
        session.Synchronise();
        session.ExpectSync();
        session.ExpectHangUp();
    });
    Connect(fake);
    EXPECT_FALSE(Freeze(kShortMs));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
    EXPECT_TRUE(Says("guest-sync-delimited")) << Why();
}

TEST_F(GuestAgent, StoppedAgentDoesNotHoldAFreezeForItsWholeDeadline)
{
    FakeAgent fake([](FakeAgentSession &session) {
        session.Synchronise();
        session.Stall();
    });
    Connect(fake);
    gint64 start = g_get_monotonic_time();
    EXPECT_FALSE(Freeze(60000));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
    EXPECT_TRUE(Says("within 5000 ms")) << Why();
    EXPECT_LT(g_get_monotonic_time() - start, 20 * G_USEC_PER_SEC);
}

TEST_F(GuestAgent, ThawStandsBehindAFreezeThatTimedOutAndSkipsItsLateAnswer)
{
    std::atomic<bool> late{false};
    FakeAgent fake([&](FakeAgentSession &session) {
        session.Synchronise();
        session.Synchronise();
        session.Expect("guest-fsfreeze-freeze");
        // Nothing of the thaw may wait for an answer: the agent is still at the freeze.
        std::string id = session.ExpectSync();
        session.Expect("guest-fsfreeze-thaw");
        session.SendLine("{\"return\": 7}");
        late = true;
        session.AnswerSync(id);
        session.SendLine("{\"return\": 5}");
        session.ExpectHangUp();
    });
    Connect(fake);
    EXPECT_FALSE(Freeze(kShortMs));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TIMEOUT)) << Why();
    EXPECT_EQ(Why(), "guest agent at '" + fake.path() +
                         "': guest-fsfreeze-freeze was not answered within 150 ms");
    EXPECT_FALSE(late);
    ASSERT_TRUE(Thaw()) << Why();
    EXPECT_EQ(count_, 5u) << "not the freeze's";
}

TEST_F(GuestAgent, SecondAnswerToOneCommandIsNotTheNextOnes)
{
    FakeAgent fake([](FakeAgentSession &session) {
        session.Synchronise();
        Answer(session, "guest-fsfreeze-freeze", "3");
        session.SendLine("{\"return\": 4}");
        Answer(session, "guest-fsfreeze-thaw", "5");
        session.ExpectHangUp();
    });
    Connect(fake);
    ASSERT_TRUE(Freeze()) << Why();
    EXPECT_EQ(count_, 3u);
    ASSERT_TRUE(Thaw()) << Why();
    EXPECT_EQ(count_, 5u);
}

TEST_F(GuestAgent, ItsErrorIsPassedOnInOnePrintableLine)
{
    FreezeAnsweredBy("{\"error\": {\"class\": \"GenericError\", \"desc\": "
                     "\"failed to freeze /a\\n\\u001b[2J\\u202eb\"}}\n");
    EXPECT_TRUE(Failed(VS_QMP_ERROR_COMMAND)) << Why();
    EXPECT_TRUE(Says("': guest-fsfreeze-freeze: failed to freeze /a??[2J?b")) << Why();
    FreezeAnsweredBy("{\"error\": {\"class\": \"GenericError\", \"desc\": \"" +
                     std::string(50000, 'e') + "\"}}\n");
    EXPECT_TRUE(Failed(VS_QMP_ERROR_COMMAND)) << Why();
    EXPECT_LT(Why().size(), 500u);
}

TEST_F(GuestAgent, AnswerThatMakesNoSenseIsAProtocolError)
{
    for (const char *answer :
         {"{\"return\": -1}\n", "{\"return\": \"1\"}\n", "{\"return\": 4294967296}\n",
          "{\"return\": null}\n", "{\"return\": {}}\n", "{}\n", "[]\n", "{\"error\": {}}\n",
          "{\"error\": {\"desc\": 1}}\n", "{\"error\": 1}\n", "{\"return\": 1\n"}) {
        SCOPED_TRACE(answer);
        FreezeAnsweredBy(answer);
        EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
    }
    FreezeAnsweredBy(std::string(200000, 'x'));
    EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
}

TEST_F(GuestAgent, StatusThatIsNeitherFrozenNorThawedIsAProtocolError)
{
    for (const char *word : {"\"melting\"", "1", "{}"}) {
        FakeAgent fake([word](FakeAgentSession &session) {
            session.Synchronise();
            Answer(session, "guest-fsfreeze-status", word);
            session.ExpectHangUp();
        });
        Connect(fake);
        EXPECT_FALSE(Status());
        EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
        vs_qmp_agent_free(g_steal_pointer(&agent_));
    }
}

TEST_F(GuestAgent, CommandAfterABrokenAnswerWorksAgain)
{
    FakeAgent fake([](FakeAgentSession &session) {
        session.Synchronise();
        Answer(session, "guest-fsfreeze-freeze", "1}}}");
        Answer(session, "guest-fsfreeze-thaw", "1");
        session.ExpectHangUp();
    });
    Connect(fake);
    EXPECT_FALSE(Freeze());
    EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
    EXPECT_TRUE(Thaw()) << Why();
}

TEST_F(GuestAgent, HangUpWithinAnAnswerIsClosedAndTheNextCallConnectsAgain)
{
    std::atomic<int> clients{0};
    FakeAgent fake([&](FakeAgentSession &session) {
        if (clients++ == 0) {
            session.Synchronise();
            session.Synchronise();
            session.Expect("guest-fsfreeze-freeze");
            session.Send("{\"retu");
            session.HangUp();
            return;
        }
        Answer(session, "guest-fsfreeze-thaw", "1");
        session.ExpectHangUp();
    });
    Connect(fake);
    EXPECT_FALSE(Freeze());
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CLOSED)) << Why();
    EXPECT_TRUE(Thaw()) << Why();
    EXPECT_EQ(count_, 1u);
}

// Cancels from the client's own main loop, once the agent has the freeze.
struct Canceller {
    std::atomic<bool> now{false};
    GCancellable *cancellable = g_cancellable_new();

    static gboolean
    Tick(gpointer data)
    {
        auto *self = static_cast<Canceller *>(data);
        if (!self->now)
            return G_SOURCE_CONTINUE;
        g_cancellable_cancel(self->cancellable);
        return G_SOURCE_REMOVE;
    }
    ~Canceller()
    {
        g_object_unref(cancellable);
    }
};

TEST_F(GuestAgent, CancellingEndsAFreezeAtOnceAndThawStillWorks)
{
    Canceller canceller;
    FakeAgent fake([&](FakeAgentSession &session) {
        session.Synchronise();
        session.Synchronise();
        session.Expect("guest-fsfreeze-freeze");
        canceller.now = true;
        Answer(session, "guest-fsfreeze-thaw", "1");
        session.ExpectHangUp();
    });
    Connect(fake);
    ASSERT_NE(agent_, nullptr);
    g_timeout_add(5, Canceller::Tick, &canceller);
    gint64 start = g_get_monotonic_time();
    EXPECT_FALSE(vs_qmp_agent_freeze(agent_, &count_, kTimeoutMs, canceller.cancellable, &error_));
    EXPECT_TRUE(g_error_matches(error_, G_IO_ERROR, G_IO_ERROR_CANCELLED)) << Why();
    EXPECT_LT(g_get_monotonic_time() - start, kTimeoutMs * 1000 / 2);
    EXPECT_TRUE(Thaw()) << Why();
}

// What a callback does while a freeze iterates the context.
struct Nested {
    VsQmpAgent *agent = nullptr;
    bool refused = false;
};

TEST_F(GuestAgent, SecondCallBelowAnotherIsRefused)
{
    Nested nested;
    FakeAgent fake([](FakeAgentSession &session) {
        session.Synchronise();
        session.Synchronise();
        session.Expect("guest-fsfreeze-freeze");
        session.ExpectHangUp();
    });
    Connect(fake);
    nested.agent = agent_;
    g_idle_add(
        [](gpointer data) -> gboolean {
            auto *below = static_cast<Nested *>(data);
            g_autoptr(GError) error = nullptr;
            below->refused =
                !vs_qmp_agent_thaw(below->agent, nullptr, kTimeoutMs, nullptr, &error) &&
                g_error_matches(error, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN);
            return G_SOURCE_REMOVE;
        },
        &nested);
    EXPECT_FALSE(Freeze(kShortMs));
    EXPECT_TRUE(nested.refused);
}

} // namespace
