// SPDX-License-Identifier: LGPL-2.1-or-later
// The storage driver on real images that nobody disturbs: what it says of them, what a point in
// time is, and which bitmaps are in them afterwards. The images are written by qemu-io, read by
// nbdcopy and nbdinfo, and looked at by qemu-img.
#include "tests/integration/storage_fixture.h"

#include <csignal>
#include <sys/resource.h>
#include <unistd.h>

#include "qmp/block.h"
#include "tests/support/gate.h"

namespace
{

using namespace storage_test;

// Describing ------------------------------------------------------------------------------------

TEST_F(StorageDriver, ImageIsDescribedAsItIs)
{
    const std::string path = make_image("a.qcow2");
    must_run({"qemu-img", "bitmap", "--add", path, "one"});
    must_run({"qemu-img", "bitmap", "--add", "--disable", path, "one.end"});
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe()) << storage->message();
    const VsInstance *instance = storage->instance();
    EXPECT_EQ(instance->id, nullptr);
    EXPECT_EQ(instance->kind, nullptr);
    EXPECT_EQ(instance->name, "file:" + path);
    EXPECT_STREQ(instance->status, "stopped");
    ASSERT_EQ(instance->disks->len, 1u);
    const VsDisk &disk = storage->disk();
    EXPECT_STREQ(disk.target, "image");
    EXPECT_EQ(disk.source, path);
    EXPECT_STREQ(disk.format, "qcow2");
    EXPECT_EQ(disk.virtual_size_bytes, 16u << 20);
    EXPECT_EQ(disk.unavailable, nullptr);
    EXPECT_TRUE(disk.can_track && disk.persistent_bitmaps);
    ASSERT_EQ(disk.chain->len, 1u);
    ASSERT_EQ(disk.bitmaps->len, 1u);
    auto *bitmap = static_cast<VsQmpBitmap *>(g_ptr_array_index(disk.bitmaps, 0));
    EXPECT_STREQ(bitmap->name, "one");
    EXPECT_TRUE(bitmap->recording && !bitmap->inconsistent);
}

