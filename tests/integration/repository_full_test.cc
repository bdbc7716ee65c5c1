// SPDX-License-Identifier: LGPL-2.1-or-later
// A repository on a file system that fills up.
#include <algorithm>

#include "tests/integration/create_fixture.h"
#include "tests/support/gate.h"
#include "tests/support/small-file-system.h"

namespace
{

class RepositoryFull : public create_fixture::CreateTest
{
  protected:
    // What doesn't compress, written by the guest's device.
    void
    write_noise(const std::string &offset)
    {
        const std::string noise = dir_.file("noise");
        support::must_run(
            {"dd", "if=/dev/urandom", "of=" + noise, "bs=1M", "count=20", "status=none"});
        qemu_->disk_io("dA", "write -s " + noise + " " + offset + " 20M");
    }
    // What the disk holds now.
    void
    keep_content(const std::string &path)
    {
        qemu_->disk_io("dA", "flush");
        support::must_run({"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", image_, path});
    }
    void
    expect_content(const std::string &id, const std::string &path)
    {
        const std::string restored = dir_.file("restored");
        full_.json({"restore", id, "--to", restored, "--format", "raw"});
        support::must_run({"cmp", path, restored});
        support::must_run({"rm", restored});
    }

    support::SmallFileSystem small_{dir_.file("small"), "32m"};
    support::Virtsnap full_{dir_.file("small/repo")};
};

TEST_F(RepositoryFull, IsOneClearLineHarmsNothingAndTheChainGoesOnWithMoreRoom)
{
    full_.json({"repo", "init"});
    start();
    write_noise("0");
    const std::string first = full_.json({"create", vm_})["snapshots"][0]["id"].text();
    keep_content(dir_.file("first"));
    write_noise("20M");
    for (int i = 0; i < 2; i++) {
        const support::Outcome refused = full_.run({"create", vm_});
        EXPECT_EQ(refused.exit_code, 1);
        EXPECT_EQ(std::count(refused.err.begin(), refused.err.end(), '\n'), 1) << refused.err;
        EXPECT_NE(refused.err.find("No space left"), std::string::npos) << refused.err;
        EXPECT_EQ(qemu_->monitor().execute("query-status")["status"].text(), "running");
        expect_clean_qemu(1);
        expect_content(first, dir_.file("first"));
    }
    small_.resize("200m");
    const support::Json next = full_.json({"create", vm_})["snapshots"][0];
    EXPECT_EQ(next["mode"].text(), "incremental") << next.dump();
    keep_content(dir_.file("next"));
    expect_content(next["id"].text(), dir_.file("next"));
    full_.json({"repo", "prune"});
    full_.json({"repo", "check"});
}

} // namespace

VS_TEST_MAIN("qemu");
