// SPDX-License-Identifier: LGPL-2.1-or-later
// Images of a libvirt domain that are changed behind their bitmaps' backs, and still have them.
#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace libvirt_fixture;

constexpr uint64_t kSize = 16 * kMiB;

class LibvirtWitness : public LibvirtTest
{
  protected:
    // The reference becomes what the image holds: changed by others, it is what the guest sees now.
    void
    adopt_image(const std::string &target)
    {
        TestDisk &from = disk(target);
        must_run({"qemu-img", "convert", "-f", from.disk.format, "-O", "raw", from.disk.path,
                  from.reference});
    }
    Json
    expect_one(const std::string &mode, const std::string &reason = "",
               const std::vector<std::string> &more = {})
    {
        Json snapshots = expect_next(mode, more);
        for (const Json &snapshot : snapshots.items()) {
            if (!reason.empty()) {
                EXPECT_NE(snapshot["mode_reason"].text().find(reason), std::string::npos)
                    << snapshot.dump();
            }
        }
        return snapshots;
    }
    std::string
    make_base(const std::string &name)
    {
        const std::string path = dir_.file(name);
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", path, std::to_string(kSize)});
        return path;
    }
    // The disk vda with that backing file.
    void
    add_overlay(const std::string &base)
    {
        add_disk("vda", kSize);
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2",
                  disk("vda").disk.path});
    }
    // A group of two disks, captured as it is running; then it is stopped.
    void
    make_group()
    {
        for (const char *target : {"vda", "vdb"})
            add_disk(target, kSize);
        define();
        start();
        for (const TestDisk &each : disks_)
            write(each.disk.target, 0, 2 * kMiB);
        expect_one("full");
        domain_->quit();
    }
};

TEST_F(LibvirtWitness, ImagesOfOneGroupThatChangePlacesAreReadInFull)
{
    make_group();
    const std::string a = disk("vda").disk.path, b = disk("vdb").disk.path;
    std::filesystem::rename(a, dir_.file("third"));
    std::filesystem::rename(b, a);
    std::filesystem::rename(dir_.file("third"), b);
    std::swap(disk("vda").reference, disk("vdb").reference);
    expect_one("full", "replaced");
    start();
    expect_one("incremental");
}

TEST_F(LibvirtWitness, AnImageCopiedOverAnotherOfItsGroupIsReadInFull)
{
    make_group();
    must_run({"cp", disk("vda").disk.path, disk("vdb").disk.path});
    must_run({"cp", disk("vda").reference, disk("vdb").reference});
    start();
    const Json snapshots = expect_next("");
    EXPECT_EQ(of(snapshots, "vda")["mode"].text(), "incremental");
    EXPECT_EQ(of(snapshots, "vda")["read_bytes"].number(), 0);
    EXPECT_EQ(of(snapshots, "vdb")["mode"].text(), "full");
    EXPECT_NE(of(snapshots, "vdb")["mode_reason"].text().find("other content"), std::string::npos);
}

TEST_F(LibvirtWitness, ABackingFileWrittenInPlaceMeansAFullRead)
{
    const std::string base = make_base("base.qcow2");
    add_overlay(base);
    define();
    start();
    write("vda", 8 * kMiB, kMiB);
    expect_one("full");
    expect_one("incremental");
    domain_->quit();
    EXPECT_EQ(expect_one("incremental").items()[0]["read_bytes"].number(), 0);
    must_run({"qemu-io", "-f", "qcow2", "-c", write_command(0, kMiB, 9), base});
    adopt_image("vda");
    expect_one("full", "backing file");
    start();
    expect_one("incremental");
}

// The machine goes on with the file that has lost its name; once it starts again it has the other.
TEST_F(LibvirtWitness, ABackingFileReplacedUnderARunningDomainMeansAFullReadAfterIt)
{
    const std::string base = make_base("base.qcow2"), other = make_base("other.qcow2");
    must_run({"qemu-io", "-f", "qcow2", "-c", write_command(2 * kMiB, kMiB, 9), other});
    add_overlay(base);
    define();
    start();
    write("vda", 8 * kMiB, kMiB);
    expect_one("full");
    expect_one("incremental");
    std::filesystem::rename(other, base);
    expect_one("full", "can't be told");
    domain_->quit();
    adopt_image("vda");
    expect_one("full", "can't be told");
    start();
    expect_one("incremental");
}

TEST_F(LibvirtWitness, AStagedDiskWhoseHeaderLeadsNowhereIsReadInFull)
{
    const std::string base = make_base("base.qcow2"), moved = dir_.file("moved.qcow2");
    add_overlay(base);
    std::filesystem::rename(base, moved);
    define();
    redefine("<target dev='vda'", "<backingStore type='file'><format type='qcow2'/><source file='" +
                                      moved + "'/><backingStore/></backingStore><target dev='vda'");
    start();
    write("vda", 8 * kMiB, kMiB);
    expect_one("full", "", {"--capture", "staged"});
    expect_one("full", "beside QEMU", {"--capture", "staged"});
    expect_one("incremental", "", {"--capture", "live"});
    EXPECT_EQ(tmp_.content(), "");
}

TEST_F(LibvirtWitness, ACutThatIsFilledWithAllocatedZeroesMeansAFullRead)
{
    add_disk("vda", kSize);
    define();
    for (const bool is_running : {false, true}) {
        SCOPED_TRACE(is_running ? "running" : "stopped");
        start();
        write("vda", 12 * kMiB, kMiB);
        expect_one("");
        domain_->quit();
        const std::string image = disk("vda").disk.path;
        must_run({"qemu-img", "resize", "-q", "--shrink", image, "8M"});
        must_run({"qemu-img", "resize", "-q", "--preallocation=full", image, "16M"});
        adopt_image("vda");
        if (is_running)
            start();
        expect_one("full", "become zeroes");
        if (is_running)
            domain_->quit();
    }
}

TEST_F(LibvirtWitness, AStagedCutMeansAFullRead)
{
    add_disk("vda", kSize);
    define();
    start();
    write("vda", 10 * kMiB, kMiB);
    expect_one("full", "", {"--capture", "staged"});
    domain_->disk_io("vda", "flush"); // the image itself is looked at
    expect_one("incremental", "", {"--capture", "staged"});
    daemon_.must_virsh({"blockresize", "vm", "vda", "8M"});
    daemon_.must_virsh({"blockresize", "vm", "vda", "16M"});
    domain_->disk_io("vda", "flush");
    must_run({"truncate", "-s", "8M", disk("vda").reference});
    must_run({"truncate", "-s", "16M", disk("vda").reference});
    expect_one("full", "become zeroes", {"--capture", "staged"});
}

} // namespace

VS_TEST_MAIN("libvirt", "qemu");
