// SPDX-License-Identifier: LGPL-2.1-or-later
// The storage driver when somebody starts the machine while its images are read, or kills us while
// they are open for writing.
#include "tests/integration/storage_fixture.h"

#include <csignal>
#include <unistd.h>

#include "plugin/hypervisor/image-lock.h"
#include "plugin/hypervisor/storage-daemon.h"
#include "tests/support/gate.h"

namespace
{

using namespace storage_test;

class StorageLost : public StorageDriver
{
};
class StorageDaemon : public StorageDriver
{
};

// Somebody starts the machine -------------------------------------------------------------------

TEST_F(StorageLost, MachineStartsDuringTheReadAndTheSnapshotIsGivenUp)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    write_image(path, "qcow2", "write -q -P 0x22 5M 64k");
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-2", "s-1")) << storage->message();
    storage->open_source();
    EXPECT_FALSE(storage->is_lost());
    auto machine = start_machine(path); // throws unless it comes up
    EXPECT_TRUE(storage->is_lost());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
    machine->disk_io("vda", "write -P 0x66 9M 64k");
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->settle());
    EXPECT_FALSE(storage->tidy("s-1"));
    EXPECT_NE(storage->message().find("running QEMU"), std::string::npos) << storage->message();
    machine->quit();

    EXPECT_TRUE(storage->tidy("s-1")) << storage->message();
    EXPECT_EQ(bitmaps_in(path), (Bitmaps{{bitmap_name("s-1"), kRecording}}));
    ASSERT_TRUE(storage->begin("s-3", "s-1")) << storage->message();
    EXPECT_EQ(dirty_clusters(storage->open_source(), bitmap_name("s-1")),
              (std::set<int64_t>{80, 144}));
}

TEST_F(StorageLost, LostStaysLostWhenTheMachineHasStopped)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    start_machine(path)->quit();
    EXPECT_FALSE(storage->is_lost());
    auto machine = start_machine(path);
    EXPECT_TRUE(storage->is_lost());
    machine->quit();
    EXPECT_TRUE(storage->is_lost());
    EXPECT_FALSE(storage->confirm());
}

TEST_F(StorageLost, ConfirmFindsAMachineThatIsRunning)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    auto machine = start_machine(path);
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
}

TEST_F(StorageLost, ConfirmFindsAWriteOfAMachineThatHasStopped)
{
    for (const std::string format : {"qcow2", "raw"}) {
        Owner owner;
        owner.images = {{make_image("a." + format, format), format}};
        Storage storage(owner.callbacks());
        ASSERT_TRUE(storage.describe());
        ASSERT_TRUE(storage.begin("s-1", ""));
        auto machine = start_machine(owner.images[0].first, format);
        machine->disk_io("vda", "write -P 0x77 1M 4k");
        machine->quit();
        EXPECT_FALSE(storage.confirm()) << format;
        EXPECT_TRUE(storage.failed_with(VS_ERROR_INSTANCE_STATUS)) << storage.message();
    }
}

TEST_F(StorageLost, MachineThatWroteNothingDoesNoHarm)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    start_machine(path)->quit();
    EXPECT_TRUE(storage->confirm()) << storage->message();
}

TEST_F(StorageLost, ConfirmFindsAMachineThatWasKilled)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    auto machine = start_machine(path);
    machine->disk_io("vda", "write -P 0x77 1M 4k");
    machine->kill();
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
    EXPECT_NE(storage->message().find("inconsistent"), std::string::npos) << storage->message();
}

TEST_F(StorageLost, ReplacedImageIsFound)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    ASSERT_TRUE(storage->begin("s-1", ""));
    must_run({"cp", path, path + ".new"});
    must_run({"mv", path + ".new", path});
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
}

TEST_F(StorageLost, OwnersWordCounts)
{
    Owner owner;
    owner.images = {{make_image("a.raw", "raw"), "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    ASSERT_TRUE(storage.begin("s-1", ""));
    owner.is_running = true;
    EXPECT_TRUE(support::wait_until(std::chrono::seconds(10), [&] { return storage.is_lost(); }));
    EXPECT_TRUE(storage.failed_with(VS_ERROR_INSTANCE_STATUS)) << storage.message();

    Storage second(owner.callbacks());
    owner.is_running = false;
    ASSERT_TRUE(second.describe());
    ASSERT_TRUE(second.begin("s-1", ""));
    EXPECT_FALSE(second.is_lost()); // which has just asked
    owner.is_running = true;
    EXPECT_FALSE(second.confirm());
}

TEST_F(StorageLost, OwnerIsNotAskedAllTheTime)
{
    Owner owner;
    owner.images = {{make_image("a.raw", "raw"), "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    ASSERT_TRUE(storage.begin("s-1", ""));
    owner.checks = 0;
    const int64_t from = g_get_monotonic_time();
    for (int i = 0; i < 50; i++)
        EXPECT_FALSE(storage.is_lost());
    EXPECT_LE(owner.checks, 2 + (g_get_monotonic_time() - from) / 500000);
}

// The daemon ------------------------------------------------------------------------------------

// What BitmapsAreStoredWhenTheProgramIsKilled runs as a program of its own.
const char *const kHoldImage = "--hold-open-for-writing";

int
hold_image(const char *path)
{
    GError *error = nullptr;
    g_autoptr(VsStorageDaemon) daemon = vs_storage_daemon_start(nullptr, &error);
    if (!daemon || !vs_storage_daemon_open(daemon, "node", path, VS_STORAGE_WRITE, &error))
        return 1;
    for (;;)
        pause();
}

TEST_F(StorageDaemon, BitmapsAreStoredWhenTheProgramIsKilled)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    Process program({"/proc/self/exe", kHoldImage, path});
    // The last that opening an image for writing does is marking its bitmaps.
    ASSERT_TRUE(support::wait_until(std::chrono::seconds(10), [&] {
        return bitmaps_in(path)[bitmap_name("s-1")].count("in-use") == 1;
    })) << program.out();
    program.signal(SIGKILL);
    ASSERT_TRUE(program.wait(std::chrono::seconds(10)));
    ASSERT_TRUE(support::wait_until(std::chrono::seconds(10),
                                    [&] { return !vs_image_lock_is_path_written(path.c_str()); }));
    EXPECT_EQ(bitmaps_in(path)[bitmap_name("s-1")], kRecording);
}

TEST_F(StorageDaemon, LockTellsAWriterFromAReader)
{
    const std::string path = make_image("a.qcow2");
    EXPECT_FALSE(vs_image_lock_is_path_written(path.c_str()));
    GError *error = nullptr;
    g_autoptr(VsStorageDaemon) daemon = vs_storage_daemon_start(nullptr, &error);
    ASSERT_NE(daemon, nullptr) << error->message;
    for (VsStorageMode mode : {VS_STORAGE_READ_SHARED, VS_STORAGE_READ_LOCKED, VS_STORAGE_WRITE}) {
        ASSERT_TRUE(vs_storage_daemon_open(daemon, "node", path.c_str(), mode, &error));
        EXPECT_EQ(vs_image_lock_is_path_written(path.c_str()), mode == VS_STORAGE_WRITE);
        ASSERT_TRUE(vs_storage_daemon_close(daemon, "node", &error));
    }
}

} // namespace

int
main(int argc, char **argv)
{
    if (argc == 3 && std::string(argv[1]) == kHoldImage)
        return hold_image(argv[2]);
    return support::gated_main(argc, argv, {"qemu", "nbd"});
}
