// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/qmp-session.h"

#include <cerrno>
#include <cstring>
#include <poll.h>
#include <stdexcept>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace support
{

namespace
{

// A command that takes longer has hung QEMU.
constexpr Milliseconds COMMAND_TIMEOUT(30000);

bool
try_connect(int fd, const std::string &path)
{
    struct sockaddr_un address = {};

    if (path.size() >= sizeof address.sun_path)
        throw std::runtime_error("socket path too long: " + path);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return connect(fd, reinterpret_cast<struct sockaddr *>(&address), sizeof address) == 0;
}

} // namespace

QmpSession::QmpSession(const std::string &socket_path, Milliseconds timeout)
{
    const auto deadline = Clock::now() + timeout;

    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    try {
        if (fd_ < 0 || !wait_until(timeout, [&] { return try_connect(fd_, socket_path); }))
            throw std::runtime_error("connect " + socket_path + ": " + strerror(errno));
        if (!read_message(deadline).has("QMP"))
            throw std::runtime_error(socket_path + ": no QMP greeting");
        execute("qmp_capabilities");
    } catch (...) {
        if (fd_ >= 0)
            close(fd_);
        throw;
    }
}

QmpSession::~QmpSession()
{
    close(fd_);
}

void
QmpSession::send(const std::string &text)
{
    size_t sent = 0;

    while (sent < text.size()) {
        ssize_t count = ::send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            throw std::runtime_error(std::string("QMP send: ") + strerror(errno));
        sent += static_cast<size_t>(count);
    }
}

Json
QmpSession::read_message(Clock::time_point deadline)
{
    size_t end;

    while ((end = buffer_.find('\n')) == std::string::npos) {
        struct pollfd readable = {fd_, POLLIN, 0};
        char chunk[16384];
        ssize_t got;

        if (poll(&readable, 1, left_ms(deadline)) == 0)
            throw std::runtime_error("QMP: no message in time");
        got = recv(fd_, chunk, sizeof chunk, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            throw std::runtime_error("QMP: connection closed");
        buffer_.append(chunk, static_cast<size_t>(got));
    }
    Json message = Json::parse(buffer_.substr(0, end));
    buffer_.erase(0, end + 1);
    return message;
}

Json
QmpSession::execute(const std::string &command, const std::string &arguments)
{
    const auto deadline = Clock::now() + COMMAND_TIMEOUT;

    send("{\"execute\":" + json_quote(command) + ",\"arguments\":" + arguments + "}\n");
    for (;;) {
        Json message = read_message(deadline);

        if (message.has("return"))
            return message["return"];
        if (message.has("error"))
            throw std::runtime_error(command + ": " + message["error"]["desc"].text());
        events_.push_back(message);
    }
}

std::string
QmpSession::human(const std::string &line)
{
    return execute("human-monitor-command", "{\"command-line\":" + json_quote(line) + "}").text();
}

Json
QmpSession::wait_event(const std::string &name, Milliseconds timeout)
{
    const auto deadline = Clock::now() + timeout;

    for (size_t i = 0;; i++) {
        if (i == events_.size())
            events_.push_back(read_message(deadline));
        if (events_[i]["event"].text() == name) {
            Json event = events_[i];

            events_.erase(events_.begin() + static_cast<std::ptrdiff_t>(i));
            return event;
        }
    }
}

} // namespace support
