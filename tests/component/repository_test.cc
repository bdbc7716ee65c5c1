// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/component/repository_fixture.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

const Disk kA = {1, 0, 2, 3}, kB = {4, 2, 0, 0, 5};

// The error's code of that domain, or -1 with a failure noted.
int
Code(GError *error, GQuark domain)
{
    if (error == nullptr || error->domain != domain) {
        ADD_FAILURE() << (error != nullptr ? error->message : "no error");
        return -1;
    }
    return error->code;
}

TEST_F(RepositoryTest, InitMakesWhatOpenReads)
{
    EXPECT_EQ(vs_repository_chunk_size(repository), kChunk);
    EXPECT_TRUE(vs_id_is_valid(vs_repository_id(repository), "r-"));
    EXPECT_EQ(vs_repository_chunk_count(repository, 0), 0u);
    EXPECT_EQ(vs_repository_chunk_count(repository, 1), 1u);
    EXPECT_EQ(vs_repository_chunk_count(repository, kChunk), 1u);
    EXPECT_EQ(vs_repository_chunk_count(repository, INT64_MAX), (UINT64_C(1) << 47));
    struct stat status;
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700u);
    EXPECT_TRUE(Ids().empty());
    EXPECT_TRUE(Problems().empty());
}

TEST_F(RepositoryTest, InitRefusesWhatIsThere)
{
    auto init = [](const std::string &where, uint32_t size = kChunk) {
        g_autoptr(GError) error = nullptr;
        if (vs_repository_init(where.c_str(), size, &error))
            return -1;
        EXPECT_NE(std::string(error->message).find(where), std::string::npos) << error->message;
        return Code(error, VS_REPOSITORY_ERROR);
    };
    EXPECT_EQ(init(path), VS_REPOSITORY_ERROR_EXISTS);
    ASSERT_EQ(mkdir(temp.file("empty").c_str(), 0755), 0);
    EXPECT_EQ(init(temp.file("empty")), -1); // good enough
    ASSERT_TRUE(g_file_set_contents(temp.file("file").c_str(), "x", 1, nullptr));
    EXPECT_EQ(init(temp.file("file")), VS_REPOSITORY_ERROR_FOREIGN);
    EXPECT_EQ(init(temp.file("file/below")), VS_REPOSITORY_ERROR_FOREIGN);
    EXPECT_EQ(init(temp.path()), VS_REPOSITORY_ERROR_FOREIGN);
    EXPECT_EQ(init(temp.file("new"), kChunk + 1), VS_REPOSITORY_ERROR_UNSUPPORTED);
    EXPECT_EQ(init(temp.file("new"), VS_CHUNK_SIZE_MIN / 2), VS_REPOSITORY_ERROR_UNSUPPORTED);
    EXPECT_EQ(init(temp.file("new"), VS_CHUNK_SIZE_MAX * 2), VS_REPOSITORY_ERROR_UNSUPPORTED);
    EXPECT_EQ(init(temp.file("parent/of/new"), VS_CHUNK_SIZE_MAX), -1);
}

TEST_F(RepositoryTest, InitCarriesOnAfterACrashButNotOverContent)
{
    ASSERT_EQ(g_unlink(Object("config").c_str()), 0);
    g_autoptr(GError) error = nullptr;
    EXPECT_EQ(vs_repository_open(path.c_str(), &error), nullptr);
    EXPECT_EQ(Code(error, VS_REPOSITORY_ERROR), VS_REPOSITORY_ERROR_MISSING);
    vs_repository_free(repository);
    repository = nullptr;
    EXPECT_TRUE(vs_repository_init(path.c_str(), kChunk, nullptr));
    Reopen();
    Snapshot("a", kA, 1);
    vs_repository_free(repository);
    repository = nullptr;
    ASSERT_EQ(g_unlink(Object("config").c_str()), 0);
    g_clear_error(&error);
    EXPECT_FALSE(vs_repository_init(path.c_str(), kChunk, &error));
    EXPECT_EQ(Code(error, VS_REPOSITORY_ERROR), VS_REPOSITORY_ERROR_FOREIGN);
}

