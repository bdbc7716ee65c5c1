// SPDX-License-Identifier: LGPL-2.1-or-later
// Holds processes that daemonise: whatever a process started here leaves behind, however often it
// forks and detaches itself, ends with this object, or with the test should that die first.
//
//   test ---- keeper, a subreaper ---- a process of start()
//      socket    |                         `-- its children; orphans of theirs become the keeper's
//                `-- a daemonised grandchild
//
// The keeper is a copy of the test that has shut every file but the socket. It waits for requests
// there; when the test is gone, the kernel closes the other end, and it kills all it has.
#ifndef TESTS_SUPPORT_PROCESS_KEEPER_H
#define TESTS_SUPPORT_PROCESS_KEEPER_H

#include <string>
#include <sys/types.h>
#include <vector>

namespace support
{

class ProcessKeeper
{
  public:
    // Starts the keeper alone. Needs a kernel with CONFIG_PROC_CHILDREN. Throws std::system_error.
    ProcessKeeper();
    // Kills everything that descends from the keeper, and returns when it is all gone.
    ~ProcessKeeper();
    ProcessKeeper(const ProcessKeeper &) = delete;
    ProcessKeeper &operator=(const ProcessKeeper &) = delete;

    // Starts @argv (searched in PATH) with stdin from /dev/null and both outputs appended to the
    // file @log. Returns its pid; the keeper reaps it when it ends, so that the pid is free then.
    // A program that can't be run ends at once with the reason in @log. Throws std::system_error.
    pid_t start(const std::vector<std::string> &argv, const std::string &log);

  private:
    pid_t pid_ = -1;
    int socket_ = -1;
};

// Whether a process of this pid exists, if only as a zombie.
bool process_exists(pid_t pid);

} // namespace support

#endif
