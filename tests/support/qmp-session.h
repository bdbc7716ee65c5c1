// SPDX-License-Identifier: LGPL-2.1-or-later
// A synchronous QMP client for tests. It shares no code with qmp/, so that a fault there can't hide
// itself here.
#ifndef TESTS_SUPPORT_QMP_SESSION_H
#define TESTS_SUPPORT_QMP_SESSION_H

#include "tests/support/json.h"
#include "tests/support/wait.h"

#include <deque>
#include <string>

namespace support
{

class QmpSession
{
  public:
    // Connects (tries until @timeout, for a QEMU that is still starting), reads the greeting and
    // negotiates. Throws std::runtime_error on any failure, as all methods do.
    explicit QmpSession(const std::string &socket_path,
                        Milliseconds timeout = std::chrono::seconds(10));
    ~QmpSession();
    QmpSession(const QmpSession &) = delete;
    QmpSession &operator=(const QmpSession &) = delete;

    // Runs COMMAND with the JSON object @arguments and returns what it returns.
    Json execute(const std::string &command, const std::string &arguments = "{}");
    // Runs a line of the human monitor and returns what it prints.
    std::string human(const std::string &line);
    // The next event NAME, also one that came during an earlier command.
    Json wait_event(const std::string &name, Milliseconds timeout = std::chrono::seconds(10));

  private:
    Json read_message(Clock::time_point deadline);
    void send(const std::string &text);

    int fd_ = -1;
    std::string buffer_;
    std::deque<Json> events_;
};

} // namespace support

#endif