TEST_F(RepositoryTest, OneOfSeveralInitsAtOnceWins)
{
    for (int round = 0; round < 10; round++) {
        std::string where = temp.file("race" + std::to_string(round));
        std::vector<pid_t> children;
        for (int i = 0; i < 4; i++) {
            pid_t child = fork();
            if (child == 0) {
                GError *error = nullptr;
                bool won = vs_repository_init(where.c_str(), kChunk, &error);
                bool lost =
                    !won && g_error_matches(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_EXISTS);
                _exit(won ? 1 : lost ? 0 : 2);
            }
            children.push_back(child);
        }
        int won = 0;
        for (pid_t child : children) {
            int status;
            ASSERT_EQ(waitpid(child, &status, 0), child);
            ASSERT_TRUE(WIFEXITED(status));
            ASSERT_LT(WEXITSTATUS(status), 2);
            won += WEXITSTATUS(status);
        }
        EXPECT_EQ(won, 1);
    }
}

TEST_F(RepositoryTest, OpenSaysWhatIsWrong)
{
    auto open = [](const std::string &where, const char *hint) {
        g_autoptr(GError) error = nullptr;
        EXPECT_EQ(vs_repository_open(where.c_str(), &error), nullptr);
        EXPECT_NE(std::string(error->message).find(where), std::string::npos) << error->message;
        EXPECT_NE(std::string(error->message).find(hint), std::string::npos) << error->message;
        return Code(error, VS_REPOSITORY_ERROR);
    };
    auto config = [&](const std::string &what, const std::string &by) {
        g_autofree char *text = nullptr;
        std::string name = Object("config");
        EXPECT_TRUE(g_file_get_contents(name.c_str(), &text, nullptr, nullptr));
        std::string changed = text;
        changed.resize(changed.rfind("sha256:"));
        changed.replace(changed.find(what), what.size(), by);
        VsDigest digest;
        char hex[VS_DIGEST_HEX_BYTES];
        vs_digest_compute(changed.data(), changed.size(), &digest);
        vs_digest_to_hex(&digest, hex);
        changed += std::string("sha256:") + hex + "\n";
        EXPECT_TRUE(g_file_set_contents(name.c_str(), changed.c_str(), -1, nullptr));
    };
    EXPECT_EQ(open(temp.file("none"), "repo init"), VS_REPOSITORY_ERROR_MISSING);
    EXPECT_EQ(open(temp.path(), "repo init"), VS_REPOSITORY_ERROR_FOREIGN);
    ASSERT_TRUE(g_file_set_contents(temp.file("file").c_str(), "x", 1, nullptr));
    EXPECT_EQ(open(temp.file("file"), "directory"), VS_REPOSITORY_ERROR_FOREIGN);
    const std::pair<const char *, const char *> choices[] = {
        {"\"format\":1", "\"format\":2"},
        {"\"fanout\":64", "\"fanout\":128"},
        {"\"sha256\"", "\"blake3\""},
        {"\"zstd\"", "\"lz4\""},
        {"\"encryption\":null", "\"encryption\":\"aead\""},
    };
    for (auto [what, by] : choices) {
        config(what, by);
        EXPECT_EQ(open(path, std::string(strchr(by, ':') ? strchr(by, ':') + 1 : by).c_str()),
                  VS_REPOSITORY_ERROR_UNSUPPORTED);
        config(by, what);
    }
    config("\"chunk_size\":65536", "\"chunk_size\":65537");
    EXPECT_EQ(open(path, "damaged"), VS_REPOSITORY_ERROR_FOREIGN);
    config("\"chunk_size\":65537", "\"chunk_size\":65536");
    Reopen();
    Damage("config");
    EXPECT_EQ(open(path, "damaged"), VS_REPOSITORY_ERROR_FOREIGN);
}

