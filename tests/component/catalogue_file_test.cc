// SPDX-License-Identifier: LGPL-2.1-or-later
// The catalogue's file: missing, damaged, foreign, not to be written, used by many at once.
#include <set>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plugin/catalogue/sql.h"
#include "plugin/error.h"
#include "tests/component/catalogue_fixture.h"

namespace
{

using catalogue_fixture::Catalogue;
using catalogue_fixture::Ids;

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

// A second connection, as another process has, that holds the catalogue until it is told to let go.
struct Held {
    explicit Held(const std::string &path) : db(vs_sql_open(path.c_str(), nullptr))
    {
        EXPECT_TRUE(vs_sql_begin(db, nullptr));
    }
    ~Held()
    {
        sqlite3_close(db);
    }
    // As long as the other is to wait.
    static bool
    Wait(gpointer user_data)
    {
        Held *held = static_cast<Held *>(user_data);
        held->waits++;
        if (held->waits == held->let_go_at) {
            EXPECT_TRUE(vs_sql_end(held->db, true, nullptr));
        }
        return held->waits != held->give_up_at;
    }
    sqlite3 *db;
    unsigned waits = 0, let_go_at = 0, give_up_at = 0;
};

TEST_F(Catalogue, WaitingForAnotherProcessIsTheCallersAffair)
{
    Held held(File("catalogue.db"));
    held.let_go_at = 3;
    vs_catalogue_set_wait(catalogue_, Held::Wait, &held);
    Begin(NewId(), "vda", 1);
    EXPECT_EQ(held.waits, 3u);
}

TEST_F(Catalogue, TheCallerMayWaitNoLonger)
{
    Held held(File("catalogue.db"));
    held.give_up_at = 2;
    vs_catalogue_set_wait(catalogue_, Held::Wait, &held);
    g_autoptr(GError) error = nullptr;
    g_autoptr(VsSnapshot) snapshot = vs_snapshot_new(Manifest(NewId(), "vda", 1));
    g_autoptr(GPtrArray) rows = One(snapshot);
    EXPECT_FALSE(vs_catalogue_begin(catalogue_, rows, &error));
    EXPECT_TRUE(g_error_matches(error, VS_ERROR, VS_ERROR_REPOSITORY_BUSY))
        << catalogue_fixture::Why(error);
    EXPECT_EQ(held.waits, 2u);
}

TEST_F(Catalogue, ProgressDoesNotWaitForAnotherProcess)
{
    const std::string id = NewId();
    Begin(id, "vda", 1);
    Held held(File("catalogue.db"));
    vs_catalogue_set_wait(catalogue_, Held::Wait, &held);
    g_autoptr(GError) error = nullptr;
    const gint64 began_us = g_get_monotonic_time();
    EXPECT_FALSE(vs_catalogue_progress(catalogue_, id.c_str(), 10, 5, &error));
    EXPECT_LT(g_get_monotonic_time() - began_us, VS_SQL_BUSY_TIMEOUT_MS * 1000 / 2);
    EXPECT_TRUE(g_error_matches(error, VS_ERROR, VS_ERROR_REPOSITORY_BUSY))
        << catalogue_fixture::Why(error);
    EXPECT_EQ(held.waits, 0u);
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
                g_autoptr(GPtrArray) ids = One(snapshot->manifest->id);
                ok = mine != nullptr && vs_catalogue_begin(mine, rows, nullptr) &&
                     vs_catalogue_fail(mine, ids, "a test", nullptr);
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
