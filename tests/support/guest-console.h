// SPDX-License-Identifier: LGPL-2.1-or-later
// What the guest of vm-images/ is told on its kernel's command line, and what it says on its
// console, whoever runs it.
#ifndef TESTS_SUPPORT_GUEST_CONSOLE_H
#define TESTS_SUPPORT_GUEST_CONSOLE_H

#include "tests/support/wait.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace support
{

struct WriterOptions {
    // The paths the guest sees its disks by, in write order.
    std::vector<std::string> guest_disks = {"/dev/vda", "/dev/vdb"};
    unsigned slots = 4096; // 4 KiB each, on every disk
    unsigned rate = 0;     // records per second, 0: as fast as it goes
};

// Where the guest's kernel and its initramfs are, and the kernel's command line.
std::string guest_kernel();
std::string guest_initramfs();
std::string guest_command_line(const WriterOptions &options);

// What the writer's newest console line says.
struct WriterStatus {
    uint64_t sequence = 0;
    int64_t max_ms = 0;   // longest write with flush since the line before
    int64_t worst_ms = 0; // since the writer started
};

// Reads the file that the guest's first serial port goes to.
class GuestConsole
{
  public:
    explicit GuestConsole(std::string path) : path_(std::move(path))
    {
    }

    const std::string &
    path() const
    {
        return path_;
    }
    // Everything the guest has said, and its newest complete status line.
    std::string text() const;
    WriterStatus status() const;
    // Waits for the writer's first line (about 3 s on an idle host), for as long as a boot may take
    // on a busy one. Throws std::runtime_error with the console's text when it does not come, or
    // the writer finds fault with its disks.
    void wait_for_writer() const;
    // Waits until the writer has gone on from where it was by @records.
    WriterStatus wait_for_records(uint64_t records,
                                  Milliseconds timeout = std::chrono::seconds(30)) const;

  private:
    std::string path_;
};

} // namespace support

#endif
