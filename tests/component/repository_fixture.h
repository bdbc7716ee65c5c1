// SPDX-License-Identifier: LGPL-2.1-or-later
// A repository in a directory of its own, disks as arrays of numbers (the oracle), and an object
// store that dies.
#ifndef TESTS_COMPONENT_REPOSITORY_FIXTURE_H
#define TESTS_COMPONENT_REPOSITORY_FIXTURE_H

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "nbd-export/store/repository-internal.h"
#include "nbd-export/store/snapshot-reader.h"
#include "tests/support/temp-dir.h"

// Passes calls on to the directory's store until its time has come.
struct DyingStore {
    VsObjectStore base;
    VsObjectStore *inner;
    int calls = 0;
    int die_at = -1;               // this call fails, counted from 0
    bool for_ever = true;          // and so do all after it: the process is dead
    bool after = false;            // the call is carried out, but its result is lost
    std::function<void()> at_call; // what happens meanwhile, with every call

    // True where the call is to be carried out; *failed where it is to fail.
    bool
    Begin(bool *failed)
    {
        int call = calls++;
        if (at_call)
            at_call();
        bool now = die_at >= 0 && call == die_at;
        *failed = die_at >= 0 && (for_ever ? call >= die_at : now);
        return !*failed || (now && after);
    }
    static bool
    Fail(GError **error)
    {
        g_clear_error(error);
        g_set_error_literal(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_FAILED,
                            "made to fail");
        return false;
    }
    template <typename Function>
    static bool
    Call(VsObjectStore *store, GError **error, Function function)
    {
        auto self = reinterpret_cast<DyingStore *>(store);
        bool failed;
        bool done = !self->Begin(&failed) || function(self->inner);
        return failed ? Fail(error) : done;
    }
    static VsObjectStore *
    Wrap(VsObjectStore *directory, gpointer user_data)
    {
        static const VsObjectStoreOps ops = {
            [](VsObjectStore *) {},
            [](VsObjectStore *store, const char *name, const struct iovec *parts, unsigned count,
               GError **error) {
                return Call(store, error, [&](VsObjectStore *inner) {
                    return inner->ops->put(inner, name, parts, count, error);
                });
            },
            [](VsObjectStore *store, const char *name, VsObjectSourceFunc source, gpointer data,
               GError **error) {
                return Call(store, error, [&](VsObjectStore *inner) {
                    return inner->ops->put_stream(inner, name, source, data, error);
                });
            },
            [](VsObjectStore *store, const char *name, uint64_t offset, void *buffer, size_t length,
               GError **error) {
                return Call(store, error, [&](VsObjectStore *inner) {
                    return inner->ops->get_range(inner, name, offset, buffer, length, error);
                });
            },
            [](VsObjectStore *store, const char *name, uint64_t *size, GError **error) {
                return Call(store, error, [&](VsObjectStore *inner) {
                    return inner->ops->get_size(inner, name, size, error);
                });
            },
            [](VsObjectStore *store, const char *folder, GError **error) -> GPtrArray * {
                auto self = reinterpret_cast<DyingStore *>(store);
                bool failed;
                if (!self->Begin(&failed) || failed)
                    return Fail(error), nullptr;
                return self->inner->ops->list(self->inner, folder, error);
            },
            [](VsObjectStore *store, const char *name, GError **error) {
                return Call(store, error, [&](VsObjectStore *inner) {
                    return inner->ops->remove(inner, name, error);
                });
            },
        };
        auto self = static_cast<DyingStore *>(user_data);
        self->base.ops = &ops;
        self->inner = directory;
        return &self->base;
    }
};

using Disk = std::vector<uint32_t>; // one number a chunk; 0: zeroes

// In memory where that is offered: hundreds of repositories are made, each with its fsyncs.
inline std::string
FastFolder()
{
    if (g_getenv("TMPDIR") == nullptr && access("/dev/shm", W_OK) == 0)
        g_setenv("TMPDIR", "/dev/shm", TRUE);
    return "repository";
}

