// SPDX-License-Identifier: LGPL-2.1-or-later
// A domain of a LibvirtDaemon under TCG: without an operating system, or with the test guest.
// All methods throw std::runtime_error with libvirt's or QEMU's words when they fail.
#ifndef TESTS_SUPPORT_LIBVIRT_DOMAIN_H
#define TESTS_SUPPORT_LIBVIRT_DOMAIN_H

#include "tests/support/guest-console.h"
#include "tests/support/libvirt-daemon.h"
#include "tests/support/qmp-session.h"

#include <memory>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

namespace support
{

struct LibvirtDisk {
    std::string target; // vda, sda
    std::string path;
    std::string format = "qcow2";
    std::string bus = "virtio"; // virtio, scsi (a virtio-scsi controller), sata
    bool iothread = false;      // virtio: the disk's; scsi: the controller's, for all its disks
    bool readonly = false;
    bool cdrom = false; // read-only too; not on virtio
    bool shareable = false;
};

// Names and paths go into XML as they are: none may hold its special characters.
struct LibvirtDomainOptions {
    std::string name = "vm";
    std::vector<LibvirtDisk> disks;
    unsigned memory_mib = 64; // 128 at least with a guest
    // A second QMP monitor, for the test: disk_io() and quit() need it. Libvirt calls the domain
    // tainted for it.
    bool monitor = true;
    std::optional<WriterOptions> guest; // boots the test guest with its writer
    bool agent = false;                 // a channel for qemu-guest-agent
    // With both: the guest runs the agent, and writes files on the ext4 on this disk, as /dev/vdc.
    std::string agent_filesystem;
    // Where a test listens, with place for QEMU's user: QEMU and then libvirt connect to it, and it
    // stands between them. Empty: QEMU listens, at a place of libvirt's.
    std::string agent_socket;
};

class LibvirtDomain
{
  public:
    // Gives the disks' images to QEMU's user; does not define the domain. @daemon must outlive it.
    LibvirtDomain(LibvirtDaemon &daemon, LibvirtDomainOptions options);
    // Destroys and undefines it, with checkpoints and snapshots; silent where that fails.
    ~LibvirtDomain();
    LibvirtDomain(const LibvirtDomain &) = delete;
    LibvirtDomain &operator=(const LibvirtDomain &) = delete;

    const std::string &
    name() const
    {
        return options_.name;
    }
    void define();
    // With a guest it returns when the writer has begun to write.
    void start();
    // Ends it as the user's force off does; QEMU stores its bitmaps.
    void destroy();
    // Presses the power button and waits for the end; needs a guest that listens.
    void shutdown();
    // Tells QEMU to end, in order, by the test's monitor: for machines without a guest.
    void quit();
    // Kills QEMU; nothing is stored.
    void crash();
    // Sends its QEMU, which may be ending already, the signal that ends it, and waits for that.
    void end(pid_t qemu, int signal);
    void suspend();
    void resume();

    std::string state() const; // "running", "paused", "shut off"
    bool is_running() const;   // neither paused nor off
    bool is_tainted() const;
    // The definition that is in force now: the live one of a running domain.
    std::string xml() const;
    pid_t pid() const; // of the running domain's QEMU

    // The test's monitor, of a running domain; and the console, of one with a guest.
    QmpSession &monitor();
    const GuestConsole &
    console() const
    {
        return console_;
    }
    // Runs a qemu-io command, as 'write -P 0xaa 1M 64k', on the device of the disk @target, and
    // returns what it printed. Needs the test's monitor.
    std::string disk_io(const std::string &target, const std::string &command);

  private:
    std::string definition() const;
    std::string monitor_path() const;
    std::string device(const LibvirtDisk &disk) const;
    void wait_until_off(pid_t qemu);

    LibvirtDaemon &daemon_;
    LibvirtDomainOptions options_;
    GuestConsole console_;
    std::unique_ptr<QmpSession> monitor_;
};

} // namespace support

#endif
