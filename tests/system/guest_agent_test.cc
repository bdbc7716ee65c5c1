// SPDX-License-Identifier: LGPL-2.1-or-later
// The real qemu-ga in the guest, reached as --quiesce reaches it: QEMU is asked for the channel,
// the agent freezes the file system on the third disk, on which files are written all the time.
#include "qmp/agent-channel.h"
#include "qmp/agent.h"
#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/support/temp-dir.h"

#include <gtest/gtest.h>
#include <memory>
#include <stdexcept>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

using namespace support;

namespace
{

constexpr unsigned TIMEOUT_MS = 60000;
constexpr const char *FILESYSTEM = "fs.raw";

using Client = std::unique_ptr<VsQmpClient, decltype(&vs_qmp_client_free)>;
using Agent = std::unique_ptr<VsQmpAgent, decltype(&vs_qmp_agent_free)>;

std::string
message(const GError *error)
{
    return error != nullptr ? error->message : "(no error)";
}

std::vector<std::string>
channel(const std::string &socket)
{
    return {"-device",  "virtio-serial-pci",
            "-chardev", "socket,id=ga0,server=on,wait=off,path=" + socket,
            "-device",  "virtserialport,chardev=ga0,name=org.qemu.guest_agent.0"};
}

Client
monitor(const QemuProcess &qemu)
{
    g_autoptr(GError) error = nullptr;
    Client client(vs_qmp_client_connect(qemu.socket().c_str(), 10000, nullptr, &error),
                  vs_qmp_client_free);
    if (!client)
        throw std::runtime_error(message(error));
    return client;
}

// The path, or else "", and why.
struct Found {
    std::string path;
    int code = -1;
    std::string why;
};

Found
find(const Client &client)
{
    g_autoptr(GError) error = nullptr;
    g_autofree char *path = vs_qmp_find_agent_socket(client.get(), nullptr, &error);
    if (path == nullptr)
        return {"", error->code, error->message};
    return {path, -1, ""};
}

class GuestAgent : public testing::Test
{
  protected:
    // Boots the guest with disks a and b for the writer, and the file system.
    void
    boot()
    {
        for (const char *disk : {"a", "b"}) {
            must_run({"qemu-img", "create", "-q", "-f", "qcow2", dir_.file(disk), "64M"});
            add(QemuProcess::virtio_disk(dir_.file(disk), "qcow2", disk, std::string("vd") + disk));
        }
        must_run({"truncate", "--size=16M", dir_.file(FILESYSTEM)});
        must_run({"/sbin/mkfs.ext4", "-q", "-F", dir_.file(FILESYSTEM)});
        add(QemuProcess::virtio_disk(dir_.file(FILESYSTEM), "raw", "c", "vdc"));
        add(channel(dir_.file("agent")));
        options_.slots = 256;
        // QEMU takes the last of each.
        add({"-initrd", guest_initramfs() + "-agent", "-append",
             guest_command_line(options_) + " agent.fs=/dev/vdc"});
        guest_ = std::make_unique<GuestVm>(dir_, options_);
        client_ = monitor(guest_->qemu());
        // The port is open a moment after the writer's first line.
        ASSERT_TRUE(
            wait_until(std::chrono::seconds(60), [&] { return !find(client_).path.empty(); }))
            << find(client_).why << guest_->console();
    }
    void
    add(const std::vector<std::string> &arguments)
    {
        options_.disk_arguments.insert(options_.disk_arguments.end(), arguments.begin(),
                                       arguments.end());
    }
    Agent
    connect(unsigned timeout_ms = TIMEOUT_MS)
    {
        g_clear_error(&error_);
        return {vs_qmp_agent_connect(find(client_).path.c_str(), timeout_ms, nullptr, &error_),
                vs_qmp_agent_free};
    }
    bool
    frozen(const Agent &agent)
    {
        bool is_frozen = false;
        EXPECT_TRUE(vs_qmp_agent_status(agent.get(), &is_frozen, TIMEOUT_MS, nullptr, &error_))
            << message(error_);
        return is_frozen;
    }
    // How many files the guest says it has written.
    unsigned
    files() const
    {
        const std::string text = guest_->console();
        const size_t line = text.rfind("files: n=", text.rfind('\n'));
        return line == std::string::npos ? 0 : std::stoul(text.substr(line + 9));
    }
    // The file system as a crash would leave it now, in a file of this name.
    void
    copy(const std::string &name) const
    {
        must_run({"cp", dir_.file(FILESYSTEM), dir_.file(name)});
    }
    bool
    needs_recovery(const std::string &name) const
    {
        return must_run({"/sbin/dumpe2fs", "-h", dir_.file(name)}).find("needs_recovery") !=
               std::string::npos;
    }
    Outcome
    check(const std::string &name) const
    {
        return run({"/sbin/e2fsck", "-f", "-n", dir_.file(name)});
    }
    void
    TearDown() override
    {
        g_clear_error(&error_);
    }

