// SPDX-License-Identifier: LGPL-2.1-or-later
// The catalogue beside a repository in a temporary directory: several connections at once,
// processes that died, files that are damaged.
#include "plugin/catalogue/catalogue.h"
#include "plugin/catalogue/sql.h"
#include "plugin/error.h"
#include "tests/support/temp-dir.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace
{

using Ids = std::vector<std::string>;

std::string
Key(const char *prefix, const std::string &name)
{
    g_autofree char *id = vs_id_from_key(prefix, name.c_str());
    return id;
}

const std::string kInstance = Key("i-", "instance");

std::string
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
        g_autofree char *id = vs_catalogue_newest(catalogue_, Key("d-", disk).c_str(), &error);
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

TEST_F(Catalogue, MissingFileIsMadeAnewFromTheManifests)
{
    std::string first = Accomplish("vda", 1);
    std::string second = Accomplish("vda", 2);
    Delete(second);
    vs_catalogue_free(g_steal_pointer(&catalogue_));
    ASSERT_EQ(unlink(File("catalogue.db").c_str()), 0);
    EXPECT_NE(Open().find("anew"), std::string::npos);
    EXPECT_EQ(List(), (Ids{first}));
    EXPECT_EQ(Newest("vda"), second);
    EXPECT_EQ(Disks().size(), 1u);
    EXPECT_EQ(Open(), "");
}

TEST_F(Catalogue, FirstOpeningOfAnEmptyRepositoryIsNoNews)
{
    vs_catalogue_free(g_steal_pointer(&catalogue_));
    ASSERT_EQ(unlink(File("catalogue.db").c_str()), 0);
    EXPECT_EQ(Open(), "");
}

TEST_F(Catalogue, FileIsPrivate)
{
    struct stat status;
    ASSERT_EQ(stat(File("catalogue.db").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(Catalogue, DamagedFilesAreMadeAnewAndToldOnce)
{
    std::string id = Accomplish("vda", 1);
    g_autofree char *data = nullptr;
    gsize length = 0;
    vs_catalogue_free(g_steal_pointer(&catalogue_));
    ASSERT_TRUE(g_file_get_contents(File("catalogue.db").c_str(), &data, &length, nullptr));
    std::string good(data, length);
    std::string torn = good.substr(0, length / 2);
    std::string holes = good;
    for (size_t page = 4096; page < holes.size(); page += 4096)
        holes.replace(page, 64, std::string(64, '\xa5'));
    for (const std::string &content : {std::string("garbage"), std::string(100000, 'x'), torn,
                                       holes, std::string(good).replace(0, 16, 16, '\0')}) {
        vs_catalogue_free(g_steal_pointer(&catalogue_));
        Overwrite("catalogue.db", content);
        EXPECT_NE(Open().find("damaged"), std::string::npos);
        EXPECT_EQ(List(), (Ids{id}));
        EXPECT_EQ(Open(), "");
        EXPECT_EQ(List(), (Ids{id}));
    }
    EXPECT_TRUE(g_file_test(File("catalogue.db.damaged").c_str(), G_FILE_TEST_EXISTS));
}

TEST_F(Catalogue, DamageOfAnySinglePageLosesNoSnapshot)
{
    std::set<std::string> ids;
    for (uint64_t generation = 1; generation <= 12; generation++)
        ids.insert(Accomplish("vda", generation));
    vs_catalogue_free(g_steal_pointer(&catalogue_));
    g_autofree char *data = nullptr;
    gsize length = 0;
    ASSERT_TRUE(g_file_get_contents(File("catalogue.db").c_str(), &data, &length, nullptr));
    ASSERT_GT(length, 5u * 4096);
    for (size_t page = 0; page < length; page += 4096) {
        std::string content(data, length);
        content.replace(page, 200, 200, '\xa5');
        vs_catalogue_free(g_steal_pointer(&catalogue_));
        Overwrite("catalogue.db", content);
        EXPECT_NE(Open(), "") << "page " << page / 4096;
        Ids listed = List();
        EXPECT_EQ(std::set<std::string>(listed.begin(), listed.end()), ids);
        EXPECT_EQ(Disks().size(), 1u);
    }
}

TEST_F(Catalogue, FileOfAnotherVersionOrRepositoryIsMadeAnew)
{
    std::string id = Accomplish("vda", 1);
    for (const char *sql :
         {"PRAGMA user_version=99", "UPDATE origin SET repository='r-x'", "DROP TABLE snapshot",
          "ALTER TABLE snapshot DROP COLUMN bitmap", "DROP TABLE disk; CREATE TABLE disk(x)"}) {
        vs_catalogue_free(g_steal_pointer(&catalogue_));
        sqlite3 *db = vs_sql_open(File("catalogue.db").c_str(), nullptr);
        ASSERT_TRUE(vs_sql_script(db, sql, nullptr)) << sql;
        sqlite3_close(db);
        EXPECT_NE(Open(), "") << sql;
        EXPECT_EQ(List(), (Ids{id})) << sql;
        EXPECT_EQ(Disks().size(), 1u) << sql;
    }
}

TEST_F(Catalogue, DamagedManifestIsAFailedSnapshotAmongTheOthers)
{
    std::string good = Accomplish("vda", 1);
    std::string bad = NewId();
    Overwrite("snapshots/" + bad, "not a manifest");
    Open();
    EXPECT_EQ(List(), (Ids{bad, good}));
    EXPECT_EQ(State(bad).rfind("failed damaged manifest", 0), 0u) << State(bad);
    EXPECT_EQ(State(good), "accomplished");
    // Deleting it works, and it does not come back.
    Delete(bad);
    ASSERT_TRUE(vs_catalogue_forget(catalogue_, bad.c_str(), nullptr));
    Open();
    EXPECT_EQ(List(), (Ids{good}));
}

TEST_F(Catalogue, RepositoryThatCannotBeWrittenHasAnIndexInMemory)
{
    std::string id = Accomplish("vda", 1);
    vs_catalogue_free(g_steal_pointer(&catalogue_));
    ASSERT_EQ(unlink(File("catalogue.db").c_str()), 0);
    // A folder in its place that can't be moved aside stands for a file system that can't be
    // written, which not even root can have by chmod.
    ASSERT_EQ(symlink("/proc/none/catalogue.db", File("catalogue.db").c_str()), 0);
    EXPECT_EQ(Open(), "");
    EXPECT_EQ(List(), (Ids{id}));
    EXPECT_EQ(Newest("vda"), id);
}

TEST_F(Catalogue, ManyProcessesOpenAndWriteAtOnce)
{
    const int processes = 6;
    const int rounds = 15;
    vs_catalogue_free(g_steal_pointer(&catalogue_));
    ASSERT_EQ(unlink(File("catalogue.db").c_str()), 0);
    std::vector<pid_t> children;
    for (int p = 0; p < processes; p++) {
        pid_t child = fork();
        if (child == 0) {
            bool ok = true;
            for (int round = 0; round < rounds && ok; round++) {
                g_autoptr(VsCatalogue) mine = vs_catalogue_open(repository_, nullptr, nullptr);
                g_autoptr(VsSnapshot) snapshot =
                    vs_snapshot_new(Manifest(NewId(), "vda", static_cast<uint64_t>(round) + 1));
                g_autoptr(GPtrArray) rows = One(snapshot);
                ok = mine != nullptr && vs_catalogue_begin(mine, rows, nullptr) &&
                     vs_catalogue_progress(mine, snapshot->manifest->id, 50, 1, nullptr);
            }
            _exit(ok ? 0 : 1);
        }
        children.push_back(child);
    }
    for (pid_t child : children) {
        int status = -1;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
    }
    EXPECT_EQ(Open(), "");
    EXPECT_EQ(List().size(), static_cast<size_t>(processes) * rounds);
}

} // namespace
