// SPDX-License-Identifier: LGPL-2.1-or-later
// What a libvirt domain's disks can be turned into behind a snapshot's back: another format, a key,
// a part of a file, another chain under the same names. Whatever happened, the next create is
// exact, or refused in clear words.
#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace libvirt_fixture;

constexpr uint64_t kSize = 16 * kMiB;

class LibvirtDoubt : public LibvirtTest
{
  protected:
    // A domain with one disk, running.
    void
    start_with_vda(const std::string &format = "qcow2", uint64_t size = kSize)
    {
        add_disk("vda", size, format);
        define();
        start();
    }
    // The snapshot of vda, read in full for a reason that is told.
    void
    expect_full(const Json &snapshot)
    {
        EXPECT_EQ(snapshot["mode"].text(), "full") << snapshot.dump();
        EXPECT_FALSE(snapshot["mode_reason"].is_null()) << snapshot.dump();
        expect_content(snapshot, disk("vda").reference);
    }
    Json
    create_of(const std::string &instance)
    {
        const Json snapshots = virtsnap_.json({"create", instance})["snapshots"];
        EXPECT_EQ(snapshots.size(), 1u) << snapshots.dump();
        return snapshots[0];
    }
    // Refused for the disk's state, in one line that holds @words.
    void
    expect_refused(const std::vector<std::string> &arguments, const std::string &words)
    {
        std::vector<std::string> line = {"--output", "json"};
        line.insert(line.end(), arguments.begin(), arguments.end());
        const Outcome outcome = virtsnap_.run(line);
        EXPECT_EQ(outcome.exit_code, 3) << outcome.out << outcome.err;
        EXPECT_EQ(Json::parse(outcome.out)["error"]["code"].text(), "IncorrectDiskStatus");
        EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    }
    void
    define_again(const std::string &definition)
    {
        std::ofstream(daemon_.file("again.xml")) << definition;
        daemon_.must_virsh({"define", daemon_.file("again.xml")});
    }
    // What the image holds is from now on what is expected of the disk.
    void
    take_as_reference(const std::string &target)
    {
        TestDisk &from = disk(target);
        must_run({"qemu-img", "convert", "-U", "-f", from.disk.format, "-O", "raw", from.disk.path,
                  from.reference});
        from.size = std::filesystem::file_size(from.reference);
    }
};

// Formats ---------------------------------------------------------------------------------------

class LibvirtFormat : public LibvirtDoubt
{
  protected:
    // The stopped domain's disk gets the same content in another format, under its name.
    void
    convert(const std::string &format)
    {
        TestDisk &vda = disk("vda");
        const std::string other = dir_.file("converted");
        must_run(
            {"qemu-img", "convert", "-f", vda.disk.format, "-O", format, vda.disk.path, other});
        std::filesystem::rename(other, vda.disk.path);
        daemon_.give(vda.disk.path);
        redefine("type='" + vda.disk.format + "'", "type='" + format + "'");
        vda.disk.format = format;
    }
    // What the running domain's guest does who wants to read one of the host's files.
    void
    write_header(const std::string &backing_file)
    {
        const std::string header = dir_.file("header");
        must_run({"qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing_file, "-F", "raw",
                  header, "1M"});
        const auto length = std::filesystem::file_size(header);
        std::filesystem::permissions(header, std::filesystem::perms(0644));
        domain_->disk_io("vda", "write -s " + header + " 0 " + std::to_string(length));
        must_run(
            {"dd", "if=" + header, "of=" + disk("vda").reference, "conv=notrunc", "status=none"});
    }
};

TEST_F(LibvirtFormat, ADiskThatHasBecomeRawIsRawWhateverHeaderItsGuestWritesIntoIt)
{
    start_with_vda();
    write_some("vda");
    expect_next("full");
    domain_->quit();
    convert("raw");
    std::ofstream(dir_.file("secret")) << std::string(kMiB, '#');
    start();
    write_header(dir_.file("secret"));
    domain_->quit();
    const std::string path = disk("vda").disk.path;
    expect_full(create_of("file:" + path));
    expect_full(create_of("vm"));
    // Nobody has written a bitmap into it either.
    EXPECT_EQ(support::run({"cmp", path, disk("vda").reference}).exit_code, 0);
    // With nobody left to ask, raw is what it was known as.
    daemon_.must_virsh({"undefine", "vm"});
    expect_full(create_of("file:" + path));
    EXPECT_EQ(support::run({"cmp", path, disk("vda").reference}).exit_code, 0);
}