TEST_F(StorageDriver, OldQcow2AndRawHaveNoBitmaps)
{
    Owner owner;
    const std::string old = dir_.file("old.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "1M"});
    owner.images = {{old, "qcow2"}, {make_image("a.raw", "raw"), "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe()) << storage.message();
    EXPECT_FALSE(storage.disk(0).can_track);
    EXPECT_FALSE(storage.disk(1).can_track);
    EXPECT_EQ(storage.disk(1).virtual_size_bytes, 16u << 20);
}

TEST_F(StorageDriver, MissingImageIsAnErrorOnlyWhereItIsAllThereIs)
{
    auto alone = Storage::of_image(dir_.file("nothing"));
    EXPECT_FALSE(alone->describe());
    EXPECT_TRUE(alone->failed_with(VS_ERROR_NO_SUCH_DISK)) << alone->message();
    auto folder = Storage::of_image(dir_.path());
    EXPECT_FALSE(folder->describe());
    EXPECT_TRUE(folder->failed_with(VS_ERROR_NO_SUCH_DISK)) << folder->message();

    Owner owner;
    owner.images = {{dir_.file("nothing"), "qcow2"},
                    {make_image("a.qcow2"), "qcow2"},
                    {"rbd:pool/image", "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe()) << storage.message();
    ASSERT_NE(storage.disk(0).unavailable, nullptr);
    EXPECT_NE(std::string(storage.disk(0).unavailable).find("No such file"), std::string::npos);
    EXPECT_EQ(storage.disk(1).unavailable, nullptr);
    EXPECT_NE(storage.disk(2).unavailable, nullptr);
}

// A guest can write a qcow2 header into its raw disk, with a backing file of the host in it.
TEST_F(StorageDriver, FormatOfTheDefinitionIsNeverGuessedAnew)
{
    Owner owner;
    owner.images = {{make_image("really.qcow2"), "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe()) << storage.message();
    EXPECT_STREQ(storage.disk().format, "raw");
    EXPECT_NE(storage.disk().virtual_size_bytes, 16u << 20);
    ASSERT_TRUE(storage.begin("s-1", "")) << storage.message();
    EXPECT_TRUE(serves_content(dir_, storage.open_source(), "raw", owner.images[0].first));
}

TEST_F(StorageDriver, EncryptedImageIsUnavailable)
{
    const std::string path = dir_.file("a.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=abc", "-o",
              "encrypt.format=aes,encrypt.key-secret=key", path, "1M"});
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe()) << storage->message();
    ASSERT_NE(storage->disk().unavailable, nullptr);
    EXPECT_NE(std::string(storage->disk().unavailable).find("encrypted"), std::string::npos);
}

TEST_F(StorageDriver, ImageThatIsTwoDisksIsReadWithoutBitmaps)
{
    const std::string path = make_image("a.qcow2");
    Owner owner;
    owner.images = {{path, "qcow2"}, {make_image("b.qcow2"), "qcow2"}, {path, "qcow2"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe()) << storage.message();
    EXPECT_TRUE(storage.disk(0).is_shared && storage.disk(2).is_shared);
    EXPECT_FALSE(storage.disk(1).is_shared);
    ASSERT_TRUE(storage.begin("s-1", "")) << storage.message();
    EXPECT_TRUE(serves_content(dir_, storage.open_source(2), "qcow2", path));
    EXPECT_TRUE(storage.confirm()) << storage.message();
    EXPECT_TRUE(bitmaps_in(path).empty());
}

TEST_F(StorageDriver, ImageOfARunningQemuIsUnavailable)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    auto machine = start_machine(path);
    EXPECT_FALSE(storage->begin("s-1", ""));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_DISK_STATUS)) << storage->message();
    ASSERT_TRUE(storage->describe()) << storage->message();
    ASSERT_NE(storage->disk().unavailable, nullptr);
    EXPECT_NE(std::string(storage->disk().unavailable).find("running QEMU"), std::string::npos);
    EXPECT_EQ(storage->disk().virtual_size_bytes, 16u << 20);
    machine->quit();
    EXPECT_TRUE(bitmaps_in(path).empty());
}

// The point in time -----------------------------------------------------------------------------

TEST_F(StorageDriver, SecondRoundSeesExactlyWhatWasWrittenBetween)
{
    Owner owner;
    const std::string qcow2 = make_image("a.qcow2"), raw = make_image("b.raw", "raw");
    owner.images = {{qcow2, "qcow2"}, {raw, "raw"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    ASSERT_TRUE(storage.tidy(""));
    const int64_t before = g_get_real_time();
    ASSERT_TRUE(storage.begin("s-1", "")) << storage.message();
    EXPECT_GE(storage.point().at_us, before);
    EXPECT_LE(storage.point().at_us, g_get_real_time());
    EXPECT_EQ(storage.point().frozen_us, 0);
    EXPECT_EQ(storage.point().disks[0].dirty_bytes, 16u << 20);
    EXPECT_EQ(storage.point().disks[1].dirty_bytes, 16u << 20);
    EXPECT_TRUE(serves_content(dir_, storage.open_source(0), "qcow2", qcow2));
    EXPECT_TRUE(storage.close_source(0));
    EXPECT_TRUE(serves_content(dir_, storage.open_source(1), "raw", raw));
    EXPECT_TRUE(storage.close_source(1));
    EXPECT_TRUE(storage.confirm()) << storage.message();
    EXPECT_TRUE(storage.settle());
    EXPECT_TRUE(storage.tidy("s-1"));
    EXPECT_EQ(owner.tidied, 2u);
    EXPECT_EQ(owner.tidied_name, "machine");
    EXPECT_EQ(bitmaps_in(qcow2)[bitmap_name("s-1")], kRecording);

    write_image(qcow2, "qcow2", "write -q -P 0x22 640k 4k");
    write_image(qcow2, "qcow2", "write -q -P 0x22 8M 130k");
    ASSERT_TRUE(storage.describe());
    ASSERT_TRUE(storage.begin("s-2", "s-1")) << storage.message();
    EXPECT_EQ(storage.point().disks[0].dirty_bytes, 4u * 65536);
    EXPECT_FALSE(storage.point().disks[0].is_estimate);
    const Strings command = storage.open_source(0);
    EXPECT_EQ(dirty_clusters(command, bitmap_name("s-1")), (std::set<int64_t>{10, 128, 129, 130}));
    EXPECT_TRUE(serves_content(dir_, command, "qcow2", qcow2));
    EXPECT_TRUE(storage.confirm()) << storage.message();
    EXPECT_TRUE(storage.settle());
    EXPECT_EQ(bitmaps_in(qcow2)[bitmap_name("s-1")], kRecording);
    EXPECT_TRUE(storage.tidy("s-2"));
    EXPECT_EQ(bitmaps_in(qcow2).count(bitmap_name("s-1")), 0u);

    take(storage, "s-3", "s-2");
    EXPECT_EQ(storage.point().disks[0].dirty_bytes, 0u);
    EXPECT_EQ(bitmaps_in(qcow2), (Bitmaps{{bitmap_name("s-3"), kRecording}}));
}

// What an image is opened for is seen in its times.
TEST_F(StorageDriver, TidyDoesNotTouchAnImageWithoutStaleBitmaps)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    const std::string before = must_run({"stat", "-c", "%y %z", path});
    EXPECT_TRUE(storage->tidy("s-1"));
    EXPECT_EQ(must_run({"stat", "-c", "%y %z", path}), before);
}

TEST_F(StorageDriver, TidyLeavesOthersBitmapsAndDisksAlone)
{
    const std::string path = make_image("a.qcow2");
    const std::string mine = bitmap_name("s-9");
    for (const std::string &name : {mine, mine + ".end", mine + ".frozen", std::string("theirs"),
                                    std::string("virtsnap.r-other.s-1")})
        must_run({"qemu-img", "bitmap", "--add", path, name});
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    Owner owner;
    owner.images = {{path, "qcow2"}};
    Storage other(owner.callbacks());
    ASSERT_TRUE(other.describe());
    EXPECT_TRUE(storage->tidy("s-9"));
    EXPECT_EQ(bitmaps_in(path).size(), 4u);
    EXPECT_TRUE(storage->tidy("")) << storage->message();
    const auto left = bitmaps_in(path);
    EXPECT_EQ(left.size(), 2u);
    EXPECT_EQ(left.count("theirs"), 1u);
    EXPECT_EQ(left.count("virtsnap.r-other.s-1"), 1u);
}

TEST_F(StorageDriver, ImageWithABackingFileIsReadWhole)
{
    make_image("base.qcow2");
    const std::string path = dir_.file("top.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", path});
    write_image(path, "qcow2", "write -q -P 0x33 1M 64k");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe()) << storage->message();
    ASSERT_EQ(storage->disk().chain->len, 2u);
    EXPECT_EQ(static_cast<char *>(g_ptr_array_index(storage->disk().chain, 1)),
              dir_.file("base.qcow2"));
    ASSERT_TRUE(storage->begin("s-1", "")) << storage->message();
    EXPECT_TRUE(serves_content(dir_, storage->open_source(), "qcow2", path));
    EXPECT_TRUE(storage->confirm()) << storage->message();
    write_image(dir_.file("base.qcow2"), "qcow2", "write -q -P 0x44 1536k 64k");
    EXPECT_FALSE(storage->confirm());
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
}

TEST_F(StorageDriver, NameMayHoldWhatQemusOptionSyntaxUses)
{
    for (const std::string format : {"qcow2", "raw"}) {
        const std::string path = make_image("file:a, b=c,,d%20:driver=raw;\"'" + format, format);
        auto storage = Storage::of_image(path);
        take(*storage, "s-1", "");
        write_image(path, format, "write -q -P 0x22 1M 64k");
        const bool tracks = format == "qcow2";
        ASSERT_TRUE(storage->begin("s-2", tracks ? "s-1" : "")) << storage->message();
        EXPECT_TRUE(serves_content(dir_, storage->open_source(), format, path)) << path;
        EXPECT_TRUE(storage->confirm()) << storage->message();
    }
}

TEST_F(StorageDriver, GuestThatDoesNotRunCannotBeFrozen)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    EXPECT_FALSE(storage->begin("s-1", "", 1000));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_INSTANCE_STATUS)) << storage->message();
    EXPECT_TRUE(bitmaps_in(path).empty());
}

