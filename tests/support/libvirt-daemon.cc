// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/libvirt-daemon.h"

#include "tests/support/file.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <unistd.h>

namespace support
{

namespace
{

constexpr std::chrono::seconds START_TIMEOUT(60);
constexpr uid_t NOBODY = 65534;
// As much as a failed test's output should show of a daemon that complains at every connection.
constexpr size_t LOG_MAX = 8192;

// The host's configuration is not asked. Without these, QEMU's output would go through another
// daemon, and a host's security module would be told of our machines.
constexpr const char *QEMU_CONF = "stdio_handler = \"file\"\n"
                                  "security_driver = \"none\"\n";

bool
is_root()
{
    return geteuid() == 0;
}

std::string
search_path()
{
    const char *path = getenv("PATH");

    // libvirtd is not in the PATH of a user who is not root.
    return std::string(path != nullptr ? path : "/usr/bin:/bin") + ":/usr/sbin:/sbin";
}

} // namespace

LibvirtDaemon::LibvirtDaemon(const TempDir &dir, const std::string &name)
    : directory_(dir.file(name)),
      uri_("qemu+unix:///session?socket=" + directory_ + "/run/libvirt/libvirt-sock")
{
    give(dir.path());
    for (const char *folder : {"", "/run", "/cache", "/data", "/libvirt"}) {
        std::filesystem::create_directory(directory_ + folder);
        std::filesystem::permissions(directory_ + folder, std::filesystem::perms::owner_all);
        give(directory_ + folder);
    }
    std::ofstream(file("libvirt/qemu.conf")) << QEMU_CONF;
    start();
}

// An environment of its own: no bus of the host's user, nor the settings that make the tests'
// programs strict.
std::vector<std::string>
LibvirtDaemon::command() const
{
    std::vector<std::string> argv = {"env",
                                     "-i",
                                     "PATH=" + search_path(),
                                     "HOME=" + directory_,
                                     "XDG_RUNTIME_DIR=" + file("run"),
                                     "XDG_CONFIG_HOME=" + directory_,
                                     "XDG_CACHE_HOME=" + file("cache"),
                                     "XDG_DATA_HOME=" + file("data")};

    if (is_root())
        argv.insert(argv.end(), {"setpriv", "--reuid=" + std::to_string(NOBODY),
                                 "--regid=" + std::to_string(NOBODY), "--clear-groups"});
    argv.push_back("libvirtd");
    return argv;
}

bool
LibvirtDaemon::answers() const
{
    return std::filesystem::exists(file("run/libvirt/libvirt-sock")) &&
           virsh({"version"}).exit_code == 0;
}

void
LibvirtDaemon::start()
{
    const auto settled = [this] { return !process_exists(pid_) || answers(); };

    pid_ = keeper_.start(command(), file("libvirtd.log"));
    if (!wait_until(START_TIMEOUT, settled) || !process_exists(pid_))
        throw std::runtime_error("libvirtd did not come up: " + virsh({"version"}).err + log());
}

void
LibvirtDaemon::end(int signal)
{
    if (process_exists(pid_))
        ::kill(pid_, signal);
    if (!wait_until(START_TIMEOUT, [this] { return !process_exists(pid_); }))
        throw std::runtime_error("libvirtd does not end: " + log());
}

void
LibvirtDaemon::stop()
{
    end(SIGTERM);
}

void
LibvirtDaemon::kill()
{
    end(SIGKILL);
}

void
LibvirtDaemon::restart()
{
    stop();
    start();
}

Outcome
LibvirtDaemon::virsh(const std::vector<std::string> &arguments, Milliseconds timeout) const
{
    std::vector<std::string> argv = {"virsh", "-q", "-c", uri_};
    ProcessOptions options;

    options.env["LC_ALL"] = "C";
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return run(argv, options, timeout);
}

std::string
LibvirtDaemon::must_virsh(const std::vector<std::string> &arguments, Milliseconds timeout) const
{
    const Outcome outcome = virsh(arguments, timeout);

    if (outcome.exit_code != 0)
        throw std::runtime_error("virsh " + arguments.at(0) + ": " + outcome.err);
    return outcome.out;
}

std::string
LibvirtDaemon::file(const std::string &name) const
{
    return directory_ + "/" + name;
}

std::string
LibvirtDaemon::qemu_log(const std::string &domain) const
{
    return file("cache/libvirt/qemu/log/" + domain + ".log");
}

std::string
LibvirtDaemon::qemu_pid_file(const std::string &domain) const
{
    return file("run/libvirt/qemu/run/" + domain + ".pid");
}

void
LibvirtDaemon::give(const std::string &path) const
{
    if (is_root() && chown(path.c_str(), NOBODY, NOBODY) != 0)
        throw std::system_error(errno, std::generic_category(), "chown " + path);
}

std::string
LibvirtDaemon::log() const
{
    const std::string text = read_file(file("libvirtd.log"));

    return text.substr(text.size() - std::min(text.size(), LOG_MAX));
}

} // namespace support