    TempDir dir_;
    GuestOptions options_;
    std::unique_ptr<GuestVm> guest_;
    Client client_{nullptr, vs_qmp_client_free};
    GError *error_ = nullptr;
};

TEST_F(GuestAgent, FrozenFileSystemIsCleanAndStaysAsItIsUntilItThaws)
{
    unsigned count = 99;
    boot();
    Agent agent = connect();
    ASSERT_TRUE(agent) << message(error_);
    ASSERT_TRUE(wait_until(std::chrono::seconds(60), [&] { return files() >= 20; }));
    EXPECT_FALSE(frozen(agent));
    copy("running");
    EXPECT_TRUE(needs_recovery("running"));

    ASSERT_TRUE(vs_qmp_agent_freeze(agent.get(), &count, TIMEOUT_MS, nullptr, &error_))
        << message(error_);
    EXPECT_EQ(count, 1u);
    EXPECT_TRUE(frozen(agent));
    copy("frozen");
    EXPECT_FALSE(needs_recovery("frozen"));
    EXPECT_EQ(check("frozen").exit_code, 0) << check("frozen").out;
    // The guest itself goes on: its writer uses the other disks without a file system.
    guest_->wait_for_records(50);
    const unsigned files_frozen = files();
    guest_->wait_for_records(100);
    EXPECT_EQ(files(), files_frozen);
    EXPECT_EQ(run({"cmp", dir_.file(FILESYSTEM), dir_.file("frozen")}).exit_code, 0);

    EXPECT_FALSE(vs_qmp_agent_freeze(agent.get(), &count, TIMEOUT_MS, nullptr, &error_));
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) << message(error_);
    g_clear_error(&error_);
    EXPECT_TRUE(frozen(agent));

    ASSERT_TRUE(vs_qmp_agent_thaw(agent.get(), &count, TIMEOUT_MS, nullptr, &error_))
        << message(error_);
    EXPECT_EQ(count, 1u);
    EXPECT_FALSE(frozen(agent));
    EXPECT_TRUE(wait_until(std::chrono::seconds(60), [&] { return files() >= files_frozen + 20; }));
    EXPECT_NE(run({"cmp", dir_.file(FILESYSTEM), dir_.file("frozen")}).exit_code, 0);

    ASSERT_TRUE(vs_qmp_agent_thaw(agent.get(), &count, TIMEOUT_MS, nullptr, &error_))
        << message(error_);
    EXPECT_EQ(count, 0u) << "there is nothing to thaw";

    guest_->power_off();
    EXPECT_FALSE(needs_recovery(FILESYSTEM)) << "the power button unmounts";
    EXPECT_EQ(check(FILESYSTEM).exit_code, 0) << check(FILESYSTEM).out;
}

TEST_F(GuestAgent, IsForOneClientAtATimeAndWhatAnotherLeftBehindDoesNoHarm)
{
    boot();
    const std::string path = find(client_).path;
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    int other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::connect(other, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    ASSERT_TRUE(wait_until(std::chrono::seconds(10), [&] {
        return find(client_).code == VS_QMP_ERROR_TAKEN;
    })) << find(client_).why;
    Agent second(vs_qmp_agent_connect(path.c_str(), 500, nullptr, &error_), vs_qmp_agent_free);
    EXPECT_FALSE(second);
    EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT)) << message(error_);

    // Answers that nobody reads, and half a request.
    std::string rest = "{\"execute\":\"guest-info\"}\n{\"execute\":\"guest-ping\"}\n{\"execute\":";
    ASSERT_EQ(send(other, rest.data(), rest.size(), 0), static_cast<ssize_t>(rest.size()));
    close(other);
    ASSERT_TRUE(wait_until(std::chrono::seconds(10), [&] { return !find(client_).path.empty(); }))
        << find(client_).why;
    Agent agent = connect();
    ASSERT_TRUE(agent) << message(error_);
    EXPECT_FALSE(frozen(agent));
}

TEST_F(GuestAgent, VmThatHasNoAgentOrNoChannelSaysSoAtOnce)
{
    {
        QemuProcess idle(dir_, QemuProcess::idle(channel(dir_.file("agent"))), "idle");
        const Found found = find(monitor(idle));
        EXPECT_EQ(found.code, VS_QMP_ERROR_CONNECT);
        EXPECT_NE(found.why.find("no guest agent runs in the guest"), std::string::npos)
            << found.why;
        Agent agent(vs_qmp_agent_connect(dir_.file("agent").c_str(), 300, nullptr, &error_),
                    vs_qmp_agent_free);
        EXPECT_FALSE(agent);
        EXPECT_TRUE(g_error_matches(error_, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT)) << message(error_);
    }
    QemuProcess bare(dir_, QemuProcess::idle({}), "bare");
    const Found found = find(monitor(bare));
    EXPECT_EQ(found.code, VS_QMP_ERROR_CONNECT);
    EXPECT_NE(found.why.find("no guest agent channel"), std::string::npos) << found.why;
}

} // namespace

VS_TEST_MAIN("qemu", "guest");
