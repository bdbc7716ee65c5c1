// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/environment.h"

#include <cstdlib>
#include <stdexcept>

namespace support
{

std::string
environment(const std::string &name)
{
    const char *value = getenv(name.c_str());

    if (value == nullptr)
        throw std::runtime_error(name + " is not set: run the test by 'meson test', or in " +
                                 "'meson devenv'");
    return value;
}

} // namespace support