TEST_F(LibvirtFormat, ADiskThatHasBecomeQcow2IsReadAsSuch)
{
    start_with_vda("raw");
    write_some("vda");
    expect_next("full");
    domain_->quit();
    convert("qcow2");
    start();
    write_some("vda");
    domain_->quit();
    expect_full(create_of("file:" + disk("vda").disk.path));
    disk("vda").touched.clear();
    expect_next("");
    start();
    write_some("vda");
    expect_next("incremental");
}

// Keys and slices -------------------------------------------------------------------------------

class LibvirtLiveOnly : public LibvirtDoubt
{
  protected:
    // The image of a disk that is there already, made anew and encrypted by a secret of libvirt's.
    // qemu-img measures how fast the machine is, which now and then is too fast for its clock.
    static void
    encrypt(const TestDisk &made)
    {
        const bool is_raw = made.disk.format == "raw";
        const std::string prefix = is_raw ? "" : "encrypt.";
        const std::vector<std::string> line = {"qemu-img",
                                               "create",
                                               "-q",
                                               "--object",
                                               "secret,id=key,data=abc123",
                                               "-f",
                                               is_raw ? "luks" : made.disk.format,
                                               "-o",
                                               prefix + "key-secret=key," + prefix +
                                                   "iter-time=10" +
                                                   (is_raw ? "" : ",encrypt.format=luks"),
                                               made.disk.path,
                                               std::to_string(made.size)};
        ASSERT_TRUE(wait_until(kSoon, [&] { return support::run(line).exit_code == 0; }));
    }
    void
    give_key_to_libvirt()
    {
        std::ofstream(daemon_.file("secret.xml"))
            << "<secret ephemeral='no' private='yes'><uuid>" << kKey << "</uuid></secret>";
        std::ofstream(daemon_.file("secret")) << "abc123";
        daemon_.must_virsh({"secret-define", daemon_.file("secret.xml")});
        daemon_.must_virsh({"secret-set-value", kKey, "--file", daemon_.file("secret"), "--plain"});
    }
    // The disk's image becomes a part of a file, with something else before and behind it.
    void
    embed(const std::string &target, uint64_t length)
    {
        TestDisk &vd = disk(target);
        const std::string whole = dir_.file(target + ".whole"), from = std::to_string(4 * kMiB);
        must_run({"qemu-img", "create", "-q", "-f", "raw", whole, "16M"});
        must_run({"qemu-io", "-f", "raw", "-c", "write -q -P 0x11 0 16M", "-c",
                  write_command(4 * kMiB, length, 0), whole});
        must_run({"dd", "if=" + vd.disk.path, "of=" + whole, "bs=1M", "seek=4", "conv=notrunc",
                  "status=none"});
        const std::string old_path = vd.disk.path;
        vd.disk.path = whole;
        daemon_.give(whole);
        redefine("<source file='" + old_path + "'/>",
                 "<source file='" + whole + "'><slices><slice type='storage' offset='" + from +
                     "' size='" + std::to_string(length) + "'/></slices></source>");
    }

    static constexpr char kKey[] = "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f";
};

// What was never written of an encrypted raw disk reads as noise, so all of it is written.
TEST_F(LibvirtLiveOnly, DisksThatAreEncryptedAreSnapshottedWhileTheyRunAndElseRefused)
{
    encrypt(add_disk("vda", 2 * kMiB, "raw"));
    encrypt(add_disk("vdb", kSize));
    give_key_to_libvirt();
    define();
    for (const TestDisk &each : disks_) {
        const std::string target = "<target dev='" + each.disk.target + "'";
        redefine(target, std::string("<encryption format='luks'><secret type='passphrase' uuid='") +
                             kKey + "'/></encryption>" + target);
    }
    for (const TestDisk &each : disks_) {
        expect_refused({"create", "vm", "--disk", each.disk.target}, "encrypted with a key");
        expect_refused({"create", "file:" + each.disk.path}, "encrypted with a key");
    }
    start();
    write("vda", 0, 2 * kMiB);
    write_some("vdb");
    expect_next("full");
    write_some("vda");
    write_some("vdb");
    EXPECT_EQ(of(expect_next(""), "vdb")["mode"].text(), "incremental");
    write_some("vdb");
    // Beside QEMU nobody can look into the images: no witness.
    expect_next("full", {"--capture", "staged"});
    domain_->quit();
    expect_refused({"create", "vm"}, "encrypted with a key");
    EXPECT_EQ(virtsnap_.json({"list"}).size(), 6u);
    start();
    write_some("vdb");
    EXPECT_EQ(of(expect_next(""), "vdb")["mode"].text(), "incremental");
}

