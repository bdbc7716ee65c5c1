// SPDX-License-Identifier: LGPL-2.1-or-later
// Backup and checkpoint definitions, written and read.
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

#include "plugin/hypervisor/domain-xml.h"

namespace
{

using Backup = std::unique_ptr<VsBackupXml, decltype(&vs_backup_xml_free)>;
using Checkpoint = std::unique_ptr<VsCheckpointXml, decltype(&vs_checkpoint_xml_free)>;
using Instance = std::unique_ptr<VsInstance, decltype(&vs_instance_free)>;

// What an attribute and a text can't hold as it is.
const std::string nasty = "/<&\"'> \xc3\xa9\t\n";

std::string
text_of(const char *text)
{
    return text ? text : "(null)";
}

std::string
take(char *text)
{
    std::string copy = text_of(text);
    g_free(text);
    return copy;
}

Instance
instance_of(const std::vector<std::string> &targets)
{
    Instance instance(vs_instance_new(), vs_instance_free);
    for (const std::string &target : targets) {
        VsDisk *disk = vs_disk_new();
        disk->target = g_strdup(target.c_str());
        g_ptr_array_add(instance->disks, disk);
    }
    return instance;
}

Backup
new_backup(bool push, const char *socket)
{
    Backup backup(g_new0(VsBackupXml, 1), vs_backup_xml_free);
    backup->push = push;
    backup->socket = g_strdup(socket);
    backup->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vs_backup_disk_free);
    return backup;
}

VsBackupDisk *
add_disk(const Backup &backup, const std::string &target, const std::string &scratch)
{
    VsBackupDisk *disk = vs_backup_disk_new();
    disk->target = g_strdup(target.c_str());
    disk->scratch = g_strdup(scratch.c_str());
    g_ptr_array_add(backup->disks, disk);
    return disk;
}

// One line for each disk, so that a test compares all members at once.
std::string
summary(const VsBackupXml *backup)
{
    std::string text = backup->push ? "push" : "pull " + text_of(backup->socket);
    for (unsigned i = 0; i < backup->disks->len; i++) {
        auto disk = static_cast<VsBackupDisk *>(backup->disks->pdata[i]);
        text += "\n" + text_of(disk->target) + "|" + text_of(disk->scratch) + "|" +
                text_of(disk->export_name) + "|" + text_of(disk->incremental) + "|" +
                text_of(disk->bitmap);
    }
    return text;
}

std::string
backup_of(const std::string &xml)
{
    g_autoptr(GError) error = nullptr;
    Backup backup(vs_backup_xml_parse(xml.c_str(), &error), vs_backup_xml_free);
    EXPECT_EQ(backup == nullptr, error != nullptr);
    if (!backup)
        return std::string("error: ") + (error ? error->message : "none");
    return summary(backup.get());
}

TEST(BackupXml, PullIsWhatLibvirtTakes)
{
    Backup backup = new_backup(false, "/d/nbd");
    VsBackupDisk *full = add_disk(backup, "vdb", "/d/vdb.q");
    full->export_name = g_strdup("s-b");
    VsBackupDisk *incremental = add_disk(backup, "vda", "/d/vda.q");
    incremental->export_name = g_strdup("s-a");
    incremental->incremental = g_strdup("CKPT");
    incremental->bitmap = g_strdup("dirty");

    EXPECT_EQ(take(vs_backup_xml_format(backup.get(), instance_of({"vda", "vdb", "sda"}).get())),
              R"(<domainbackup mode="pull">
  <server transport="unix" socket="/d/nbd"/>
  <disks>
    <disk name="vdb" backup="yes" type="file" backupmode="full" exportname="s-b">
      <driver type="qcow2"/>
      <scratch file="/d/vdb.q"/>
    </disk>
    <disk name="vda" backup="yes" type="file" backupmode="incremental" incremental="CKPT" exportname="s-a" exportbitmap="dirty">
      <driver type="qcow2"/>
      <scratch file="/d/vda.q"/>
    </disk>
    <disk name="sda" backup="no"/>
  </disks>
</domainbackup>)");
}

TEST(BackupXml, PushIsWhatLibvirtTakes)
{
    Backup backup = new_backup(true, "/not/written");
    VsBackupDisk *disk = add_disk(backup, "vda", "/d/vda.p");
    disk->export_name = g_strdup("not written");
    disk->bitmap = g_strdup("not written");

    EXPECT_EQ(take(vs_backup_xml_format(backup.get(), instance_of({"vda"}).get())),
              R"(<domainbackup mode="push">
  <disks>
    <disk name="vda" backup="yes" type="file" backupmode="full">
      <driver type="qcow2"/>
      <target file="/d/vda.p"/>
    </disk>
  </disks>
</domainbackup>)");
}

TEST(BackupXml, FullDiskHasNoBitmapToExport)
{
    Backup backup = new_backup(false, "/s");
    add_disk(backup, "vda", "/q")->bitmap = g_strdup("dirty");
    EXPECT_EQ(backup_of(take(vs_backup_xml_format(backup.get(), instance_of({}).get()))),
              "pull /s\nvda|/q|(null)|(null)|(null)");
}