TEST_F(StorageDriver, OwnerThatRunsIsRefused)
{
    Owner owner;
    owner.images = {{make_image("a.qcow2"), "qcow2"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    owner.is_running = true;
    EXPECT_FALSE(storage.begin("s-1", ""));
    EXPECT_TRUE(storage.failed_with(VS_ERROR_INSTANCE_STATUS)) << storage.message();
    EXPECT_TRUE(bitmaps_in(owner.images[0].first).empty());
}

TEST_F(StorageDriver, DiskOfAnotherSizeThanDescribedIsRefused)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    ASSERT_TRUE(storage->describe());
    must_run({"qemu-img", "resize", "-q", path, "32M"});
    EXPECT_FALSE(storage->begin("s-1", ""));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_DISK_STATUS)) << storage->message();
    EXPECT_TRUE(bitmaps_in(path).empty());
}

// The second disk can't be opened: a reader that wants no writer beside it has it.
TEST_F(StorageDriver, NothingIsLeftWhereOneDiskFails)
{
    Owner owner;
    owner.images = {{make_image("a.qcow2"), "qcow2"}, {make_image("b.qcow2"), "qcow2"}};
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    Process reader({"qemu-nbd", "--read-only", "--persistent", "--socket", dir_.file("nbd"),
                    owner.images[1].first});
    ASSERT_TRUE(support::wait_until(std::chrono::seconds(10),
                                    [&] { return access(dir_.file("nbd").c_str(), F_OK) == 0; }));
    EXPECT_FALSE(storage.begin("s-1", ""));
    EXPECT_TRUE(storage.failed_with(VS_ERROR_DISK_STATUS)) << storage.message();
    EXPECT_NE(storage.message().find("lock"), std::string::npos) << storage.message();
    EXPECT_TRUE(bitmaps_in(owner.images[0].first).empty());
    EXPECT_TRUE(bitmaps_in(owner.images[1].first).empty());
}