TEST_F(LibvirtLiveOnly, DisksThatArePartsOfFilesAreThesePartsOrRefused)
{
    add_disk("vda", 2 * kMiB, "raw");
    add_disk("vdb", 2 * kMiB);
    define();
    embed("vda", 2 * kMiB);
    embed("vdb", 8 * kMiB);
    start();
    write_some("vda");
    write_some("vdb");
    expect_next("full");
    write_some("vdb");
    EXPECT_EQ(of(expect_next(""), "vdb")["mode"].text(), "incremental");
    domain_->quit();
    for (const TestDisk &each : disks_) {
        expect_refused({"create", "vm", "--disk", each.disk.target}, "part of its image");
        expect_refused({"create", "file:" + each.disk.path}, "part of its image");
    }
    start();
    write_some("vdb");
    EXPECT_EQ(of(expect_next(""), "vdb")["mode"].text(), "incremental");
}

// Sizes -----------------------------------------------------------------------------------------

// Shorter overlays are grown over a backing file that has content there: QEMU writes zeroes, past
// the bitmaps. How much is cut decides who notices.
TEST_F(LibvirtDoubt, DisksThatWereCutAtTheirEndAndGrewAgainAreExact)
{
    constexpr uint64_t kShort = 2 * kMiB;
    const std::vector<uint64_t> cuts = {512, 65536};
    for (size_t i = 0; i < cuts.size(); i++) {
        TestDisk &made = add_disk(std::string("vd") + static_cast<char>('a' + i), kShort);
        must_run({"qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 2M", made.disk.path});
        const std::string overlay = dir_.file(made.disk.target + ".overlay");
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", made.disk.path, "-F", "qcow2",
                  overlay});
        daemon_.give(made.disk.path);
        made.disk.path = overlay;
        take_as_reference(made.disk.target);
    }
    define();
    start();
    expect_next("full");
    for (const bool is_running : {true, false}) {
        SCOPED_TRACE(is_running ? "running" : "stopped");
        if (!is_running)
            domain_->quit();
        for (size_t i = 0; i < cuts.size(); i++) {
            const TestDisk &each = disks_[i];
            write_reference(each.disk.target, kShort - cuts[i], cuts[i], 0);
            for (const uint64_t size : {kShort - cuts[i], kShort}) {
                if (is_running)
                    daemon_.must_virsh(
                        {"blockresize", "vm", each.disk.target, std::to_string(size) + "B"});
                else
                    must_run({"qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", each.disk.path,
                              std::to_string(size)});
            }
        }
        expect_next("");
        for (const TestDisk &each : disks_) {
            if (is_running)
                domain_->disk_io(each.disk.target, write_command(0, 4096, 9));
            else
                must_run(
                    {"qemu-io", "-f", "qcow2", "-c", write_command(0, 4096, 8), each.disk.path});
            write_reference(each.disk.target, 0, 4096, is_running ? 9 : 8);
        }
        expect_next("incremental");
    }
}

// Chains ----------------------------------------------------------------------------------------

