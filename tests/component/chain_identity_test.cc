// SPDX-License-Identifier: LGPL-2.1-or-later
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "plugin/hypervisor/chain-identity.h"
#include "tests/support/temp-dir.h"

namespace
{

class ChainIdentity : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        for (const std::string &path : {top_, base_})
            std::ofstream(path) << "content of " << path;
    }
    static std::string
    identity(const std::vector<std::string> &chain, bool in_use = false)
    {
        g_autoptr(GPtrArray) paths = g_ptr_array_new();
        for (const std::string &path : chain)
            g_ptr_array_add(paths, const_cast<char *>(path.c_str()));
        g_autofree char *text = vs_chain_identity(paths, in_use);
        return text ? text : "unknown";
    }
    // Holds the image as a QEMU that reads it does, until the test's end.
    void
    hold(const std::string &path)
    {
        int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        struct flock lock = {};
        lock.l_type = F_RDLCK;
        lock.l_whence = SEEK_SET;
        lock.l_start = 100;
        lock.l_len = 1;
        ASSERT_EQ(fcntl(fd, F_OFD_SETLK, &lock), 0);
        held_.push_back(fd);
    }
    void
    TearDown() override
    {
        for (int fd : held_)
            close(fd);
    }
    // A later time of writing, whatever the clock's step.
    static void
    touch(const std::string &path)
    {
        struct stat status;
        ASSERT_EQ(stat(path.c_str(), &status), 0);
        timespec times[2] = {status.st_atim, status.st_mtim};
        times[1].tv_nsec = (times[1].tv_nsec + 1) % 1000000000;
        ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
    }

    support::TempDir dir_;
    std::string top_ = dir_.file("top.qcow2");
    std::string base_ = dir_.file("base.qcow2");
    std::vector<int> held_;
};

TEST_F(ChainIdentity, StaysWhileTheGuestWrites)
{
    std::string before = identity({top_, base_});
    std::ofstream(top_, std::ios::app) << "more";
    touch(top_);
    EXPECT_EQ(identity({top_, base_}), before);
}

TEST_F(ChainIdentity, ChangesWithAnotherFileOfThatName)
{
    std::string before = identity({top_});
    std::filesystem::copy_file(top_, dir_.file("copy"));
    std::filesystem::rename(dir_.file("copy"), top_);
    EXPECT_NE(identity({top_}), before);
}

TEST_F(ChainIdentity, ChangesWithAWriteToABackingFile)
{
    std::string before = identity({top_, base_});
    touch(base_);
    std::string touched = identity({top_, base_});
    EXPECT_NE(touched, before);
    std::ofstream(base_, std::ios::app) << "more";
    EXPECT_NE(identity({top_, base_}), touched);
}

TEST_F(ChainIdentity, FollowsALinkToItsFile)
{
    std::string link = dir_.file("link");
    std::filesystem::create_symlink(top_, link);
    EXPECT_EQ(identity({link}), identity({top_}));
}

TEST_F(ChainIdentity, KnowsNothingOfWhatIsNoRegularFile)
{
    EXPECT_EQ(identity({"nbd://localhost/disk", dir_.file("absent"), dir_.path()}),
              "[null,null,null]");
    EXPECT_EQ(identity({}), "[]");
}

TEST_F(ChainIdentity, IsUnknownWhereARunningMachineHasAnotherFileOpen)
{
    const std::string known = identity({top_, base_});
    EXPECT_EQ(identity({top_, base_}, true), known); // no locks at all tell nothing
    hold(top_);
    EXPECT_EQ(identity({top_, base_}, true), "unknown");
    EXPECT_EQ(identity({top_, base_}, false), known);
    hold(base_);
    EXPECT_EQ(identity({top_, base_}, true), known);
}

TEST_F(ChainIdentity, IsUnknownWithAnExternalDataFile)
{
    std::string header("QFI\xfb\0\0\0\3", 8);
    header.resize(79);
    for (const bool has_data_file : {false, true}) {
        std::ofstream(base_) << header << (has_data_file ? '\4' : '\0');
        EXPECT_EQ(identity({top_, base_}) == "unknown", has_data_file);
        EXPECT_EQ(identity({base_}) == "unknown", has_data_file);
    }
}

} // namespace
