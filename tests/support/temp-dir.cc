// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/temp-dir.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace support
{

TempDir::TempDir()
{
    path_ = (std::filesystem::temp_directory_path() / "virtsnap-XXXXXX").string();
    if (mkdtemp(path_.data()) == nullptr)
        throw std::system_error(errno, std::generic_category(), "mkdtemp " + path_);
}

TempDir::~TempDir()
{
    std::error_code ignored;

    if (getenv("VIRTSNAP_TEST_KEEP") != nullptr)
        fprintf(stderr, "kept: %s\n", path_.c_str());
    else
        std::filesystem::remove_all(path_, ignored);
}

std::string
TempDir::file(const std::string &name) const
{
    return path_ + "/" + name;
}

} // namespace support