// libvirt goes on with a checkpoint's bitmap in each overlay that it adds, so that the changes
// since the snapshot are told by several bitmaps of one name.
class LibvirtRotation : public LibvirtDoubt
{
  protected:
    void
    SetUp() override
    {
        LibvirtDoubt::SetUp();
        start_with_vda();
        base_ = disk("vda").disk.path;
    }
    void
    add_overlay()
    {
        daemon_.must_virsh({"snapshot-create-as", "vm", "over", "--disk-only", "--no-metadata",
                            "--diskspec", "vda,file=" + overlay_});
        disk("vda").disk.path = overlay_;
        remember_nodes();
    }
    // A snapshot of the domain on an overlay; the overlay is committed, and another one has its
    // name.
    void
    rotate()
    {
        add_overlay();
        write("vda", 0, kMiB);
        expect_next("full");
        rotate_again();
    }
    void
    rotate_again()
    {
        write("vda", kMiB, kMiB);
        daemon_.must_virsh({"blockcommit", "vm", "vda", "--active", "--pivot", "--wait"});
        std::filesystem::remove(overlay_);
        write("vda", 2 * kMiB, kMiB);
        add_overlay();
        write("vda", 3 * kMiB, kMiB);
    }

    std::string base_;
    std::string overlay_ = dir_.file("overlay.qcow2");
};

TEST_F(LibvirtRotation, IsExactWhileTheDomainRunsAndReadInFullWhenItHasStopped)
{
    rotate();
    expect_next("");
    expect_nothing_left(1);
    rotate_again();
    expect_next("");
    rotate_again();
    domain_->quit();
    expect_next("full");
    start();
    rotate_again();
    expect_next("");
    rotate_again();
    domain_->quit();
    start();
    expect_next("");
    domain_->quit();
    write_offline("vda", 5 * kMiB, kCluster);
    expect_next("");
    expect_next("incremental");
    expect_nothing_left(1);
}

TEST_F(LibvirtRotation, IsExactWhenTheCheckpointsWereForgotten)
{
    rotate();
    domain_->quit();
    std::ofstream(daemon_.file("again.xml")) << daemon_.must_virsh({"dumpxml", "vm", "--inactive"});
    daemon_.must_virsh({"undefine", "vm", "--checkpoints-metadata"});
    daemon_.must_virsh({"define", daemon_.file("again.xml")});
    start();
    expect_next("");
    write_some("vda");
    expect_next("");
    write_some("vda");
    expect_next("incremental");
}

TEST_F(LibvirtRotation, IsReadInFullByQmpAndThroughTheImage)
{
    domain_->quit();
    const std::string socket = daemon_.file("second.qmp");
    redefine("</qemu:commandline>", "<qemu:arg value='-qmp'/><qemu:arg value='unix:" + socket +
                                        ",server=on,wait=off'/></qemu:commandline>");
    start();
    rotate();
    expect_full(create_of("qmp:" + socket));
    disk("vda").touched.clear();
    expect_next("");
    rotate_again();
    domain_->quit();
    expect_full(create_of("file:" + overlay_));
}

TEST_F(LibvirtRotation, AnOverlayFlattenedAndRenamedOverItsBaseIsExact)
{
    write("vda", 0, kMiB);
    expect_next("full");
    write("vda", kMiB, kMiB);
    const std::string definition = daemon_.must_virsh({"dumpxml", "vm", "--inactive"});
    add_overlay();
    write("vda", 2 * kMiB, kMiB);
    domain_->quit();
    must_run({"qemu-img", "rebase", "-f", "qcow2", "-b", "", overlay_});
    std::filesystem::rename(overlay_, base_);
    define_again(definition);
    disk("vda").disk.path = base_;
    for (uint64_t c = 0; c < kMiB / kCluster; c++)
        disk("vda").touched.insert(c); // the flattening has written them
    expect_next("");
    start();
    write_some("vda");
    expect_next("incremental");
}

// Definitions -----------------------------------------------------------------------------------

TEST_F(LibvirtDoubt, ADiskThatIsMovedToAnotherTargetIsExact)
{
    add_disk("vdb", kSize);
    define();
    // The fixture knows the disk as vdb, which it is to become.
    redefine("dev='vdb'", "dev='vda'");
    write_offline("vdb", 0, kMiB);
    daemon_.must_virsh({"start", "vm"});
    const Json first = create_of("vm");
    EXPECT_EQ(first["disk"]["target"].text(), "vda");
    EXPECT_EQ(first["mode"].text(), "full");
    expect_content(first, disk("vdb").reference);
    domain_->quit();
    redefine("dev='vda'", "dev='vdb'");
    for (int round = 0; round < 2; round++) {
        start();
        write("vdb", 3 * kMiB, kMiB);
        expect_next(round == 0 ? "" : "incremental");
        expect_nothing_left(1);
        domain_->quit();
    }
    expect_next("incremental");
    expect_nothing_left(1);
}

