// SPDX-License-Identifier: LGPL-2.1-or-later
// Files as values.
#ifndef TESTS_SUPPORT_FILE_H
#define TESTS_SUPPORT_FILE_H

#include <string>

namespace support
{

// What the file at @path holds; empty where it can't be read. Read in blocks: byte by byte, a disk
// takes seconds under a sanitizer.
std::string read_file(const std::string &path);

} // namespace support

#endif
