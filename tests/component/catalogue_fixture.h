// SPDX-License-Identifier: LGPL-2.1-or-later
// A catalogue beside a repository in a temporary directory.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "plugin/catalogue/catalogue.h"
#include "plugin/error.h"
#include "tests/support/temp-dir.h"

namespace catalogue_fixture
{

using Ids = std::vector<std::string>;

inline std::string
Key(const char *prefix, const std::string &name)
{
    g_autofree char *id = vs_id_from_key(prefix, name.c_str());
    return id;
}

inline const std::string kInstance = Key("i-", "instance");

inline std::string
Why(const GError *error)
{
    return error != nullptr ? error->message : "(no error)";
}

class Catalogue : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        g_autoptr(GError) error = nullptr;
        ASSERT_TRUE(vs_repository_init(path_.c_str(), VS_CHUNK_SIZE_DEFAULT, &error)) << Why(error);
        repository_ = vs_repository_open(path_.c_str(), &error);
        ASSERT_NE(repository_, nullptr) << Why(error);
        ASSERT_TRUE(vs_repository_lock(repository_, VS_REPOSITORY_SHARED, 1000, &error));
        Open();
    }
    void
    TearDown() override
    {
        vs_catalogue_free(catalogue_);
        vs_repository_free(repository_);
    }

    // Opens it anew; returns the note.
    std::string
    Open()
    {
        vs_catalogue_free(catalogue_);
        g_autoptr(GError) error = nullptr;
        g_autofree char *note = nullptr;
        catalogue_ = vs_catalogue_open(repository_, &note, &error);
        EXPECT_NE(catalogue_, nullptr) << Why(error);
        return note != nullptr ? note : "";
    }

    // A manifest of the disk's snapshot of that generation.
    static VsManifest *
    Manifest(const std::string &id, const std::string &disk, uint64_t generation)
    {
        VsManifest *manifest = vs_manifest_new();
        manifest->id = g_strdup(id.c_str());
        manifest->kind = g_strdup("manual");
        manifest->mode = g_strdup("full");
        manifest->mode_reason = g_strdup("first");
        manifest->consistency = g_strdup("crash");
        manifest->created_at_us = static_cast<int64_t>(generation) * 1000000;
        manifest->generation = generation;
        manifest->virtual_size_bytes = 12345;
        manifest->instance_id = g_strdup(kInstance.c_str());
        manifest->instance_name = g_strdup("qmp:/socket");
        manifest->instance_kind = g_strdup("qmp");
        manifest->disk_id = g_strdup(Key("d-", disk).c_str());
        manifest->disk_target = g_strdup(disk.c_str());
        manifest->disk_source = g_strdup(("/images/" + disk).c_str());
        manifest->disk_format = g_strdup("raw");
        return manifest;
    }
    static std::string
    NewId()
    {
        g_autofree char *id = vs_id_new("s-");
        return id;
    }
    static GPtrArray *
    One(gpointer item)
    {
        GPtrArray *array = g_ptr_array_new();
        g_ptr_array_add(array, item);
        return array;
    }

    void
    Begin(const std::string &id, const std::string &disk, uint64_t generation,
          const std::map<std::string, std::string> &tags = {})
    {
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsSnapshot) snapshot = vs_snapshot_new(Manifest(id, disk, generation));
        for (const auto &[key, value] : tags)
            g_hash_table_insert(snapshot->tags, g_strdup(key.c_str()), g_strdup(value.c_str()));
        g_autoptr(GPtrArray) rows = One(snapshot);
        ASSERT_TRUE(vs_catalogue_begin(catalogue_, rows, &error)) << Why(error);
    }
    // Only the repository learns of it, as if the process had died right then.
    void
    Commit(const std::string &id, const std::string &disk, uint64_t generation)
    {
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsManifest) manifest = Manifest(id, disk, generation);
        g_autoptr(GPtrArray) manifests = One(manifest);
        ASSERT_TRUE(vs_repository_commit(repository_, manifests, &error)) << Why(error);
    }
    std::string
    Accomplish(const std::string &disk, uint64_t generation,
               const std::map<std::string, std::string> &tags = {})
    {
        std::string id = NewId();
        Begin(id, disk, generation, tags);
        Commit(id, disk, generation);
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsManifest) manifest = Manifest(id, disk, generation);
        g_autoptr(GPtrArray) manifests = One(manifest);
        EXPECT_TRUE(vs_catalogue_accomplish(catalogue_, manifests, &error)) << Why(error);
        return id;
    }
    void
    Delete(const std::string &id)
    {
        g_autoptr(GError) error = nullptr;
        ASSERT_TRUE(vs_repository_delete(repository_, id.c_str(), &error)) << Why(error);
    }

    int
    Lock()
    {
        g_autoptr(GError) error = nullptr;
        int fd = vs_catalogue_lock_instance(catalogue_, kInstance.c_str(), &error);
        EXPECT_GE(fd, 0) << Why(error);
        return fd;
    }
    // "ID INSTANCE URI;" of each.
    std::string
    Abandoned()
    {
        g_autoptr(GError) error = nullptr;
        g_autoptr(GPtrArray) all = vs_catalogue_list_abandoned(catalogue_, &error);
        EXPECT_NE(all, nullptr) << Why(error);
        std::string text;
        for (unsigned i = 0; all != nullptr && i < all->len; i++) {
            auto one = static_cast<VsAbandoned *>(g_ptr_array_index(all, i));
            text += std::string(one->id) + " " + one->instance + " " +
                    (one->connect_uri != nullptr ? one->connect_uri : "-") + ";";
        }
        return text;
    }
    Ids
    List(const VsSnapshotFilter *filter = nullptr)
    {
        g_autoptr(GError) error = nullptr;
        g_autoptr(GPtrArray) found = vs_catalogue_list(catalogue_, filter, &error);
        Ids ids;
        EXPECT_NE(found, nullptr) << Why(error);
        for (unsigned i = 0; found != nullptr && i < found->len; i++)
            ids.push_back(static_cast<VsSnapshot *>(g_ptr_array_index(found, i))->manifest->id);
        return ids;
    }
    // "status error", "none" where there is no such snapshot.
    std::string
    State(const std::string &id)
    {
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(catalogue_, id.c_str(), &error);
        if (snapshot == nullptr) {
            EXPECT_TRUE(g_error_matches(error, VS_ERROR, VS_ERROR_NO_SUCH_SNAPSHOT)) << Why(error);
            return "none";
        }
        std::string state = vs_status_name(snapshot->status);
        return snapshot->error != nullptr ? state + " " + snapshot->error : state;
    }
    std::string
    Newest(const std::string &disk)
    {
        g_autoptr(GError) error = nullptr;
        g_autofree char *id =
            vs_catalogue_newest(catalogue_, Key("d-", disk).c_str(), nullptr, &error);
        EXPECT_EQ(error, nullptr);
        return id != nullptr ? id : "none";
    }
    std::map<std::string, std::string>
    Tags(const std::string &id)
    {
        std::map<std::string, std::string> tags;
        g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(catalogue_, id.c_str(), nullptr);
        GHashTableIter iter;
        gpointer key;
        gpointer value;
        g_hash_table_iter_init(&iter, snapshot->tags);
        while (g_hash_table_iter_next(&iter, &key, &value))
            tags[static_cast<char *>(key)] = static_cast<char *>(value);
        return tags;
    }
    // The disks remembered: id → source.
    std::map<std::string, std::string>
    Disks()
    {
        g_autoptr(GPtrArray) known = vs_catalogue_known_disks(catalogue_, nullptr);
        std::map<std::string, std::string> disks;
        for (unsigned i = 0; i < known->len; i++) {
            auto disk = static_cast<VsKnownDisk *>(g_ptr_array_index(known, i));
            disks[disk->id] = disk->source;
        }
        return disks;
    }
    std::string
    File(const std::string &name) const
    {
        return path_ + "/" + name;
    }
    void
    Overwrite(const std::string &name, const std::string &content) const
    {
        std::ofstream(File(name), std::ios::binary | std::ios::trunc) << content;
    }

    support::TempDir temp_;
    std::string path_ = temp_.file("repository");
    VsRepository *repository_ = nullptr;
    VsCatalogue *catalogue_ = nullptr;
};

} // namespace catalogue_fixture