TEST_F(LibvirtDoubt, OneDiskOfAGroupSnapshottedWhileStoppedKeepsBothChains)
{
    add_disk("vda", kSize);
    add_disk("vdb", kSize);
    define();
    start();
    write("vda", 0, kMiB);
    write("vdb", 0, kMiB);
    expect_next("full");
    domain_->quit();
    EXPECT_EQ(expect_next("incremental", {"--disk", "vda"}).size(), 1u);
    expect_nothing_left(2);
    start();
    write("vdb", 2 * kMiB, kMiB);
    EXPECT_EQ(expect_next("incremental").size(), 2u);
    expect_nothing_left(1);
}

// A snapshot inside the image, by libvirt. QEMU takes no revert while there are bitmaps; what is
// left by its refusal must not be believed too much.
TEST_F(LibvirtDoubt, ARevertThatQemuRefusesDoesNoHarm)
{
    for (const bool is_running : {true, false}) {
        SCOPED_TRACE(is_running ? "running" : "stopped");
        const std::string target = is_running ? "vda" : "vdb";
        disks_.clear();
        domain_.reset();
        add_disk(target, kSize);
        define();
        write_offline(target, 0, kMiB);
        if (is_running)
            start();
        daemon_.must_virsh({"snapshot-create-as", "vm", "inner"});
        if (!is_running)
            start();
        write(target, 0, kMiB);
        expect_next("full");
        if (!is_running)
            domain_->quit();
        EXPECT_NE(daemon_.virsh({"snapshot-revert", "vm", "inner"}).exit_code, 0);
        ASSERT_TRUE(wait_until(kSoon, [&] { return domain_->state() == "shut off"; }));
        take_as_reference(target);
        expect_next("");
        start();
        write_some(target);
        expect_next("incremental");
        daemon_.must_virsh({"snapshot-delete", "vm", "inner", "--metadata"});
        domain_->quit();
    }
}

// What a killed one leaves ----------------------------------------------------------------------

class LibvirtLeftover : public LibvirtDoubt
{
  protected:
    std::string
    scratch_content() const
    {
        return must_run({"find", scratch_, "-mindepth", "1"});
    }
    bool
    is_at(const std::string &moment)
    {
        if (moment == "the scratch file is made")
            return !scratch_content().empty();
        if (moment == "the job begins")
            return domain_->monitor().execute("query-jobs").size() > 0;
        return virtsnap_.json({"list", "--status", "progressing"}).size() > 0;
    }

    std::string scratch_ = dir_.file("scratch");
};

TEST_F(LibvirtLeftover, IsRemovedFromTheScratchFolderThatWasAskedFor)
{
    std::filesystem::create_directory(scratch_);
    std::filesystem::permissions(scratch_, std::filesystem::perms(01777));
    start_with_vda();
    write_some("vda");
    expect_next("full");
    size_t left = 0;
    for (const std::string capture : {"staged", "live"}) {
        for (const std::string moment :
             {"the scratch file is made", "the job begins", "it is announced"}) {
            SCOPED_TRACE(capture + ", killed when " + moment);
            write("vda", 0, 12 * kMiB);
            auto victim = virtsnap_.start(create_arguments(
                {"--scratch-dir", scratch_, "--capture", capture, "--speed-limit", "1000000"}));
            ASSERT_TRUE(wait_until(kSoon, [&] { return is_at(moment) || !victim->running(); }));
            victim->signal(SIGKILL);
            const auto outcome = victim->wait(kSoon);
            ASSERT_TRUE(outcome);
            EXPECT_EQ(outcome->signal, SIGKILL) << outcome->err;
            left += scratch_content().empty() ? 0 : 1;
            write_some("vda");
            expect_next("", {"--scratch-dir", scratch_});
            EXPECT_EQ(scratch_content(), "");
            expect_nothing_left(1);
        }
    }
    EXPECT_GE(left, 4u) << "too few have left something";
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
