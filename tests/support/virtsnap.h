// SPDX-License-Identifier: LGPL-2.1-or-later
// Runs the program under test on one repository, and one libvirt where it is told.
#ifndef TESTS_SUPPORT_VIRTSNAP_H
#define TESTS_SUPPORT_VIRTSNAP_H

#include "tests/support/json.h"
#include "tests/support/process.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace support
{

class Virtsnap
{
  public:
    // Every run gets '--repo @repository' and '--connect @uri'; an empty text leaves the option
    // out.
    explicit Virtsnap(std::string repository, std::string uri = "")
        : repository_(std::move(repository)), uri_(std::move(uri))
    {
    }

    const std::string &
    repository() const
    {
        return repository_;
    }
    Outcome run(const std::vector<std::string> &arguments,
                Milliseconds timeout = std::chrono::seconds(120)) const;
    // Starts it without waiting, to cancel, kill or overtake it.
    std::unique_ptr<Process> start(const std::vector<std::string> &arguments) const;
    // With '--output json'; throws std::runtime_error unless it exits with 0 and prints exactly
    // one document.
    Json json(const std::vector<std::string> &arguments,
              Milliseconds timeout = std::chrono::seconds(120)) const;
    // Waits until a snapshot in progress has read something. All its connections are made by then:
    // a QEMU whose client stands still while it negotiates can end neither its server nor itself.
    void wait_until_reading() const;

  private:
    std::vector<std::string> command(const std::vector<std::string> &arguments) const;

    std::string repository_;
    std::string uri_;
};

} // namespace support

#endif
