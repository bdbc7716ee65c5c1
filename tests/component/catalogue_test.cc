// SPDX-License-Identifier: LGPL-2.1-or-later
// What the catalogue says: several connections at once, processes that died.
#include <csignal>
#include <fstream>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/component/catalogue_fixture.h"

namespace
{

using namespace catalogue_fixture;

TEST_F(Catalogue, SnapshotGoesFromProgressingToAccomplished)
{
    int lock = Lock();
    std::string id = NewId();
    Begin(id, "vda", 1, {{"k", "v"}, {"ü", ""}});
    EXPECT_EQ(State(id), "progressing");
    EXPECT_TRUE(vs_catalogue_progress(catalogue_, id.c_str(), 42, 7, nullptr));
    g_autoptr(VsSnapshot) under_way = vs_catalogue_get(catalogue_, id.c_str(), nullptr);
    EXPECT_EQ(under_way->progress_percent, 42u);
    EXPECT_EQ(under_way->remaining_seconds, 7);

    g_autoptr(VsManifest) manifest = Manifest(id, "vda", 1);
    manifest->new_bytes = 99;
    g_autoptr(GPtrArray) manifests = One(manifest);
    ASSERT_TRUE(vs_catalogue_accomplish(catalogue_, manifests, nullptr));
    close(lock);
    g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(catalogue_, id.c_str(), nullptr);
    EXPECT_EQ(snapshot->status, VS_STATUS_ACCOMPLISHED);
    EXPECT_EQ(snapshot->progress_percent, 100u);
    EXPECT_EQ(snapshot->manifest->new_bytes, 99u);
    EXPECT_EQ(Tags(id), (std::map<std::string, std::string>{{"k", "v"}, {"ü", ""}}));
}

TEST_F(Catalogue, EveryFieldOfAManifestComesBack)
{
    VsManifest *manifest = Manifest(NewId(), "vda", 7);
    std::string id = manifest->id;
    manifest->group = g_strdup("ssg-0123456789abcdefghij");
    manifest->name = g_strdup("näme");
    manifest->description = g_strdup("'; DROP TABLE snapshot; --");
    manifest->parent = g_strdup("s-0123456789abcdefghij");
    manifest->expires_at_us = INT64_MAX;
    manifest->virtual_size_bytes = INT64_MAX;
    manifest->read_bytes = 1;
    manifest->new_bytes = 2;
    vs_digest_compute("x", 1, &manifest->root);
    manifest->instance_definition = g_strdup("<domain/>");
    manifest->disk_chain = g_strdup("[\"/images/vda\"]");
    manifest->bitmap = g_strdup("bitmap");
    g_autoptr(VsSnapshot) snapshot = vs_snapshot_new(manifest);
    g_autoptr(GPtrArray) rows = One(snapshot);
    ASSERT_TRUE(vs_catalogue_begin(catalogue_, rows, nullptr));
    g_autoptr(VsSnapshot) back = vs_catalogue_get(catalogue_, id.c_str(), nullptr);
    g_autoptr(GBytes) expected = vs_manifest_encode(manifest);
    g_autoptr(GBytes) actual = vs_manifest_encode(back->manifest);
    EXPECT_TRUE(g_bytes_equal(actual, expected));
}

TEST_F(Catalogue, FailedSnapshotsStayUntilTheyAreForgotten)
{
    int lock = Lock();
    std::string id = NewId();
    Begin(id, "vda", 1);
    g_autoptr(GPtrArray) ids = One(const_cast<char *>(id.c_str()));
    ASSERT_TRUE(vs_catalogue_fail(catalogue_, ids, "no space", nullptr));
    close(lock);
    Open();
    EXPECT_EQ(State(id), "failed no space");
    EXPECT_TRUE(vs_catalogue_progress(catalogue_, id.c_str(), 50, 1, nullptr));
    EXPECT_EQ(State(id), "failed no space");
    ASSERT_TRUE(vs_catalogue_forget(catalogue_, id.c_str(), nullptr));
    EXPECT_EQ(State(id), "none");
}

TEST_F(Catalogue, IdsOfAnyFormAreSimplyNotFound)
{
    for (const std::string &id : {std::string(), std::string("../../etc/passwd"), std::string("s-"),
                                  std::string(10000, 'x'), std::string("s-\xff\n")}) {
        g_autoptr(GError) error = nullptr;
        EXPECT_EQ(vs_catalogue_get(catalogue_, id.c_str(), &error), nullptr);
        EXPECT_TRUE(g_error_matches(error, VS_ERROR, VS_ERROR_NO_SUCH_SNAPSHOT));
        EXPECT_LT(strlen(error->message), 500u);
    }
}

TEST_F(Catalogue, ListIsByTimeAndFilters)
{
    std::string late = Accomplish("vda", 3, {{"k", "v"}});
    std::string early = Accomplish("vdb", 1, {{"k", "w"}});
    std::string middle = Accomplish("vdc", 2);
    EXPECT_EQ(List(), (Ids{early, middle, late}));

    std::string disk = Key("d-", "vdb");
    VsSnapshotFilter filter = {};
    filter.status = -1;
    filter.disk = "vda";
    EXPECT_EQ(List(&filter), (Ids{late}));
    filter.disk = disk.c_str();
    EXPECT_EQ(List(&filter), (Ids{early}));
    filter.disk = nullptr;
    filter.tag_key = "k";
    EXPECT_EQ(List(&filter), (Ids{early, late}));
    filter.tag_value = "v";
    EXPECT_EQ(List(&filter), (Ids{late}));
    filter.tag_key = nullptr;
    filter.instance = "qmp:/socket";
    EXPECT_EQ(List(&filter).size(), 3u);
    filter.instance = kInstance.c_str();
    EXPECT_EQ(List(&filter).size(), 3u);
    filter.instance = "other";
    EXPECT_EQ(List(&filter).size(), 0u);
    filter.instance = nullptr;
    filter.status = VS_STATUS_PROGRESSING;
    EXPECT_EQ(List(&filter).size(), 0u);
}

TEST_F(Catalogue, OneProcessAtATimeHasAnInstancesLock)
{
    int lock = Lock();
    std::string id = NewId();
    Begin(id, "vda", 1);
    EXPECT_TRUE(vs_catalogue_is_instance_busy(catalogue_, kInstance.c_str()));
    g_autoptr(GError) error = nullptr;
    EXPECT_EQ(vs_catalogue_lock_instance(catalogue_, kInstance.c_str(), &error), -1);
    EXPECT_TRUE(g_error_matches(error, VS_ERROR, VS_ERROR_BUSY));
    EXPECT_NE(strstr(error->message, id.c_str()), nullptr) << error->message;
    close(lock);
    EXPECT_FALSE(vs_catalogue_is_instance_busy(catalogue_, kInstance.c_str()));
    close(Lock());
}

TEST_F(Catalogue, AbandonedIsWhatWasNotedAndIsNotLocked)
{
    EXPECT_EQ(Abandoned(), "");
    int lock = Lock();
    ASSERT_TRUE(vs_catalogue_note_work(lock, "qmp:/run/a\nb", "qemu:///session", nullptr));
    EXPECT_EQ(Abandoned(), ""); // somebody is at work
    close(lock);
    EXPECT_EQ(Abandoned(), kInstance + " qmp:/run/a\nb qemu:///session;");
    lock = Lock();
    ASSERT_TRUE(vs_catalogue_note_work(lock, "vm", nullptr, nullptr));
    close(lock);
    EXPECT_EQ(Abandoned(), kInstance + " vm -;");
    lock = Lock();
    ASSERT_TRUE(vs_catalogue_note_work(lock, nullptr, nullptr, nullptr));
    close(lock);
    EXPECT_EQ(Abandoned(), "");
}

TEST_F(Catalogue, NotesOfNobodysWritingAreIgnored)
{
    const std::string locks = std::string(vs_repository_path(repository_)) + "/locks/";
    for (const std::string &text :
         {std::string("no end"), std::string("a\0b\n", 4), std::string(9000, 'x') + "\n"}) {
        std::ofstream(locks + kInstance) << text;
        EXPECT_EQ(Abandoned(), "");
    }
    std::ofstream(locks + "other") << "vm\n";
    EXPECT_EQ(Abandoned(), "");
}

TEST_F(Catalogue, LockNamesNoFileOutsideItsFolder)
{
    for (const char *id : {"../config", "", "use", "i-", "/etc/passwd"}) {
        g_autoptr(GError) error = nullptr;
        EXPECT_EQ(vs_catalogue_lock_instance(catalogue_, id, &error), -1) << id;
        EXPECT_NE(error, nullptr);
        EXPECT_FALSE(vs_catalogue_is_instance_busy(catalogue_, id));
    }
}

TEST_F(Catalogue, ProgressingSnapshotOfADeadProcessIsShownAsFailed)
{
    std::string id = NewId();
    int lock = Lock();
    Begin(id, "vda", 1);
    close(lock); // as the kernel does
    EXPECT_EQ(State(id), std::string("failed ") + VS_CATALOGUE_ABANDONED);
    // The next one that works on the instance holds the lock: this must not bring the dead to life.
    lock = Lock();
    EXPECT_EQ(State(id), std::string("failed ") + VS_CATALOGUE_ABANDONED);
    close(lock);
}

TEST_F(Catalogue, DyingProcessLetsGoOfItsLock)
{
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        int fd = vs_catalogue_lock_instance(catalogue_, kInstance.c_str(), nullptr);
        if (write(ready[1], fd >= 0 ? "y" : "n", 1) == 1)
            pause();
        _exit(0);
    }
    char answer = 0;
    ASSERT_EQ(read(ready[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    EXPECT_TRUE(vs_catalogue_is_instance_busy(catalogue_, kInstance.c_str()));
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    EXPECT_FALSE(vs_catalogue_is_instance_busy(catalogue_, kInstance.c_str()));
    close(ready[0]);
    close(ready[1]);
}

TEST_F(Catalogue, CommitOfAProcessThatDiedIsFoundAtTheNextOpening)
{
    std::string id = NewId();
    int lock = Lock();
    Begin(id, "vda", 1, {{"k", "v"}});
    Commit(id, "vda", 1);
    close(lock);
    EXPECT_EQ(Open(), "");
    EXPECT_EQ(State(id), "accomplished");
    EXPECT_EQ(Tags(id), (std::map<std::string, std::string>{{"k", "v"}}));
}

TEST_F(Catalogue, CancelReachesTheMaker)
{
    std::string id = NewId();
    int lock = Lock();
    Begin(id, "vda", 1);
    g_autoptr(VsCatalogue) maker = vs_catalogue_open(repository_, nullptr, nullptr);
    EXPECT_FALSE(vs_catalogue_is_cancel_requested(maker, id.c_str()));
    ASSERT_TRUE(vs_catalogue_request_cancel(catalogue_, id.c_str(), nullptr));
    EXPECT_TRUE(vs_catalogue_is_cancel_requested(maker, id.c_str()));
    EXPECT_EQ(State(id), "progressing");
    close(lock);
}

TEST_F(Catalogue, CancelOfWhatIsNotInProgressIsRefused)
{
    std::string id = Accomplish("vda", 1);
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_catalogue_request_cancel(catalogue_, id.c_str(), &error));
    EXPECT_TRUE(g_error_matches(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS));
}

TEST_F(Catalogue, CancelOfAnAbandonedSnapshotSettlesIt)
{
    std::string id = NewId();
    int lock = Lock();
    Begin(id, "vda", 1);
    close(lock);
    ASSERT_TRUE(vs_catalogue_request_cancel(catalogue_, id.c_str(), nullptr));
    EXPECT_EQ(State(id), std::string("failed ") + VS_CATALOGUE_ABANDONED);
}

TEST_F(Catalogue, ASpeedReachesTheMakerTillItIsDone)
{
    std::string a = NewId(), b = NewId();
    int lock = Lock();
    Begin(a, "vda", 1);
    Begin(b, "vdb", 1);
    g_autoptr(VsCatalogue) maker = vs_catalogue_open(repository_, nullptr, nullptr);
    uint64_t bytes = 7;
    EXPECT_FALSE(vs_catalogue_requested_speed(maker, a.c_str(), &bytes));
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    g_ptr_array_add(ids, const_cast<char *>(a.c_str()));
    for (uint64_t wanted : {uint64_t(1) << 40, uint64_t(0)}) {
        ASSERT_TRUE(vs_catalogue_request_speed(catalogue_, ids, wanted, nullptr));
        EXPECT_TRUE(vs_catalogue_requested_speed(maker, a.c_str(), &bytes));
        EXPECT_EQ(bytes, wanted);
    }
    EXPECT_FALSE(vs_catalogue_requested_speed(maker, b.c_str(), &bytes));
    Commit(a, "vda", 1);
    EXPECT_EQ(Open(), "");
    EXPECT_EQ(State(a), "accomplished");
    EXPECT_FALSE(vs_catalogue_requested_speed(maker, a.c_str(), &bytes));
    close(lock);
}

TEST_F(Catalogue, ASpeedForWhatIsNotInProgressIsRefusedForAll)
{
    std::string done = Accomplish("vda", 1), id = NewId();
    int lock = Lock();
    Begin(id, "vdb", 1);
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    for (const std::string *each : {&id, &done})
        g_ptr_array_add(ids, const_cast<char *>(each->c_str()));
    g_autoptr(GError) error = nullptr;
    EXPECT_FALSE(vs_catalogue_request_speed(catalogue_, ids, 1, &error));
    EXPECT_TRUE(g_error_matches(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS));
    uint64_t bytes;
    EXPECT_FALSE(vs_catalogue_requested_speed(catalogue_, id.c_str(), &bytes));
    close(lock); // its maker is dead from here on
    g_ptr_array_set_size(ids, 1);
    EXPECT_FALSE(vs_catalogue_request_speed(catalogue_, ids, 1, nullptr));
}

TEST_F(Catalogue, DeletedNewestStaysTheHiddenBase)
{
    std::string first = Accomplish("vda", 1);
    std::string second = Accomplish("vda", 2);
    EXPECT_EQ(Newest("vda"), second);
    Delete(second);
    ASSERT_TRUE(vs_catalogue_forget(catalogue_, second.c_str(), nullptr));
    EXPECT_EQ(List(), (Ids{first}));
    EXPECT_EQ(State(second), "none");
    EXPECT_EQ(Newest("vda"), second);
    Open();
    EXPECT_EQ(List(), (Ids{first}));
    EXPECT_EQ(Newest("vda"), second);
    std::string third = Accomplish("vda", 3);
    EXPECT_EQ(Newest("vda"), third);
    Delete(first);
    ASSERT_TRUE(vs_catalogue_forget(catalogue_, first.c_str(), nullptr));
    EXPECT_EQ(List(), (Ids{third}));
    EXPECT_EQ(Newest("vdb"), "none");
}

TEST_F(Catalogue, DeletionByAProcessThatDiedIsFoundAtTheNextOpening)
{
    std::string first = Accomplish("vda", 1, {{"k", "v"}});
    std::string second = Accomplish("vda", 2, {{"k", "v"}});
    Delete(first);
    Delete(second);
    Open();
    EXPECT_EQ(List(), Ids{});
    EXPECT_EQ(Newest("vda"), second);
}

TEST_F(Catalogue, RelabelChangesLabelsAndReplacesTags)
{
    std::string id = Accomplish("vda", 1, {{"old", "1"}});
    g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(catalogue_, id.c_str(), nullptr);
    snapshot->manifest->name = g_strdup("new name");
    snapshot->manifest->expires_at_us = 5;
    g_hash_table_remove_all(snapshot->tags);
    g_hash_table_insert(snapshot->tags, g_strdup("new"), g_strdup("2"));
    ASSERT_TRUE(vs_catalogue_relabel(catalogue_, snapshot, nullptr));
    Open();
    g_autoptr(VsSnapshot) back = vs_catalogue_get(catalogue_, id.c_str(), nullptr);
    EXPECT_STREQ(back->manifest->name, "new name");
    EXPECT_EQ(back->manifest->expires_at_us, 5);
    EXPECT_EQ(Tags(id), (std::map<std::string, std::string>{{"new", "2"}}));
}

TEST_F(Catalogue, ChangeOfAManifestByAProcessThatDiedIsFoundAtTheNextOpening)
{
    std::string id = Accomplish("vda", 1, {{"k", "v"}});
    ASSERT_TRUE(vs_catalogue_expect_change(catalogue_, id.c_str(), nullptr));
    g_autoptr(VsManifest) manifest = Manifest(id, "vda", 1);
    manifest->name = g_strdup("changed");
    ASSERT_TRUE(vs_repository_relabel(repository_, manifest, nullptr));
    Open();
    g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(catalogue_, id.c_str(), nullptr);
    EXPECT_STREQ(snapshot->manifest->name, "changed");
    EXPECT_EQ(Tags(id), (std::map<std::string, std::string>{{"k", "v"}}));
}

TEST_F(Catalogue, CountIsOfAKindWithoutFailedOnes)
{
    Accomplish("vda", 1);
    Accomplish("vdb", 1);
    std::string dead = NewId();
    Begin(dead, "vda", 2); // nobody holds the lock
    unsigned count = 99;
    std::string disk = Key("d-", "vda");
    ASSERT_TRUE(vs_catalogue_count(catalogue_, disk.c_str(), "manual", &count, nullptr));
    EXPECT_EQ(count, 1u);
    int lock = Lock();
    Begin(NewId(), "vda", 2);
    ASSERT_TRUE(vs_catalogue_count(catalogue_, disk.c_str(), "manual", &count, nullptr));
    EXPECT_EQ(count, 2u);
    ASSERT_TRUE(vs_catalogue_count(catalogue_, disk.c_str(), "auto", &count, nullptr));
    EXPECT_EQ(count, 0u);
    close(lock);
}

TEST_F(Catalogue, DisksAreRememberedAsTheyWereSeenLast)
{
    Accomplish("vda", 1);
    std::string id = Key("d-", "vda");
    EXPECT_EQ(Disks(), (std::map<std::string, std::string>{{id, "/images/vda"}}));
    VsKnownDisk disk = {};
    disk.id = const_cast<char *>(id.c_str());
    disk.source = const_cast<char *>("/overlay");
    ASSERT_TRUE(vs_catalogue_remember_disk(catalogue_, &disk, nullptr));
    EXPECT_EQ(Disks(), (std::map<std::string, std::string>{{id, "/overlay"}}));
    // An older sight, from a manifest that is read again, changes nothing.
    Accomplish("vda", 2);
    EXPECT_EQ(Disks(), (std::map<std::string, std::string>{{id, "/overlay"}}));
}

} // namespace
