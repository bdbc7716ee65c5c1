// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/gate.h"

#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>
#include <map>
#include <sstream>
#include <stdexcept>
#include <unistd.h>

namespace support
{

namespace
{

constexpr int EXIT_SKIPPED = 77;

const std::map<std::string, std::vector<std::string>> PROGRAMS = {
    {"qemu", {"qemu-system-x86_64", "qemu-img", "qemu-storage-daemon"}},
    {"nbd", {"nbdinfo", "nbdcopy"}},
    {"guest", {}},
    {"libvirt", {"libvirtd", "virsh"}},
};

std::vector<std::string>
split(const char *text, char separator)
{
    std::stringstream stream(text != nullptr ? text : "");
    std::vector<std::string> parts;
    std::string part;

    while (std::getline(stream, part, separator))
        parts.push_back(part);
    return parts;
}

bool
in_path(const std::string &program)
{
    for (const std::string &directory : split(getenv("PATH"), ':'))
        if (access((directory + "/" + program).c_str(), X_OK) == 0)
            return true;
    // Daemons are not in every user's PATH.
    return access(("/usr/sbin/" + program).c_str(), X_OK) == 0;
}

// What is missing for CAPABILITY, or an empty text.
std::string
missing(const std::string &capability)
{
    const auto known = PROGRAMS.find(capability);

    if (known == PROGRAMS.end())
        throw std::invalid_argument("unknown capability '" + capability + "'");
    if (capability == "guest" && getenv("VIRTSNAP_GUEST_DIR") == nullptr)
        return "the built guest";
    for (const std::string &program : known->second)
        if (!in_path(program))
            return program;
    return "";
}

bool
required(const std::string &capability)
{
    for (const std::string &name : split(getenv("VIRTSNAP_TEST_REQUIRE"), ','))
        if (name == capability)
            return true;
    return false;
}

} // namespace

int
gated_main(int argc, char **argv, const std::vector<std::string> &needed)
{
    int result = 0;

    for (const std::string &capability : needed) {
        const std::string what = missing(capability);

        if (what.empty())
            continue;
        fprintf(stderr, "%s: needs %s: %s is missing\n", argv[0], capability.c_str(), what.c_str());
        if (required(capability))
            return 1;
        result = EXIT_SKIPPED;
    }
    if (result != 0)
        return result;
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}

} // namespace support
