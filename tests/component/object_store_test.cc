// SPDX-License-Identifier: LGPL-2.1-or-later
// One suite for all object stores, then what only a directory has.
#include <gtest/gtest.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "nbd-export/store/directory-store.h"
#include "tests/support/faulty_object_store.h"
#include "tests/support/temp-dir.h"

namespace
{

using support::FaultyObjectStore;
using support::TempDir;

class StoreUnderTest
{
  public:
    virtual ~StoreUnderTest() = default;
    virtual VsObjectStore *store() = 0;
};

class DirectoryUnderTest : public StoreUnderTest
{
  public:
    DirectoryUnderTest() : store_(vs_directory_store_open(directory_.path().c_str(), nullptr))
    {
    }
    ~DirectoryUnderTest() override
    {
        vs_object_store_free(store_);
    }
    VsObjectStore *
    store() override
    {
        return store_;
    }
    const std::string &
    path() const
    {
        return directory_.path();
    }

  private:
    TempDir directory_;
    VsObjectStore *store_;
};

class MemoryUnderTest : public StoreUnderTest
{
  public:
    VsObjectStore *
    store() override
    {
        return memory_.store();
    }

  private:
    FaultyObjectStore memory_;
};

class WrappedDirectoryUnderTest : public StoreUnderTest
{
  public:
    WrappedDirectoryUnderTest() : wrapper_(directory_.store())
    {
    }
    VsObjectStore *
    store() override
    {
        return wrapper_.store();
    }

  private:
    DirectoryUnderTest directory_;
    FaultyObjectStore wrapper_;
};

// -1: it worked; else the error's code.
int
CodeOf(bool done, GError *error)
{
    EXPECT_EQ(done, error == nullptr);
    int code = error == nullptr ? -1 : error->code;
    if (error != nullptr) {
        EXPECT_EQ(error->domain, VS_OBJECT_STORE_ERROR);
        g_error_free(error);
    }
    return code;
}

int
Put(VsObjectStore *store, const std::string &name, const std::string &content)
{
    size_t middle = content.size() / 3;
    struct iovec parts[3] = {
        {const_cast<char *>(content.data()), middle},
        {nullptr, 0},
        {const_cast<char *>(content.data()) + middle, content.size() - middle},
    };
    GError *error = nullptr;
    bool done = vs_object_store_put(store, name.c_str(), parts, 3, &error);
    return CodeOf(done, error);
}

int
Get(VsObjectStore *store, const std::string &name, std::string *content)
{
    GError *error = nullptr;
    GBytes *bytes = vs_object_store_get(store, name.c_str(), 1 << 24, &error);
    if (bytes != nullptr) {
        content->assign(static_cast<const char *>(g_bytes_get_data(bytes, nullptr)),
                        g_bytes_get_size(bytes));
        g_bytes_unref(bytes);
    }
    return CodeOf(bytes != nullptr, error);
}

int
Remove(VsObjectStore *store, const std::string &name)
{
    GError *error = nullptr;
    bool done = vs_object_store_remove(store, name.c_str(), &error);
    return CodeOf(done, error);
}

int
GetRange(VsObjectStore *store, const std::string &name, uint64_t offset, void *buffer,
         size_t length)
{
    GError *error = nullptr;
    bool done = vs_object_store_get_range(store, name.c_str(), offset, buffer, length, &error);
    return CodeOf(done, error);
}

std::vector<std::string>
List(VsObjectStore *store, const std::string &folder)
{
    GError *error = nullptr;
    GPtrArray *array = vs_object_store_list(store, folder.c_str(), &error);
    EXPECT_EQ(error, nullptr) << error->message;
    std::vector<std::string> names;
    for (guint i = 0; array != nullptr && i < array->len; i++) {
        names.push_back(static_cast<const char *>(g_ptr_array_index(array, i)));
    }
    g_clear_pointer(&array, g_ptr_array_unref);
    std::sort(names.begin(), names.end());
    return names;
}

struct Implementation {
    const char *name;
    std::function<std::unique_ptr<StoreUnderTest>()> make;
};

class ObjectStore : public ::testing::TestWithParam<Implementation>
{
  protected:
    ObjectStore() : under_test_(GetParam().make())
    {
    }
    VsObjectStore *
    store()
    {
        return under_test_->store();
    }