TEST_F(RepositoryTest, LocksExcludeAsTheyShould)
{
    auto lock = [&](VsRepositoryLock kind) {
        g_autoptr(VsRepository) other = vs_repository_open(path.c_str(), nullptr);
        g_autoptr(GError) error = nullptr;
        if (vs_repository_lock(other, kind, 20, &error))
            return true;
        EXPECT_EQ(Code(error, VS_REPOSITORY_ERROR), VS_REPOSITORY_ERROR_BUSY);
        return false;
    };
    EXPECT_TRUE(lock(VS_REPOSITORY_SHARED));
    EXPECT_FALSE(lock(VS_REPOSITORY_EXCLUSIVE));
    Reopen(VS_REPOSITORY_EXCLUSIVE);
    EXPECT_FALSE(lock(VS_REPOSITORY_SHARED));
    EXPECT_TRUE(vs_repository_lock(repository, VS_REPOSITORY_SHARED, 0, nullptr));
    vs_repository_free(repository);
    repository = nullptr;
    EXPECT_TRUE(lock(VS_REPOSITORY_EXCLUSIVE));
}

TEST_F(RepositoryTest, CommittedSnapshotsAreThereForOthers)
{
    VsManifest *a = Prepare(repository, "a", kA, 1), *b = Prepare(repository, "b", kB, 1);
    a->group = vs_id_new("ssg-");
    std::string first = a->id, second = b->id, group = a->group;
    g_autoptr(GPtrArray) manifests = List({a, b});
    ASSERT_TRUE(vs_repository_commit(repository, manifests, nullptr));
    EXPECT_TRUE(Names("commits").empty());
    Reopen();
    EXPECT_EQ(Ids(), (std::set<std::string>{first, second}));
    EXPECT_TRUE(Holds(first, kA));
    EXPECT_TRUE(Holds(second, kB));
    g_autoptr(VsManifest) loaded = vs_repository_load(repository, first.c_str(), nullptr);
    EXPECT_EQ(loaded->group, group);
    EXPECT_TRUE(Problems().empty());
}

TEST_F(RepositoryTest, AManifestThatNoReaderWouldTakeIsNotWritten)
{
    VsManifest *a = Prepare(repository, "a", kA, 1), *b = Prepare(repository, "b", kB, 1);
    g_free(b->kind);
    b->kind = g_strdup("sometimes");
    g_autoptr(GPtrArray) manifests = List({a, b});
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_repository_commit(repository, manifests, &error));
    EXPECT_EQ(Code(error, VS_MANIFEST_ERROR), VS_MANIFEST_ERROR_CORRUPT);
    EXPECT_TRUE(Ids().empty());
}

TEST_F(RepositoryTest, UnknownAndHostileIdsAreNotFound)
{
    for (const char *id : {"s-00000000000000000000", "s-../../config/../../cd", "", "config"}) {
        g_autoptr(GError) load = nullptr, remove = nullptr, base = nullptr;
        bool hidden;
        EXPECT_EQ(vs_repository_load(repository, id, &load), nullptr);
        EXPECT_EQ(Code(load, VS_REPOSITORY_ERROR), VS_REPOSITORY_ERROR_NOT_FOUND);
        EXPECT_FALSE(vs_repository_delete(repository, id, &remove));
        EXPECT_EQ(Code(remove, VS_REPOSITORY_ERROR), VS_REPOSITORY_ERROR_NOT_FOUND);
        EXPECT_EQ(vs_repository_load_base(repository, id, &hidden, &base), nullptr);
        EXPECT_EQ(Code(base, VS_REPOSITORY_ERROR), VS_REPOSITORY_ERROR_NOT_FOUND);
    }
}

TEST_F(RepositoryTest, NewestIsTheHighestGenerationOfItsDisk)
{
    EXPECT_EQ(Newest("a"), "");
    std::string second = Snapshot("a", kA, 2), first = Snapshot("a", kB, 1);
    std::string other = Snapshot("b", kB, 9);
    EXPECT_EQ(Newest("a"), second);
    EXPECT_EQ(Newest("b"), other);
    std::string third = Snapshot("a", kB, 3); // seen in spite of what newest remembers
    bool hidden = true;
    EXPECT_EQ(Newest("a", &hidden), third);
    EXPECT_FALSE(hidden);
}

