// SPDX-License-Identifier: LGPL-2.1-or-later
// The catalogue held by another process all the time, or damaged, when a command comes. What it
// makes of such files by itself is in component/catalogue_file_test.cc.
#include <filesystem>
#include <functional>
#include <sqlite3.h>

#include "tests/fault/walk_fixture.h"
#include "tests/support/file.h"
#include "tests/support/gate.h"
#include "tests/support/small-file-system.h"

namespace
{

using namespace walk_fixture;

constexpr auto kBusy = std::chrono::seconds(60); // SQLite's 10 s, and the repository's locks'
constexpr unsigned kRounds = 3;                  // of noise

class CatalogueFaults : public WalkTest
{
  protected:
    void
    SetUp() override
    {
        const char *fixed = getenv("VIRTSNAP_TEST_SEED");
        const unsigned seed =
            fixed ? static_cast<unsigned>(strtoul(fixed, nullptr, 0)) : std::random_device{}();
        printf("seed %u (VIRTSNAP_TEST_SEED)\n", seed);
        random_.seed(seed);
        WalkTest::SetUp();
        change();
        create_next();
        change();
        keep_content();
    }
    std::string
    catalogue() const
    {
        return virtsnap_.repository() + "/catalogue.db";
    }
    // All kinds of commands, none of which ruins another's work: the snapshot deleted is the
    // oldest.
    std::vector<std::vector<std::string>>
    commands() const
    {
        const std::vector<std::string> ids = accomplished();
        return {{"create", vm_},
                {"delete", ids.front()},
                {"repo", "prune"},
                {"list"},
                {"restore", ids.back(), "--to", dir_.file("restored-by-command")},
                {"recover"}};
    }
    size_t
    draw(size_t below)
    {
        return std::uniform_int_distribution<size_t>(0, below - 1)(random_);
    }

    std::mt19937 random_;
};

// Locked ----------------------------------------------------------------------------------------

// Holds the catalogue of a repository.
class Holder
{
  public:
    Holder(const std::string &repository, const char *how)
    {
        const std::string path = repository + "/catalogue.db";
        EXPECT_EQ(sqlite3_open_v2(path.c_str(), &db_, SQLITE_OPEN_READWRITE, nullptr), SQLITE_OK);
        char *error = nullptr;
        EXPECT_EQ(sqlite3_exec(db_, how, nullptr, nullptr, &error), SQLITE_OK)
            << (error != nullptr ? error : "");
        sqlite3_free(error);
    }
    ~Holder()
    {
        sqlite3_close(db_); // rolls back
    }
    Holder(const Holder &) = delete;
    Holder &operator=(const Holder &) = delete;

