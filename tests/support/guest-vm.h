// SPDX-License-Identifier: LGPL-2.1-or-later
// The guest of vm-images/ with its writer running: the oracle of the point in time across disks.
#ifndef TESTS_SUPPORT_GUEST_VM_H
#define TESTS_SUPPORT_GUEST_VM_H

#include "tests/support/qemu-process.h"
#include "tests/support/temp-dir.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace support
{

// What the writer's newest console line says.
struct WriterStatus {
    uint64_t sequence = 0;
    int64_t max_ms = 0;   // longest write with flush since the line before
    int64_t worst_ms = 0; // since the writer started
};

struct GuestOptions {
    // QEMU arguments that define the disks, and the paths the guest sees them by, in write order.
    std::vector<std::string> disk_arguments;
    std::vector<std::string> guest_disks = {"/dev/vda", "/dev/vdb"};
    unsigned slots = 4096; // 4 KiB each, on every disk
    unsigned rate = 0;     // records per second, 0: as fast as it goes
    std::string machine = "q35";
};

// The guest can also be started again on the same disks: the writer carries on.
class GuestVm
{
  public:
    // Boots and waits for the writer's first line (about 3 s on an idle host). Throws
    // std::runtime_error with the console's text when it does not come, or the writer finds fault
    // with its disks.
    GuestVm(const TempDir &dir, const GuestOptions &options, const std::string &name = "vm");

    QemuProcess &
    qemu()
    {
        return *qemu_;
    }
    // Everything the guest has said, and its newest complete status line.
    std::string console() const;
    WriterStatus status() const;
    // Waits until the writer has gone on from where it was by @records.
    WriterStatus wait_for_records(uint64_t records,
                                  Milliseconds timeout = std::chrono::seconds(30));
    // Presses the power button and waits for the end: a clean stop of guest and QEMU.
    void power_off();

  private:
    std::string console_path_;
    std::unique_ptr<QemuProcess> qemu_;
};

// Runs check-records on raw images, given in write order; returns its outcome.
Outcome check_records(const std::vector<std::string> &raw_images);

} // namespace support

#endif
