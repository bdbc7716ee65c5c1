// SPDX-License-Identifier: LGPL-2.1-or-later
// What meson tells a test by its environment: where the built programs and the guest are.
#ifndef TESTS_SUPPORT_ENVIRONMENT_H
#define TESTS_SUPPORT_ENVIRONMENT_H

#include <string>

namespace support
{

// The variable's value; throws std::runtime_error with a hint when it is not set.
std::string environment(const std::string &name);

} // namespace support

#endif
