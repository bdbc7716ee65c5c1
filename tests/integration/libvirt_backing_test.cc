// SPDX-License-Identifier: LGPL-2.1-or-later
// Definitions that say of which images a disk consists: what the headers of the images say too, or
// something else. The machine follows its definition.
#include "tests/integration/libvirt_fixture.h"
#include "tests/support/gate.h"

namespace
{

using namespace libvirt_fixture;

constexpr uint64_t kSize = 12 * kMiB;
constexpr int kBottom = 0x11;
constexpr int kMiddle = 0x22;
constexpr int kOther = 0x33;

// vda is top.qcow2; by the headers it lies upon middle.qcow2, and that upon bottom.qcow2. They have
// the first 6, 4 and 2 MiB. other.qcow2 has 5 MiB, and no backing file.
class LibvirtBacking : public LibvirtTest
{
  protected:
    void
    SetUp() override
    {
        LibvirtTest::SetUp();
        add_disk("vda", kSize);
        make("bottom", "", kBottom, 6 * kMiB);
        make("middle", "bottom", kMiddle, 4 * kMiB);
        make("other", "", kOther, 5 * kMiB);
        make("top", "middle", 0, 0);
        disk("vda").disk.path = path("top");
        define();
    }
    std::string
    path(const std::string &name) const
    {
        return dir_.file(name + ".qcow2");
    }
    // An image in which the first bytes are written.
    void
    make(const std::string &name, const std::string &backing, int pattern, uint64_t length)
    {
        std::vector<std::string> command = {"qemu-img", "create", "-q", "-f", "qcow2"};
        if (!backing.empty())
            command.insert(command.end(), {"-F", "qcow2", "-b", path(backing)});
        command.insert(command.end(), {path(name), std::to_string(kSize)});
        must_run(command);
        if (length > 0)
            must_run({"qemu-io", "-c", write_command(0, length, pattern), path(name)});
        daemon_.give(path(name));
    }
    static std::string
    backing(const std::string &file, const std::string &inner, const std::string &format = "qcow2")
    {
        return "<backingStore type='file'><format type='" + format + "'/><source file='" + file +
               "'/>" + inner + "</backingStore>";
    }
    // Makes that the definition's backingStore, the only one.
    void
    define_backing(const std::string &element)
    {
        std::string xml = daemon_.must_virsh({"dumpxml", "vm", "--inactive"});
        const size_t target = xml.find("<target dev='vda'");
        const size_t old = xml.find("<backingStore");
        ASSERT_NE(target, std::string::npos);
        const size_t from = std::min(old, target);
        xml.replace(from, target - from, element);
        std::ofstream(daemon_.file("new.xml")) << xml;
        daemon_.must_virsh({"define", daemon_.file("new.xml")});
    }
    // What the guest sees below what it has written itself.
    void
    expect_guest_sees(int first, int second, int third)
    {
        uint64_t offset = 0;
        for (const auto &[pattern, length] :
             {std::pair{first, 4 * kMiB}, {second, 1 * kMiB}, {third, 1 * kMiB}}) {
            const std::string out =
                domain_->disk_io("vda", "read -P " + std::to_string(pattern) + " " +
                                            std::to_string(offset) + " " + std::to_string(length));
            EXPECT_EQ(out.find("verification failed"), std::string::npos) << offset;
            write_reference("vda", offset, length, pattern);
            offset += length;
        }
        disk("vda").touched.clear();
    }
    // Stopped it is refused in one line that has all the words, and nothing is left.
    void
    expect_refused(const std::vector<std::string> &words)
    {
        const Outcome outcome = virtsnap_.run({"--output", "json", "create", "vm"});
        EXPECT_EQ(outcome.exit_code, 3) << outcome.out;
        const Json error = Json::parse(outcome.out)["error"];
        EXPECT_EQ(error["code"].text(), "IncorrectDiskStatus");
        for (const std::string &word : words)
            EXPECT_NE(error["message"].text().find(word), std::string::npos)
                << word << " in: " << error["message"].text();
        EXPECT_EQ(error["message"].text().find('\n'), std::string::npos);
        EXPECT_EQ(tmp_.content(), "");
    }
    // One chain of exact snapshots, the first of the given mode, the others incremental.
    void
    expect_chain_across_states(const std::string &first = "full")
    {
        expect_next(first);
        domain_->destroy();
        expect_next("incremental");
        start();
        write("vda", 3 * kMiB, 2 * kCluster);
        expect_next("incremental");
        write("vda", kSize - kCluster, kCluster);
        domain_->destroy();
        const Json snapshots = expect_next("incremental");
        EXPECT_EQ(of(snapshots, "vda")["read_bytes"].number(), static_cast<int64_t>(kCluster));
        EXPECT_EQ(expect_next("incremental")[0]["read_bytes"].number(), 0);
    }
};

TEST_F(LibvirtBacking, AnImageCutOffFromItsBackingFilesIsWhatTheGuestSees)
{
    define_backing("<backingStore/>");
    write_offline("vda", 7 * kMiB, kCluster);
    expect_next("full");
    start();
    expect_guest_sees(0, 0, 0);
    write("vda", 1 * kMiB, kCluster);
    expect_chain_across_states("incremental");
    expect_nothing_left(1);
}

TEST_F(LibvirtBacking, TheBackingFilesOfACutOffImageNeedNotBeThere)
{
    define_backing("<backingStore/>");
    write_offline("vda", 7 * kMiB, kCluster);
    std::filesystem::remove(path("middle"));
    expect_next("full");
    start();
    write("vda", 9 * kMiB, kCluster);
    domain_->destroy();
    expect_next("incremental");
}

TEST_F(LibvirtBacking, ADefinitionThatSaysWhatTheHeadersSayIsOneIncrementalChain)
{
    define_backing(backing(path("middle"), backing(path("bottom"), "<backingStore/>")));
    start();
    expect_guest_sees(kMiddle, kBottom, kBottom);
    domain_->destroy();
    expect_next("full");
    start();
    write("vda", 5 * kMiB, kCluster);
    expect_chain_across_states("incremental");
    // Nor does it matter how much of it is said.
    for (const std::string &element :
         {backing(path("middle"), ""), backing(path("middle"), backing(path("bottom"), "")),
          std::string()}) {
        SCOPED_TRACE(element);
        define_backing(element);
        start();
        write("vda", 8 * kMiB, kCluster);
        expect_chain_across_states("incremental");
    }
}

TEST_F(LibvirtBacking, ALinkToABackingFileIsThatFile)
{
    std::filesystem::create_symlink(path("middle"), dir_.file("link"));
    define_backing(backing(dir_.file("link"), ""));
    start();
    expect_guest_sees(kMiddle, kBottom, kBottom);
    expect_chain_across_states();
}

TEST_F(LibvirtBacking, AnOverlayOfLibvirtsIsOneIncrementalChain)
{
    start();
    expect_guest_sees(kMiddle, kBottom, kBottom);
    expect_next("full");
    daemon_.must_virsh({"snapshot-create-as", "vm", "over", "--disk-only", "--no-metadata",
                        "--diskspec", "vda,file=" + path("overlay")});
    disk("vda").disk.path = path("overlay");
    remember_nodes();
    // libvirt says in the definition what the overlay lies upon.
    ASSERT_NE(daemon_.must_virsh({"dumpxml", "vm", "--inactive"}).find("<backingStore type="),
              std::string::npos);
    write("vda", 5 * kMiB, kCluster);
    expect_next("full");
    // That one's checkpoint took the old bitmap out of the backing file: a write, but no change.
    expect_next("incremental");
    expect_chain_across_states("incremental");
}

TEST_F(LibvirtBacking, AChainThatTheDefinitionEndsFurtherUpIsRefusedWhileStopped)
{
    define_backing(backing(path("middle"), "<backingStore/>"));
    expect_refused({"ends the backing chain at '" + path("middle") + "'", path("bottom"),
                    "while its machine runs", "qemu-img rebase -u"});
    start();
    expect_guest_sees(kMiddle, 0, 0);
    expect_next("full");
    write("vda", 1 * kMiB, kCluster);
    domain_->destroy();
    expect_refused({path("bottom")});
    // As advised. A backing file was written to, so that all is read once.
    must_run({"qemu-img", "rebase", "-u", "-b", "", path("middle")});
    expect_next("full");
    expect_nothing_left(1);
    start();
    write("vda", 2 * kMiB, kCluster);
    expect_chain_across_states("incremental");
}

TEST_F(LibvirtBacking, AnotherBackingFileThanTheHeadersIsRefusedWhileStopped)
{
    define_backing(backing(path("other"), "<backingStore/>"));
    expect_refused({"'" + path("other") + "' of '" + path("top") + "'", path("middle")});
    start();
    expect_guest_sees(kOther, kOther, 0);
    expect_next("full");
    domain_->destroy();
    expect_refused({path("other")});
    // Further down too.
    define_backing(backing(path("middle"), backing(path("other"), "")));
    expect_refused({"'" + path("other") + "' of '" + path("middle") + "'", path("bottom")});
}

TEST_F(LibvirtBacking, ABackingFileThatTheHeaderDoesNotHaveIsRefusedWhileStopped)
{
    must_run({"qemu-img", "rebase", "-u", "-b", "", path("top")});
    define_backing(backing(path("other"), ""));
    expect_refused({"'" + path("other") + "' of '" + path("top") + "'", "names none"});
    start();
    expect_guest_sees(kOther, kOther, 0);
    expect_next("full");
}

TEST_F(LibvirtBacking, ABackingFileOfAnotherFormatThanTheHeadersIsRefusedWhileStopped)
{
    define_backing(backing(path("middle"), "", "raw"));
    expect_refused({"'" + path("middle") + "' as raw", "it is qcow2"});
    define_backing(backing(path("middle"), backing(path("bottom"), "<backingStore/>", "raw")));
    expect_refused({"'" + path("bottom") + "' as raw", "it is qcow2"});
    start();
    EXPECT_EQ(create().size(), 1u);
}

TEST_F(LibvirtBacking, ABackingFileNamedRelativeToALinkIsTheGuests)
{
    // The guest's machine looks for it beside the link, a reader of the file beside the file.
    const std::string folder = dir_.file("links");
    std::filesystem::create_directory(folder);
    std::filesystem::create_symlink(path("top"), folder + "/top.qcow2");
    std::filesystem::create_symlink(path("other"), folder + "/middle.qcow2");
    daemon_.give(folder);
    must_run({"qemu-img", "rebase", "-u", "-F", "qcow2", "-b", "middle.qcow2", path("top")});
    redefine(path("top"), folder + "/top.qcow2");
    expect_refused({"is a link", "'" + path("other") + "'", "'" + path("middle") + "'"});
    start();
    expect_guest_sees(kOther, kOther, 0);
    expect_next("full");
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
