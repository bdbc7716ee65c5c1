// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/process-keeper.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

// The keeper runs in the copy of a process that may have had threads, so it makes only calls that
// are safe in a signal handler: no memory is allocated, nothing is thrown.
namespace support
{

namespace
{

constexpr int KEEPER_SOCKET = 3; // its only file besides 0 to 2
constexpr const char *CHILDREN = "/proc/thread-self/children";
// A request is the log's path and the words of the command, each with its zero byte.
constexpr size_t REQUEST_MAX = 16384;
constexpr size_t WORDS_MAX = 128;

[[noreturn]] void
throw_errno(const std::string &what)
{
    throw std::system_error(errno, std::generic_category(), what);
}

[[noreturn]] void
run_program(char *const *words)
{
    const int in = open("/dev/null", O_RDONLY);
    const int log = open(words[0], O_WRONLY | O_CREAT | O_APPEND, 0644);
    const char *reason;

    // The keeper ignores it, and what is ignored stays so in a program that is started.
    signal(SIGCHLD, SIG_DFL);
    if (in < 0 || log < 0 || dup2(in, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(126);
    close_range(KEEPER_SOCKET, ~0U, 0);
    execvp(words[1], words + 1);
    reason = strerrordesc_np(errno);
    if (write(2, reason, strlen(reason)) < 0)
        _exit(126);
    _exit(127);
}

// Kills the children that there are now, and says whether there were any. A number that the end of
// the buffer cuts off is not used: the next call finds that child again.
bool
kill_children()
{
    char text[4096];
    const int fd = open(CHILDREN, O_RDONLY | O_CLOEXEC);
    const ssize_t length = read(fd, text, sizeof text);
    bool any = false;
    pid_t pid = 0;

    close(fd);
    for (ssize_t i = 0; i < length; i++) {
        if (text[i] != ' ') {
            pid = pid * 10 + (text[i] - '0');
            continue;
        }
        kill(pid, SIGKILL);
        any = true;
        pid = 0;
    }
    return any;
}

// A child's own children become the keeper's before the child can be waited for, so the end is
// reached only when all generations are gone.
[[noreturn]] void
end_all()
{
    // From here on nothing is reaped behind our back: a pid in the list can't be another's.
    signal(SIGCHLD, SIG_DFL);
    while (kill_children())
        waitpid(-1, nullptr, 0);
    _exit(0);
}

[[noreturn]] void
keep(int socket)
{
    static char request[REQUEST_MAX];
    static char *words[WORDS_MAX + 1];
    ssize_t length;

    // A session of its own: what is sent to the test's process group doesn't end the keeper.
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_NAME, "process-keeper");
    signal(SIGCHLD, SIG_IGN);
    if (dup2(socket, KEEPER_SOCKET) < 0 || close_range(KEEPER_SOCKET + 1, ~0U, 0) != 0)
        _exit(1);
    while ((length = recv(KEEPER_SOCKET, request, sizeof request, 0)) > 0) {
        size_t count = 0;
        pid_t pid;

        for (ssize_t i = 0; i < length; i += static_cast<ssize_t>(strlen(request + i)) + 1)
            words[count++] = request + i;
        words[count] = nullptr;
        pid = fork();
        if (pid == 0)
            run_program(words);
        if (send(KEEPER_SOCKET, &pid, sizeof pid, MSG_NOSIGNAL) < 0)
            break;
    }
    end_all();
}

} // namespace

ProcessKeeper::ProcessKeeper()
{
    int ends[2];

    if (access(CHILDREN, R_OK) != 0)
        throw_errno(CHILDREN);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        throw_errno("socketpair");
    pid_ = fork();
    if (pid_ == 0)
        keep(ends[1]);
    close(ends[1]);
    socket_ = ends[0];
    if (pid_ < 0) {
        close(socket_);
        throw_errno("fork");
    }
}

ProcessKeeper::~ProcessKeeper()
{
    // Not just closed: another copy of the test, as a second keeper was for a moment, may have it.
    shutdown(socket_, SHUT_RDWR);
    close(socket_);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR)
        continue;
}

pid_t
ProcessKeeper::start(const std::vector<std::string> &argv, const std::string &log)
{
    std::string request = log + '\0';
    pid_t pid;

    for (const std::string &word : argv)
        request += word + '\0';
    if (request.size() > REQUEST_MAX || argv.size() >= WORDS_MAX)
        throw std::length_error("ProcessKeeper: too long a command line");
    if (send(socket_, request.data(), request.size(), MSG_NOSIGNAL) < 0 ||
        recv(socket_, &pid, sizeof pid, 0) != sizeof pid || pid < 0)
        throw_errno("start " + argv[0]);
    return pid;
}

bool
process_exists(pid_t pid)
{
    return kill(pid, 0) == 0 || errno != ESRCH;
}

} // namespace support
