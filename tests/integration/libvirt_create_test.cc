// SPDX-License-Identifier: LGPL-2.1-or-later
// Snapshots of a running libvirt domain, beside what virsh does to it.
#include <map>
#include <sstream>

#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace libvirt_fixture;

// Sizes that are no multiple of a chunk, nor of a cluster.
constexpr uint64_t kSizeA = 24 * kMiB + 3 * 512;
constexpr uint64_t kSizeB = 16 * kMiB + 70 * 512;
constexpr uint64_t kSizeC = 8 * kMiB + 512;

class LibvirtCreate : public LibvirtTest
{
  protected:
    void
    start_with(const std::vector<std::string> &targets)
    {
        for (const std::string &target : targets)
            if (target == "vdc")
                add_disk(target, kSizeC, "raw");
            else
                add_disk(target, target == "vda" ? kSizeA : kSizeB);
        define();
        start();
    }
    void
    insert_medium()
    {
        support::LibvirtDisk medium;
        medium.target = "sda";
        medium.path = dir_.file("medium.iso");
        medium.format = "raw";
        medium.bus = "sata";
        medium.cdrom = true;
        must_run({"qemu-img", "create", "-q", "-f", "raw", medium.path, "2M"});
        media_.push_back(medium);
    }
    // Refused for the domain's state within the five seconds, in words that hold each of @named.
    void
    expect_refused(const std::vector<std::string> &named)
    {
        const auto begun = support::Clock::now();
        const Outcome outcome = virtsnap_.run({"create", "vm"});
        EXPECT_LT(support::Clock::now() - begun, std::chrono::seconds(5));
        EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
        for (const std::string &name : named)
            EXPECT_NE(outcome.err.find(name), std::string::npos) << outcome.err;
    }
    std::string
    taints() const
    {
        const std::string info = daemon_.must_virsh({"dominfo", "vm"});
        const size_t at = info.find("Messages:");
        return at == std::string::npos ? "" : info.substr(at);
    }
    // The manifest as the repository keeps it.
    Json
    manifest(const std::string &id)
    {
        const std::string text = must_run({"cat", virtsnap_.repository() + "/snapshots/" + id});
        return Json::parse(text.substr(0, text.rfind("sha256:")));
    }
};

TEST_F(LibvirtCreate, AGroupOfThreeIsExactAndTheSecondReadsOnlyWhatChanged)
{
    insert_medium();
    start_with({"vda", "vdb", "vdc"});
    const std::string taints_before = taints();
    for (const char *target : {"vda", "vdb", "vdc"})
        write_some(target);
    Json group = virtsnap_.json({"create", "vm"});
    EXPECT_FALSE(group["group"].is_null());
    ASSERT_EQ(group["snapshots"].size(), 3u) << group.dump(); // the CD-ROM is not in it
    expect_mode(group["snapshots"], "full");
    expect_exact(group["snapshots"]);
    expect_nothing_left(1);

    write_some("vda");
    Json second = create();
    EXPECT_EQ(of(second, "vda")["mode"].text(), "incremental");
    EXPECT_EQ(of(second, "vdb")["mode"].text(), "incremental");
    EXPECT_EQ(of(second, "vdb")["read_bytes"].number(), 0);
    EXPECT_GT(of(second, "vda")["read_bytes"].number(), 0);
    const Json raw = of(second, "vdc");
    EXPECT_EQ(raw["mode"].text(), "full");
    EXPECT_FALSE(raw["mode_reason"].is_null());
    EXPECT_EQ(raw["new_bytes"].number(), 0) << raw.dump();
    expect_exact(second);
    expect_nothing_left(1);
    EXPECT_EQ(taints(), taints_before);
    for (const Json &snapshot : group["snapshots"].items()) // the first is still there
        virtsnap_.json({"restore", snapshot["id"].text(), "--to",
                        dir_.file("first-" + snapshot["disk"]["target"].text())});
    virtsnap_.json({"repo", "check"});
}

TEST_F(LibvirtCreate, SingleDisksAndGroupsInAlternationStayIncremental)
{
    start_with({"vda", "vdb"});
    expect_next("full");
    const std::vector<std::vector<std::string>> choices = {
        {"--disk", "vda"}, {}, {"--disk", "vdb"}, {"--disk", "vdb"}, {"--disk", "vda"}, {}};
    for (const auto &choice : choices) {
        SCOPED_TRACE(choice.empty() ? "both" : choice[1]);
        write_some("vda");
        write_some("vdb");
        EXPECT_EQ(expect_next("incremental", choice).size(), choice.empty() ? 2u : 1u);
    }
    expect_nothing_left(1);
}

