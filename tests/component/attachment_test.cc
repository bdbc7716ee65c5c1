// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/attachment.h"

#include "plugin/catalogue/catalogue.h"
#include "tests/component/repository_fixture.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

namespace
{

const Disk kDisk = {1, 0, 2};

class Attachment : public RepositoryTest
{
  protected:
    std::string
    Write(const std::string &name, const std::string &content)
    {
        std::string file = temp.file(name);
        EXPECT_TRUE(g_file_set_contents(file.c_str(), content.data(),
                                        static_cast<gssize>(content.size()), nullptr));
        return file;
    }
    VsManifestFile *
    Store(const std::string &file, const char *role = "kernel")
    {
        g_autoptr(GError) error = nullptr;
        VsManifestFile *stored = vs_attachment_store(repository, role, file.c_str(), &error);
        EXPECT_NE(stored, nullptr) << error->message;
        return stored;
    }
    // The error's code of that domain, -1 for another, with the file's name in its message.
    int
    Refusal(const std::string &file, GQuark domain)
    {
        g_autoptr(GError) error = nullptr;
        g_autoptr(VsManifestFile) stored =
            vs_attachment_store(repository, "nvram", file.c_str(), &error);
        EXPECT_EQ(stored, nullptr);
        if (error == nullptr)
            return -1;
        EXPECT_NE(std::string(error->message).find("nvram file " + file), std::string::npos);
        return error->domain == domain ? error->code : -1;
    }
    // What restoring gives, into a file that has something else in it.
    std::string
    Restored(const VsManifestFile *file, GError **error = nullptr)
    {
        std::string name = Write("restored", std::string(100, 'x'));
        int fd = open(name.c_str(), O_RDWR | O_CLOEXEC);
        bool done = vs_attachment_restore(repository, file, fd, error);
        close(fd);
        if (!done)
            return "failed";
        g_autofree char *data = nullptr;
        gsize length = 0;
        EXPECT_TRUE(g_file_get_contents(name.c_str(), &data, &length, nullptr));
        return std::string(data, length);
    }
    // A snapshot with a file; returns its id.
    std::string
    SnapshotWith(const std::string &disk, uint64_t generation, const std::string &file,
                 const char *parent = nullptr)
    {
        VsManifest *manifest = Prepare(repository, disk, kDisk, generation, parent);
        std::string id = manifest->id;
        g_ptr_array_add(manifest->files, Store(file));
        g_autoptr(GPtrArray) manifests = List({manifest});
        EXPECT_TRUE(vs_repository_commit(repository, manifests, nullptr));
        return id;
    }
    // What the snapshot's file has in it, read by whoever opens the repository anew.
    std::string
    FileOf(const std::string &id, GError **error = nullptr)
    {
        g_autoptr(VsManifest) manifest = vs_repository_load(repository, id.c_str(), nullptr);
        if (manifest == nullptr || manifest->files->len != 1)
            return "no such file";
        return Restored(static_cast<VsManifestFile *>(manifest->files->pdata[0]), error);
    }
    uint64_t
    StoredBytes()
    {
        VsUsage usage = {};
        EXPECT_TRUE(vs_repository_usage(repository, &usage, nullptr));
        return usage.stored_bytes;
    }
    // Flips a bit of the chunk wherever it is stored.
    void
    DamageChunk(const std::string &chunk)
    {
        bool damaged = false;
        for (const std::string &pack : Names("packs")) {
            std::string name = Object("packs/" + pack);
            g_autofree char *data = nullptr;
            gsize length;
            ASSERT_TRUE(g_file_get_contents(name.c_str(), &data, &length, nullptr));
            void *found = memmem(data, length, chunk.data(), chunk.size());
            if (found == nullptr)
                continue;
            static_cast<char *>(found)[100] ^= 1;
            damaged = true;
            ASSERT_TRUE(
                g_file_set_contents(name.c_str(), data, static_cast<gssize>(length), nullptr));
        }
        ASSERT_TRUE(damaged);
        Reopen();
    }
    // Content of many chunks that no disk of the test has; more than one leaf of the tree.
    static std::string
    Large(uint32_t first, size_t chunks = 70)
    {
        std::string content;
        for (size_t i = 0; i < chunks; i++)
            content += ChunkOf(first + static_cast<uint32_t>(i));
        return content;
    }
};

TEST_F(Attachment, FilesOfAnySizeComeBack)
{
    const std::string contents[] = {
        "",
        "x",
        std::string(1, '\0'),
        std::string(kChunk, '\0') + "x",
        ChunkOf(7),
        ChunkOf(7) + "x",
        ChunkOf(7).substr(1),
        ChunkOf(7) + std::string(3 * kChunk, '\0') + ChunkOf(8) + std::string(5, '\0'),
        Large(100) + "tail",
    };
    for (const std::string &content : contents) {
        std::string name = Write("file", content);
        ASSERT_EQ(chmod(name.c_str(), 04751), 0);
        g_autoptr(VsManifestFile) file = Store(name, "initrd");
        ASSERT_NE(file, nullptr);
        EXPECT_STREQ(file->role, "initrd");
        EXPECT_EQ(file->path, name);
        EXPECT_EQ(file->size_bytes, content.size());
        EXPECT_EQ(file->mode, 04751u);
        EXPECT_EQ(vs_digest_is_zero(&file->root),
                  content.find_first_not_of('\0') == std::string::npos);
        EXPECT_TRUE(Restored(file) == content) << content.size();
    }
}

TEST_F(Attachment, CommittedSnapshotHasItsFilesForOthers)
{
    std::string content = Large(100) + "odd";
    VsManifest *a = Prepare(repository, "a", kDisk, 1), *b = Prepare(repository, "b", kDisk, 1);
    std::string ids[] = {a->id, b->id};
    g_ptr_array_add(a->files, Store(Write("kernel", content)));
    g_ptr_array_add(b->files,
                    vs_manifest_file_copy(static_cast<const VsManifestFile *>(a->files->pdata[0])));
    g_autoptr(GPtrArray) manifests = List({a, b});
    ASSERT_TRUE(vs_repository_commit(repository, manifests, nullptr));
    Reopen();
    for (const std::string &id : ids)
        EXPECT_TRUE(FileOf(id) == content);
    EXPECT_TRUE(Problems().empty());
}

TEST_F(Attachment, SymbolicLinksAreFollowedAndKeepTheirName)
{
    Write("target", "content");
    std::string link = temp.file("link");
    ASSERT_EQ(symlink("target", link.c_str()), 0);
    g_autoptr(VsManifestFile) file = Store(link);
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(file->path, link);
    EXPECT_EQ(Restored(file), "content");
}

TEST_F(Attachment, WhatIsNoSmallRegularFileIsRefused)
{
    std::string fifo = temp.file("fifo");
    ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
    EXPECT_EQ(Refusal(fifo, VS_ATTACHMENT_ERROR), VS_ATTACHMENT_ERROR_UNFIT);
    EXPECT_EQ(Refusal(temp.path(), VS_ATTACHMENT_ERROR), VS_ATTACHMENT_ERROR_UNFIT);
    EXPECT_EQ(Refusal("/dev/null", VS_ATTACHMENT_ERROR), VS_ATTACHMENT_ERROR_UNFIT);
    EXPECT_EQ(Refusal(temp.file("missing"), G_FILE_ERROR), G_FILE_ERROR_NOENT);
    std::string sparse = Write("sparse", "");
    ASSERT_EQ(truncate(sparse.c_str(), off_t{VS_MANIFEST_FILE_MAX_BYTES} + 1), 0);
    EXPECT_EQ(Refusal(sparse, VS_ATTACHMENT_ERROR), VS_ATTACHMENT_ERROR_UNFIT);
    ASSERT_EQ(truncate(sparse.c_str(), VS_MANIFEST_FILE_MAX_BYTES), 0);
    g_autoptr(VsManifestFile) largest = Store(sparse);
    EXPECT_TRUE(largest != nullptr && vs_digest_is_zero(&largest->root));
}

TEST_F(Attachment, FileThatGrowsOrShrinksWhileItIsReadIsRefused)
{
    const std::string content = ChunkOf(7) + ChunkOf(8) + "tail";
    std::string name = Write("changing", content);
    SnapshotWith("a", 1, name);
    for (size_t size : {content.size() + 1, content.size() - 1, size_t{0}, content.size()}) {
        DyingStore store;
        vs_repository_free(repository);
        repository = vs_repository_open_wrapped(path.c_str(), DyingStore::Wrap, &store, nullptr);
        ASSERT_TRUE(vs_repository_lock(repository, VS_REPOSITORY_SHARED, 1000, nullptr));
        Write("changing", content);
        // Looking whether the first chunk's pack is still there is when the file is changed.
        int changes = 0;
        store.at_call = [&] { changes += truncate(name.c_str(), static_cast<off_t>(size)) == 0; };
        if (size != content.size()) {
            EXPECT_EQ(Refusal(name, VS_ATTACHMENT_ERROR), VS_ATTACHMENT_ERROR_CHANGED) << size;
        } else {
            g_autoptr(VsManifestFile) file = Store(name);
            EXPECT_TRUE(file != nullptr && Restored(file) == content);
        }
        EXPECT_GT(changes, 0);
        vs_repository_free(g_steal_pointer(&repository)); // before the store that it borrows
    }
}

TEST_F(Attachment, PruneKeepsFilesOfSnapshotsAndFreesThemWithTheLast)
{
    std::string content = Large(100) + "tail", name = Write("kernel", content);
    std::string first = SnapshotWith("a", 1, name), second = SnapshotWith("a", 2, name);
    uint64_t stored = StoredBytes();
    EXPECT_EQ(Prune().freed_bytes, 0u);
    EXPECT_TRUE(FileOf(first) == content);
    ASSERT_TRUE(Delete(first));
    Prune();
    EXPECT_TRUE(FileOf(second) == content);
    // The newest one becomes the hidden base, which has the disk and not the file.
    ASSERT_TRUE(Delete(second));
    EXPECT_EQ(Names("bases"), std::set<std::string>{second});
    EXPECT_GT(Prune().freed_bytes, 69u * kChunk);
    EXPECT_LT(StoredBytes(), stored - 69 * uint64_t{kChunk});
    EXPECT_TRUE(Holds(second, kDisk));
    bool hidden = false;
    g_autoptr(VsManifest) base =
        vs_repository_load_base(repository, second.c_str(), &hidden, nullptr);
    ASSERT_TRUE(base != nullptr && hidden);
    EXPECT_EQ(base->files->len, 0u);
    EXPECT_TRUE(Problems().empty());
}

TEST_F(Attachment, PruneKeepsFilesOfACommitUnderWay)
{
    std::string content = Large(100);
    VsManifest *a = Prepare(repository, "a", kDisk, 1), *b = Prepare(repository, "b", kDisk, 1);
    std::string id = a->id;
    g_ptr_array_add(a->files, Store(Write("kernel", content)));
    g_autoptr(GPtrArray) manifests = List({a, b});
    g_autoptr(GPtrArray) encoded =
        g_ptr_array_new_with_free_func(reinterpret_cast<GDestroyNotify>(g_bytes_unref));
    for (VsManifest *manifest : {a, b})
        g_ptr_array_add(encoded, vs_manifest_encode(manifest));
    g_autoptr(GBytes) commit = vs_commit_encode(encoded);
    ASSERT_TRUE(vs_chunk_store_flush(vs_repository_chunks(repository), nullptr));
    // Locked first: what is found under way when locking is completed.
    Reopen(VS_REPOSITORY_EXCLUSIVE);
    g_autofree char *name = vs_id_new("c-");
    ASSERT_TRUE(vs_repository_put_manifest(repository, "commits", name, commit, nullptr));
    VsCompactResult result;
    ASSERT_TRUE(vs_repository_prune(repository, &result, nullptr));
    EXPECT_EQ(Names("commits").size(), 1u);
    Reopen();
    EXPECT_TRUE(FileOf(id) == content);
    EXPECT_TRUE(Problems().empty());
}

TEST_F(Attachment, EqualFilesAreStoredOnce)
{
    std::string content = Large(100);
    std::string first = SnapshotWith("a", 1, Write("one", content));
    uint64_t stored = StoredBytes();
    std::string second = SnapshotWith("b", 1, Write("two", content));
    EXPECT_LT(StoredBytes(), stored + kChunk);
    EXPECT_GT(stored, content.size());
    EXPECT_TRUE(FileOf(second) == content);
}

TEST_F(Attachment, FilesThatNoSnapshotNamesAreFreed)
{
    g_autoptr(VsManifestFile) file = Store(Write("kernel", Large(100)));
    ASSERT_TRUE(vs_chunk_store_flush(vs_repository_chunks(repository), nullptr));
    EXPECT_GT(Prune().freed_bytes, 69u * kChunk);
    g_autoptr(GError) error = nullptr;
    EXPECT_EQ(Restored(file, &error), "failed");
    EXPECT_NE(error, nullptr);
}

TEST_F(Attachment, DamageIsFoundAndNamesTheSnapshotsAndFilesThatItHurts)
{
    std::string good = SnapshotWith("c", 1, Write("good", Large(100)));
    std::string bad = Write("bad", Large(300) + "tail");
    std::string first = SnapshotWith("a", 1, bad), second = SnapshotWith("b", 1, bad);
    DamageChunk(ChunkOf(368));
    auto problems = Problems();
    ASSERT_EQ(problems.size(), 1u);
    for (const std::string &id : {first + " of " + DiskId("a"), second + " of " + DiskId("b")})
        EXPECT_NE(problems[0].find("the kernel file " + bad + " of " + id), std::string::npos)
            << problems[0];
    EXPECT_EQ(problems[0].find(good), std::string::npos) << problems[0];
    g_autoptr(GError) error = nullptr;
    EXPECT_EQ(FileOf(first, &error), "failed");
    ASSERT_NE(error, nullptr);
    EXPECT_NE(std::string(error->message).find("kernel file " + bad), std::string::npos);
    EXPECT_TRUE(FileOf(good) == Large(100));
    EXPECT_TRUE(Holds(first, kDisk));
}

TEST_F(Attachment, PruneRemovesNothingWhereAFilesTreeCannotBeRead)
{
    VsManifest *manifest = Prepare(repository, "a", kDisk, 1);
    std::string hurt = manifest->id;
    VsManifestFile *file = Store(Write("kernel", Large(100)));
    vs_digest_compute("none", 4, &file->root);
    g_ptr_array_add(manifest->files, file);
    g_autoptr(GPtrArray) manifests = List({manifest});
    ASSERT_TRUE(vs_repository_commit(repository, manifests, nullptr));
    auto packs = Names("packs");
    Reopen(VS_REPOSITORY_EXCLUSIVE);
    VsCompactResult result;
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_repository_prune(repository, &result, &error));
    ASSERT_NE(error, nullptr);
    EXPECT_NE(std::string(error->message).find("kernel file of " + hurt), std::string::npos)
        << error->message;
    EXPECT_EQ(Names("packs"), packs);
}

TEST_F(Attachment, TimeOfFreezingComesBackWithARebuiltCatalogue)
{
    VsManifest *manifest = Prepare(repository, "a", kDisk, 1);
    std::string id = manifest->id;
    manifest->frozen_us = 2718281;
    g_autoptr(GPtrArray) manifests = List({manifest});
    ASSERT_TRUE(vs_repository_commit(repository, manifests, nullptr));
    // Made from the manifests, then read from the file.
    for (int i = 0; i < 2; i++) {
        g_autoptr(VsCatalogue) catalogue = vs_catalogue_open(repository, nullptr, nullptr);
        ASSERT_NE(catalogue, nullptr);
        g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(catalogue, id.c_str(), nullptr);
        ASSERT_NE(snapshot, nullptr);
        EXPECT_EQ(snapshot->manifest->frozen_us, 2718281);
    }
}

} // namespace
