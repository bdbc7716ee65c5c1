// SPDX-License-Identifier: LGPL-2.1-or-later
// Domains read; domain_xml_moment_test.cc has the backups and checkpoints.
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "plugin/hypervisor/domain-xml.h"

namespace
{

std::string
text_of(const char *text)
{
    return text ? text : "(null)";
}

std::vector<std::string>
texts_of(const GPtrArray *array)
{
    std::vector<std::string> texts;
    for (unsigned i = 0; i < array->len; i++)
        texts.push_back(text_of(static_cast<const char *>(array->pdata[i])));
    return texts;
}

using Texts = std::vector<std::string>;

// A domain as libvirt writes it, with these pieces in it.
std::string
domain(const std::string &devices, const std::string &os = "")
{
    return "<domain type='qemu' id='2' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n"
           "  <name>guest</name>\n  <os>\n    <type arch='x86_64'>hvm</type>\n" +
           os + "  </os>\n  <devices>\n" + devices +
           "  </devices>\n  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>\n"
           "</domain>\n";
}

// A virtio disk on a qcow2 file, with more in it and other attributes.
std::string
disk(const std::string &target, const std::string &more = "",
     const std::string &attributes = "type='file' device='disk'")
{
    return "<disk " + attributes + "><driver name='qemu' type='qcow2'/><source file='/images/" +
           target + ".qcow2'/><target dev='" + target + "' bus='virtio'/>" + more + "</disk>\n";
}

class Domain : public testing::Test
{
  protected:
    ~Domain() override
    {
        vs_instance_free(instance_);
        g_clear_error(&error_);
    }
    void
    parse(const std::string &xml)
    {
        vs_instance_free(instance_);
        g_clear_error(&error_);
        instance_ = vs_domain_xml_parse(xml.c_str(), &error_);
        EXPECT_EQ(instance_ == nullptr, error_ != nullptr);
    }
    // The instance of an XML that is good.
    const VsInstance *
    read(const std::string &xml)
    {
        static VsInstance *none = vs_instance_new();
        parse(xml);
        EXPECT_EQ(error_text(), "(none)");
        return instance_ ? instance_ : none;
    }
    // The only disk of a domain with these devices.
    const VsDisk *
    read_disk(const std::string &devices)
    {
        static VsDisk *none = vs_disk_new();
        const VsInstance *instance = read(domain(devices));
        EXPECT_EQ(instance->disks->len, 1u);
        return instance->disks->len > 0 ? static_cast<VsDisk *>(instance->disks->pdata[0]) : none;
    }
    // Where a disk with this type and this source element is.
    std::string
    source(const std::string &type, const std::string &element)
    {
        const VsDisk *found = read_disk("<disk type='" + type + "' device='disk'>" + element +
                                        "<target dev='vda'/></disk>");
        EXPECT_EQ(texts_of(found->chain), Texts{text_of(found->source)});
        return text_of(found->source);
    }
    Texts
    targets(const std::string &devices)
    {
        const VsInstance *instance = read(domain(devices));
        Texts found;
        for (unsigned i = 0; i < instance->disks->len; i++)
            found.push_back(text_of(static_cast<VsDisk *>(instance->disks->pdata[i])->target));
        return found;
    }
    // "role path" of each file of a domain with this in its <os>.
    Texts
    files(const std::string &os)
    {
        const VsInstance *instance = read(domain("", os));
        Texts found;
        for (unsigned i = 0; i < instance->files->len; i++) {
            auto file = static_cast<VsInstanceFile *>(instance->files->pdata[i]);
            found.push_back(text_of(file->role) + " " + text_of(file->path));
        }
        return found;
    }
    // The message of an XML that is refused.
    std::string
    refusal(const std::string &xml)
    {
        parse(xml);
        EXPECT_TRUE(g_error_matches(error_, VS_DOMAIN_XML_ERROR, VS_DOMAIN_XML_ERROR_INVALID));
        return error_text();
    }