TEST(BackupXml, ReadBackIsWhatWasWritten)
{
    Backup pull = new_backup(false, nasty.c_str());
    VsBackupDisk *disk = add_disk(pull, "vd" + nasty, "/q" + nasty);
    disk->export_name = g_strdup(("e" + nasty).c_str());
    disk->incremental = g_strdup(("c" + nasty).c_str());
    disk->bitmap = g_strdup(("b" + nasty).c_str());
    add_disk(pull, "vdb", "/r")->export_name = g_strdup("f");
    std::string xml = take(vs_backup_xml_format(pull.get(), instance_of({nasty, "vdb"}).get()));
    EXPECT_EQ(backup_of(xml), summary(pull.get())) << xml;

    Backup push = new_backup(true, nullptr);
    add_disk(push, "vda", nasty)->incremental = g_strdup("c");
    xml = take(vs_backup_xml_format(push.get(), instance_of({"vda"}).get()));
    EXPECT_EQ(backup_of(xml), summary(push.get())) << xml;
}

TEST(BackupXml, PathThatIsNotUtf8IsWrittenWithoutACommotion)
{
    Backup backup = new_backup(false, "/\xff");
    testing::internal::CaptureStderr();
    EXPECT_EQ(backup_of(take(vs_backup_xml_format(backup.get(), instance_of({"vda"}).get()))),
              "pull /\xef\xbf\xbd");
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(BackupXml, WhatLibvirtReturnsIsRead)
{
    EXPECT_EQ(backup_of("<domainbackup mode='pull'>\n  <server transport='unix' socket='/d/nbd'/>\n"
                        "  <disks>\n    <disk name='vda' backup='yes' type='file'"
                        " backupmode='incremental' incremental='c' exportname='s-a'"
                        " exportbitmap='dirty' index='5'>\n      <driver type='qcow2'/>\n"
                        "      <scratch file='/d/vda.q'/>\n    </disk>\n"
                        "    <disk name='sda' backup='no'/>\n  </disks>\n</domainbackup>\n"),
              "pull /d/nbd\nvda|/d/vda.q|s-a|c|dirty");
}

TEST(BackupXml, NamesOfImagesComeFromTheirIndex)
{
    const char *xml = "<domainbackup mode='push'><disks>"
                      "<disk name='vda' backup='yes' index='5'><target file='/a'/></disk>"
                      "<disk name='vdb' backup='yes'><target file='/b'/></disk>"
                      "</disks></domainbackup>";
    Backup backup(vs_backup_xml_parse(xml, nullptr), vs_backup_xml_free);
    ASSERT_EQ(backup->disks->len, 2u);
    const auto image = [&](unsigned i) {
        return static_cast<const VsBackupDisk *>(g_ptr_array_index(backup->disks, i))->image;
    };
    EXPECT_STREQ(image(0), "vda[5]");
    EXPECT_EQ(image(1), nullptr);
}

TEST(BackupXml, StrangersJobsAreRead)
{
    EXPECT_EQ(backup_of("<domainbackup mode='pull'><server name='localhost' port='10809'/>"
                        "<disks><disk name='vda' type='block'><scratch dev='/dev/q'/></disk>"
                        "</disks></domainbackup>"),
              "pull (null)\nvda|/dev/q|(null)|(null)|(null)");
    EXPECT_EQ(backup_of("<domainbackup><incremental>c</incremental><disks>"
                        "<disk name='vda' type='file'><target file='/p'/></disk>"
                        "<disk name='vdb' backup='yes' backupmode='full'/>"
                        "<disk name='vdc' incremental='d' exportname='e'/></disks></domainbackup>"),
              "push\nvda|/p|(null)|c|(null)\nvdb|(null)|(null)|(null)|(null)\n"
              "vdc|(null)|(null)|d|(null)");
    EXPECT_EQ(backup_of("<domainbackup mode='push'/>"), "push");
}

TEST(BackupXml, WhatIsNoBackupIsRefused)
{
    EXPECT_EQ(backup_of("<domain><name>g</name></domain>"),
              "error: reading <domainbackup> XML: the root is <domain>");
    EXPECT_EQ(backup_of("<domainbackup mode='tug'/>"),
              "error: reading <domainbackup> XML: its mode is 'tug'");
    EXPECT_EQ(backup_of("<domainbackup><disks><disk backup='yes'/></disks></domainbackup>"),
              "error: reading <domainbackup> XML: a disk has no name");
}

// Checkpoints ---------------------------------------------------------------------------------

std::string
format_checkpoint(const std::string &name, const std::vector<std::string> &targets,
                  const Instance &instance, const char *domain_xml)
{
    g_autoptr(GPtrArray) array = g_ptr_array_new_with_free_func(g_free);
    for (const std::string &target : targets)
        g_ptr_array_add(array, g_strdup(target.c_str()));
    return take(
        vs_checkpoint_xml_format(name.c_str(), array, instance.get(), domain_xml, 1700000000));
}

std::string
checkpoint_of(const std::string &xml)
{
    g_autoptr(GError) error = nullptr;
    Checkpoint checkpoint(vs_checkpoint_xml_parse(xml.c_str(), &error), vs_checkpoint_xml_free);
    EXPECT_EQ(checkpoint == nullptr, error != nullptr);
    if (!checkpoint)
        return std::string("error: ") + (error ? error->message : "none");
    std::string text = text_of(checkpoint->name);
    for (unsigned i = 0; i < checkpoint->disks->len; i++) {
        auto disk = static_cast<VsCheckpointDisk *>(checkpoint->disks->pdata[i]);
        text += "\n" + text_of(disk->target) + "|" + text_of(disk->bitmap) +
                (disk->has_size ? "|" + std::to_string(disk->size_bytes) : "");
    }
    return text;
}

TEST(CheckpointXml, NewOneNamesItsDisksOnly)
{
    EXPECT_EQ(format_checkpoint("N", {"vda"}, instance_of({"vda", "vdb"}), nullptr),
              R"(<domaincheckpoint>
  <name>N</name>
  <disks>
    <disk name="vda" checkpoint="bitmap" bitmap="N"/>
    <disk name="vdb" checkpoint="no"/>
  </disks>
</domaincheckpoint>)");
}

TEST(CheckpointXml, RedefinedOneHasItsTimeAndTheDomainAsItIs)
{
    const std::string domain = "<domain xmlns:q=\"http://q\" type=\"qemu\">\n  <name>g</name>\n"
                               "  <title> </title>\n  <q:arg v=\"&amp;\"/>\n</domain>";
    const std::string expected = R"(<domaincheckpoint>
  <name>N</name>
  <disks>
    <disk name="vda" checkpoint="bitmap" bitmap="N"/>
  </disks>
  <creationTime>1700000000</creationTime>
  )" + domain + "\n</domaincheckpoint>";
    EXPECT_EQ(format_checkpoint("N", {"vda"}, instance_of({}), domain.c_str()), expected);
    // What stands around the domain doesn't come along.
    const std::string declared =
        "<?xml version='1.0' encoding='UTF-8'?>\n<!-- x -->\n" + domain + "\n";
    EXPECT_EQ(format_checkpoint("N", {"vda"}, instance_of({}), declared.c_str()), expected);
}