// The second image has the bitmap already: the transaction fails.
TEST_F(StorageDriver, NothingIsLeftWhereTheTransactionFails)
{
    Owner owner;
    owner.images = {{make_image("a.qcow2"), "qcow2"}, {make_image("b.qcow2"), "qcow2"}};
    must_run({"qemu-img", "bitmap", "--add", owner.images[1].first, bitmap_name("s-1")});
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    EXPECT_FALSE(storage.begin("s-1", ""));
    EXPECT_NE(storage.message().find("already exists"), std::string::npos) << storage.message();
    EXPECT_TRUE(bitmaps_in(owner.images[0].first).empty());
    EXPECT_EQ(bitmaps_in(owner.images[1].first).size(), 1u);
}

// No file may become longer than this, as on a full disk.
class SizeLimit
{
  public:
    explicit SizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN))
    {
        getrlimit(RLIMIT_FSIZE, &before_);
        const struct rlimit limit = {bytes, before_.rlim_max};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    ~SizeLimit()
    {
        setrlimit(RLIMIT_FSIZE, &before_);
        std::signal(SIGXFSZ, handler_);
    }
    SizeLimit(const SizeLimit &) = delete;
    SizeLimit &operator=(const SizeLimit &) = delete;

  private:
    struct rlimit before_;
    void (*handler_)(int);
};

