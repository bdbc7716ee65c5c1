// SPDX-License-Identifier: LGPL-2.1-or-later
// Which instances and disks are listed, in which state, and what is known of them when they have
// gone: libvirt's domains, stopped ones, unattached images.
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>

#include "tests/support/environment.h"
#include "tests/support/gate.h"
#include "tests/support/libvirt-domain.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::Json;
using support::LibvirtDaemon;
using support::LibvirtDomain;
using support::LibvirtDomainOptions;
using support::must_run;
using support::Outcome;
using support::Process;
using support::TempDir;
using support::Virtsnap;
using support::wait_until;

using Words = std::vector<std::string>;

constexpr auto kSoon = std::chrono::seconds(30);

class Inventory : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        virtsnap_.json({"repo", "init"});
    }
    std::string
    image(const std::string &name)
    {
        std::string path = dir_.file(name + ".qcow2");
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", path, "16M"});
        return path;
    }
    // Defined, with the disks vda, vdb, … on new images.
    std::unique_ptr<LibvirtDomain>
    domain(const std::string &name, unsigned disks = 1)
    {
        LibvirtDomainOptions options;
        options.name = name;
        for (unsigned i = 0; i < disks; i++) {
            std::string target = std::string("vd") + static_cast<char>('a' + i);
            options.disks.push_back({target, image(name + "-" + target)});
        }
        auto made = std::make_unique<LibvirtDomain>(daemon_, options);
        made->define();
        return made;
    }
    std::string
    source(const std::string &name, const std::string &target = "vda") const
    {
        return std::filesystem::canonical(dir_.path()).string() + "/" + name + "-" + target +
               ".qcow2";
    }
    std::string
    uuid(const std::string &name) const
    {
        std::string text = daemon_.must_virsh({"domuuid", name});
        return text.substr(0, text.find('\n'));
    }
    void
    undefine(const std::string &name) const
    {
        daemon_.must_virsh({"undefine", name, "--checkpoints-metadata"});
    }
    // The one of that name; null where there is none.
    Json
    instance(const std::string &name) const
    {
        for (const Json &found : virtsnap_.json({"instances"}).items())
            if (found["name"].text() == name)
                return found;
        return {};
    }
    Json
    disk(const std::string &source, const Words &more = {}) const
    {
        Words words = {"disks"};
        words.insert(words.end(), more.begin(), more.end());
        for (const Json &found : virtsnap_.json(words).items())
            if (found["source"].text() == source)
                return found;
        return {};
    }
    void
    refused(const Words &arguments, int exit_code, const std::string &code) const
    {
        Words words = {"--output", "json"};
        words.insert(words.end(), arguments.begin(), arguments.end());
        Outcome outcome = virtsnap_.run(words);
        EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
        EXPECT_EQ(Json::parse(outcome.out)["error"]["code"].text(), code) << outcome.err;
    }
    // The program without --connect, in that environment.
    Outcome
    run_in(const std::map<std::string, std::string> &env, const Words &arguments) const
    {
        Words words = {support::environment("VIRTSNAP_PROGRAM"), "--repo", virtsnap_.repository()};
        words.insert(words.end(), arguments.begin(), arguments.end());
        support::ProcessOptions options;
        options.env = env;
        return support::run(words, options);
    }

    TempDir dir_;
    LibvirtDaemon daemon_{dir_};
    Virtsnap virtsnap_{dir_.file("repo"), daemon_.uri()};
};

