// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/virtsnap.h"

#include "tests/support/environment.h"

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

} // namespace support
