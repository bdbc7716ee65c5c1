// SPDX-License-Identifier: LGPL-2.1-or-later
// A directory of the test's own, removed with all its content when it goes out of scope.
#ifndef TESTS_SUPPORT_TEMP_DIR_H
#define TESTS_SUPPORT_TEMP_DIR_H

#include <string>

namespace support
{

// The path is short (below TMPDIR or /tmp), so that UNIX sockets in it stay under 108 bytes.
// With VIRTSNAP_TEST_KEEP set it is left behind and named on stderr.
class TempDir
{
  public:
    TempDir();
    ~TempDir();
    TempDir(const TempDir &) = delete;
    TempDir &operator=(const TempDir &) = delete;

    const std::string &
    path() const
    {
        return path_;
    }
    // Path of NAME in the directory; does not create it.
    std::string file(const std::string &name) const;

  private:
    std::string path_;
};

} // namespace support

#endif