  private:
    std::unique_ptr<StoreUnderTest> under_test_;
};

TEST_P(ObjectStore, GivesBackWhatWasPut)
{
    std::string large(3 << 20, 'x');
    for (size_t i = 0; i < large.size(); i += 1021) {
        large[i] = static_cast<char>(i);
    }
    for (const std::string &content : {std::string(), std::string("a"), large}) {
        std::string read = "unread";
        ASSERT_EQ(Put(store(), "packs/ab/object", content), -1);
        ASSERT_EQ(Get(store(), "packs/ab/object", &read), -1);
        EXPECT_EQ(read, content);
        uint64_t size = 1;
        ASSERT_TRUE(vs_object_store_get_size(store(), "packs/ab/object", &size, nullptr));
        EXPECT_EQ(size, content.size());
    }
}

TEST_P(ObjectStore, ReadsExactlyARange)
{
    ASSERT_EQ(Put(store(), "config", "0123456789"), -1);
    char buffer[8] = "-------";
    ASSERT_EQ(GetRange(store(), "config", 3, buffer, 4), -1);
    EXPECT_STREQ(buffer, "3456---");
    EXPECT_EQ(GetRange(store(), "config", 10, buffer, 0), -1);
    EXPECT_EQ(GetRange(store(), "config", 9, buffer, 2), VS_OBJECT_STORE_ERROR_SHORT);
    EXPECT_EQ(GetRange(store(), "config", 100, buffer, 1), VS_OBJECT_STORE_ERROR_SHORT);
    EXPECT_GE(GetRange(store(), "config", UINT64_MAX, buffer, 1), 0);
    EXPECT_GE(GetRange(store(), "config", UINT64_MAX - 1, buffer, 7), 0);
    GError *error = nullptr;
    EXPECT_EQ(vs_object_store_get(store(), "config", 9, &error), nullptr) << "more than allowed";
    EXPECT_EQ(CodeOf(false, error), VS_OBJECT_STORE_ERROR_FAILED);
}

TEST_P(ObjectStore, ReplacesAnObjectAlsoForThoseWhoHaveReadIt)
{
    std::string read;
    ASSERT_EQ(Put(store(), "snapshots/s-1", "old"), -1);
    ASSERT_EQ(Get(store(), "snapshots/s-1", &read), -1);
    ASSERT_EQ(Put(store(), "snapshots/s-1", "newer"), -1);
    ASSERT_EQ(Get(store(), "snapshots/s-1", &read), -1);
    EXPECT_EQ(read, "newer");
    EXPECT_EQ(List(store(), "snapshots"), std::vector<std::string>{"s-1"});
}

TEST_P(ObjectStore, ForgetsWhatIsRemoved)
{
    std::string read;
    ASSERT_EQ(Put(store(), "snapshots/s-1", "content"), -1);
    ASSERT_EQ(Get(store(), "snapshots/s-1", &read), -1);
    ASSERT_EQ(Remove(store(), "snapshots/s-1"), -1);
    EXPECT_EQ(Remove(store(), "snapshots/s-1"), VS_OBJECT_STORE_ERROR_NOT_FOUND);
    EXPECT_EQ(Get(store(), "snapshots/s-1", &read), VS_OBJECT_STORE_ERROR_NOT_FOUND);
    char byte;
    EXPECT_EQ(GetRange(store(), "snapshots/s-1", 0, &byte, 1), VS_OBJECT_STORE_ERROR_NOT_FOUND);
    EXPECT_TRUE(List(store(), "snapshots").empty());
}

TEST_P(ObjectStore, ListsNamesThatNameObjectsInTheFolder)
{
    EXPECT_TRUE(List(store(), "packs").empty()) << "an absent folder is empty";
    ASSERT_EQ(Put(store(), "packs/ab/abcd", "1"), -1);
    ASSERT_EQ(Put(store(), "packs/cd/cdef", "2"), -1);
    ASSERT_EQ(Put(store(), "packs-2/x", "3"), -1);
    ASSERT_EQ(Put(store(), "index/one", "4"), -1);
    ASSERT_EQ(Put(store(), "config", "5"), -1);
    std::vector<std::string> expected = {"ab/abcd", "cd/cdef"};
    EXPECT_EQ(List(store(), "packs"), expected);
    EXPECT_EQ(List(store(), "index"), std::vector<std::string>{"one"});
}

TEST_P(ObjectStore, RefusesNamesThatLeadElsewhere)
{
    for (const char *name : {"", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", ".hidden",
                             "a/.tmp-1", "a//b", "a/", "a b", "a\nb", "a\\b", "\xc3\xa4", "a:b"}) {
        std::string read;
        EXPECT_EQ(Put(store(), name, "x"), VS_OBJECT_STORE_ERROR_FAILED) << name;
        EXPECT_EQ(Get(store(), name, &read), VS_OBJECT_STORE_ERROR_FAILED) << name;
        EXPECT_EQ(Remove(store(), name), VS_OBJECT_STORE_ERROR_FAILED) << name;
        EXPECT_EQ(vs_object_store_list(store(), name, nullptr), nullptr) << name;
    }
    EXPECT_EQ(Put(store(), std::string(10000, 'a'), "x"), VS_OBJECT_STORE_ERROR_FAILED);
}

struct Stream {
    size_t left;
    bool fails;
};

bool
Produce(gpointer user_data, void *buffer, size_t capacity, size_t *length, GError **error)
{
    auto *stream = static_cast<Stream *>(user_data);
    if (stream->left == 0 && stream->fails) {
        g_set_error(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_FAILED, "source failed");
        return false;
    }
    *length = std::min({capacity, stream->left, size_t{1000}});
    memset(buffer, 's', *length);
    stream->left -= *length;
    return true;
}

TEST_P(ObjectStore, PutsAStreamOrNothing)
{
    Stream stream = {123456, false};
    GError *error = nullptr;
    ASSERT_TRUE(vs_object_store_put_stream(store(), "index/a", Produce, &stream, &error));
    std::string read;
    ASSERT_EQ(Get(store(), "index/a", &read), -1);
    EXPECT_EQ(read, std::string(123456, 's'));

    Stream failing = {5000, true};
    EXPECT_FALSE(vs_object_store_put_stream(store(), "index/b", Produce, &failing, &error));
    EXPECT_STREQ(error->message, "source failed");
    g_error_free(error);
    EXPECT_EQ(List(store(), "index"), std::vector<std::string>{"a"});
}

TEST_P(ObjectStore, MayBeUsedByManyThreads)
{
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([this, t, &failures] {
            for (int i = 0; i < 60; i++) {
                // More names than are kept open; some are another thread's too.
                std::string name = "packs/ab/" + std::to_string((t + i) % 40);
                std::string read;
                failures += Put(store(), name, name) != -1;
                failures += Get(store(), name, &read) != -1 || read != name;
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(failures, 0);
    EXPECT_EQ(List(store(), "packs").size(), 40u);
}

INSTANTIATE_TEST_SUITE_P(
    All, ObjectStore,
    ::testing::Values(
        Implementation{"Directory", [] { return std::make_unique<DirectoryUnderTest>(); }},
        Implementation{"Memory", [] { return std::make_unique<MemoryUnderTest>(); }},
        Implementation{"Wrapped", [] { return std::make_unique<WrappedDirectoryUnderTest>(); }}),
    [](const auto &info) { return info.param.name; });

// The directory -------------------------------------------------------------------------------

void
WriteFile(const std::string &path, const std::string &content)
{
    int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ASSERT_GE(fd, 0) << path;
    ASSERT_EQ(write(fd, content.data(), content.size()), static_cast<ssize_t>(content.size()));
    close(fd);
}

TEST(DirectoryStore, HidesAndCleansWhatAKilledProcessLeft)
{
    DirectoryUnderTest directory;
    ASSERT_EQ(Put(directory.store(), "packs/ab/abcd", "1"), -1);
    ASSERT_EQ(Put(directory.store(), "index/a", "1"), -1);
    std::vector<std::string> left = {"/packs/ab/.tmp-0123", "/index/.tmp-1", "/.tmp-2"};
    for (const std::string &name : left) {
        WriteFile(directory.path() + name, "half");
    }
    EXPECT_EQ(List(directory.store(), "packs"), std::vector<std::string>{"ab/abcd"});
    EXPECT_EQ(List(directory.store(), "index"), std::vector<std::string>{"a"});
    ASSERT_TRUE(vs_directory_store_clean(directory.store(), nullptr));
    for (const std::string &name : left) {
        EXPECT_NE(access((directory.path() + name).c_str(), F_OK), 0) << name;
    }
    EXPECT_EQ(List(directory.store(), "packs").size(), 1u);
}

TEST(DirectoryStore, LeavesNothingOfAPutThatFails)
{
    DirectoryUnderTest directory;
    // A folder where the object should be: rename fails after all has been written.
    ASSERT_EQ(Put(directory.store(), "index/name/inner", "1"), -1);
    EXPECT_EQ(Put(directory.store(), "index/name", "2"), VS_OBJECT_STORE_ERROR_FAILED);
    DIR *stream = opendir((directory.path() + "/index").c_str());
    ASSERT_NE(stream, nullptr);
    unsigned entries = 0;
    while (readdir(stream) != nullptr) {
        entries++;
    }
    closedir(stream);
    EXPECT_EQ(entries, 3u) << "., .. and the folder";
}

TEST(DirectoryStore, IsForItsOwnerOnly)
{
    DirectoryUnderTest directory;
    ASSERT_EQ(Put(directory.store(), "packs/ab/abcd", "1"), -1);
    struct stat status;
    ASSERT_EQ(stat((directory.path() + "/packs/ab/abcd").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 077, 0u);
    ASSERT_EQ(stat((directory.path() + "/packs/ab").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 077, 0u);
}

TEST(DirectoryStore, FollowsNoSymbolicLink)
{
    DirectoryUnderTest directory;
    WriteFile(directory.path() + "/secret", "x");
    ASSERT_EQ(symlink("secret", (directory.path() + "/link").c_str()), 0);
    std::string read;
    EXPECT_GE(Get(directory.store(), "link", &read), 0);
}

TEST(DirectoryStore, SaysWhatIsMissing)
{
    DirectoryUnderTest directory;
    const std::string missing = directory.path() + "/missing/x";
    g_autoptr(GError) error = nullptr;
    ASSERT_EQ(vs_directory_store_open(missing.c_str(), &error), nullptr);
    EXPECT_TRUE(g_error_matches(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND));
    EXPECT_NE(std::string(error->message).find(missing), std::string::npos);
}

} // namespace
