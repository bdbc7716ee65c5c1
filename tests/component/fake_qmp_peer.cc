// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/component/fake_qmp_peer.h"

#include <fcntl.h>
#include <glib.h>
#include <gtest/gtest.h>
#include <json-c/json.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

namespace
{

// Ends a script without being a failure: the client has gone, or the test is over.
struct ScriptOver {
};

// Waits until fd is ready. Throws ScriptOver when the test is over, an error at the deadline.
void
WaitFor(int fd, short events, int stop_fd)
{
    pollfd polled[] = {{fd, events, 0}, {stop_fd, POLLIN, 0}};
    if (poll(polled, 2, FakeQmpPeer::kDeadlineMs) <= 0)
        throw std::runtime_error("the fake QMP peer waited in vain for its client");
    if (polled[1].revents != 0)
        throw ScriptOver();
}

std::string
Text(json_object *object)
{
    return object != nullptr ? json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN) : "";
}

} // namespace

FakeQmpSession::FakeQmpSession(int fd, int stop_fd) : fd_(fd), stop_fd_(stop_fd)
{
}

FakeQmpSession::~FakeQmpSession()
{
    HangUp();
    for (int fd : fds_)
        close(fd);
    for (int fd : old_fds_)
        close(fd);
}

void
FakeQmpSession::HangUp()
{
    if (fd_ >= 0)
        close(fd_);
    fd_ = -1;
}

void
FakeQmpSession::Send(const std::string &bytes)
{
    size_t sent = 0;
    while (sent < bytes.size()) {
        if (fd_ < 0)
            throw ScriptOver();
        WaitFor(fd_, POLLOUT, stop_fd_);
        ssize_t length =
            send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (length < 0 && errno != EAGAIN)
            throw ScriptOver();
        sent += length > 0 ? static_cast<size_t>(length) : 0;
    }
}

void
FakeQmpSession::SendLine(const std::string &line)
{
    Send(line + "\r\n");
}

void
FakeQmpSession::SendEvent(const std::string &name, const std::string &data)
{
    SendLine("{\"timestamp\":{\"seconds\":1,\"microseconds\":2},\"event\":\"" + name +
             "\",\"data\":" + data + "}");
}

void
FakeQmpSession::Greet()
{
    SendLine("{\"QMP\":{\"version\":{\"qemu\":{\"micro\":22,\"minor\":2,\"major\":7},"
             "\"package\":\"Debian\"},\"capabilities\":[\"oob\"]}}");
}

void
FakeQmpSession::Negotiate()
{
    Greet();
    Expect("qmp_capabilities");
    Return("{}");
}

// Adds what the client sends. False at its end.
bool
FakeQmpSession::ReadSome()
{
    if (fd_ < 0)
        return false;
    WaitFor(fd_, POLLIN, stop_fd_);
    char bytes[4096];
    alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))];
    iovec vector = {bytes, sizeof bytes};
    msghdr message = {};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t length = recvmsg(fd_, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN)
        return true;
    if (length <= 0)
        return false;
    for (cmsghdr *header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        auto *first = reinterpret_cast<const int *>(CMSG_DATA(header));
        fds_.insert(fds_.end(), first, first + (header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    }
    buffer_.append(bytes, static_cast<size_t>(length));
    return true;
}

bool
FakeQmpSession::Receive(FakeQmpCommand *command)
{
    size_t end = 0;
    while ((end = buffer_.find('\n')) == std::string::npos) {
        if (!ReadSome())
            return false;
    }
    FakeQmpCommand received;
    received.line = buffer_.substr(0, end);
    received.fds = std::exchange(fds_, {});
    old_fds_.insert(old_fds_.end(), received.fds.begin(), received.fds.end());
    buffer_.erase(0, end + 1);

    json_object *object = json_tokener_parse(received.line.c_str());
    if (!json_object_is_type(object, json_type_object)) {
        json_object_put(object);
        throw std::runtime_error("the client sent what is not a JSON object: " + received.line);
    }
    json_object *name = json_object_object_get(object, "execute");
    received.name = name != nullptr ? json_object_get_string(name) : "";
    received.id = Text(json_object_object_get(object, "id"));
    received.arguments = Text(json_object_object_get(object, "arguments"));
    json_object_put(object);
    last_ = received;
    *command = received;
    return true;
}

FakeQmpCommand
FakeQmpSession::Expect(const std::string &name)
{
    FakeQmpCommand command;
    try {
        if (!Receive(&command))
            throw std::runtime_error("the client hung up instead of sending " + name);
    } catch (const ScriptOver &) {
        throw std::runtime_error("the test is over and the client has not sent " + name);
    }
    if (command.name != name)
        throw std::runtime_error("the client sent " + command.line + " instead of " + name);
    return command;
}

void
FakeQmpSession::Return(const std::string &result)
{
    ReturnTo(last_, result);
}

void
FakeQmpSession::Fail(const std::string &description)
{
    FailTo(last_, description);
}

void
FakeQmpSession::ReturnTo(const FakeQmpCommand &command, const std::string &result)
{
    SendLine("{\"return\":" + result + ",\"id\":" + command.id + "}");
}

void
FakeQmpSession::FailTo(const FakeQmpCommand &command, const std::string &description)
{
    SendLine("{\"error\":{\"class\":\"GenericError\",\"desc\":\"" + description +
             "\"},\"id\":" + command.id + "}");
}

void
FakeQmpSession::Serve(
    const std::map<std::string, std::function<std::string(const FakeQmpCommand &)>> &handlers)
{
    FakeQmpCommand command;
    while (Receive(&command)) {
        auto handler = handlers.find(command.name);
        if (handler != handlers.end())
            ReturnTo(command, handler->second(command));
        else
            FailTo(command, "The command " + command.name + " has not been found");
    }
}

void
FakeQmpSession::WaitForHangUp()
{
    while (ReadSome())
        buffer_.clear();
}

void
FakeQmpSession::Stall()
{
    WaitFor(stop_fd_, POLLIN, stop_fd_);
}

FakeQmpPeer::FakeQmpPeer(Script script) : script_(std::move(script))
{
    g_autofree char *directory = g_dir_make_tmp("vs-peer-XXXXXX", nullptr);
    directory_ = directory;
    path_ = directory_ + "/qmp";
    int pipe_fds[2] = {-1, -1};
    EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    stop_read_fd_ = pipe_fds[0];
    stop_write_fd_ = pipe_fds[1];

    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    g_strlcpy(address.sun_path, path_.c_str(), sizeof address.sun_path);
    listen_fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(bind(listen_fd_, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listen_fd_, 8), 0);
    thread_ = std::thread(&FakeQmpPeer::Run, this);
}

FakeQmpPeer::~FakeQmpPeer()
{
    close(stop_write_fd_);
    thread_.join();
    close(stop_read_fd_);
    close(listen_fd_);
    unlink(path_.c_str());
    rmdir(directory_.c_str());
}

void
FakeQmpPeer::Run()
{
    for (;;) {
        pollfd polled[] = {{listen_fd_, POLLIN, 0}, {stop_read_fd_, POLLIN, 0}};
        if (poll(polled, 2, -1) < 0 || polled[1].revents != 0)
            return;
        int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0)
            return;
        FakeQmpSession session(fd, stop_read_fd_);
        try {
            script_(session);
        } catch (const ScriptOver &) {
        } catch (const std::exception &failure) {
            ADD_FAILURE() << failure.what();
        }
        session.HangUp();
        served_++;
    }
}