// The first image has room for its bitmaps, the second one not: QEMU says so only on its stderr.
TEST_F(StorageDriver, NothingIsLeftWhereABitmapCannotBeStored)
{
    Owner owner;
    owner.images = {{dir_.file("a.qcow2"), "qcow2"}, {make_image("b.qcow2"), "qcow2"}};
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", owner.images[0].first, "16M"});
    Storage storage(owner.callbacks());
    ASSERT_TRUE(storage.describe());
    {
        SizeLimit limit(std::stoul(must_run({"stat", "-c", "%s", owner.images[1].first})));
        EXPECT_FALSE(storage.begin("s-1", ""));
    }
    EXPECT_TRUE(storage.failed_with(VS_ERROR_FAILED)) << storage.message();
    EXPECT_NE(storage.message().find("persistent bitmap"), std::string::npos) << storage.message();
    EXPECT_EQ(storage.message().find("undoing"), std::string::npos) << storage.message();
    EXPECT_TRUE(bitmaps_in(owner.images[0].first).empty());
    EXPECT_TRUE(bitmaps_in(owner.images[1].first).empty());
}

// Bitmaps that are not what they seem -----------------------------------------------------------

// As the QMP driver leaves it, with the companion that only that one makes.
TEST_F(StorageDriver, BitmapWhoseCompanionHasLostItsBitIsDistrusted)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    const std::string end = bitmap_name("s-1") + ".end";
    must_run({"qemu-img", "bitmap", "--add", path, end});
    write_image(path, "qcow2", "write -z 16776704 512");
    must_run({"qemu-img", "bitmap", "--disable", path, end});
    ASSERT_TRUE(storage->begin("s-2", "s-1")) << storage->message();
    ASSERT_TRUE(storage->settle() && storage->tidy("s-1")) << storage->message();
    must_run({"qemu-img", "resize", "-q", "--shrink", path, "8M"});
    must_run({"qemu-img", "resize", "-q", path, "16M"});
    ASSERT_TRUE(storage->describe());
    EXPECT_FALSE(storage->begin("s-2", "s-1"));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_BITMAP_DISTRUSTED)) << storage->message();
    EXPECT_EQ(bitmaps_in(path).count(bitmap_name("s-2")), 0u);
    EXPECT_TRUE(storage->begin("s-2", "")) << storage->message();
}

TEST_F(StorageDriver, BitmapThatDoesNotRecordIsDistrusted)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    must_run({"qemu-img", "bitmap", "--disable", path, bitmap_name("s-1")});
    EXPECT_FALSE(storage->begin("s-2", "s-1"));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_BITMAP_DISTRUSTED)) << storage->message();
    EXPECT_FALSE(storage->begin("s-2", "s-none"));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_BITMAP_DISTRUSTED)) << storage->message();
}

TEST_F(StorageDriver, BitmapOfAKilledQemuIsDistrustedAndRemoved)
{
    const std::string path = make_image("a.qcow2");
    auto storage = Storage::of_image(path);
    take(*storage, "s-1", "");
    auto machine = start_machine(path);
    machine->disk_io("vda", "write -P 0x55 1M 64k");
    machine->kill();
    ASSERT_TRUE(storage->describe());
    EXPECT_EQ(storage->disk().unavailable, nullptr);
    auto *bitmap = static_cast<VsQmpBitmap *>(g_ptr_array_index(storage->disk().bitmaps, 0));
    EXPECT_TRUE(bitmap->inconsistent);
    EXPECT_FALSE(storage->begin("s-2", "s-1"));
    EXPECT_TRUE(storage->failed_with(VS_ERROR_BITMAP_DISTRUSTED)) << storage->message();
    EXPECT_NE(storage->message().find("inconsistent"), std::string::npos) << storage->message();
    EXPECT_TRUE(storage->tidy("")) << storage->message();
    EXPECT_TRUE(bitmaps_in(path).empty());
}

} // namespace

VS_TEST_MAIN("qemu", "nbd");