TEST_F(LibvirtCreate, IsExactAfterExternalSnapshotCommitAndGrowthBesideAStrangersCheckpoint)
{
    start_with({"vda", "vdb"});
    write_some("vda");
    expect_next("full");
    daemon_.must_virsh({"checkpoint-create-as", "vm", "stranger"});

    daemon_.must_virsh({"snapshot-create-as", "vm", "over", "--disk-only", "--no-metadata",
                        "--diskspec", "vda,file=" + dir_.file("over.qcow2"), "--diskspec",
                        "vdb,snapshot=no"});
    remember_nodes();
    write_some("vda");
    Json over = expect_next("");
    EXPECT_EQ(of(over, "vda")["mode"].text(), "full");
    EXPECT_EQ(of(over, "vdb")["mode"].text(), "incremental") << of(over, "vdb").dump();
    expect_nothing_left(1);
    write_some("vda");
    expect_next("incremental");

    write_some("vda");
    daemon_.must_virsh({"blockcommit", "vm", "vda", "--active", "--pivot", "--wait"});
    remember_nodes();
    write_some("vda");
    Json committed = expect_next("");
    EXPECT_EQ(of(committed, "vdb")["mode"].text(), "incremental") << of(committed, "vdb").dump();

    const uint64_t grown = kSizeA + 5 * kMiB;
    daemon_.must_virsh({"blockresize", "vm", "vda", std::to_string(grown) + "B"});
    resize_reference("vda", grown);
    write("vda", grown - 4096, 4096);
    Json after = create();
    expect_mode(after, "incremental");
    for (uint64_t c = kSizeA / kCluster; c < (grown + kCluster - 1) / kCluster; c++)
        disk("vda").touched.insert(c); // a new end is read, whatever it holds
    expect_exact(after);
    expect_nothing_left(1);
    const auto names = checkpoints();
    EXPECT_EQ(std::count(names.begin(), names.end(), "stranger"), 1);
}

TEST_F(LibvirtCreate, AStrangersCheckpointIsStillOfUseAfterOurs)
{
    start_with({"vda"});
    expect_next("full");
    daemon_.must_virsh({"checkpoint-create-as", "vm", "stranger"});
    write("vda", 3 * kMiB, kCluster);
    for (int i = 0; i < 3; i++) {
        write("vda", 0, kCluster);
        expect_next("incremental");
    }
    std::ofstream(daemon_.file("b.xml"))
        << "<domainbackup mode='push'><incremental>stranger</incremental><disks><disk name='vda' "
           "type='file'><target file='"
        << daemon_.file("pushed.qcow2")
        << "'/><driver type='qcow2'/></disk></disks></domainbackup>";
    daemon_.must_virsh({"backup-begin", "vm", daemon_.file("b.xml")});
    ASSERT_TRUE(wait_until(kSoon, [&] {
        return daemon_.virsh({"backup-dumpxml", "vm"}).exit_code != 0;
    }));
    // Exactly what was written since the stranger's checkpoint has been pushed.
    const Json map = Json::parse(must_run(
        {"qemu-img", "map", "-U", "--output=json", "-f", "qcow2", daemon_.file("pushed.qcow2")}));
    int64_t bytes = 0;
    for (const Json &extent : map.items())
        bytes += extent["depth"].number() == 0 ? extent["length"].number() : 0;
    EXPECT_EQ(bytes, static_cast<int64_t>(2 * kCluster)) << map.dump();
    EXPECT_EQ(our_checkpoints(), 1u);
}

TEST_F(LibvirtCreate, ADiskThatShrankAndGrewAgainIsExact)
{
    start_with({"vda", "vdb"});
    write_some("vda");
    write("vda", 20 * kMiB, 2 * kMiB);
    expect_next("full");
    for (const uint64_t size : {8 * kMiB, kSizeA}) {
        daemon_.must_virsh({"blockresize", "vm", "vda", std::to_string(size) + "B"});
        resize_reference("vda", size);
    }
    Json snapshots = create();
    EXPECT_EQ(of(snapshots, "vdb")["mode"].text(), "incremental") << of(snapshots, "vdb").dump();
    for (uint64_t c = 8 * kMiB / kCluster; c <= kSizeA / kCluster; c++)
        disk("vda").touched.insert(c);
    expect_exact(snapshots);
    write_some("vda");
    expect_next("incremental");
}

TEST_F(LibvirtCreate, AStrangersBackupIsNamedAndLeftAlone)
{
    start_with({"vda"});
    expect_next("full");
    std::ofstream(daemon_.file("b.xml"))
        << "<domainbackup mode='pull'><server transport='unix' socket='" << daemon_.file("theirs")
        << "'/><disks><disk name='vda' backup='yes' type='file'><scratch file='"
        << daemon_.file("scratch") << "'/></disk></disks></domainbackup>";
    daemon_.must_virsh({"backup-begin", "vm", daemon_.file("b.xml")});
    expect_refused({"backup", daemon_.file("theirs")});
    daemon_.must_virsh({"backup-dumpxml", "vm"});
    daemon_.must_virsh({"domjobabort", "vm"});
    write_some("vda");
    expect_next("incremental");
}

