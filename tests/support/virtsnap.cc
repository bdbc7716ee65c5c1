// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/virtsnap.h"

#include <stdexcept>

#include "tests/support/environment.h"
#include "tests/support/wait.h"

namespace support
{

std::vector<std::string>
Virtsnap::command(const std::vector<std::string> &arguments) const
{
    std::vector<std::string> argv = {environment("VIRTSNAP_PROGRAM")};

    if (!repository_.empty())
        argv.insert(argv.end(), {"--repo", repository_});
    if (!uri_.empty())
        argv.insert(argv.end(), {"--connect", uri_});
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return argv;
}

Outcome
Virtsnap::run(const std::vector<std::string> &arguments, Milliseconds timeout) const
{
    return support::run(command(arguments), {}, timeout);
}

std::unique_ptr<Process>
Virtsnap::start(const std::vector<std::string> &arguments) const
{
    return std::make_unique<Process>(command(arguments));
}

Json
Virtsnap::json(const std::vector<std::string> &arguments, Milliseconds timeout) const
{
    std::vector<std::string> with_output = {"--output", "json"};

    with_output.insert(with_output.end(), arguments.begin(), arguments.end());
    return Json::parse(must_run(command(with_output), {}, timeout));
}

void
Virtsnap::wait_until_reading() const
{
    const bool is_reading = wait_until(std::chrono::seconds(20), [this] {
        const Json list = json({"list", "--status", "progressing"});
        for (size_t i = 0; i < list.size(); i++)
            if (list[i]["progress"].number() > 0)
                return true;
        return false;
    });
    if (!is_reading)
        throw std::runtime_error("no snapshot is reading");
}

} // namespace support
