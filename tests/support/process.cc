// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/process.h"

#include "tests/support/file.h"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

namespace support
{

namespace
{

[[noreturn]] void
throw_errno(const std::string &what)
{
    throw std::system_error(errno, std::generic_category(), what);
}

int
anonymous_file(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    if (fd < 0)
        throw_errno("memfd_create");
    return fd;
}

std::string
content(int fd)
{
    std::string text;
    char buffer[65536];
    ssize_t got;

    while ((got = pread(fd, buffer, sizeof buffer, static_cast<off_t>(text.size()))) > 0)
        text.append(buffer, static_cast<size_t>(got));
    return text;
}

std::vector<char *>
pointers(const std::vector<std::string> &strings)
{
    std::vector<char *> result;

    for (const std::string &text : strings)
        result.push_back(const_cast<char *>(text.c_str()));
    result.push_back(nullptr);
    return result;
}

std::vector<std::string>
merged_environment(const std::map<std::string, std::string> &changes)
{
    std::vector<std::string> result;

    for (char **entry = environ; *entry != nullptr; entry++) {
        const std::string text = *entry;

        if (changes.count(text.substr(0, text.find('='))) == 0)
            result.push_back(text);
    }
    for (const auto &[name, value] : changes)
        result.push_back(name + "=" + value);
    return result;
}

std::string
joined(const std::vector<std::string> &argv)
{
    std::string text;

    for (const std::string &word : argv)
        text += (text.empty() ? "" : " ") + word;
    return text;
}

void
close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

} // namespace

// Between fork and exec only calls that are safe in the copy of a threaded process.
void
Process::run_child(char *const *argv, char *const *env, const char *directory, int report_fd)
{
    int error;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(in_fd_, 0) >= 0 && dup2(out_fd_, 1) >= 0 && dup2(err_fd_, 2) >= 0 &&
        (directory[0] == '\0' || chdir(directory) == 0))
        execvpe(argv[0], argv, env);
    error = errno;
    if (write(report_fd, &error, sizeof error) < 0)
        _exit(126);
    _exit(127);
}

Process::Process(const std::vector<std::string> &argv, const ProcessOptions &options)
{
    const std::vector<std::string> environment = merged_environment(options.env);
    const std::vector<char *> argv_pointers = pointers(argv);
    const std::vector<char *> env_pointers = pointers(environment);
    int report[2];
    int child_errno = 0;

    in_fd_ = anonymous_file("stdin");
    out_fd_ = anonymous_file("stdout");
    err_fd_ = anonymous_file("stderr");
    if (write(in_fd_, options.input.data(), options.input.size()) !=
            static_cast<ssize_t>(options.input.size()) ||
        lseek(in_fd_, 0, SEEK_SET) != 0 || pipe2(report, O_CLOEXEC) != 0)
        throw_errno("prepare " + argv[0]);
    // Appending keeps the order of lines when the child's own children share the file.
    fcntl(out_fd_, F_SETFL, O_APPEND);
    fcntl(err_fd_, F_SETFL, O_APPEND);
    pid_ = fork();
    if (pid_ < 0)
        throw_errno("fork");
    if (pid_ == 0)
        run_child(argv_pointers.data(), env_pointers.data(), options.directory.c_str(), report[1]);
    close(report[1]);
    // By number: glibc 2.36 declares pidfd_open() without C linkage.
    pid_fd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
    // The pipe closes without a word when exec succeeds.
    if (read(report[0], &child_errno, sizeof child_errno) > 0) {
        close(report[0]);
        waitpid(pid_, nullptr, 0);
        throw std::system_error(child_errno, std::generic_category(), "start " + joined(argv));
    }
    close(report[0]);
}

Process::~Process()
{
    if (running()) {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
    close_if_open(pid_fd_);
    close_if_open(in_fd_);
    close_if_open(out_fd_);
    close_if_open(err_fd_);
}

bool
Process::running()
{
    return !wait(Milliseconds(0)).has_value();
}

std::optional<Outcome>
Process::wait(Milliseconds timeout)
{
    const auto deadline = Clock::now() + timeout;
    struct pollfd ended = {pid_fd_, POLLIN, 0};
    int status;

    if (outcome_)
        return outcome_;
    while (poll(&ended, 1, left_ms(deadline)) < 0 && errno == EINTR)
        continue;
    if (waitpid(pid_, &status, WNOHANG) != pid_)
        return std::nullopt;
    outcome_ = Outcome();
    outcome_->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    outcome_->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    outcome_->out = out();
    outcome_->err = err();
    return outcome_;
}

void
Process::signal(int number)
{
    if (running())
        kill(pid_, number);
}

std::string
Process::out() const
{
    return content(out_fd_);
}

std::string
Process::err() const
{
    return content(err_fd_);
}

std::string
Process::threads() const
{
    std::error_code error;
    std::string text;
    for (const auto &task :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task", error)) {
        const std::string path = task.path();
        for (const char *name : {"/status", "/wchan", "/stack"})
            text += read_file(path + name).substr(0, 300) + "\n";
    }
    return text;
}

Outcome
run(const std::vector<std::string> &argv, const ProcessOptions &options, Milliseconds timeout)
{
    Process process(argv, options);
    std::optional<Outcome> outcome = process.wait(timeout);

    if (!outcome)
        throw std::runtime_error(joined(argv) + ": still running after " +
                                 std::to_string(timeout.count()) + " ms: " + process.out() +
                                 process.err());
    return *outcome;
}

std::string
must_run(const std::vector<std::string> &argv, const ProcessOptions &options, Milliseconds timeout)
{
    Outcome outcome = run(argv, options, timeout);

    if (outcome.exit_code != 0)
        throw std::runtime_error(joined(argv) + ": " +
                                 (outcome.signal != 0
                                      ? "signal " + std::to_string(outcome.signal)
                                      : "exit " + std::to_string(outcome.exit_code)) +
                                 ": " + outcome.out + outcome.err);
    return outcome.out;
}

} // namespace support
