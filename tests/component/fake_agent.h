// SPDX-License-Identifier: LGPL-2.1-or-later
// A QEMU guest agent behind its socket that does what a test's script says: answers, lies, stalls,
// hangs up.
//
// It runs the script, on a thread of its own, once for each client that connects, one after another
// as QEMU lets them in. A script that waits longer than kDeadlineMs, or whose expectation fails, is
// a test failure.
//
//     FakeAgent fake([](FakeAgentSession &session) {
//         session.Synchronise();
//         session.Expect("guest-fsfreeze-freeze");
//         session.SendLine("{\"return\": 2}");
//     });
//     vs_qmp_agent_connect(fake.path().c_str(), …);
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "tests/support/temp-dir.h"

// One client's connection. Used by the script only.
class FakeAgentSession
{
  public:
    FakeAgentSession(int fd, int stop_fd) : fd_(fd), stop_fd_(stop_fd)
    {
    }
    ~FakeAgentSession()
    {
        HangUp();
    }
    FakeAgentSession(const FakeAgentSession &) = delete;
    FakeAgentSession &operator=(const FakeAgentSession &) = delete;

    void Send(const std::string &bytes);
    void
    SendLine(const std::string &line)
    {
        Send(line + "\n");
    }
    // The next request must be guest-sync-delimited, behind a sentinel; gives its id.
    std::string ExpectSync();
    void
    AnswerSync(const std::string &id)
    {
        Send("\xff{\"return\": " + id + "}\n");
    }
    void
    Synchronise()
    {
        AnswerSync(ExpectSync());
    }
    // The next request must be this one, without a sentinel.
    void Expect(const std::string &name);
    // The client must hang up, and without another request.
    void ExpectHangUp();
    // Answers nothing until the test is over.
    void Stall();
    void HangUp();

  private:
    bool ReadLine(std::string *line);

    int fd_;
    int stop_fd_;
    std::string buffer_;
};

class FakeAgent
{
  public:
    static constexpr int kDeadlineMs = 10000;

    using Script = std::function<void(FakeAgentSession &)>;

    explicit FakeAgent(Script script);
    // Ends the script wherever it waits.
    ~FakeAgent();
    FakeAgent(const FakeAgent &) = delete;
    FakeAgent &operator=(const FakeAgent &) = delete;

    const std::string &
    path() const
    {
        return path_;
    }

  private:
    void Run();

    Script script_;
    support::TempDir dir_;
    std::string path_;
    int listen_fd_ = -1;
    int stop_read_fd_ = -1;
    int stop_write_fd_ = -1;
    std::thread thread_;
};
