// SPDX-License-Identifier: LGPL-2.1-or-later
// Stands between the program under test and the real agent in the guest: passes everything on,
// notes the commands, and can hold an answer back or give one of its own. So that a test can act at
// the very moment when the guest is frozen.
#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/wait.h"

class AgentProxy
{
  public:
    enum class Place {
        kInFrontOfSocket, // QEMU listens at the path: the socket is renamed, and ours put there
        kBetweenClients,  // QEMU connects to the path too, and is the first who does
    };

    AgentProxy(std::string path, Place place);
    // Hangs up; what is held back is lost. Does not give QEMU its socket's name back.
    ~AgentProxy();
    AgentProxy(const AgentProxy &) = delete;
    AgentProxy &operator=(const AgentProxy &) = delete;

    // From now on the answers to @command, and all behind them, are held back till release().
    // Requests are passed on all the same.
    void hold(const std::string &command);
    void release();
    // From now on @command is not passed on, but answered by this line.
    void answer(const std::string &command, const std::string &line);

    // How often this, or anything, has been asked for so far.
    size_t count(const std::string &command);
    size_t count();
    // Till an answer is held back; false after a long while.
    bool wait_until_held();

  private:
    struct Line {
        std::string text;
        std::string command;
    };

    int listen_at(const std::string &path) const;
    int open_agent();
    void run();
    void serve(int client, int agent);
    void on_request(const std::string &line, int client, int agent);
    void on_answer(const std::string &line);
    // Sends what nothing holds back.
    void flush(int client);

    std::string path_;
    Place place_;
    int listen_fd_ = -1;
    int agent_fd_ = -1; // kBetweenClients: QEMU's connection
    int wake_read_fd_ = -1;
    int wake_write_fd_ = -1;
    std::mutex mutex_;
    bool is_over_ = false;
    std::string held_command_;
    std::map<std::string, std::string> own_answers_;
    std::vector<std::string> seen_;
    std::deque<std::string> pending_; // commands that the agent has yet to answer
    std::deque<Line> answers_;        // that the client has yet to get
    std::thread thread_;
};