TEST_F(RepositoryTest, DeletingTheNewestLeavesItsHiddenBase)
{
    std::string first = Snapshot("a", kA, 1), second = Snapshot("a", kB, 2, first.c_str());
    ASSERT_TRUE(Delete(second));
    EXPECT_EQ(Ids(), std::set<std::string>{first});
    bool hidden = false;
    EXPECT_EQ(Newest("a", &hidden), second);
    EXPECT_TRUE(hidden);
    ASSERT_TRUE(Delete(first)); // older than the base: leaves nothing
    EXPECT_EQ(Names("bases"), std::set<std::string>{second});
    Prune();
    EXPECT_TRUE(Holds(second, kB));
    std::string third = Snapshot("a", kA, 3, second.c_str());
    EXPECT_TRUE(Names("bases").empty());
    EXPECT_EQ(Newest("a", &hidden), third);
    EXPECT_FALSE(hidden);
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(Delete(second, &error));
    EXPECT_EQ(Code(error, VS_REPOSITORY_ERROR), VS_REPOSITORY_ERROR_NOT_FOUND);
}

TEST_F(RepositoryTest, RelabellingChangesLabelsOnly)
{
    std::string id = Snapshot("a", kA, 1);
    g_autoptr(VsManifest) labels = vs_repository_load(repository, id.c_str(), nullptr);
    labels->name = g_strdup("new name");
    labels->expires_at_us = 5;
    labels->generation = 99;
    ASSERT_TRUE(vs_repository_relabel(repository, labels, nullptr));
    g_autoptr(VsManifest) loaded = vs_repository_load(repository, id.c_str(), nullptr);
    EXPECT_STREQ(loaded->name, "new name");
    EXPECT_EQ(loaded->expires_at_us, 5);
    EXPECT_EQ(loaded->generation, 1u);
    ASSERT_TRUE(Delete(id));
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_repository_relabel(repository, labels, &error));
    EXPECT_EQ(Code(error, VS_REPOSITORY_ERROR), VS_REPOSITORY_ERROR_NOT_FOUND);
    EXPECT_TRUE(Ids().empty());
}

TEST_F(RepositoryTest, ReidentifyingChangesTheChainsIdentityOnly)
{
    std::string id = Snapshot("a", kA, 1);
    g_autoptr(VsManifest) identity = vs_repository_load(repository, id.c_str(), nullptr);
    identity->disk_chain_identity = g_strdup("[\"13\"]");
    identity->name = g_strdup("new name");
    ASSERT_TRUE(vs_repository_reidentify(repository, identity, nullptr));
    g_autoptr(VsManifest) loaded = vs_repository_load(repository, id.c_str(), nullptr);
    EXPECT_STREQ(loaded->disk_chain_identity, "[\"13\"]");
    EXPECT_EQ(loaded->name, nullptr);
}

TEST_F(RepositoryTest, PruneFreesWhatNothingReachesAndKeepsTheRest)
{
    Disk large(300);
    for (size_t i = 0; i < large.size(); i++)
        large[i] = 1000 + static_cast<uint32_t>(i);
    std::string first = Snapshot("a", large, 1);
    Disk small = kA;
    small.push_back(1000); // shared with the large one
    std::string second = Snapshot("a", small, 2, first.c_str());
    std::string other = Snapshot("b", kB, 1);
    EXPECT_EQ(Prune().freed_bytes, 0u);
    ASSERT_TRUE(Delete(first));
    VsUsage before, after;
    ASSERT_TRUE(vs_repository_usage(repository, &before, nullptr));
    EXPECT_GT(Prune().freed_bytes, 250u * kChunk);
    ASSERT_TRUE(vs_repository_usage(repository, &after, nullptr));
    EXPECT_LT(after.stored_bytes, before.stored_bytes - 250 * uint64_t{kChunk});
    EXPECT_EQ(after.referenced_bytes, before.referenced_bytes);
    EXPECT_LE(after.referenced_bytes, after.stored_bytes);
    EXPECT_EQ(after.snapshots, 2u);
    EXPECT_EQ(after.logical_bytes, (small.size() + kB.size()) * kChunk);
    EXPECT_TRUE(Holds(second, small));
    EXPECT_TRUE(Holds(other, kB));
    EXPECT_TRUE(Problems().empty());
}

TEST_F(RepositoryTest, PruneRemovesBasesOfDisksThatHaveMovedOn)
{
    std::string first = Snapshot("a", kA, 1);
    ASSERT_TRUE(Delete(first));
    Snapshot("a", kB, 2); // does not name it as its parent
    EXPECT_EQ(Names("bases").size(), 1u);
    Prune();
    EXPECT_TRUE(Names("bases").empty());
}

