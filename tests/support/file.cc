// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/file.h"

#include <fstream>
#include <sstream>

namespace support
{

std::string
read_file(const std::string &path)
{
    std::ifstream file(path, std::ios::binary);
    std::ostringstream content;
    content << file.rdbuf();
    return content.str();
}

} // namespace support
