// SPDX-License-Identifier: LGPL-2.1-or-later
// What the tests of the QMP layer against a fake peer share.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "qmp/client.h"
#include "tests/component/fake_qmp_peer.h"

constexpr unsigned kTimeoutMs = 8000;
constexpr unsigned kShortMs = 100;

// The client and the error of the last call; freed at the end of the test.
class QmpClientFixture : public testing::Test
{
  protected:
    void
    TearDown() override
    {
        vs_qmp_client_free(client_);
        g_clear_error(&error_);
    }

    void
    Connect(const FakeQmpPeer &peer, unsigned timeout_ms = kTimeoutMs)
    {
        client_ = vs_qmp_client_connect(peer.path().c_str(), timeout_ms, nullptr, &error_);
        ASSERT_NE(client_, nullptr) << Why();
    }

    // Expects that connecting to a peer that plays script fails so, and not only at the deadline
    // unless it is short.
    void
    ExpectNoConnection(FakeQmpPeer::Script script, VsQmpError code,
                       unsigned timeout_ms = kTimeoutMs)
    {
        FakeQmpPeer peer(std::move(script));
        gint64 start = g_get_monotonic_time();
        client_ = vs_qmp_client_connect(peer.path().c_str(), timeout_ms, nullptr, &error_);
        EXPECT_EQ(client_, nullptr);
        EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, code)) << Why();
        EXPECT_TRUE(Says("connecting to QMP socket '" + peer.path() + "': ")) << Why();
        EXPECT_LT(g_get_monotonic_time() - start, kTimeoutMs * 1000 / 2) << "at once";
    }

    json_object *
    Call(const char *name)
    {
        g_clear_error(&error_);
        return vs_qmp_client_call(client_, name, nullptr, nullptr, &error_);
    }

    bool
    Says(const std::string &text) const
    {
        return error_ != nullptr && strstr(error_->message, text.c_str()) != nullptr;
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

    VsQmpClient *client_ = nullptr;
    GError *error_ = nullptr;
};

// Replies in the order in which they came.
struct Replies {
    std::vector<std::string> texts;
    VsQmpClient *to_free = nullptr;
};

inline void
Keep(json_object *result, const GError *error, gpointer user_data)
{
    auto *replies = static_cast<Replies *>(user_data);
    EXPECT_NE(result == nullptr, error == nullptr);
    replies->texts.push_back(error != nullptr ? error->message
                                              : json_object_to_json_string(result));
    if (replies->to_free != nullptr)
        vs_qmp_client_free(std::exchange(replies->to_free, nullptr));
}

inline void
Send(VsQmpClient *client, const char *name, Replies *replies, GCancellable *cancellable = nullptr,
     unsigned timeout_ms = 0)
{
    const VsQmpCommand command = {name, nullptr, nullptr, 0, timeout_ms};
    vs_qmp_client_send(client, &command, cancellable, Keep, replies);
}

// Iterates the default context until count replies are there; the commands' deadlines bound it.
inline void
Await(const Replies &replies, size_t count)
{
    while (replies.texts.size() < count)
        g_main_context_iteration(nullptr, TRUE);
}
