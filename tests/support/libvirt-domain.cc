// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/libvirt-domain.h"

#include "tests/support/file.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <utility>

namespace support
{

namespace
{

constexpr std::chrono::seconds OFF_TIMEOUT(60);

bool
contains(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

std::string
disk_xml(const LibvirtDisk &disk)
{
    const bool own_iothread = disk.iothread && disk.bus == "virtio";

    return std::string("<disk type='file' device='") + (disk.cdrom ? "cdrom" : "disk") +
           "'><driver name='qemu' type='" + disk.format + "' discard='unmap'" +
           (own_iothread ? " iothread='1'" : "") + "/><source file='" + disk.path +
           "'/><target dev='" + disk.target + "' bus='" + disk.bus + "'/>" +
           (disk.readonly || disk.cdrom ? "<readonly/>" : "") +
           (disk.shareable ? "<shareable/>" : "") + "</disk>\n";
}

std::string
controllers_xml(const std::vector<LibvirtDisk> &disks)
{
    const auto on_scsi = [](const LibvirtDisk &disk) { return disk.bus == "scsi"; };
    const auto with_iothread = [&](const LibvirtDisk &disk) {
        return on_scsi(disk) && disk.iothread;
    };
    std::string xml = "<controller type='usb' model='none'/>\n";

    if (std::any_of(disks.begin(), disks.end(), on_scsi))
        xml += std::string("<controller type='scsi' model='virtio-scsi'>") +
               (std::any_of(disks.begin(), disks.end(), with_iothread) ? "<driver iothread='1'/>"
                                                                       : "") +
               "</controller>\n";
    return xml;
}

std::string
initramfs(const LibvirtDomainOptions &options)
{
    return guest_initramfs() + (options.agent_filesystem.empty() ? "" : "-agent");
}

std::string
channel_xml(const std::string &socket)
{
    return "<channel type='unix'>" +
           (socket.empty() ? "" : "<source mode='connect' path='" + socket + "'/>") +
           "<target type='virtio' name='org.qemu.guest_agent.0'/></channel>\n";
}

} // namespace

LibvirtDomain::LibvirtDomain(LibvirtDaemon &daemon, LibvirtDomainOptions options)
    : daemon_(daemon), options_(std::move(options)),
      console_(daemon.file(options_.name + ".console"))
{
    for (const LibvirtDisk &disk : options_.disks)
        daemon_.give(disk.path);
    if (!options_.guest)
        return;
    // Copies, because the build directory need not be open to QEMU's user.
    for (const std::string &path : {guest_kernel(), initramfs(options_)})
        std::filesystem::copy_file(path,
                                   daemon_.file(std::filesystem::path(path).filename().string()),
                                   std::filesystem::copy_options::skip_existing);
}

LibvirtDomain::~LibvirtDomain()
{
    try {
        daemon_.virsh({"destroy", name()});
        daemon_.virsh({"undefine", name(), "--managed-save", "--checkpoints-metadata",
                       "--snapshots-metadata", "--nvram"});
    } catch (const std::exception &) {
        // A daemon that hangs is the test's to report, not ours: it is killed in any case.
    }
}

std::string
LibvirtDomain::monitor_path() const
{
    return daemon_.file(name() + ".test.qmp");
}

std::string
LibvirtDomain::definition() const
{
    const bool iothreads = std::any_of(options_.disks.begin(), options_.disks.end(),
                                       [](const LibvirtDisk &disk) { return disk.iothread; });
    std::string xml =
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n<name>" +
        name() + "</name>\n<memory unit='MiB'>" + std::to_string(options_.memory_mib) +
        "</memory>\n" + (iothreads ? "<iothreads>1</iothreads>\n" : "") +
        "<features><acpi/></features>\n<on_reboot>destroy</on_reboot>\n"
        "<os><type arch='x86_64' machine='q35'>hvm</type>";

    if (options_.guest)
        xml += "<kernel>" + daemon_.file("kernel") + "</kernel><initrd>" +
               daemon_.file(std::filesystem::path(initramfs(options_)).filename().string()) +
               "</initrd><cmdline>" + guest_command_line(*options_.guest) +
               (options_.agent_filesystem.empty() ? "" : " agent.fs=" + options_.agent_filesystem) +
               "</cmdline>";
    xml += "</os>\n<devices>\n" + controllers_xml(options_.disks);
    for (const LibvirtDisk &disk : options_.disks)
        xml += disk_xml(disk);
    if (options_.guest)
        xml += "<serial type='file'><source path='" + console_.path() + "'/></serial>\n";
    if (options_.agent)
        xml += channel_xml(options_.agent_socket);
    xml += "<memballoon model='none'/>\n</devices>\n";
    if (options_.monitor)
        xml += "<qemu:commandline><qemu:arg value='-qmp'/><qemu:arg value='unix:" + monitor_path() +
               ",server=on,wait=off'/></qemu:commandline>\n";
    return xml + "</domain>\n";
}

void
LibvirtDomain::define()
{
    const std::string path = daemon_.file(name() + ".xml");

    std::ofstream(path) << definition();
    daemon_.must_virsh({"define", path});
}

void
LibvirtDomain::start()
{
    monitor_.reset();
    std::filesystem::remove(console_.path());
    daemon_.must_virsh({"start", name()});
    if (options_.guest)
        console_.wait_for_writer();
}

void
LibvirtDomain::destroy()
{
    const pid_t qemu = pid();

    daemon_.must_virsh({"destroy", name()});
    wait_until_off(qemu);
}

// The daemon may notice QEMU's end before it has ended as well as after.
void
LibvirtDomain::wait_until_off(pid_t qemu)
{
    const auto off = [&] { return !process_exists(qemu) && state() == "shut off"; };

    monitor_.reset();
    if (!wait_until(OFF_TIMEOUT, off))
        throw std::runtime_error(name() + " does not end: " + state() + ": " + console_.text());
}

void
LibvirtDomain::shutdown()
{
    const pid_t qemu = pid();

    daemon_.must_virsh({"shutdown", name(), "--mode", "acpi"});
    wait_until_off(qemu);
}

void
LibvirtDomain::quit()
{
    const pid_t qemu = pid();

    monitor().execute("quit");
    wait_until_off(qemu);
}

void
LibvirtDomain::crash()
{
    end(pid(), SIGKILL);
}

void
LibvirtDomain::end(pid_t qemu, int signal)
{
    kill(qemu, signal);
    wait_until_off(qemu);
}

void
LibvirtDomain::suspend()
{
    daemon_.must_virsh({"suspend", name()});
}

void
LibvirtDomain::resume()
{
    daemon_.must_virsh({"resume", name()});
}

std::string
LibvirtDomain::state() const
{
    const std::string printed = daemon_.must_virsh({"domstate", name()});

    return printed.substr(0, printed.find('\n'));
}

bool
LibvirtDomain::is_running() const
{
    return state() == "running";
}

bool
LibvirtDomain::is_tainted() const
{
    return contains(daemon_.must_virsh({"dominfo", name()}), "tainted:");
}

std::string
LibvirtDomain::xml() const
{
    return daemon_.must_virsh({"dumpxml", name()});
}

pid_t
LibvirtDomain::pid() const
{
    return std::stoi(read_file(daemon_.qemu_pid_file(name())));
}

QmpSession &
LibvirtDomain::monitor()
{
    if (!monitor_)
        monitor_ = std::make_unique<QmpSession>(monitor_path());
    return *monitor_;
}

// Libvirt's alias of the device, as QEMU has it: in the live definition, after the disk's target.
std::string
LibvirtDomain::device(const LibvirtDisk &disk) const
{
    const std::string marker = "<alias name='";
    const std::string live = xml();
    const size_t target = live.find("<target dev='" + disk.target + "'");
    const size_t alias = target == std::string::npos ? target : live.find(marker, target);

    if (alias == std::string::npos)
        throw std::runtime_error(name() + " does not run, or has no disk " + disk.target);
    const size_t begin = alias + marker.size();
    const std::string path =
        "/machine/peripheral/" + live.substr(begin, live.find('\'', begin) - begin);

    return disk.bus == "virtio" ? path + "/virtio-backend" : path;
}

std::string
LibvirtDomain::disk_io(const std::string &target, const std::string &command)
{
    const auto disk = std::find_if(options_.disks.begin(), options_.disks.end(),
                                   [&](const LibvirtDisk &each) { return each.target == target; });
    const std::string log = daemon_.qemu_log(name());
    const size_t before = read_file(log).size();

    if (disk == options_.disks.end())
        throw std::runtime_error(name() + " has no disk " + target);
    const std::string error =
        monitor().human("qemu-io -d " + device(*disk) + " \"" + command + "\"");
    // QEMU prints what qemu-io says on its own stdout.
    const std::string printed = read_file(log).substr(before);

    if (!error.empty() || contains(printed, "failed") || contains(printed, "rror"))
        throw std::runtime_error("qemu-io " + target + " '" + command + "': " + error + printed);
    return printed;
}

} // namespace support