bool
contains(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

TEST_F(Inventory, DomainsAreListedInEveryStateThoughNeverSnapshotted)
{
    auto runs = domain("runs", 2), waits = domain("waits"), rests = domain("rests");
    runs->start();
    waits->start();
    waits->suspend();
    EXPECT_EQ(virtsnap_.json({"instances"}).size(), 3u);
    EXPECT_EQ(instance("runs")["status"].text(), "running");
    EXPECT_EQ(instance("waits")["status"].text(), "paused");
    EXPECT_EQ(instance("rests")["status"].text(), "stopped");
    EXPECT_EQ(instance("runs")["kind"].text(), "libvirt");
    EXPECT_EQ(instance("runs")["disks"].size(), 2u);
    EXPECT_EQ(virtsnap_.json({"disks"}).size(), 4u);
    for (const char *name : {"runs", "waits", "rests"}) {
        Json found = disk(source(name)), owner = instance(name);
        bool is_used = std::string(name) != "rests";
        EXPECT_EQ(found["status"].text(), is_used ? "in_use" : "available") << name;
        EXPECT_EQ(found["instance"]["id"].text(), owner["id"].text());
        EXPECT_EQ(found["id"].text(), owner["disks"][0].text());
        EXPECT_EQ(found["virtual_size"].number(), 16 << 20);
        EXPECT_EQ(found["snapshots"].number(), 0);
        EXPECT_FALSE(found["incremental"].boolean());
        EXPECT_NE(found["reason"].text(), "");
    }
}

TEST_F(Inventory, TheSameIsSaidInTables)
{
    auto rests = domain("rests", 2);
    Outcome instances = virtsnap_.run({"instances"}), disks = virtsnap_.run({"disks"});
    EXPECT_TRUE(contains(instances.out, "libvirt  stopped  2      rests")) << instances.out;
    EXPECT_TRUE(contains(disks.out, "vdb     qcow2   16.0 MiB  available  0          full  rests"))
        << disks.out;
    EXPECT_EQ(instances.err + disks.err, "");
}

TEST_F(Inventory, ADomainsDisksAreFoundByItsNameAndByItsUuid)
{
    auto web = domain("web", 2), other = domain("other");
    EXPECT_EQ(virtsnap_.json({"disks", "web"}).size(), 2u);
    EXPECT_EQ(virtsnap_.json({"disks", uuid("web")}).size(), 2u);
    refused({"disks", "absent"}, 1, "InvalidInstanceId.NotFound");
    virtsnap_.json({"create", "web"});
    virtsnap_.json({"create", "other"});
    std::string id = instance("web")["id"].text();
    for (const std::string &name : {std::string("web"), uuid("web"), id})
        EXPECT_EQ(virtsnap_.json({"list", "--instance", name}).size(), 2u) << name;
    EXPECT_EQ(virtsnap_.json({"list", "--instance", "web", "--disk", "vdb"}).size(), 1u);
    EXPECT_TRUE(disk(source("web"))["incremental"].boolean());
    EXPECT_TRUE(disk(source("web"))["reason"].is_null());
    EXPECT_EQ(disk(source("web"))["snapshots"].number(), 1);
}

TEST_F(Inventory, ADiskThatWasSeenAttachedIsKnownWhenItsDomainHasGone)
{
    auto web = domain("web");
    std::string id = instance("web")["disks"][0].text();
    undefine("web");
    EXPECT_TRUE(instance("web").is_null());
    Json found = disk(source("web"));
    EXPECT_EQ(found["id"].text(), id);
    EXPECT_TRUE(found["instance"].is_null());
    EXPECT_EQ(found["status"].text(), "available");
    EXPECT_EQ(found["target"].text(), "vda");
    EXPECT_EQ(found["virtual_size"].number(), 16 << 20);
    EXPECT_EQ(disk(source("web"), {"file:" + source("web")})["id"].text(), id);
    Json made = virtsnap_.json({"create", "file:" + source("web")});
    EXPECT_EQ(made["snapshots"][0]["disk"]["id"].text(), id);
    std::filesystem::remove(source("web"));
    EXPECT_TRUE(contains(disk(source("web"))["reason"].text(), "its image is not there"));
}

TEST_F(Inventory, TheChainOfADomainsDiskGoesOnWhenItIsUnattached)
{
    auto web = domain("web");
    Json first = virtsnap_.json({"create", "web"})["snapshots"][0];
    undefine("web");
    EXPECT_TRUE(disk(source("web"))["incremental"].boolean());
    Json second = virtsnap_.json({"create", "file:" + source("web")})["snapshots"][0];
    EXPECT_EQ(second["disk"]["id"].text(), first["disk"]["id"].text());
    EXPECT_EQ(second["mode"].text(), "incremental") << second.dump();
    EXPECT_EQ(second["parent"].text(), first["id"].text());
    web->define();
    EXPECT_EQ(disk(source("web"))["instance"]["name"].text(), "web");
    EXPECT_EQ(instance("web")["disks"][0].text(), first["disk"]["id"].text());
    EXPECT_TRUE(disk(source("web"))["incremental"].boolean());
}

TEST_F(Inventory, AnImageThatNoInstanceEverHadIsNotTakenForADisk)
{
    auto web = domain("web");
    std::string id = virtsnap_.json({"create", "web"})["snapshots"][0]["id"].text();
    std::string restored = dir_.file("restored.qcow2"), fresh = image("fresh");
    virtsnap_.json({"restore", id, "--to", restored, "--format", "qcow2"});
    std::string copy = dir_.file("copy.qcow2");
    std::filesystem::copy_file(source("web"), copy); // with the bitmaps
    for (const std::string &path : {restored, fresh, copy}) {
        for (const char *command : {"create", "disks", "create"})
            refused({command, "file:" + path}, 3, "IncorrectDiskStatus.NeverAttached");
    }
    EXPECT_EQ(virtsnap_.json({"disks"}).size(), 1u);
    refused({"disks", "file:" + dir_.file("absent")}, 1, "InvalidDiskId.NotFound");
}

TEST_F(Inventory, ARawDiskStaysRawWhateverItsGuestHasWrittenIntoIt)
{
    LibvirtDomainOptions options;
    options.name = "web";
    options.disks.push_back({"vda", dir_.file("web-vda.raw"), "raw"});
    must_run({"qemu-img", "create", "-q", "-f", "raw", options.disks[0].path, "16M"});
    LibvirtDomain web(daemon_, options);
    web.define();
    EXPECT_EQ(instance("web")["disks"].size(), 1u);
    std::string trap = dir_.file("trap.qcow2");
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", trap, "1G"});
    must_run({"dd", "if=" + trap, "of=" + options.disks[0].path, "conv=notrunc", "status=none"});
    undefine("web");
    Json found = virtsnap_.json({"disks"})[0];
    EXPECT_EQ(found["format"].text(), "raw") << found.dump();
    EXPECT_EQ(found["virtual_size"].number(), 16 << 20);
}

TEST_F(Inventory, ADefinitionThatNobodyHasListedYetIsEnoughToKnowAnImage)
{
    auto web = domain("web");
    Json found = disk(source("web"), {"file:" + source("web")});
    EXPECT_EQ(found["instance"]["name"].text(), "web");
    EXPECT_EQ(found["target"].text(), "vda");
    Json made = virtsnap_.json({"create", "file:" + source("web")});
    EXPECT_EQ(made["snapshots"][0]["disk"]["id"].text(), found["id"].text());
    EXPECT_EQ(instance("web")["disks"][0].text(), found["id"].text());
}

TEST_F(Inventory, ADiskThatWasDetachedIsListedAsUnattached)
{
    auto web = domain("web", 2);
    EXPECT_EQ(instance("web")["disks"].size(), 2u);
    daemon_.must_virsh({"detach-disk", "web", "vdb", "--config"});
    EXPECT_EQ(instance("web")["disks"].size(), 1u);
    EXPECT_TRUE(disk(source("web", "vdb"))["instance"].is_null());
    EXPECT_EQ(disk(source("web"))["instance"]["name"].text(), "web");
}

TEST_F(Inventory, AnOverlayOnAStoppedDomainsDiskIsThatDisk)
{
    auto web = domain("web");
    std::string id = instance("web")["disks"][0].text();
    std::string overlay = dir_.file("overlay.qcow2");
    must_run(
        {"qemu-img", "create", "-q", "-f", "qcow2", "-b", source("web"), "-F", "qcow2", overlay});
    daemon_.give(overlay);
    std::string xml = web->xml();
    xml.replace(xml.find(source("web")), source("web").size(), overlay);
    std::ofstream(dir_.file("changed.xml")) << xml;
    daemon_.must_virsh({"define", dir_.file("changed.xml")});
    EXPECT_EQ(instance("web")["disks"][0].text(), id);
    EXPECT_EQ(virtsnap_.json({"disks"}).size(), 1u);
}

TEST_F(Inventory, OneDomainThatCannotBeDescribedHidesNoOther)
{
    auto web = domain("web", 2), lost = domain("lost");
    std::filesystem::remove(source("lost"));
    EXPECT_EQ(instance("lost")["disks"].size(), 1u);
    Json found = disk(source("lost"));
    EXPECT_NE(found["reason"].text(), "");
    EXPECT_FALSE(found["incremental"].boolean());
    EXPECT_EQ(disk(source("web", "vdb"))["virtual_size"].number(), 16 << 20);
}

TEST_F(Inventory, WithoutLibvirtWhatIsRememberedIsListedWithTheReason)
{
    auto runs = domain("runs"), rests = domain("rests");
    runs->start();
    EXPECT_EQ(virtsnap_.json({"disks"}).size(), 2u);
    Virtsnap astray(virtsnap_.repository(), "qemu+unix:///session?socket=" + dir_.file("absent"));
    Outcome outcome = astray.run({"instances", "--output", "json"});
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_TRUE(contains(outcome.err, "warning: connecting to libvirt")) << outcome.err;
    Json list = Json::parse(outcome.out);
    ASSERT_EQ(list.size(), 2u);
    for (const Json &found : list.items()) {
        EXPECT_TRUE(contains(found["reason"].text(), "connecting to libvirt")) << found.dump();
        bool is_running = found["name"].text() == "runs"; // seen by its image's lock
        EXPECT_EQ(found["status"].text(), is_running ? "running" : "stopped");
    }
    for (const Json &found : astray.json({"disks"}).items()) {
        EXPECT_FALSE(found["instance"].is_null());
        EXPECT_TRUE(contains(found["reason"].text(), "connecting to libvirt")) << found.dump();
    }
    EXPECT_TRUE(contains(astray.run({"disks"}).out, "connecting to libvirt"));
}

TEST_F(Inventory, OnlyWhoAsksForLibvirtIsToldThatItIsNotThere)
{
    std::string absent = "qemu+unix:///session?socket=" + dir_.file("absent");
    Outcome asked = run_in({{"LIBVIRT_DEFAULT_URI", absent}}, {"instances"});
    EXPECT_EQ(asked.exit_code, 0);
    EXPECT_TRUE(contains(asked.err, "warning: connecting to libvirt")) << asked.err;
    EXPECT_EQ(run_in({{"LIBVIRT_DEFAULT_URI", absent}}, {"instances", "--quiet"}).err, "");
    Outcome plain = run_in({{"LIBVIRT_DEFAULT_URI", ""}}, {"instances"});
    EXPECT_EQ(plain.exit_code, 0);
    EXPECT_EQ(plain.err, "");
    auto web = domain("web");
    Outcome found = run_in({{"LIBVIRT_DEFAULT_URI", daemon_.uri()}}, {"instances"});
    EXPECT_TRUE(contains(found.out, "web")) << found.out;
}

TEST_F(Inventory, ListingInstancesExaminesNoImage)
{
    auto web = domain("web", 2);
    std::string folder = dir_.file("bin"), log = dir_.file("log");
    std::filesystem::create_directory(folder);
    std::string real = must_run({"sh", "-c", "command -v qemu-img"});
    std::ofstream(folder + "/qemu-img") << "#!/bin/sh\necho x >>'" << log << "'\nexec "
                                        << real.substr(0, real.find('\n')) << " \"$@\"\n";
    std::filesystem::permissions(folder + "/qemu-img", std::filesystem::perms::owner_all);
    std::map<std::string, std::string> env = {{"PATH", folder + ":" + support::environment("PATH")},
                                              {"LIBVIRT_DEFAULT_URI", daemon_.uri()}};
    EXPECT_TRUE(contains(run_in(env, {"instances"}).out, "web"));
    EXPECT_FALSE(std::filesystem::exists(log));
    EXPECT_TRUE(contains(run_in(env, {"disks"}).out, "web"));
    EXPECT_TRUE(std::filesystem::exists(log));
}

TEST_F(Inventory, ADomainThatIsBeingSnapshottedIsListedWithoutDisturbingIt)
{
    auto web = domain("web");
    web->start();
    web->disk_io("vda", "write -P 9 0 8M");
    web->disk_io("vda", "flush");
    auto process = virtsnap_.start({"create", "web", "--speed-limit", "1M"});
    ASSERT_TRUE(wait_until(kSoon, [&] {
        return virtsnap_.json({"list", "--status", "progressing"}).size() == 1;
    })) << process->err();
    for (const Json &found : {disk(source("web")), disk(source("web"), {"web"})}) {
        EXPECT_TRUE(contains(found["reason"].text(), "in progress")) << found.dump();
        EXPECT_EQ(found["status"].text(), "in_use");
        EXPECT_EQ(found["instance"]["name"].text(), "web");
    }
    EXPECT_EQ(instance("web")["status"].text(), "running");
    EXPECT_EQ(instance("web")["disks"].size(), 1u);
    process->signal(SIGTERM);
    EXPECT_TRUE(process->wait(kSoon));
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
