// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/component/fake_agent.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdexcept>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/json.h"

namespace
{

// Ends a script without being a failure: the client has gone, or the test is over.
struct ScriptOver {
};

void
WaitFor(int fd, short events, int stop_fd)
{
    pollfd polled[] = {{fd, events, 0}, {stop_fd, POLLIN, 0}};
    if (poll(polled, 2, FakeAgent::kDeadlineMs) <= 0)
        throw std::runtime_error("the fake agent waited in vain for its client");
    if (polled[1].revents != 0)
        throw ScriptOver();
}

} // namespace

void
FakeAgentSession::Send(const std::string &bytes)
{
    size_t sent = 0;
    while (sent < bytes.size()) {
        WaitFor(fd_, POLLOUT, stop_fd_);
        ssize_t length =
            send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (length < 0 && errno != EAGAIN)
            throw ScriptOver();
        sent += length > 0 ? static_cast<size_t>(length) : 0;
    }
}

// Without its newline. False when the client has hung up.
bool
FakeAgentSession::ReadLine(std::string *line)
{
    size_t end = 0;
    while ((end = buffer_.find('\n')) == std::string::npos) {
        char bytes[4096];
        WaitFor(fd_, POLLIN, stop_fd_);
        ssize_t length = recv(fd_, bytes, sizeof bytes, 0);
        if (length <= 0)
            return false;
        buffer_.append(bytes, static_cast<size_t>(length));
    }
    *line = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    return true;
}

std::string
FakeAgentSession::ExpectSync()
{
    std::string line;
    if (!ReadLine(&line))
        throw std::runtime_error("the client hung up instead of synchronising");
    if (line.empty() || line[0] != '\xff')
        throw std::runtime_error("no sentinel before " + line);
    const support::Json request = support::Json::parse(line.substr(1));
    if (request["execute"].text() != "guest-sync-delimited")
        throw std::runtime_error("the client sent " + line + " instead of synchronising");
    return request["arguments"]["id"].dump();
}

void
FakeAgentSession::Expect(const std::string &name)
{
    std::string line;
    if (!ReadLine(&line))
        throw std::runtime_error("the client hung up instead of sending " + name);
    if (support::Json::parse(line)["execute"].text() != name)
        throw std::runtime_error("the client sent " + line + " instead of " + name);
}

void
FakeAgentSession::ExpectHangUp()
{
    std::string line;
    if (ReadLine(&line))
        throw std::runtime_error("the client sent " + line + " instead of hanging up");
}

void
FakeAgentSession::Stall()
{
    WaitFor(stop_fd_, POLLIN, stop_fd_);
}

void
FakeAgentSession::HangUp()
{
    if (fd_ >= 0)
        close(fd_);
    fd_ = -1;
}

FakeAgent::FakeAgent(Script script) : script_(std::move(script)), path_(dir_.file("agent"))
{
    int pipe_fds[2] = {-1, -1};
    EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    stop_read_fd_ = pipe_fds[0];
    stop_write_fd_ = pipe_fds[1];

    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    listen_fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(bind(listen_fd_, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listen_fd_, 8), 0);
    thread_ = std::thread(&FakeAgent::Run, this);
}

FakeAgent::~FakeAgent()
{
    close(stop_write_fd_);
    thread_.join();
    close(stop_read_fd_);
    close(listen_fd_);
}

void
FakeAgent::Run()
{
    for (;;) {
        pollfd polled[] = {{listen_fd_, POLLIN, 0}, {stop_read_fd_, POLLIN, 0}};
        if (poll(polled, 2, -1) < 0 || polled[1].revents != 0)
            return;
        int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0)
            return;
        FakeAgentSession session(fd, stop_read_fd_);
        try {
            script_(session);
        } catch (const ScriptOver &) {
        } catch (const std::exception &failure) {
            ADD_FAILURE() << failure.what();
        }
    }
}
