// SPDX-License-Identifier: LGPL-2.1-or-later
// A child process: started with its output captured, waited for with a deadline, and never left
// behind: it is killed with the object, and by the kernel should the test die first.
#ifndef TESTS_SUPPORT_PROCESS_H
#define TESTS_SUPPORT_PROCESS_H

#include "tests/support/wait.h"

#include <map>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

namespace support
{

struct ProcessOptions {
    std::map<std::string, std::string> env; // added to the test's own environment
    std::string input;                      // all of its stdin
    std::string directory;                  // empty: the test's own
};

struct Outcome {
    int exit_code = -1; // -1: ended by @signal
    int signal = 0;
    std::string out;
    std::string err;
};

// Captured output goes to anonymous files, so a child never blocks on a full pipe. The kernel's
// kill on the parent's death follows the thread: start children in a thread that outlives them.
class Process
{
  public:
    // Throws std::system_error when argv[0] can't be started (searched in PATH).
    explicit Process(const std::vector<std::string> &argv, const ProcessOptions &options = {});
    ~Process();
    Process(const Process &) = delete;
    Process &operator=(const Process &) = delete;

    pid_t
    pid() const
    {
        return pid_;
    }
    bool running();
    // The outcome, or nothing when it still runs after @timeout.
    std::optional<Outcome> wait(Milliseconds timeout);
    void signal(int number);
    // What it has written until now.
    std::string out() const;
    std::string err() const;
    // What the kernel says of each of its threads, for the report of one that does not end.
    std::string threads() const;

  private:
    [[noreturn]] void run_child(char *const *argv, char *const *env, const char *directory,
                                int report_fd);

    pid_t pid_ = -1;
    int pid_fd_ = -1;
    int in_fd_ = -1;
    int out_fd_ = -1;
    int err_fd_ = -1;
    std::optional<Outcome> outcome_;
};

// Runs a command to its end. Throws std::runtime_error, with the output so far, on the timeout.
Outcome run(const std::vector<std::string> &argv, const ProcessOptions &options = {},
            Milliseconds timeout = std::chrono::seconds(60));

// The same, but throws unless it exits with 0; returns its stdout.
std::string must_run(const std::vector<std::string> &argv, const ProcessOptions &options = {},
                     Milliseconds timeout = std::chrono::seconds(60));

} // namespace support

#endif
