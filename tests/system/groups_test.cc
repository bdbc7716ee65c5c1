// SPDX-License-Identifier: LGPL-2.1-or-later
// Consistent groups of a guest that writes to two disks all the time.
#include <gtest/gtest.h>

#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::GuestVm;
using support::Json;
using support::must_run;
using support::QemuProcess;
using support::TempDir;
using support::Virtsnap;

void
append(std::vector<std::string> &list, const std::vector<std::string> &more)
{
    list.insert(list.end(), more.begin(), more.end());
}

TEST(Groups, TwentyInARowKeepTheWriteOrderAndNoWriteWaitsLong)
{
    TempDir dir;
    support::GuestOptions options;
    for (std::string name : {"a", "b"}) {
        std::string path = dir.file(name + ".qcow2");
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", path, "1G"});
        append(options.disk_arguments, QemuProcess::virtio_disk(path, "qcow2", "n" + name, name));
    }
    Virtsnap virtsnap(dir.file("repo"));
    virtsnap.json({"repo", "init"});
    GuestVm guest(dir, options);
    for (unsigned group = 0; group < 20; group++) {
        SCOPED_TRACE("group " + std::to_string(group));
        guest.wait_for_records(50);
        Json result = virtsnap.json({"create", "qmp:" + guest.qemu().socket()});
        for (const Json &snapshot : result["snapshots"].items())
            EXPECT_EQ(snapshot["mode"].text(), group ? "incremental" : "full") << snapshot.dump();
        std::string target = dir.file("group");
        virtsnap.json({"restore", result["group"].text(), "--to", target, "--format", "raw"});
        support::Outcome check = support::check_records({target + "/a.raw", target + "/b.raw"});
        EXPECT_EQ(check.exit_code, 0) << check.out << check.err;
        must_run({"rm", "-r", target});
    }
    guest.wait_for_records(50);
    printf("worst write of the guest: %ld ms\n", (long)guest.status().worst_ms);
    EXPECT_LE(guest.status().worst_ms, 1000);
}

} // namespace

VS_TEST_MAIN("qemu", "guest");
