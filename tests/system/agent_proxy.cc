// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/system/agent_proxy.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <stdexcept>
#include <sys/socket.h>
#include <sys/un.h>
#include <system_error>
#include <unistd.h>

#include "tests/support/json.h"

namespace
{

constexpr std::chrono::seconds kDeadline(60);

sockaddr_un
address_of(const std::string &path)
{
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        throw std::runtime_error("too long for a socket: " + path);
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
}

int
new_socket()
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        throw std::system_error(errno, std::generic_category(), "socket");
    return fd;
}

// Whoever has hung up is noticed when reading.
void
send_all(int fd, const std::string &bytes)
{
    for (size_t sent = 0; sent < bytes.size();) {
        const ssize_t length = send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
        if (length <= 0)
            return;
        sent += static_cast<size_t>(length);
    }
}

// Adds what is there to @buffer, and takes whole lines, with their end, from it. False: hung up.
bool
read_lines(int fd, std::string *buffer, std::vector<std::string> *lines)
{
    char bytes[4096];
    const ssize_t length = recv(fd, bytes, sizeof bytes, 0);
    if (length <= 0)
        return false;
    buffer->append(bytes, static_cast<size_t>(length));
    for (size_t end = 0; (end = buffer->find('\n')) != std::string::npos;) {
        lines->push_back(buffer->substr(0, end + 1));
        buffer->erase(0, end + 1);
    }
    return true;
}

// Behind the sentinel, where there is one.
std::string
command_of(const std::string &line)
{
    const size_t begin = line.find('{');
    return begin == std::string::npos ? ""
                                      : support::Json::parse(line.substr(begin))["execute"].text();
}

} // namespace

AgentProxy::AgentProxy(std::string path, Place place) : path_(std::move(path)), place_(place)
{
    int pipe_fds[2] = {-1, -1};
    if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0)
        throw std::system_error(errno, std::generic_category(), "pipe2");
    wake_read_fd_ = pipe_fds[0];
    wake_write_fd_ = pipe_fds[1];
    if (place_ == Place::kInFrontOfSocket)
        std::filesystem::rename(path_, path_ + ".qemu");
    listen_fd_ = listen_at(path_);
    thread_ = std::thread(&AgentProxy::run, this);
}

AgentProxy::~AgentProxy()
{
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_over_ = true;
    }
    (void)!write(wake_write_fd_, "", 1);
    thread_.join();
    for (int fd : {listen_fd_, agent_fd_, wake_read_fd_, wake_write_fd_})
        if (fd >= 0)
            close(fd);
}

int
AgentProxy::listen_at(const std::string &path) const
{
    const int fd = new_socket();
    const sockaddr_un address = address_of(path);
    if (bind(fd, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0 ||
        listen(fd, 8) != 0)
        throw std::system_error(errno, std::generic_category(), "listening at " + path);
    // QEMU and libvirt may run as another user.
    std::filesystem::permissions(path, std::filesystem::perms::all);
    return fd;
}

void
AgentProxy::hold(const std::string &command)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    held_command_ = command;
}

void
AgentProxy::release()
{
    hold("");
    (void)!write(wake_write_fd_, "", 1);
}

void
AgentProxy::answer(const std::string &command, const std::string &line)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    own_answers_[command] = line + "\n";
}

size_t
AgentProxy::count(const std::string &command)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<size_t>(std::count(seen_.begin(), seen_.end(), command));
}

size_t
AgentProxy::count()
{
    const std::lock_guard<std::mutex> lock(mutex_);
    return seen_.size();
}

bool
AgentProxy::wait_until_held()
{
    return support::wait_until(kDeadline, [&] {
        const std::lock_guard<std::mutex> lock(mutex_);
        return !held_command_.empty() && !answers_.empty() &&
               answers_.front().command == held_command_;
    });
}

// One connection of QEMU's for each client, since it lets the next one in only when the last has
// hung up; but where QEMU is a client itself it stays.
int
AgentProxy::open_agent()
{
    if (place_ == Place::kBetweenClients)
        return dup(agent_fd_);
    const int fd = new_socket();
    const sockaddr_un address = address_of(path_ + ".qemu");
    if (connect(fd, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void
AgentProxy::run()
{
    for (;;) {
        pollfd polled[] = {{listen_fd_, POLLIN, 0}, {wake_read_fd_, POLLIN, 0}};
        if (poll(polled, 2, -1) < 0)
            return;
        char wakes[64];
        if (polled[1].revents != 0)
            (void)!read(wake_read_fd_, wakes, sizeof wakes);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (is_over_)
                return;
        }
        const int fd =
            polled[0].revents != 0 ? accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC) : -1;
        if (fd >= 0 && place_ == Place::kBetweenClients && agent_fd_ < 0) {
            agent_fd_ = fd;
        } else if (fd >= 0) {
            const int agent = open_agent();
            if (agent >= 0)
                serve(fd, agent);
            close(fd);
            if (agent >= 0)
                close(agent);
        }
    }
}

void
AgentProxy::on_request(const std::string &line, int client, int agent)
{
    const std::string command = command_of(line);
    const std::lock_guard<std::mutex> lock(mutex_);
    seen_.push_back(command);
    const auto own = own_answers_.find(command);
    if (own != own_answers_.end()) {
        send_all(client, own->second);
        return;
    }
    pending_.push_back(command);
    send_all(agent, line);
}

void
AgentProxy::on_answer(const std::string &line)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    // An agent says more than it was asked only where an earlier client has left something.
    std::string command;
    if (!pending_.empty()) {
        command = pending_.front();
        pending_.pop_front();
    }
    answers_.push_back({line, command});
}

void
AgentProxy::flush(int client)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    while (!answers_.empty() &&
           (held_command_.empty() || answers_.front().command != held_command_)) {
        send_all(client, answers_.front().text);
        answers_.pop_front();
    }
}

// Till the client hangs up, the agent does, or all is over.
void
AgentProxy::serve(int client, int agent)
{
    std::string from_client, from_agent;
    for (;;) {
        pollfd polled[] = {{client, POLLIN, 0}, {agent, POLLIN, 0}, {wake_read_fd_, POLLIN, 0}};
        if (poll(polled, 3, -1) < 0)
            break;
        char wakes[64];
        if (polled[2].revents != 0)
            (void)!read(wake_read_fd_, wakes, sizeof wakes);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (is_over_)
                return;
        }
        std::vector<std::string> requests, answers;
        if ((polled[0].revents != 0 && !read_lines(client, &from_client, &requests)) ||
            (polled[1].revents != 0 && !read_lines(agent, &from_agent, &answers)))
            break;
        for (const std::string &line : requests)
            on_request(line, client, agent);
        for (const std::string &line : answers)
            on_answer(line);
        flush(client);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    answers_.clear();
    pending_.clear();
}