TEST_F(RepositoryTest, PruneRemovesNothingWhereAManifestCannotBeRead)
{
    Disk large(50, 0);
    for (size_t i = 0; i < large.size(); i++)
        large[i] = 2000 + static_cast<uint32_t>(i);
    std::string damaged = Snapshot("a", large, 1), good = Snapshot("b", kB, 1);
    Damage("snapshots/" + damaged);
    auto packs = Names("packs");
    Reopen(VS_REPOSITORY_EXCLUSIVE);
    VsCompactResult result;
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_repository_prune(repository, &result, &error));
    EXPECT_NE(std::string(error->message).find(damaged), std::string::npos) << error->message;
    EXPECT_EQ(Names("packs"), packs);
    EXPECT_EQ(Ids(), (std::set<std::string>{damaged, good}));
    g_autoptr(GError) load = nullptr;
    EXPECT_EQ(vs_repository_load(repository, damaged.c_str(), &load), nullptr);
    EXPECT_EQ(Code(load, VS_MANIFEST_ERROR), VS_MANIFEST_ERROR_CORRUPT);
    ASSERT_EQ(Problems().size(), 1u);
    EXPECT_NE(Problems()[0].find(damaged), std::string::npos);
    ASSERT_TRUE(Delete(damaged));
    EXPECT_GT(Prune().freed_bytes, 40u * kChunk);
    EXPECT_TRUE(Holds(good, kB));
}

TEST_F(RepositoryTest, ADamagedHiddenBaseCanBeDropped)
{
    std::string id = Snapshot("a", kA, 1);
    ASSERT_TRUE(Delete(id));
    Damage("bases/" + id);
    EXPECT_EQ(Newest("a"), "");
    EXPECT_EQ(Problems().size(), 1u);
    ASSERT_TRUE(Delete(id));
    EXPECT_TRUE(Names("bases").empty());
}

TEST_F(RepositoryTest, CheckMapsALostPackToTheSnapshotsThatItHurts)
{
    std::string good = Snapshot("b", kB, 1);
    auto before = Names("packs");
    std::string hurt = Snapshot("a", kA, 1);
    std::string also = Snapshot("a", {1, 0, 2, 3, 2}, 2);
    std::string same = Snapshot("c", kA, 1); // shares the nodes
    for (const std::string &pack : Names("packs")) {
        if (before.count(pack) != 0)
            continue;
        ASSERT_EQ(g_unlink(Object("packs/" + pack).c_str()), 0);
    }
    Reopen();
    std::string all;
    for (const std::string &problem : Problems())
        all += problem + "\n";
    EXPECT_NE(all.find(hurt + " of " + DiskId("a") + " (a)"), std::string::npos) << all;
    EXPECT_NE(all.find(also), std::string::npos) << all;
    EXPECT_NE(all.find(same + " of " + DiskId("c") + " (c)"), std::string::npos) << all;
    EXPECT_EQ(all.find(good), std::string::npos) << all;
}

TEST_F(RepositoryTest, CheckMapsADamagedChunkToAllThatShareItsNodes)
{
    std::string good = Snapshot("b", {4, 5}, 1), first = Snapshot("a", kA, 1);
    std::string same = Snapshot("c", kA, 1), other = Snapshot("c", {0, 0, 3}, 2);
    std::string chunk = ChunkOf(3);
    for (const std::string &pack : Names("packs")) {
        g_autofree char *data = nullptr;
        gsize length;
        std::string name = Object("packs/" + pack);
        ASSERT_TRUE(g_file_get_contents(name.c_str(), &data, &length, nullptr));
        void *found = memmem(data, length, chunk.data(), chunk.size());
        if (found != nullptr)
            static_cast<char *>(found)[100] ^= 1;
        ASSERT_TRUE(g_file_set_contents(name.c_str(), data, static_cast<gssize>(length), nullptr));
    }
    Reopen();
    auto problems = Problems();
    ASSERT_EQ(problems.size(), 1u);
    for (const std::string &id : {first, same, other})
        EXPECT_NE(problems[0].find(id), std::string::npos) << problems[0];
    EXPECT_EQ(problems[0].find(good), std::string::npos) << problems[0];
}

} // namespace
