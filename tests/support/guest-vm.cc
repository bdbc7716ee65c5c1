// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/guest-vm.h"

#include "tests/support/environment.h"

#include <chrono>
#include <filesystem>
#include <stdexcept>

namespace support
{

namespace
{

std::vector<std::string>
boot_arguments(const GuestOptions &options, const std::string &console_path)
{
    std::vector<std::string> arguments = {"-machine",
                                          options.machine,
                                          "-m",
                                          "128",
                                          "-no-reboot",
                                          "-serial",
                                          "file:" + console_path,
                                          "-kernel",
                                          guest_kernel(),
                                          "-initrd",
                                          guest_initramfs(),
                                          "-append",
                                          guest_command_line(options)};

    arguments.insert(arguments.end(), options.disk_arguments.begin(), options.disk_arguments.end());
    return arguments;
}

} // namespace

GuestVm::GuestVm(const TempDir &dir, const GuestOptions &options, const std::string &name)
    : console_(dir.file(name + ".console"))
{
    std::filesystem::remove(console_.path());
    qemu_ = std::make_unique<QemuProcess>(dir, boot_arguments(options, console_.path()), name);
    console_.wait_for_writer();
}

void
GuestVm::power_off()
{
    qemu_->monitor().execute("system_powerdown");
    if (!qemu_->process().wait(std::chrono::seconds(60)))
        throw std::runtime_error("the guest does not power off: " + console());
}

Outcome
check_records(const std::vector<std::string> &raw_images)
{
    std::vector<std::string> argv = {environment("VIRTSNAP_CHECK_RECORDS")};

    argv.insert(argv.end(), raw_images.begin(), raw_images.end());
    return run(argv);
}

} // namespace support
