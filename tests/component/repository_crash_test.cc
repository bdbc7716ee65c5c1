// SPDX-License-Identifier: LGPL-2.1-or-later
// The process dies at each call to the object store, before or after it is carried out; or that
// call alone fails. Whatever happens, a group is there as a whole or not at all, and nothing else
// is lost.
#include "tests/component/repository_fixture.h"

namespace
{

const Disk kA = {1, 0, 2, 3}, kB = {4, 2, 0, 0, 5}, kA2 = {1, 7, 2, 3}, kB2 = {4, 8, 9};

struct Death {
    const char *name;
    bool for_ever;
    bool after;
};

class RepositoryCrash : public RepositoryTest, public testing::WithParamInterface<Death>
{
  protected:
    std::string a1, b1;
    DyingStore dying;

    // Two disks with a snapshot each.
    void
    SetUp() override
    {
        RepositoryTest::SetUp();
        a1 = Snapshot("a", kA, 1);
        b1 = Snapshot("b", kB, 1);
    }
    // The repository as it was after SetUp().
    void
    StartAgain()
    {
        vs_repository_free(repository);
        repository = nullptr;
        std::string remove = "rm -rf '" + path + "'";
        ASSERT_EQ(system(remove.c_str()), 0);
        SetUp();
    }
    // Opens the repository over a store that dies; it must be there as long as the repository.
    void
    OpenDying(VsRepositoryLock lock)
    {
        vs_repository_free(repository);
        dying = DyingStore();
        repository = vs_repository_open_wrapped(path.c_str(), DyingStore::Wrap, &dying, nullptr);
        ASSERT_NE(repository, nullptr);
        ASSERT_TRUE(vs_repository_lock(repository, lock, 1000, nullptr));
    }
    void
    DieAfter(int calls)
    {
        dying.calls = 0;
        dying.die_at = calls;
        dying.for_ever = GetParam().for_ever;
        dying.after = GetParam().after;
    }
    bool
    Survived() const
    {
        return dying.calls <= dying.die_at;
    }
    void
    ExpectUnhurt()
    {
        EXPECT_TRUE(Names("commits").empty());
        auto problems = Problems();
        EXPECT_TRUE(problems.empty()) << problems[0];
    }
};

TEST_P(RepositoryCrash, AGroupIsCommittedAsAWholeOrNotAtAll)
{
    for (int calls = 0;; calls++) {
        SCOPED_TRACE(calls);
        StartAgain();
        OpenDying(VS_REPOSITORY_SHARED);
        VsManifest *a = Prepare(repository, "a", kA2, 2, a1.c_str());
        VsManifest *b = Prepare(repository, "b", kB2, 2, b1.c_str());
        std::string a2 = a->id, b2 = b->id;
        g_autoptr(GPtrArray) manifests = List({a, b});
        DieAfter(calls);
        g_autoptr(GError) error = nullptr;
        bool done = vs_repository_commit(repository, manifests, &error);
        EXPECT_EQ(done, error == nullptr);
        bool survived = Survived();

        // A reader that takes no lock sees all or none, too.
        std::set<std::string> before = {a1, b1}, after = {a1, b1, a2, b2};
        vs_repository_free(repository);
        repository = vs_repository_open(path.c_str(), nullptr);
        auto seen = Ids();
        EXPECT_TRUE(seen == before || seen == after);
        for (const std::string &id : seen) {
            g_autoptr(VsManifest) manifest = vs_repository_load(repository, id.c_str(), nullptr);
            EXPECT_NE(manifest, nullptr);
        }
        Reopen();
        EXPECT_EQ(Ids(), seen);
        EXPECT_TRUE(!done || seen == after);
        // Who lives to see the failure has taken it back.
        EXPECT_TRUE(done || GetParam().for_ever || seen == before);
        if (seen == after) {
            EXPECT_TRUE(Holds(a2, kA2));
            EXPECT_TRUE(Holds(b2, kB2));
        }
        EXPECT_EQ(Newest("a"), seen == after ? a2 : a1);
        EXPECT_TRUE(Holds(a1, kA));
        EXPECT_TRUE(Holds(b1, kB));
        ExpectUnhurt();
        Prune();
        EXPECT_EQ(Ids(), seen);
        ExpectUnhurt();
        if (survived) {
            EXPECT_TRUE(done);
            EXPECT_GT(calls, 5);
            break;
        }
    }
}

TEST_P(RepositoryCrash, DeletingTheNewestLeavesTheSnapshotOrItsBase)
{
    for (int calls = 0;; calls++) {
        SCOPED_TRACE(calls);
        StartAgain();
        OpenDying(VS_REPOSITORY_SHARED);
        DieAfter(calls);
        bool done = Delete(a1);
        bool survived = Survived();
        Reopen();
        bool hidden;
        EXPECT_EQ(Newest("a", &hidden), a1);
        EXPECT_TRUE(!done || hidden);
        EXPECT_EQ(hidden, Ids().count(a1) == 0);
        EXPECT_TRUE(Holds(a1, kA));
        EXPECT_TRUE(Holds(b1, kB));
        ExpectUnhurt();
        Prune();
        EXPECT_EQ(Newest("a"), a1);
        if (!hidden) {
            EXPECT_TRUE(Delete(a1));
        }
        EXPECT_EQ(Names("bases"), std::set<std::string>{a1});
        if (survived) {
            EXPECT_TRUE(done);
            EXPECT_GT(calls, 3);
            break;
        }
    }
}

TEST_P(RepositoryCrash, AnUnfinishedCommitIsCompletedByTheNextLockAtEachPoint)
{
    for (int calls = 0;; calls++) {
        SCOPED_TRACE(calls);
        StartAgain();
        VsManifest *a = Prepare(repository, "a", kA2, 2), *b = Prepare(repository, "b", kB2, 2);
        std::string a2 = a->id, b2 = b->id;
        ASSERT_TRUE(vs_chunk_store_flush(vs_repository_chunks(repository), nullptr));
        g_autoptr(GPtrArray) manifests = List({a, b});
        g_autoptr(GPtrArray) encoded =
            g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
        for (VsManifest *manifest : {a, b})
            g_ptr_array_add(encoded, vs_manifest_encode(manifest));
        g_autoptr(GBytes) commit = vs_commit_encode(encoded);
        ASSERT_TRUE(vs_repository_put_manifest(repository, "commits", "c-00000000000000000000",
                                               commit, nullptr));
        EXPECT_EQ(Ids(), (std::set<std::string>{a1, b1, a2, b2}));

        vs_repository_free(repository);
        dying = DyingStore();
        repository = vs_repository_open_wrapped(path.c_str(), DyingStore::Wrap, &dying, nullptr);
        DieAfter(calls);
        bool locked = vs_repository_lock(repository, VS_REPOSITORY_SHARED, 1000, nullptr);
        bool survived = Survived();
        Reopen();
        EXPECT_EQ(Ids(), (std::set<std::string>{a1, b1, a2, b2}));
        EXPECT_EQ(Names("snapshots").size(), 4u);
        EXPECT_TRUE(Holds(a2, kA2));
        ExpectUnhurt();
        if (survived) {
            EXPECT_TRUE(locked);
            EXPECT_GT(calls, 4);
            break;
        }
    }
}

TEST_P(RepositoryCrash, PruneLosesNothingWhereverItDies)
{
    for (int calls = 0;; calls++) {
        SCOPED_TRACE(calls);
        StartAgain();
        std::string a2 = Snapshot("a", kA2, 2);
        ASSERT_TRUE(Delete(b1));
        ASSERT_TRUE(Delete(a1));
        OpenDying(VS_REPOSITORY_EXCLUSIVE);
        VsCompactResult result;
        DieAfter(calls);
        bool done = vs_repository_prune(repository, &result, nullptr);
        bool survived = Survived();
        Reopen();
        EXPECT_EQ(Ids(), std::set<std::string>{a2});
        EXPECT_TRUE(Holds(a2, kA2));
        EXPECT_TRUE(Holds(b1, kB));
        ExpectUnhurt();
        if (survived) {
            EXPECT_TRUE(done);
            EXPECT_GT(calls, 5);
            break;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Deaths, RepositoryCrash,
                         testing::Values(Death{"DeadBefore", true, false},
                                         Death{"DeadAfter", true, true},
                                         Death{"FailsOnce", false, false}),
                         [](const testing::TestParamInfo<Death> &info) { return info.param.name; });

TEST_F(RepositoryTest, ADamagedCommitStopsNobodyButPrune)
{
    std::string id = Snapshot("a", kA, 1);
    g_autoptr(GBytes) bytes =
        g_bytes_new_static("VSCOMMIT and no more than this, damaged as it is", 48);
    ASSERT_TRUE(vs_repository_put_manifest(repository, "commits", "c-00000000000000000000", bytes,
                                           nullptr));
    Reopen();
    EXPECT_EQ(Ids(), std::set<std::string>{id});
    std::string next = Snapshot("a", kA2, 2);
    EXPECT_TRUE(Delete(next));
    ASSERT_EQ(Problems().size(), 1u);
    EXPECT_NE(Problems()[0].find("commits/c-"), std::string::npos);
    Reopen(VS_REPOSITORY_EXCLUSIVE);
    VsCompactResult result;
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_repository_prune(repository, &result, &error));
    EXPECT_NE(std::string(error->message).find("commits/c-"), std::string::npos);
}

TEST_F(RepositoryTest, ASnapshotThatWasDeletedIsNotBroughtBackByItsCommit)
{
    VsManifest *a = Prepare(repository, "a", kA, 1), *b = Prepare(repository, "b", kB, 1);
    std::string first = a->id, second = b->id;
    g_autoptr(GPtrArray) manifests = List({a, b});
    g_autoptr(GPtrArray) encoded = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    for (VsManifest *manifest : {a, b})
        g_ptr_array_add(encoded, vs_manifest_encode(manifest));
    g_autoptr(GBytes) commit = vs_commit_encode(encoded);
    ASSERT_TRUE(vs_chunk_store_flush(vs_repository_chunks(repository), nullptr));
    // Left by a process that died after this repository was locked.
    ASSERT_TRUE(vs_repository_put_manifest(repository, "commits", "c-00000000000000000000", commit,
                                           nullptr));
    EXPECT_TRUE(Delete(first));
    EXPECT_EQ(Ids(), std::set<std::string>{second});
    Reopen();
    EXPECT_EQ(Ids(), std::set<std::string>{second});
    EXPECT_TRUE(Holds(second, kB));
}

} // namespace
