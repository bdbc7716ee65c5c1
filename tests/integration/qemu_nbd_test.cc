// SPDX-License-Identifier: LGPL-2.1-or-later
// The qemu-nbd that is started for a pull: it does not outlive who started it.
#include "plugin/hypervisor/qemu-nbd.h"

#include <csignal>
#include <cstdio>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/gate.h"
#include "tests/support/process.h"
#include "tests/support/temp-dir.h"
#include "tests/support/wait.h"

namespace
{

const char *const kDoomed = "--doomed";

// Starts the command with a listening socket, as systemd would, says its pid and dies.
[[noreturn]] void
start_and_die(const std::string &image, const std::string &socket_path)
{
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
    int listening = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listening, reinterpret_cast<struct sockaddr *>(&address), sizeof address) < 0 ||
        listen(listening, 1) < 0)
        _exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(listening, 3);
        (void)setenv("LISTEN_FDS", "1", 1);
        (void)setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
        char **command = vs_qemu_nbd_image(image.c_str(), "raw", nullptr);
        execvp(command[0], command);
        _exit(127);
    }
    // It has the image open once it has said so to nobody: its command line has changed by then.
    const std::string exe = "/proc/" + std::to_string(pid) + "/comm";
    (void)support::wait_until(std::chrono::seconds(10), [&] {
        char name[16] = "";
        FILE *file = fopen(exe.c_str(), "re");
        bool is_there = file && fgets(name, sizeof name, file);
        if (file)
            (void)fclose(file);
        return is_there && std::string(name) == "qemu-nbd\n";
    });
    printf("%d\n", pid);
    (void)fflush(stdout);
    (void)raise(SIGKILL);
    _exit(1);
}

// Whether it runs: neither gone nor waiting for somebody to ask how it ended.
bool
runs(pid_t pid)
{
    std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
    std::string number, name, state;
    return static_cast<bool>(stat >> number >> name >> state) && state != "Z";
}

TEST(QemuNbd, EndsWithWhoStartedItThoughNobodyEverConnected)
{
    support::TempDir dir;
    support::must_run({"qemu-img", "create", "-q", "-f", "raw", dir.file("a.raw"), "1M"});
    const support::Outcome outcome =
        support::run({"/proc/self/exe", kDoomed, dir.file("a.raw"), dir.file("nbd")});
    ASSERT_EQ(outcome.signal, SIGKILL) << outcome.err;
    const pid_t pid = std::stoi(outcome.out);
    EXPECT_TRUE(support::wait_until(std::chrono::seconds(10), [&] { return !runs(pid); }));
}

} // namespace

int
main(int argc, char **argv)
{
    if (argc == 4 && std::string(argv[1]) == kDoomed)
        start_and_die(argv[2], argv[3]);
    return support::gated_main(argc, argv, {"qemu"});
}