  private:
    std::string
    error_text() const
    {
        return error_ ? error_->message : "(none)";
    }
    VsInstance *instance_ = nullptr;
    GError *error_ = nullptr;
};

TEST_F(Domain, IsAnInstanceThatIsCapturedAtOnce)
{
    const VsInstance *instance = read(domain(disk("vda")));
    EXPECT_STREQ(instance->name, "guest");
    EXPECT_STREQ(instance->kind, "libvirt");
    EXPECT_TRUE(instance->one_capture);
    EXPECT_EQ(instance->id, nullptr);
    EXPECT_EQ(instance->status, nullptr);
    EXPECT_EQ(instance->definition, nullptr);
}

TEST_F(Domain, ListsDisksInItsOwnOrder)
{
    EXPECT_EQ(targets(disk("vdb") + disk("vda") + "<input type='mouse'/>" + disk("sda")),
              (Texts{"vdb", "vda", "sda"}));
    EXPECT_EQ(targets(""), Texts());
    EXPECT_EQ(read("<domain><name>guest</name></domain>")->disks->len, 0u);
}

TEST_F(Domain, DoesNotListWhatIsNoWritableDisk)
{
    EXPECT_EQ(targets(disk("vda", "", "type='file' device='cdrom'") +
                      disk("vdb", "", "type='file' device='floppy'") + disk("vdc", "<readonly/>") +
                      "<disk type='file' device='disk'><target dev='vdd'/></disk>"
                      "<disk type='file'><source/><target dev='vde'/></disk>"
                      "<disk type='network'><source name='n'/><target dev='vdf'/></disk>" +
                      disk("vdg", "", "type='file'")),
              Texts{"vdg"});
}

TEST_F(Domain, DiskIsWhatTheXmlSays)
{
    const VsDisk *found = read_disk(disk("vda"));
    EXPECT_STREQ(found->id, "");
    EXPECT_STREQ(found->target, "vda");
    EXPECT_STREQ(found->source, "/images/vda.qcow2");
    EXPECT_STREQ(found->format, "qcow2");
    EXPECT_EQ(texts_of(found->chain), Texts{"/images/vda.qcow2"});
    EXPECT_EQ(found->aliases->len, 0u);
    EXPECT_EQ(found->node, nullptr);
    EXPECT_EQ(found->virtual_size_bytes, 0u);
    EXPECT_EQ(found->bitmaps->len, 0u);
    EXPECT_TRUE(found->can_track);
    EXPECT_TRUE(found->persistent_bitmaps);
    EXPECT_FALSE(found->iothread);
    EXPECT_FALSE(found->is_shared);
    EXPECT_EQ(found->unavailable, nullptr);
}

TEST_F(Domain, DiskIsRawWhereItHasNoDriver)
{
    const VsDisk *found = read_disk("<disk><source file='/a'/><target dev='vda'/></disk>");
    EXPECT_STREQ(found->format, "raw");
    EXPECT_STREQ(found->source, "/a");
    EXPECT_FALSE(found->can_track);
    EXPECT_FALSE(found->persistent_bitmaps);
}

TEST_F(Domain, DiskAnswersToItsSerialAndAlias)
{
    EXPECT_EQ(texts_of(read_disk(disk("vda", "<serial>DATA 1</serial>"
                                             "<alias name='virtio-disk0'/>"))
                           ->aliases),
              (Texts{"DATA 1", "virtio-disk0"}));
    EXPECT_EQ(texts_of(read_disk(disk("vda", "<serial></serial><alias name='ua-x'/>"))->aliases),
              Texts{"ua-x"});
}

TEST_F(Domain, ShareableDiskIsShared)
{
    EXPECT_TRUE(read_disk(disk("vda", "<shareable/>"))->is_shared);
}

TEST_F(Domain, FilesAndDevicesAreNamedAsWritten)
{
    EXPECT_EQ(source("file", "<source file='/a b/&lt;c&gt;&amp;&quot;.qcow2' index='1'/>"),
              "/a b/<c>&\".qcow2");
    EXPECT_EQ(source("block", "<source dev='/dev/vg/lv'/>"), "/dev/vg/lv");
    EXPECT_EQ(source("file", "<source file='/\xc3\xa9'/>"), "/\xc3\xa9");
}

TEST_F(Domain, NetworkDisksAreUris)
{
    EXPECT_EQ(source("network", "<source protocol='nbd' name='export'>"
                                "<host name='h' port='10809'/></source>"),
              "nbd://h:10809/export");
    EXPECT_EQ(source("network", "<source protocol='nbd' name='export'>"
                                "<host transport='unix' socket='/run/n.sock'/></source>"),
              "nbd+unix:///export?socket=/run/n.sock");
    EXPECT_EQ(source("network", "<source protocol='rbd' name='pool/image'>"
                                "<host name='a' port='6789'/><host name='b'/></source>"),
              "rbd://a:6789,b/pool/image");
    EXPECT_EQ(source("network", "<source protocol='iscsi' name='iqn.x:y/1'>"
                                "<host name='2001:db8::1' port='3260' transport='tcp'/></source>"),
              "iscsi://[2001:db8::1]:3260/iqn.x:y/1");
    EXPECT_EQ(source("network", "<source protocol='https' name='i' query='a=1'>"
                                "<host name='h' port='443'/></source>"),
              "https://h:443/i?a=1");
    EXPECT_EQ(source("network", "<source protocol='nbd'><host name='h'/></source>"), "nbd://h/");
}

TEST_F(Domain, NetworkNamesDoNotRunIntoOtherParts)
{
    EXPECT_EQ(source("network", "<source protocol='nbd' name='e?socket=/x'>"
                                "<host transport='unix' socket='/s?a&amp;b'/></source>"),
              "nbd+unix:///e%3Fsocket=/x?socket=/s%3Fa%26b");
}

TEST_F(Domain, ChainIsTheBackingStoresInOrder)
{
    const VsDisk *found =
        read_disk(disk("vda", "<backingStore type='block' index='2'><format type='qcow2'/>"
                              "<source dev='/dev/b'/><backingStore type='network'>"
                              "<format type='raw'/><source protocol='nbd' name='e'>"
                              "<host name='h'/></source><backingStore/></backingStore>"
                              "</backingStore>"));
    EXPECT_EQ(texts_of(found->chain), (Texts{"/images/vda.qcow2", "/dev/b", "nbd://h/e"}));
    EXPECT_EQ(texts_of(found->chain_formats), (Texts{"qcow2", "qcow2", "raw"}));
    EXPECT_TRUE(found->chain_ends);
    EXPECT_FALSE(vs_disk_is_cut_off(found));
}

TEST_F(Domain, ChainGoesOnWhereTheXmlDoesNotEndIt)
{
    const VsDisk *found = read_disk(disk("vda"));
    EXPECT_EQ(texts_of(found->chain_formats), Texts{"qcow2"});
    EXPECT_FALSE(found->chain_ends);
    EXPECT_FALSE(vs_disk_is_cut_off(found));
    found = read_disk(disk("vda", "<backingStore type='file'><source file='/b'/></backingStore>"));
    EXPECT_EQ(texts_of(found->chain), (Texts{"/images/vda.qcow2", "/b"}));
    EXPECT_EQ(texts_of(found->chain_formats), (Texts{"qcow2", "(null)"}));
    EXPECT_FALSE(found->chain_ends);
}

TEST_F(Domain, DiskIsCutOffByAnEmptyBackingStore)
{
    const VsDisk *found = read_disk(disk("vda", "<backingStore/>"));
    EXPECT_EQ(texts_of(found->chain), Texts{"/images/vda.qcow2"});
    EXPECT_EQ(texts_of(found->chain_formats), Texts{"qcow2"});
    EXPECT_TRUE(found->chain_ends);
    EXPECT_TRUE(vs_disk_is_cut_off(found));
}

TEST_F(Domain, OnlyARunningMachineReadsWhatIsEncryptedOrAPart)
{
    const auto reason = [&](const std::string &source, const std::string &more = "") {
        return text_of(read_disk("<disk><source file='/a'>" + source + "</source>" + more +
                                 "<target dev='vda'/></disk>")
                           ->live_only);
    };
    const auto backing = [](const std::string &source) {
        return "<backingStore type='file'><format type='raw'/><source file='/b'/>"
               "<backingStore type='file'><format type='raw'/><source file='/c'>" +
               source + "</source></backingStore></backingStore>";
    };
    const std::string slice = "<slices><slice type='storage' offset='0' size='1'/></slices>";
    const std::string key = "<encryption format='luks'/>";
    EXPECT_EQ(reason(""), "(null)");
    EXPECT_EQ(reason("", backing("")), "(null)");
    EXPECT_EQ(reason(key), "it is encrypted with a key that only its running machine has");
    EXPECT_EQ(reason("", key), "it is encrypted with a key that only its running machine has");
    EXPECT_EQ(reason(slice),
              "it is a part of its image: it can be snapshotted while its machine runs");
    EXPECT_EQ(reason("", backing(key)),
              "a backing file of it is encrypted with a key that only its running machine has");
    EXPECT_EQ(reason("", backing(slice)), "a backing file of it is a part of a file: it can be "
                                          "snapshotted while its machine runs");
}

std::string
chain_of(unsigned backing_files)
{
    std::string xml;
    for (unsigned i = 0; i < backing_files; i++)
        xml += "<backingStore type='file'><source file='/" + std::to_string(i) + "'/>";
    for (unsigned i = 0; i < backing_files; i++)
        xml += "</backingStore>";
    return domain(disk("vda", xml));
}

TEST_F(Domain, ChainHasABound)
{
    const VsInstance *instance = read(chain_of(199));
    ASSERT_EQ(instance->disks->len, 1u);
    EXPECT_EQ(static_cast<VsDisk *>(instance->disks->pdata[0])->chain->len, 200u);
    EXPECT_EQ(refusal(chain_of(200)),
              "reading <domain> XML: disk 'vda' has more than 200 images in its chain");
    EXPECT_NE(refusal(chain_of(20000)).find("Excessive depth"), std::string::npos);
}

TEST_F(Domain, VirtioDiskHasTheIothreadOfItsDriver)
{
    const std::string before = "<disk type='file'><driver type='raw'";
    const std::string after = "<source file='/a'/><target dev='vda' bus='virtio'/></disk>";
    EXPECT_TRUE(read_disk(before + " iothread='2'/>" + after)->iothread);
    EXPECT_TRUE(read_disk(before + "><iothreads><iothread id='1'/></iothreads></driver>" + after)
                    ->iothread);
    EXPECT_FALSE(read_disk(before + "/>" + after)->iothread);
}

TEST_F(Domain, ScsiDiskHasTheIothreadOfItsController)
{
    const std::string controllers =
        "<controller type='scsi' index='0' model='virtio-scsi'/>"
        "<controller type='scsi' index='1'><driver iothread='1'/></controller>"
        "<controller type='sata' index='0'><driver iothread='1'/></controller>"
        "<controller type='scsi' index='2'><driver queues='2'/></controller>";
    auto on = [&](const std::string &bus, const std::string &address) {
        return read_disk(controllers + "<disk><source file='/a'/><target dev='sda' bus='" + bus +
                         "'/>" + address + "</disk>")
            ->iothread;
    };
    EXPECT_TRUE(on("scsi", "<address type='drive' controller='1' unit='0'/>"));
    EXPECT_FALSE(on("scsi", "<address type='drive' controller='0' unit='0'/>"));
    EXPECT_FALSE(on("scsi", "<address type='drive' controller='2' unit='0'/>"));
    EXPECT_FALSE(on("scsi", ""));
    EXPECT_FALSE(on("sata", "<address type='drive' controller='1' unit='0'/>"));
}

TEST_F(Domain, ScsiControllerIsTheFirstWhereNothingElseIsSaid)
{
    EXPECT_TRUE(read_disk("<disk><source file='/a'/><target dev='sda' bus='scsi'/></disk>"
                          "<controller type='scsi'><driver iothread='1'/></controller>")
                    ->iothread);
}

TEST_F(Domain, DiskSaysWhyItCannotBeCaptured)
{
    EXPECT_STREQ(
        read_disk("<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>")
            ->unavailable,
        "its source is of type 'volume', not file, block or network");
    EXPECT_EQ(source("nvme", "<source type='pci' namespace='1'/>"), "");
    EXPECT_STREQ(read_disk(disk("vda", "<transient/>"))->unavailable,
                 "it is transient: what the guest writes is thrown away");
    EXPECT_STREQ(
        read_disk(
            "<disk type='block' device='lun'><source dev='/dev/s'/><target dev='sda'/></disk>")
            ->unavailable,
        "it is a LUN that is passed through to the guest");
}

TEST_F(Domain, FilesAreThoseThatTheFirmwareNeeds)
{
    EXPECT_EQ(files("<kernel>/k</kernel><initrd>/i</initrd><dtb>/d</dtb><cmdline>x</cmdline>"
                    "<loader readonly='yes' type='pflash'>/l</loader>"
                    "<nvram template='/t'>/n &amp; m</nvram>"),
              (Texts{"kernel /k", "initrd /i", "dtb /d", "nvram /n & m"}));
    EXPECT_EQ(files("<loader readonly='no' type='pflash'>/l</loader>"), Texts{"loader /l"});
    EXPECT_EQ(files("<loader type='rom'/><nvram/><kernel></kernel>"), Texts());
}

TEST_F(Domain, NvramMayHaveASource)
{
    EXPECT_EQ(files("<nvram type='file'>\n  <source file='/n'/>\n</nvram>"), Texts{"nvram /n"});
    EXPECT_EQ(files("<nvram type='block'><source dev='/dev/n'/></nvram>"), Texts{"nvram /dev/n"});
    EXPECT_EQ(files("<nvram type='network'><source protocol='nbd'/></nvram>"), Texts());
    EXPECT_EQ(files("<nvram type='volume'><source pool='p'/></nvram>"), Texts());
}

TEST_F(Domain, ElementsOfOtherNamespacesAreNotLibvirts)
{
    EXPECT_EQ(targets("<x:disk xmlns:x='http://x'><source file='/a'/><target dev='vda'/></x:disk>" +
                      disk("vdb")),
              Texts{"vdb"});
    EXPECT_EQ(refusal("<domain xmlns='http://x'><name>guest</name></domain>"),
              "reading <domain> XML: the root is <domain>");
}

TEST_F(Domain, NeedsANameAndTargetsThatDiffer)
{
    EXPECT_EQ(refusal("<domain><name/></domain>"), "reading <domain> XML: it has no name");
    EXPECT_EQ(refusal(domain("<disk><source file='/a'/></disk>")),
              "reading <domain> XML: the disk on '/a' has no target");
    EXPECT_EQ(refusal(domain(disk("vda") + disk("vdb") + disk("vda"))),
              "reading <domain> XML: two disks have the target 'vda'");
}

TEST_F(Domain, IsTheRoot)
{
    EXPECT_EQ(refusal("<domstatus/>"), "reading <domain> XML: the root is <domstatus>");
    EXPECT_EQ(read("<?xml version='1.0'?><!-- <x> --><domain><name>g</name></domain>")->disks->len,
              0u);
}

TEST_F(Domain, BadXmlIsRefusedWithItsLineAndNothingOnStderr)
{
    testing::internal::CaptureStderr();
    EXPECT_EQ(
        refusal("<domain>\n<name>g</nane></domain>"),
        "reading <domain> XML: line 2: Opening and ending tag mismatch: name line 2 and nane");
    EXPECT_NE(refusal(""), "");
    EXPECT_NE(refusal("text"), "");
    EXPECT_NE(refusal("<!-- nothing else -->"), "");
    EXPECT_NE(refusal("<domain><name>\xff\xfe</name></domain>"), "");
    EXPECT_NE(refusal("<domain a='1' a='2'><name>g</name></domain>"), "");
    EXPECT_NE(refusal("<domain><name>g</name></domain><domain/>"), "");
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(Domain, EachTruncationIsRefused)
{
    std::string xml = domain(disk("vda", "<serial>x</serial>"), "<kernel>/k</kernel>");
    xml.erase(xml.find_last_of('>') + 1);
    read(xml);
    for (size_t length = 0; length < xml.size(); length++)
        EXPECT_NE(refusal(xml.substr(0, length)), "") << length;
}

TEST_F(Domain, EntitiesAreNeverExpanded)
{
    EXPECT_EQ(refusal("<!DOCTYPE domain [<!ENTITY e 'x'>]><domain><name>&e;</name></domain>"),
              "reading <domain> XML: it has a document type declaration");
    EXPECT_EQ(refusal("<!DOCTYPE domain SYSTEM 'file:///dev/null'><domain><name>g</name></domain>"),
              "reading <domain> XML: it has a document type declaration");
    EXPECT_EQ(refusal("<!DOCTYPE domain [<!ATTLIST name n CDATA 'v'>]>"
                      "<domain><name>g</name></domain>"),
              "reading <domain> XML: it has a document type declaration");
    EXPECT_NE(refusal("<domain><name>&e;</name></domain>").find("Entity 'e' not defined"),
              std::string::npos);
    EXPECT_STREQ(read("<domain><name>&lt;&#x41;<![CDATA[<&]]></name></domain>")->name, "<A<&");
}

TEST_F(Domain, LongTextIsRefusedUnread)
{
    const std::string refused = "reading <domain> XML: it is longer than 4194304 bytes";
    EXPECT_EQ(refusal(std::string(10u << 20, 'x')), refused);

    std::string xml = domain(disk("vda"));
    xml += std::string((4u << 20) - xml.size(), '\n');
    EXPECT_EQ(read(xml)->disks->len, 1u);
    EXPECT_EQ(refusal(xml + "\n"), refused);
}

TEST_F(Domain, AsManyDisksAsFitAreReadInTime)
{
    std::string devices;
    unsigned count = 0;
    for (; devices.size() < (4u << 20) - 4096; count++)
        devices += "<disk><source file='a'/><target dev='" + std::to_string(count) +
                   "' bus='scsi'/></disk><controller type='scsi' index='" + std::to_string(count) +
                   "'><driver iothread='1'/></controller>";
    EXPECT_EQ(read(domain(devices))->disks->len, count);
}

} // namespace