class RepositoryTest : public testing::Test
{
  private:
    const std::string folder = FastFolder(); // before temp

  protected:
    static constexpr uint32_t kChunk = VS_CHUNK_SIZE_MIN;
    support::TempDir temp;
    std::string path = temp.file(folder);
    VsRepository *repository = nullptr;

    void
    SetUp() override
    {
        g_autoptr(GError) error = nullptr;
        ASSERT_TRUE(vs_repository_init(path.c_str(), kChunk, &error)) << error->message;
        Reopen();
    }
    void
    TearDown() override
    {
        vs_repository_free(repository);
    }
    void
    Reopen(VsRepositoryLock lock = VS_REPOSITORY_SHARED)
    {
        g_autoptr(GError) error = nullptr;
        vs_repository_free(repository);
        repository = vs_repository_open(path.c_str(), &error);
        ASSERT_NE(repository, nullptr) << error->message;
        ASSERT_TRUE(vs_repository_lock(repository, lock, 1000, &error)) << error->message;
    }
    static std::string
    ChunkOf(uint32_t number)
    {
        std::string chunk(kChunk, '\0');
        if (number == 0)
            return chunk;
        uint64_t state = number; // xorshift: does not compress
        for (size_t i = 0; i < chunk.size(); i += 8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            memcpy(&chunk[i], &state, 8);
        }
        return chunk;
    }
    static std::string
    DiskId(const std::string &name)
    {
        g_autofree char *id = vs_id_from_key("d-", name.c_str());
        return id;
    }
    // Stores the disk's content; the manifest is not committed yet.
    VsManifest *
    Prepare(VsRepository *in, const std::string &disk_name, const Disk &disk, uint64_t generation,
            const char *parent = nullptr)
    {
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
        VsChunkAccess access = {vs_repository_chunks(in), codec, 0};
        VsTreeIo io = vs_chunk_access_tree_io(&access);
        g_autoptr(VsTreeBuilder) builder = vs_tree_builder_new(&io, nullptr, disk.size());
        for (size_t i = 0; i < disk.size(); i++) {
            if (disk[i] == 0)
                continue;
            std::string chunk = ChunkOf(disk[i]);
            VsDigest digest;
            if (!vs_chunk_store_put(&access, VS_OBJECT_CHUNK, chunk.data(), chunk.size(), &digest,
                                    &error) ||
                !vs_tree_builder_set(builder, i, &digest, &error))
                return nullptr;
        }
        VsTree tree;
        if (!vs_tree_builder_finish(builder, &tree, &error))
            return nullptr;
        VsManifest *manifest = vs_manifest_new();
        manifest->id = vs_id_new("s-");
        manifest->kind = g_strdup("manual");
        manifest->mode = g_strdup(parent != nullptr ? "incremental" : "full");
        manifest->consistency = g_strdup("crash");
        manifest->parent = g_strdup(parent);
        manifest->created_at_us = 1700000000000000;
        manifest->generation = generation;
        manifest->virtual_size_bytes = disk.size() * uint64_t{kChunk};
        manifest->root = tree.root;
        manifest->disk_id = g_strdup(DiskId(disk_name).c_str());
        manifest->disk_target = g_strdup(disk_name.c_str());
        return manifest;
    }
    static GPtrArray *
    List(std::initializer_list<VsManifest *> manifests)
    {
        GPtrArray *array = g_ptr_array_new_with_free_func((GDestroyNotify)vs_manifest_free);
        for (VsManifest *manifest : manifests)
            g_ptr_array_add(array, manifest);
        return array;
    }
    // One committed snapshot; returns its id.
    std::string
    Snapshot(const std::string &disk_name, const Disk &disk, uint64_t generation,
             const char *parent = nullptr)
    {
        g_autoptr(GError) error = nullptr;
        VsManifest *manifest = Prepare(repository, disk_name, disk, generation, parent);
        std::string id = manifest->id;
        g_autoptr(GPtrArray) manifests = List({manifest});
        EXPECT_TRUE(vs_repository_commit(repository, manifests, &error))
            << (error != nullptr ? error->message : "");
        return id;
    }
    std::set<std::string>
    Ids()
    {
        g_autoptr(GPtrArray) ids = vs_repository_list(repository, nullptr);
        std::set<std::string> set;
        for (unsigned i = 0; ids != nullptr && i < ids->len; i++)
            EXPECT_TRUE(set.insert(static_cast<char *>(ids->pdata[i])).second);
        return set;
    }
    std::set<std::string>
    Names(const char *folder)
    {
        g_autoptr(GPtrArray) names =
            vs_object_store_list(vs_repository_objects(repository), folder, nullptr);
        std::set<std::string> set;
        for (unsigned i = 0; i < names->len; i++)
            set.insert(static_cast<char *>(names->pdata[i]));
        return set;
    }
    std::string
    Newest(const std::string &disk_name, bool *hidden = nullptr)
    {
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsManifest) manifest =
            vs_repository_newest(repository, DiskId(disk_name).c_str(), hidden, &error);
        EXPECT_EQ(error, nullptr);
        return manifest != nullptr ? manifest->id : "";
    }
    // Reads all of a snapshot or hidden base and compares it with the oracle.
    testing::AssertionResult
    Holds(const std::string &id, const Disk &disk)
    {
        g_autoptr(GError) error = nullptr;
        bool hidden;
        g_autoptr(VsManifest) manifest =
            vs_repository_load_base(repository, id.c_str(), &hidden, &error);
        if (manifest == nullptr)
            return testing::AssertionFailure() << error->message;
        VsTree tree = vs_repository_tree(repository, manifest);
        g_autoptr(VsSnapshotReader) reader =
            vs_snapshot_reader_new(repository, &tree, manifest->virtual_size_bytes);
        std::string data(kChunk, 'x');
        for (size_t i = 0; i < disk.size(); i++) {
            if (!vs_snapshot_reader_read(reader, i * uint64_t{kChunk}, &data[0], kChunk, &error))
                return testing::AssertionFailure() << error->message;
            if (data != ChunkOf(disk[i]))
                return testing::AssertionFailure() << "chunk " << i << " differs";
        }
        return testing::AssertionSuccess();
    }
    bool
    Delete(const std::string &id, GError **error = nullptr)
    {
        return vs_repository_delete(repository, id.c_str(), error);
    }
    // Under the exclusive lock; leaves the shared one.
    VsCompactResult
    Prune()
    {
        g_autoptr(GError) error = nullptr;
        VsCompactResult result = {};
        Reopen(VS_REPOSITORY_EXCLUSIVE);
        EXPECT_TRUE(vs_repository_prune(repository, &result, &error))
            << (error != nullptr ? error->message : "");
        Reopen();
        return result;
    }
    std::vector<std::string>
    Problems()
    {
        g_autoptr(GError) error = nullptr;
        g_auto(VsCheckResult) result = {};
        EXPECT_TRUE(vs_repository_check(repository, 100, nullptr, nullptr, &result, &error))
            << (error != nullptr ? error->message : "");
        std::vector<std::string> problems;
        for (unsigned i = 0; result.problems != nullptr && i < result.problems->len; i++)
            problems.push_back(static_cast<char *>(result.problems->pdata[i]));
        return problems;
    }
    std::string
    Object(const std::string &name)
    {
        return path + "/" + name;
    }
    // Flips a bit in the middle of an object.
    void
    Damage(const std::string &name)
    {
        g_autofree char *data = nullptr;
        gsize length;
        ASSERT_TRUE(g_file_get_contents(Object(name).c_str(), &data, &length, nullptr)) << name;
        data[length / 2] ^= 1;
        ASSERT_TRUE(
            g_file_set_contents(Object(name).c_str(), data, static_cast<gssize>(length), nullptr));
    }
};

#endif