TEST(CheckpointXml, TextThatIsNoDomainIsLeftOut)
{
    const std::string xml = format_checkpoint("N", {"vda"}, instance_of({}), "</disks><x>");
    EXPECT_EQ(xml.find("<x"), std::string::npos);
    EXPECT_EQ(checkpoint_of(xml), "N\nvda|N");
}

TEST(CheckpointXml, ReadBackIsWhatWasWritten)
{
    EXPECT_EQ(checkpoint_of(format_checkpoint(nasty, {"vdb", nasty}, instance_of({"vda", "vdb"}),
                                              "<domain><name>g</name></domain>")),
              nasty + "\nvdb|" + nasty + "\n" + nasty + "|" + nasty);
}

TEST(CheckpointXml, SizeIsThatOfSoundBitmaps)
{
    EXPECT_EQ(checkpoint_of("<domaincheckpoint>\n  <name>c</name>\n  <disks>\n"
                            "    <disk name='vda' checkpoint='bitmap' bitmap='b' size='131072'/>\n"
                            "    <disk name='vdb' checkpoint='bitmap' size='0'/>\n"
                            "    <disk name='vdc' checkpoint='bitmap' bitmap='b'/>\n"
                            "    <disk name='vdd' checkpoint='bitmap' bitmap='b' size='-1'/>\n"
                            "    <disk name='vde' checkpoint='bitmap' bitmap='b' size='1k'/>\n"
                            "    <disk name='sda' checkpoint='no'/>\n  </disks>\n"
                            "  <parent><name>p</name></parent>\n"
                            "  <domain><name>g</name></domain>\n</domaincheckpoint>\n"),
              "c\nvda|b|131072\nvdb|c|0\nvdc|b\nvdd|b\nvde|b");
}

TEST(CheckpointXml, WhatIsNoCheckpointIsRefused)
{
    EXPECT_EQ(checkpoint_of("<domainsnapshot/>"),
              "error: reading <domaincheckpoint> XML: the root is <domainsnapshot>");
    EXPECT_EQ(checkpoint_of("<domaincheckpoint><parent><name>p</name></parent></domaincheckpoint>"),
              "error: reading <domaincheckpoint> XML: it has no name");
    EXPECT_EQ(checkpoint_of("<domaincheckpoint><name>c</name><disks><disk checkpoint='bitmap'/>"
                            "</disks></domaincheckpoint>"),
              "error: reading <domaincheckpoint> XML: a disk has no name");
}

} // namespace
