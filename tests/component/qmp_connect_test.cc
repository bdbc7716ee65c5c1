// SPDX-License-Identifier: LGPL-2.1-or-later
// Connecting to a QMP socket whose peer greets, is silent, speaks garbage or hangs up.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "tests/component/qmp_client_fixture.h"

namespace
{

using QmpConnect = QmpClientFixture;

TEST_F(QmpConnect, ConnectsAndReadsTheVersionFromTheGreeting)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        session.Negotiate();
        session.WaitForHangUp();
    });
    Connect(peer);
    EXPECT_EQ(vs_qmp_client_qemu_version(client_), 7002022u);
    EXPECT_EQ(vs_qmp_client_peer_pid(client_), getpid());
    EXPECT_TRUE(vs_qmp_client_is_open(client_));
}

TEST_F(QmpConnect, GreetingMayComeByteForByte)
{
    FakeQmpPeer peer([](FakeQmpSession &session) {
        for (char byte : std::string("{\"QMP\":{\"version\":{\"qemu\":{\"micro\":0,\"minor\":2,"
                                     "\"major\":9}},\"capabilities\":[]}}\r\n"))
            session.Send(std::string(1, byte));
        session.Expect("qmp_capabilities");
        session.Return("{}");
        session.WaitForHangUp();
    });
    Connect(peer);
    EXPECT_EQ(vs_qmp_client_qemu_version(client_), 9002000u);
}

TEST_F(QmpConnect, SocketThatDoesNotExistIsAConnectError)
{
    client_ = vs_qmp_client_connect("/nowhere/at/all", kTimeoutMs, nullptr, &error_);
    EXPECT_EQ(client_, nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CONNECT)) << Why();
    EXPECT_STREQ(error_->message,
                 "connecting to QMP socket '/nowhere/at/all': No such file or directory");
}

TEST_F(QmpConnect, PathLongerThanASocketAddressIsAConnectError)
{
    std::string path = "/" + std::string(300, 'x');
    client_ = vs_qmp_client_connect(path.c_str(), kTimeoutMs, nullptr, &error_);
    EXPECT_EQ(client_, nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CONNECT)) << Why();
    EXPECT_TRUE(Says("at most 107 bytes")) << Why();
}

TEST_F(QmpConnect, FileThatIsNoSocketIsAConnectError)
{
    client_ = vs_qmp_client_connect("/dev/null", kTimeoutMs, nullptr, &error_);
    EXPECT_EQ(client_, nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_CONNECT)) << Why();
}

TEST_F(QmpConnect, SilentPeerIsTakenByAnotherClient)
{
    ExpectNoConnection([](FakeQmpSession &session) { session.Stall(); }, VS_QMP_ERROR_TAKEN,
                       kShortMs);
    EXPECT_TRUE(Says("no greeting within 100 ms (another client holds this monitor?)")) << Why();
}

TEST_F(QmpConnect, HalfAGreetingIsNotOne)
{
    ExpectNoConnection(
        [](FakeQmpSession &session) {
            session.Send("{\"QMP\":{");
            session.Stall();
        },
        VS_QMP_ERROR_TAKEN, kShortMs);
}

TEST_F(QmpConnect, FullQueueOfTheListenerDoesNotBlock)
{
    g_autofree char *directory = g_dir_make_tmp("vs-full-XXXXXX", nullptr);
    std::string path = std::string(directory) + "/qmp";
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    g_strlcpy(address.sun_path, path.c_str(), sizeof address.sun_path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    ASSERT_EQ(listen(listener, 0), 0);
    std::vector<int> others;
    for (;;) {
        int other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        others.push_back(other);
        if (connect(other, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0)
            break;
    }
    ASSERT_EQ(errno, EAGAIN);

    client_ = vs_qmp_client_connect(path.c_str(), kShortMs, nullptr, &error_);
    EXPECT_EQ(client_, nullptr);
    EXPECT_TRUE(Failed(VS_QMP_ERROR_TAKEN)) << Why();

    for (int other : others)
        close(other);
    close(listener);
    unlink(path.c_str());
    rmdir(directory);
}

TEST_F(QmpConnect, CancellingEndsConnectingAtOnce)
{
    FakeQmpPeer peer([](FakeQmpSession &session) { session.Stall(); });
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    gint64 start = g_get_monotonic_time();
    std::thread canceller([&] {
        g_usleep(30000);
        g_cancellable_cancel(cancellable);
    });
    client_ = vs_qmp_client_connect(peer.path().c_str(), kTimeoutMs, cancellable, &error_);
    canceller.join();
    EXPECT_EQ(client_, nullptr);
    EXPECT_TRUE(g_error_matches(error_, G_IO_ERROR, G_IO_ERROR_CANCELLED)) << Why();
    EXPECT_LT(g_get_monotonic_time() - start, kTimeoutMs * 1000 / 2);
}

TEST_F(QmpConnect, GarbageInsteadOfAGreetingIsAProtocolErrorAtOnce)
{
    for (const char *garbage :
         {"SSH-2.0-OpenSSH_9.2p1\r\n", "\r\n", "[]\n", "[{\"QMP\":{}}]\n", "null\n", "{}\n",
          "{\"QMP\":1}\n", "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7,\"minor\":2}}}}\n",
          "{\"QMP\":{\"version\":{\"qemu\":{\"major\":-7,\"minor\":2,\"micro\":0}}}}\n",
          "{\"event\":\"STOP\"}\n", "{\"return\":{}}\n", "{\"QMP\":{}} {}\n", "\xff\xfe\n"}) {
        SCOPED_TRACE(garbage);
        g_clear_error(&error_);
        ExpectNoConnection(
            [garbage](FakeQmpSession &session) {
                session.Send(garbage);
                session.Stall();
            },
            VS_QMP_ERROR_PROTOCOL);
    }
}

TEST_F(QmpConnect, EndlessLineIsAProtocolError)
{
    ExpectNoConnection(
        [](FakeQmpSession &session) {
            std::string piece(1 << 20, 'x');
            for (;;)
                session.Send(piece);
        },
        VS_QMP_ERROR_PROTOCOL);
}

TEST_F(QmpConnect, PeerThatHangsUpBeforeOrWithinItsGreetingIsClosed)
{
    ExpectNoConnection([](FakeQmpSession &session) { session.HangUp(); }, VS_QMP_ERROR_CLOSED);
    g_clear_error(&error_);
    ExpectNoConnection([](FakeQmpSession &session) { session.Send("{\"QM"); }, VS_QMP_ERROR_CLOSED);
    g_clear_error(&error_);
    ExpectNoConnection([](FakeQmpSession &session) { session.Greet(); }, VS_QMP_ERROR_CLOSED);
}

TEST_F(QmpConnect, NegotiationThatIsNotAnsweredMeetsTheDeadline)
{
    ExpectNoConnection(
        [](FakeQmpSession &session) {
            session.Greet();
            session.Stall();
        },
        VS_QMP_ERROR_TIMEOUT, kShortMs);
}

TEST_F(QmpConnect, NegotiationThatIsRefusedIsACommandError)
{
    ExpectNoConnection(
        [](FakeQmpSession &session) {
            session.Greet();
            session.Expect("qmp_capabilities");
            session.Fail("no");
        },
        VS_QMP_ERROR_COMMAND);
}

} // namespace
