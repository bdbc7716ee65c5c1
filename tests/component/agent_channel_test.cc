// SPDX-License-Identifier: LGPL-2.1-or-later
// Finding the guest agent's socket in what QEMU tells of its devices.
#include "qmp/agent-channel.h"
#include "tests/component/qmp_client_fixture.h"

namespace
{

// A QEMU with two ports below peripheral-anon, of which the second one is the agent's, and its
// character device.
class AgentChannel : public QmpClientFixture
{
  protected:
    std::string
    Find()
    {
        FakeQmpPeer peer([this](FakeQmpSession &session) {
            session.Negotiate();
            session.Serve({
                {"qom-list", [this](const FakeQmpCommand &command) { return List(command); }},
                {"qom-get", [this](const FakeQmpCommand &command) { return Get(command); }},
                {"query-chardev", [this](const FakeQmpCommand &) { return chardevs_; }},
            });
        });
        Connect(peer);
        g_clear_error(&error_);
        g_autofree char *path = vs_qmp_find_agent_socket(client_, nullptr, &error_);
        vs_qmp_client_free(g_steal_pointer(&client_));
        EXPECT_EQ(path == nullptr, error_ != nullptr);
        return path != nullptr ? path : "";
    }
    std::string
    FindOn(const std::string &filename, bool open = true)
    {
        chardevs_ = R"([{"label": "mon", "filename": "unix:/m,server=on", "frontend-open": true},)"
                    R"({"label": "ga0", "frontend-open": )" +
                    std::string(open ? "true" : "false") + R"(, "filename": ")" + filename + "\"}]";
        return Find();
    }

    std::string list_ = R"([{"name": "type", "type": "string"},)"
                        R"({"name": "device[0]", "type": "child<virtserialport>"},)"
                        R"({"name": "device[1]", "type": "child<virtio-serial-pci>"},)"
                        R"({"name": "device[2]", "type": "child<virtserialport>"}])";
    std::string agent_port_ = "device[2]";
    std::string chardevs_;

  private:
    std::string
    List(const FakeQmpCommand &command)
    {
        if (command.arguments.find("peripheral-anon") != std::string::npos)
            return list_;
        EXPECT_EQ(command.arguments, R"({"path":"\/machine"})") << "there is no other container";
        return R"([{"name": "peripheral-anon", "type": "child<container>"},)"
               R"({"name": "unattached", "type": "child<container>"},)"
               R"({"name": "q35", "type": "child<q35-pcihost>"}])";
    }
    std::string
    Get(const FakeQmpCommand &command)
    {
        EXPECT_EQ(command.arguments.find("device[1]"), std::string::npos) << "it is no port";
        const bool agent = command.arguments.find(agent_port_) != std::string::npos;
        if (command.arguments.find("\"chardev\"") != std::string::npos)
            return agent ? "\"ga0\"" : "\"other\"";
        return agent ? "\"org.qemu.guest_agent.0\"" : "\"org.spice\"";
    }
};

TEST_F(AgentChannel, IsTheListeningUnixSocketBehindTheAgentsPort)
{
    EXPECT_EQ(FindOn("disconnected:unix:/run/vm, 1/agent,server=on"), "/run/vm, 1/agent") << Why();
    EXPECT_EQ(FindOn("disconnected:unix:/run/agent,server"), "/run/agent") << Why();
}

TEST_F(AgentChannel, RelativePathIsBelowTheWorkingDirectoryOfQemu)
{
    g_autofree char *here = g_get_current_dir();
    EXPECT_EQ(FindOn("disconnected:unix:agent,server=on"), std::string(here) + "/agent") << Why();
}

TEST_F(AgentChannel, PortThatNothingInTheGuestHasOpenedMeansNoAgent)
{
    EXPECT_EQ(FindOn("disconnected:unix:/run/agent,server=on", false), "");
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CONNECT)) << Why();
    EXPECT_TRUE(Says("no guest agent runs in the guest")) << Why();
}

TEST_F(AgentChannel, ConnectedSocketIsTaken)
{
    EXPECT_EQ(FindOn("unix:/run/agent,server=on"), "");
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TAKEN)) << Why();
    EXPECT_TRUE(Says("'/run/agent'")) << Why();
}

TEST_F(AgentChannel, OtherThanAListeningUnixSocketIsRefused)
{
    for (const char *filename :
         {"pty:/dev/pts/1", "disconnected:tcp:127.0.0.1:1,server=on", "unix:/run/agent", "fd:25",
          "disconnected:unix:agent,abstract=on,server=on", "disconnected:unix:,server=on", ""}) {
        SCOPED_TRACE(filename);
        EXPECT_EQ(FindOn(filename), "");
        EXPECT_TRUE(Failed(VS_QMP_ERROR_CONNECT)) << Why();
        EXPECT_TRUE(Says("'ga0' (" + std::string(filename) + ")")) << Why();
    }
}

TEST_F(AgentChannel, MachineWithoutTheAgentsPortHasNoChannel)
{
    agent_port_ = "none";
    EXPECT_EQ(FindOn("disconnected:unix:/run/agent,server=on"), "");
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CONNECT)) << Why();
    EXPECT_TRUE(Says("no guest agent channel")) << Why();
}

TEST_F(AgentChannel, RepliesOfAnotherShapeAreProtocolErrors)
{
    for (const char *chardevs :
         {"{}", "[1]", R"([{"label": 1}])", R"([{"label": "ga0"}])",
          R"([{"label": "ga0", "filename": "disconnected:unix:/a,server=on"}])"}) {
        SCOPED_TRACE(chardevs);
        chardevs_ = chardevs;
        EXPECT_EQ(Find(), "");
        EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
    }
    list_ = R"([{"name": "device[2]"}])";
    EXPECT_EQ(Find(), "");
    EXPECT_TRUE(Failed(VS_QMP_ERROR_PROTOCOL)) << Why();
}

} // namespace
