// SPDX-License-Identifier: LGPL-2.1-or-later
// A private libvirtd: a session daemon of an unprivileged user, with all its state in a folder of
// the test's. Several can run at once, beside the host's own, and no service manager is needed.
// Its machines run as that user ("nobody" where the test is root, else oneself).
#ifndef TESTS_SUPPORT_LIBVIRT_DAEMON_H
#define TESTS_SUPPORT_LIBVIRT_DAEMON_H

#include "tests/support/process-keeper.h"
#include "tests/support/process.h"
#include "tests/support/temp-dir.h"

#include <string>
#include <sys/types.h>
#include <vector>

namespace support
{

class LibvirtDaemon
{
  public:
    // Starts it and waits until it answers. Its state is in @dir as the folder NAME, and @dir
    // itself is given to its user: what root makes in it can be reached, and written after give().
    // NAME must be short: libvirt puts up to 80 bytes of a UNIX socket's 107 after it. Throws
    // std::runtime_error with the daemon's log when it does not come up.
    explicit LibvirtDaemon(const TempDir &dir, const std::string &name = "lv");
    // Kills the daemon and every QEMU it has started, however often it was restarted. The same
    // happens when the test dies.
    ~LibvirtDaemon() = default;

    // What the test and the program under test connect to.
    const std::string &
    uri() const
    {
        return uri_;
    }
    Outcome virsh(const std::vector<std::string> &arguments,
                  Milliseconds timeout = std::chrono::seconds(60)) const;
    // The same, but throws std::runtime_error unless it exits with 0; returns its stdout.
    std::string must_virsh(const std::vector<std::string> &arguments,
                           Milliseconds timeout = std::chrono::seconds(60)) const;

    // Its domains go on running without it.
    void start();
    void stop();
    void kill();
    void restart();
    pid_t
    pid() const
    {
        return pid_;
    }

    // Path of NAME in its state folder, where QEMU may make files and sockets.
    std::string file(const std::string &name) const;
    // Where QEMU's outputs go, and its pid is, for the running domain NAME.
    std::string qemu_log(const std::string &domain) const;
    std::string qemu_pid_file(const std::string &domain) const;
    // Makes the file or folder @path the daemon's user's, so that QEMU can write to it.
    void give(const std::string &path) const;
    // What the daemon itself has said last.
    std::string log() const;

  private:
    std::vector<std::string> command() const;
    void end(int signal);
    bool answers() const;

    std::string directory_;
    std::string uri_;
    ProcessKeeper keeper_;
    pid_t pid_ = -1;
};

} // namespace support

#endif
