// SPDX-License-Identifier: LGPL-2.1-or-later
// A folder that is a file system of its own, in memory, to be filled up. Needs root.
#ifndef TESTS_SUPPORT_SMALL_FILE_SYSTEM_H
#define TESTS_SUPPORT_SMALL_FILE_SYSTEM_H

#include <filesystem>
#include <string>
#include <utility>

#include "tests/support/process.h"

namespace support
{

// size: as mount's, "3m".
class SmallFileSystem
{
  public:
    SmallFileSystem(std::string path, const std::string &size) : path_(std::move(path))
    {
        std::filesystem::create_directory(path_);
        must_run({"mount", "-t", "tmpfs", "-o", "mode=1777,size=" + size, "none", path_});
    }
    ~SmallFileSystem()
    {
        run({"umount", path_});
    }
    void
    resize(const std::string &size)
    {
        must_run({"mount", "-o", "remount,size=" + size, path_});
    }
    SmallFileSystem(const SmallFileSystem &) = delete;
    SmallFileSystem &operator=(const SmallFileSystem &) = delete;
    const char *
    path() const
    {
        return path_.c_str();
    }

  private:
    std::string path_;
};

} // namespace support

#endif
