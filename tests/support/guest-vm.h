// SPDX-License-Identifier: LGPL-2.1-or-later
// The guest of vm-images/ with its writer running: the oracle of the point in time across disks.
#ifndef TESTS_SUPPORT_GUEST_VM_H
#define TESTS_SUPPORT_GUEST_VM_H

#include "tests/support/guest-console.h"
#include "tests/support/qemu-process.h"
#include "tests/support/temp-dir.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace support
{

struct GuestOptions : WriterOptions {
    std::vector<std::string> disk_arguments; // QEMU's, that define the disks
    std::string machine = "q35";
};

// The guest can also be started again on the same disks: the writer carries on.
class GuestVm
{
  public:
    // Boots and waits for the writer (GuestConsole::wait_for_writer).
    GuestVm(const TempDir &dir, const GuestOptions &options, const std::string &name = "vm");

    QemuProcess &
    qemu()
    {
        return *qemu_;
    }
    // GuestConsole's methods on this guest's console.
    std::string
    console() const
    {
        return console_.text();
    }
    WriterStatus
    status() const
    {
        return console_.status();
    }
    WriterStatus
    wait_for_records(uint64_t records, Milliseconds timeout = std::chrono::seconds(30)) const
    {
        return console_.wait_for_records(records, timeout);
    }
    // Presses the power button and waits for the end: a clean stop of guest and QEMU.
    void power_off();

  private:
    GuestConsole console_;
    std::unique_ptr<QemuProcess> qemu_;
};

// Runs check-records on raw images, given in write order; returns its outcome.
Outcome check_records(const std::vector<std::string> &raw_images);

} // namespace support

#endif
