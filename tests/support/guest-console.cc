// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/guest-console.h"

#include "tests/support/environment.h"
#include "tests/support/file.h"

#include <chrono>
#include <cinttypes>
#include <cstdio>
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

std::string
guest_kernel()
{
    return environment("VIRTSNAP_GUEST_DIR") + "/kernel";
}

std::string
guest_initramfs()
{
    return environment("VIRTSNAP_GUEST_DIR") + "/initramfs";
}

std::string
guest_command_line(const WriterOptions &options)
{
    return "console=ttyS0 quiet panic=-1 nokaslr mitigations=off writer.disks=" +
           joined(options.guest_disks, ",") + " writer.slots=" + std::to_string(options.slots) +
           " writer.rate=" + std::to_string(options.rate);
}

std::string
GuestConsole::text() const
{
    return read_file(path_);
}

WriterStatus
GuestConsole::status() const
{
    const std::string console = text();
    size_t end = console.rfind('\n');
    WriterStatus status;

    while (end != std::string::npos && end > 0) {
        const size_t before = console.rfind('\n', end - 1);
        const size_t begin = before == std::string::npos ? 0 : before + 1;

        if (parse_status(console.substr(begin, end - begin), &status))
            return status;
        end = before;
    }
    throw std::runtime_error("no line of the writer on the console: " + console);
}

void
GuestConsole::wait_for_writer() const
{
    const auto ready = [this] {
        const std::string console = text();

        return console.find("writer: ") != std::string::npos && console.back() == '\n';
    };

    if (!wait_until(BOOT_TIMEOUT, ready) || writer_failed(text()))
        throw std::runtime_error("the guest's writer did not start: " + text());
}

WriterStatus
GuestConsole::wait_for_records(uint64_t records, Milliseconds timeout) const
{
    const uint64_t goal = status().sequence + records;
    const auto reached = [&] { return status().sequence >= goal || writer_failed(text()); };

    if (!wait_until(timeout, reached) || writer_failed(text()))
        throw std::runtime_error("the guest's writer did not go on: " + text());
    return status();
}

} // namespace support
