// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/qemu-process.h"

#include <chrono>
#include <csignal>
#include <stdexcept>

namespace support
{

namespace
{

std::vector<std::string>
command_line(const std::vector<std::string> &arguments, const std::string &socket,
             const std::string &test_socket)
{
    std::vector<std::string> argv = {"qemu-system-x86_64", "-accel",   "tcg", "-nodefaults",
                                     "-no-user-config",    "-display", "none"};

    for (const std::string &path : {socket, test_socket}) {
        argv.push_back("-qmp");
        argv.push_back("unix:" + path + ",server=on,wait=off");
    }
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return argv;
}

bool
contains(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

} // namespace

QemuProcess::QemuProcess(const TempDir &dir, const std::vector<std::string> &arguments,
                         const std::string &name)
    : socket_(dir.file(name + ".qmp")), test_socket_(dir.file(name + ".test.qmp"))
{
    process_ = std::make_unique<Process>(command_line(arguments, socket_, test_socket_));
    connect();
}

void
QemuProcess::connect()
{
    wait_until(std::chrono::seconds(20), [&] {
        try {
            monitor_ = std::make_unique<QmpSession>(test_socket_, Milliseconds(100));
        } catch (const std::runtime_error &) {
            return !process_->running();
        }
        return true;
    });
    if (!monitor_)
        throw std::runtime_error("QEMU did not come up: " + process_->err());
}

void
QemuProcess::without_monitor(const std::function<void()> &run)
{
    monitor_.reset();
    run();
    connect();
}

std::vector<std::string>
QemuProcess::idle(const std::vector<std::string> &more)
{
    std::vector<std::string> arguments = {"-machine", "q35", "-m", "64", "-S"};

    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
}

std::vector<std::string>
QemuProcess::virtio_disk(const std::string &path, const std::string &format,
                         const std::string &node, const std::string &id)
{
    return {"-blockdev",
            "driver=" + format + ",node-name=" + node + ",discard=unmap,file.driver=file," +
                "file.discard=unmap,file.filename=" + path,
            "-device", "virtio-blk-pci,drive=" + node + ",id=" + id};
}

std::string
QemuProcess::qemu_io(const std::string &device, const std::string &command)
{
    const size_t before = process_->out().size();
    const std::string option = device[0] == '/' ? "-d " : "";
    const std::string error =
        monitor_->human("qemu-io " + option + device + " \"" + command + "\"");
    // QEMU prints what qemu-io says on its own stdout.
    const std::string printed = process_->out().substr(before);

    if (!error.empty() || contains(printed, "failed") || contains(printed, "rror"))
        throw std::runtime_error("qemu-io " + device + " '" + command + "': " + error + printed);
    return printed;
}

std::string
QemuProcess::disk_io(const std::string &id, const std::string &command)
{
    return qemu_io("/machine/peripheral/" + id + "/virtio-backend", command);
}

void
QemuProcess::quit()
{
    monitor_->execute("quit");
    if (!process_->wait(std::chrono::seconds(20)))
        throw std::runtime_error("QEMU does not quit");
    if (process_->wait(Milliseconds(0))->exit_code != 0)
        throw std::runtime_error("QEMU failed at quit: " + process_->err());
}

void
QemuProcess::kill()
{
    process_->signal(SIGKILL);
    process_->wait(std::chrono::seconds(20));
}

} // namespace support
