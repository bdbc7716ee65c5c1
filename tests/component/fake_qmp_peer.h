// SPDX-License-Identifier: LGPL-2.1-or-later
// A QMP monitor that does what a test's script says: answers, lies, stalls, hangs up.
//
// It listens on a unix socket in a temporary directory of its own and runs the script, on a thread
// of its own, once for each client that connects, one after another like QEMU. So the code under
// test may block on it or iterate a GMainContext in the test's thread. Every wait of the script has
// a deadline (FakeQmpPeer::kDeadlineMs); a script that misses it, or whose expectation fails, is a
// test failure.
//
//     FakeQmpPeer peer([](FakeQmpSession &session) {
//         session.Negotiate();
//         session.Expect("query-jobs");
//         session.Return("[]");
//     });
//     vs_qmp_client_connect(peer.path().c_str(), …);
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

// A command as the peer received it.
struct FakeQmpCommand {
    std::string name;      // "execute"
    std::string id;        // as JSON text
    std::string arguments; // as JSON text, "" without any
    std::string line;      // the whole
    std::vector<int> fds;  // that came with it or since the command before; the session closes them
};

// One client's connection. Used by the script only.
class FakeQmpSession
{
  public:
    FakeQmpSession(int fd, int stop_fd);
    ~FakeQmpSession();
    FakeQmpSession(const FakeQmpSession &) = delete;
    FakeQmpSession &operator=(const FakeQmpSession &) = delete;

    // Sends bytes as they are.
    void Send(const std::string &bytes);
    // Sends one line.
    void SendLine(const std::string &line);
    void SendEvent(const std::string &name, const std::string &data);
    void Greet();
    // Greets and accepts qmp_capabilities.
    void Negotiate();

    // The next command; false when the client has hung up or the test is over.
    bool Receive(FakeQmpCommand *command);
    // Receives a command of this name; anything else, also the end of the test, is a test failure
    // and ends the script.
    FakeQmpCommand Expect(const std::string &name);
    // Answers the command received last, or another one.
    void Return(const std::string &result);
    void Fail(const std::string &description);
    void ReturnTo(const FakeQmpCommand &command, const std::string &result);
    void FailTo(const FakeQmpCommand &command, const std::string &description);

    // Answers each command by the handler of its name, which gives the result's JSON, until the
    // client hangs up. A command without a handler is refused.
    void Serve(
        const std::map<std::string, std::function<std::string(const FakeQmpCommand &)>> &handlers);

    // Reads and drops what the client sends until it hangs up or the test is over.
    void WaitForHangUp();
    // Reads nothing until the test is over.
    void Stall();
    // Closes the connection now. What the script says afterwards has no effect.
    void HangUp();

  private:
    bool ReadSome();

    int fd_;
    int stop_fd_;
    std::string buffer_;
    std::vector<int> fds_;     // received, of no command yet
    std::vector<int> old_fds_; // of commands
    FakeQmpCommand last_;
};

class FakeQmpPeer
{
  public:
    static constexpr int kDeadlineMs = 10000;

    using Script = std::function<void(FakeQmpSession &)>;

    explicit FakeQmpPeer(Script script);
    // Ends the script wherever it waits.
    ~FakeQmpPeer();
    FakeQmpPeer(const FakeQmpPeer &) = delete;
    FakeQmpPeer &operator=(const FakeQmpPeer &) = delete;

    const std::string &
    path() const
    {
        return path_;
    }
    // Clients whose script has ended.
    int
    served() const
    {
        return served_;
    }

  private:
    void Run();

    Script script_;
    std::string directory_;
    std::string path_;
    int listen_fd_ = -1;
    int stop_read_fd_ = -1;
    int stop_write_fd_ = -1;
    std::atomic<int> served_{0};
    std::thread thread_;
};