  private:
    sqlite3 *db_ = nullptr;
};

struct Locking {
    const char *name;
    const char *sql;
};

// A command on a repository of which another process holds the catalogue.
struct Held {
    std::vector<std::string> command;
    std::unique_ptr<Virtsnap> virtsnap;
    std::unique_ptr<Holder> holder;
    std::unique_ptr<support::Process> process;
    Outcome outcome;
};

class LockedCatalogue : public CatalogueFaults, public testing::WithParamInterface<Locking>
{
  protected:
    // Those that need no QEMU each in a copy of the repository, since they would wait for each
    // other.
    std::vector<Held>
    prepare() const
    {
        std::vector<Held> all;
        for (const std::vector<std::string> &command : commands()) {
            Held one;
            one.command = command;
            std::string repository = virtsnap_.repository();
            if (command[0] != "create" && command[0] != "recover") {
                repository = dir_.file("copy-" + std::to_string(all.size()));
                must_run({"cp", "-a", virtsnap_.repository(), repository});
            }
            one.virtsnap = std::make_unique<Virtsnap>(repository);
            all.push_back(std::move(one));
        }
        return all;
    }
    void
    run(std::vector<Held> &all) const
    {
        for (Held &one : all)
            if (one.command[0] != "recover") // it has the create's
                one.holder = std::make_unique<Holder>(one.virtsnap->repository(), GetParam().sql);
        for (Held &one : all)
            one.process = one.virtsnap->start(one.command);
        for (Held &one : all) {
            const auto outcome = one.process->wait(kBusy);
            ASSERT_TRUE(outcome) << one.command[0] << " still waits" << one.process->err();
            one.outcome = *outcome;
        }
        for (Held &one : all)
            one.holder.reset();
    }
    static void
    expect_clear_end(const Held &one)
    {
        printf("%s %s: exit %d %s\n", GetParam().name, one.command[0].c_str(),
               one.outcome.exit_code, one.outcome.err.c_str());
        // `recover` sums up what it could not do: 1.
        const bool is_recover = one.command[0] == "recover";
        EXPECT_TRUE(one.outcome.exit_code == 0 || one.outcome.exit_code == (is_recover ? 1 : 3) ||
                    one.outcome.exit_code == 3)
            << one.outcome.exit_code;
        if (one.outcome.exit_code != 0) {
            expect_one_clear_line(one.outcome.err);
            // The create and the recover may also meet at the instance's lock.
            EXPECT_TRUE(one.outcome.err.find("catalogue") != std::string::npos ||
                        one.outcome.err.find("in progress") != std::string::npos)
                << one.outcome.err;
        }
    }
    static bool
    is_listed(const Virtsnap &virtsnap, const std::string &id)
    {
        for (const Json &snapshot : virtsnap.json({"list", "--status", "accomplished"}).items())
            if (snapshot["id"].text() == id)
                return true;
        return false;
    }
    // Only the delete may have taken something, and that is what it was to take. Whatever failed
    // works now.
    void
    expect_nothing_lost(const Held &one, const std::vector<std::string> &before) const
    {
        bool is_to_do = one.outcome.exit_code != 0;
        for (const std::string &id : before) {
            const bool was_to_go = one.command[0] == "delete" && one.command[1] == id;
            const bool is_there = is_listed(*one.virtsnap, id);
            EXPECT_TRUE(is_there || was_to_go) << id;
            is_to_do = is_to_do && (is_there || !was_to_go);
            if (is_there)
                expect_content_in(*one.virtsnap, id);
        }
        one.virtsnap->json({"repo", "check"});
        if (is_to_do)
            one.virtsnap->json(one.command);
    }
    void
    expect_content_in(const Virtsnap &virtsnap, const std::string &id) const
    {
        const std::string restored = dir_.file("restored");
        virtsnap.json({"restore", id, "--to", restored, "--format", "raw"});
        EXPECT_EQ(support::run({"cmp", restored, contents_.at(id)}).exit_code, 0) << id;
        must_run({"rm", restored});
    }
};

TEST_P(LockedCatalogue, EachCommandWorksOrSaysItInTimeAndNothingIsLost)
{
    const std::vector<std::string> before = accomplished();
    std::vector<Held> all = prepare();
    run(all);
    if (HasFatalFailure())
        return;
    expect_guest_unharmed();
    for (const Held &one : all) {
        SCOPED_TRACE(one.command[0]);
        expect_clear_end(one);
        expect_nothing_lost(one, before);
    }
    note_new_snapshots();
    expect_all_restorable();
    change();
    expect_next_alone("incremental");
    expect_clean_qemu(1);
}

INSTANTIATE_TEST_SUITE_P(
    BothWays, LockedCatalogue,
    testing::Values(Locking{"writer", "BEGIN IMMEDIATE"},
                    Locking{"exclusive", "PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE"}),
    [](const testing::TestParamInfo<Locking> &info) { return info.param.name; });

// While a snapshot is being taken, the scratch space must be looked after all the same: the guest
// overwrites more than it has room for.
TEST_F(CatalogueFaults, HeldDuringACreateItDoesNotLetTheGuestsWritesFail)
{
    qemu_->quit();
    qemu_.reset();
    must_run({"qemu-img", "resize", "-q", image_, "256M"});
    start();
    qemu_->disk_io("dA", "write -P 9 0 200M");
    const support::SmallFileSystem scratch(dir_.file("scratch"), "100m");
    auto create = virtsnap_.start({"create", vm_, "--full", "--capture", "live", "--speed-limit",
                                   "1000000", "--scratch-dir", scratch.path()});
    ASSERT_TRUE(support::wait_until(create_fixture::kSoon, [&] { return !progressing().empty(); }))
        << create->err();
    const Holder holder(virtsnap_.repository(), "BEGIN IMMEDIATE");
    // It is seen to publish, which it does several times a second: by then it would wait.
    ASSERT_FALSE(create->wait(std::chrono::seconds(2)));
    // At a pace that leaves time to give the snapshot up, but not ten seconds.
    for (int at = 0; at < 192 * 4; at++)
        EXPECT_NO_THROW(qemu_->disk_io("dA", "write -P 8 " + std::to_string(at * 256) + "k 256k"))
            << at;
    expect_guest_unharmed();
}

// Damaged ---------------------------------------------------------------------------------------

class DamagedCatalogue : public CatalogueFaults
{
  protected:
    std::string
    read() const
    {
        return support::read_file(catalogue());
    }
    void
    overwrite(const std::string &content) const
    {
        remove_catalogue();
        std::ofstream(catalogue(), std::ios::binary) << content;
    }
    void
    remove_catalogue() const
    {
        for (const char *companion : {"", "-wal", "-shm"})
            std::filesystem::remove(catalogue() + companion);
    }
    std::string
    noise(size_t length)
    {
        std::string text(length, 0);
        for (char &byte : text)
            byte = static_cast<char>(draw(256));
        return text;
    }
    // Runs each kind of command on a catalogue that has just been damaged.
    void
    expect_each_command_copes(const std::function<void()> &damage, bool must_work)
    {
        const size_t kinds = commands().size();
        for (size_t kind = 0; kind < kinds && !HasFailure(); kind++) {
            const std::vector<std::string> before = accomplished();
            const std::vector<std::string> command = commands()[kind];
            SCOPED_TRACE(command[0]);
            change();
            keep_content();
            damage();
            const Outcome outcome = virtsnap_.run(command);
            expect_orderly_end(outcome, {});
            if (!must_work) {
                // Nothing finds damage of an index before it is used. Such a catalogue is deleted.
                remove_catalogue();
            } else {
                EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
                EXPECT_NE(outcome.err.find("catalogue"), std::string::npos) << outcome.err;
            }
            expect_no_throw([&] { expect_nothing_lost(before, command); });
            std::filesystem::remove(dir_.file("restored-by-command"));
            forget_all_but(2);
        }
    }
    // The others only take time to check.
    void
    forget_all_but(size_t kept) const
    {
        std::vector<std::string> command = accomplished();
        command.resize(command.size() - std::min(command.size(), kept));
        command.insert(command.begin(), "delete");
        if (command.size() > 1)
            virtsnap_.json(command);
    }
    void
    expect_nothing_lost(const std::vector<std::string> &before,
                        const std::vector<std::string> &command)
    {
        expect_guest_unharmed();
        expect_recovered();
        note_new_snapshots();
        expect_all_restorable();
        for (const std::string &id : before) {
            const bool was_to_go = command[0] == "delete" && command[1] == id;
            EXPECT_TRUE(was_to_go || is_accomplished(id)) << id;
        }
        virtsnap_.json({"repo", "check"});
        change();
        const Json next = create_next();
        EXPECT_EQ(next["mode"].text(), "incremental") << next.dump();
        expect_content(next["id"].text());
        expect_clean_qemu(1);
    }
};

TEST_F(DamagedCatalogue, MissingEmptyHalfOrGarbageIsMadeAnewByWhateverCommandComes)
{
    const std::vector<std::function<void()>> damages = {
        [this] { overwrite(""); },
        [this] {
            const std::string content = read();
            overwrite(content.substr(0, content.size() / 2));
        },
        [this] { overwrite(noise(20000)); },
    };
    for (size_t i = 0; i < damages.size(); i++) {
        SCOPED_TRACE(i);
        expect_each_command_copes(damages[i], true);
    }
}

// What no checksum notices: the newest snapshot is no more the one with the highest number.
TEST_F(DamagedCatalogue, AWrongNewestDoesNotCostTheChain)
{
    for (const bool recovers : {true, false}) {
        SCOPED_TRACE(recovers);
        change();
        create_next();
        {
            const Holder wrong(
                virtsnap_.repository(),
                "UPDATE snapshot SET generation = 0, created_at = 0 WHERE generation "
                "= (SELECT max(generation) FROM snapshot)");
        }
        if (recovers)
            expect_recovered();
        change();
        const Json next = create_next();
        EXPECT_EQ(next["mode"].text(), "incremental") << next.dump();
        expect_content(next["id"].text());
        remove_catalogue();
        expect_clean_qemu(1);
        virtsnap_.json({"repo", "check"});
    }
    expect_all_restorable();
}

TEST_F(DamagedCatalogue, NoiseInAnyPlaceLosesNothing)
{
    const char *walk = getenv("VIRTSNAP_FAULT_WALK");
    const unsigned rounds = walk != nullptr ? 10 * kRounds : kRounds;
    for (unsigned round = 0; round < rounds && !HasFailure(); round++) {
        SCOPED_TRACE("round " + std::to_string(round));
        expect_each_command_copes(
            [this] {
                std::string content = read();
                for (int i = 0; i < 4; i++)
                    content.replace(draw(content.size() - 64), 64, noise(64));
                overwrite(content);
            },
            false);
    }
}

} // namespace

VS_TEST_MAIN("qemu");
