// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/guest-vm.h"

#include "tests/support/environment.h"

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace support
{

namespace
{

// Far more than a boot takes, for a machine that is busy with other tests.
constexpr std::chrono::seconds BOOT_TIMEOUT(120);

std::string
joined(const std::vector<std::string> &words, const char *separator)
{
    std::string text;

    for (const std::string &word : words)
        text += (text.empty() ? "" : separator) + word;
    return text;
}

std::vector<std::string>
boot_arguments(const GuestOptions &options, const std::string &console_path)
{
    const std::string guest = environment("VIRTSNAP_GUEST_DIR");
    std::vector<std::string> arguments = {
        "-machine",
        options.machine,
        "-m",
        "128",
        "-no-reboot",
        "-serial",
        "file:" + console_path,
        "-kernel",
        guest + "/kernel",
        "-initrd",
        guest + "/initramfs",
        "-append",
        "console=ttyS0 quiet panic=-1 nokaslr mitigations=off writer.disks=" +
            joined(options.guest_disks, ",") + " writer.slots=" + std::to_string(options.slots) +
            " writer.rate=" + std::to_string(options.rate)};

    arguments.insert(arguments.end(), options.disk_arguments.begin(), options.disk_arguments.end());
    return arguments;
}

bool
parse_status(const std::string &line, WriterStatus *status)
{
    return sscanf(line.c_str(), "writer: seq=%" SCNu64 " max_ms=%" SCNd64 " worst_ms=%" SCNd64,
                  &status->sequence, &status->max_ms, &status->worst_ms) == 3;
}

bool
writer_failed(const std::string &console)
{
    return console.find("writer: error") != std::string::npos ||
           console.find("guest: writer ended") != std::string::npos;
}

} // namespace

GuestVm::GuestVm(const TempDir &dir, const GuestOptions &options, const std::string &name)
    : console_path_(dir.file(name + ".console"))
{
    const auto ready = [this] {
        const std::string text = console();

        return text.find("writer: ") != std::string::npos && text.back() == '\n';
    };

    std::filesystem::remove(console_path_);
    qemu_ = std::make_unique<QemuProcess>(dir, boot_arguments(options, console_path_), name);
    if (!wait_until(BOOT_TIMEOUT, ready) || writer_failed(console()))
        throw std::runtime_error("the guest's writer did not start: " + console());
}

std::string
GuestVm::console() const
{
    std::ifstream file(console_path_, std::ios::binary);

    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

WriterStatus
GuestVm::status() const
{
    const std::string text = console();
    size_t end = text.rfind('\n');
    WriterStatus status;

    while (end != std::string::npos && end > 0) {
        const size_t before = text.rfind('\n', end - 1);
        const size_t begin = before == std::string::npos ? 0 : before + 1;

        if (parse_status(text.substr(begin, end - begin), &status))
            return status;
        end = before;
    }
    throw std::runtime_error("no line of the writer on the console: " + text);
}

WriterStatus
GuestVm::wait_for_records(uint64_t records, Milliseconds timeout)
{
    const uint64_t goal = status().sequence + records;
    const auto reached = [&] { return status().sequence >= goal || writer_failed(console()); };

    if (!wait_until(timeout, reached) || writer_failed(console()))
        throw std::runtime_error("the guest's writer did not go on: " + console());
    return status();
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