TEST_F(LibvirtCreate, AStrangersBlockJobIsNamedAndLeftAlone)
{
    start_with({"vda"});
    write("vda", 0, 4 * kMiB);
    expect_next("full");
    const std::string copy = daemon_.file("copy.qcow2");
    daemon_.must_virsh({"blockcopy", "vm", "vda", copy, "--format", "qcow2", "--transient-job"});
    expect_refused({"vda", "copy"});
    const Outcome job = daemon_.virsh({"blockjob", "vm", "vda"});
    EXPECT_NE((job.out + job.err).find("Block Copy"), std::string::npos) << job.out << job.err;
    daemon_.must_virsh({"blockjob", "vm", "vda", "--abort"});

    daemon_.must_virsh({"snapshot-create-as", "vm", "over", "--disk-only", "--no-metadata",
                        "--diskspec", "vda,file=" + dir_.file("over.qcow2")});
    daemon_.must_virsh({"blockcommit", "vm", "vda", "--active"});
    expect_refused({"vda", "commit"});
    ASSERT_TRUE(wait_until(kSoon, [&] {
        return daemon_.virsh({"blockjob", "vm", "vda", "--pivot"}).exit_code == 0;
    }));
    write_some("vda");
    remember_nodes();
    expect_next("");
    expect_nothing_left(1);
}

TEST_F(LibvirtCreate, ForcedFullStagedAndPausedAreExactAndTheChainGoesOn)
{
    start_with({"vda", "vdb"});
    write_some("vda");
    expect_next("full");
    write_some("vda");
    expect_next("full", {"--full"});
    for (const std::string capture : {"staged", "live"}) {
        write_some("vdb");
        expect_next("incremental", {"--capture", capture});
        expect_nothing_left(1);
    }
    write_some("vda");
    expect_next("full", {"--full", "--capture", "staged"});
    domain_->suspend();
    write_some("vda");
    expect_next("incremental");
    EXPECT_EQ(domain_->state(), "paused");
    domain_->resume();
    write_some("vda");
    expect_next("incremental");
    expect_nothing_left(1);
}

TEST_F(LibvirtCreate, ADiskNamedTwiceOrUnknownIsRefused)
{
    start_with({"vda"});
    EXPECT_EQ(virtsnap_.run({"create", "vm", "--disk", "vda", "--disk", "vda"}).exit_code, 2);
    const Outcome unknown = virtsnap_.run({"create", "vm", "--disk", "sda"});
    EXPECT_NE(unknown.exit_code, 0);
    EXPECT_NE(unknown.err.find("'sda'"), std::string::npos) << unknown.err;
    EXPECT_NE(virtsnap_.run({"create", "no-such-domain"}).exit_code, 0);
    expect_nothing_left(0);
}

TEST_F(LibvirtCreate, TheDefinitionAndTheFilesItPointsToAreKept)
{
    for (const std::string name : {"kernel", "initrd", "nvram", "firmware"})
        std::ofstream(daemon_.file("test-" + name)) << "the " + name;
    add_disk("vda", kSizeB);
    define();
    redefine("</os>", "<kernel>" + daemon_.file("test-kernel") + "</kernel><initrd>" +
                          daemon_.file("test-initrd") +
                          "</initrd><loader readonly='yes' type='pflash'>" +
                          daemon_.file("test-firmware") + "</loader><nvram>" +
                          daemon_.file("test-nvram") + "</nvram></os>");
    // It stays off: no QEMU takes such a kernel. The firmware is the host's, and no part of it.
    const Json snapshots = create();
    const Json kept = manifest(snapshots[0]["id"].text());
    const std::string definition = kept["instance_definition"].text();
    EXPECT_NE(definition.find("<name>vm</name>"), std::string::npos) << kept.dump();
    EXPECT_NE(definition.find(daemon_.file("test-initrd")), std::string::npos) << definition;
    EXPECT_EQ(definition.find("<alias "), std::string::npos) << "not the inactive one";
    std::map<std::string, std::string> files;
    for (const Json &file : kept["files"].items())
        files[file["role"].text()] = file["path"].text();
    EXPECT_EQ(files, (std::map<std::string, std::string>{{"kernel", daemon_.file("test-kernel")},
                                                         {"initrd", daemon_.file("test-initrd")},
                                                         {"nvram", daemon_.file("test-nvram")}}))
        << kept.dump();
}

TEST_F(LibvirtCreate, ARunningDomainsInactiveDefinitionIsKept)
{
    start_with({"vda"});
    redefine("<currentMemory unit='KiB'>65536<", "<currentMemory unit='KiB'>32768<");
    const Json snapshots = create();
    const std::string definition =
        manifest(snapshots[0]["id"].text())["instance_definition"].text();
    EXPECT_NE(definition.find("32768"), std::string::npos) << definition;
    EXPECT_EQ(definition.find("<alias "), std::string::npos) << "not the inactive one";
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
