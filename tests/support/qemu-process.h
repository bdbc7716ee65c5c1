// SPDX-License-Identifier: LGPL-2.1-or-later
// A qemu-system-x86_64 under TCG with two QMP sockets: one for the program under test, which wants
// a monitor to itself, and one for the test.
#ifndef TESTS_SUPPORT_QEMU_PROCESS_H
#define TESTS_SUPPORT_QEMU_PROCESS_H

#include "tests/support/process.h"
#include "tests/support/qmp-session.h"
#include "tests/support/temp-dir.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace support
{

class QemuProcess
{
  public:
    // Starts QEMU with @arguments after the machine's own, which are no default devices and no
    // display, and waits until it answers QMP. Sockets are made in @dir as NAME.qmp and
    // NAME.test.qmp. Throws std::runtime_error with what QEMU said when it does not come up.
    QemuProcess(const TempDir &dir, const std::vector<std::string> &arguments,
                const std::string &name = "vm");

    // The arguments of a VM that never runs: devices, disks and monitor work, no guest needed.
    static std::vector<std::string> idle(const std::vector<std::string> &more);
    // "-blockdev" of @path as node @node and a virtio-blk disk with id @id on it.
    static std::vector<std::string> virtio_disk(const std::string &path, const std::string &format,
                                                const std::string &node, const std::string &id);

    // The socket for the program under test.
    const std::string &
    socket() const
    {
        return socket_;
    }
    QmpSession &
    monitor()
    {
        return *monitor_;
    }
    Process &
    process()
    {
        return *process_;
    }

    // Runs it while the test holds no monitor: QEMU behaves otherwise once its last one hangs up.
    void without_monitor(const std::function<void()> &run);

    // Runs a qemu-io command, as 'write -P 0xaa 1M 64k', on a disk as its guest device would, and
    // returns what it printed. @device: the drive's id (-drive id=), or a QOM path, as
    // '/machine/peripheral/ID/virtio-backend', or for SCSI disks '/machine/peripheral/ID'. Not a
    // node name: a write to a node goes past the filter that a running snapshot has put above it.
    // Throws when the command fails.
    std::string qemu_io(const std::string &device, const std::string &command);
    // qemu_io() for a disk of virtio_disk().
    std::string disk_io(const std::string &id, const std::string &command);

    // Ends QEMU in order, so that persistent bitmaps are stored. Throws unless it exits with 0.
    void quit();
    // Ends it as a crash would.
    void kill();

  private:
    void connect();

    std::string socket_;
    std::string test_socket_;
    std::unique_ptr<Process> process_;
    std::unique_ptr<QmpSession> monitor_;
};

} // namespace support

#endif
