// SPDX-License-Identifier: LGPL-2.1-or-later
// The reservation of a running domain's scratch space grows while the guest writes, and where it
// can't the point in time is lost before a write fails.
#include <filesystem>
#include <stdexcept>
#include <sys/stat.h>

#include "tests/integration/driver_session.h"
#include "tests/support/gate.h"
#include "tests/support/small-file-system.h"
#include "tests/support/wait.h"

namespace
{

using driver_test::kMiB;
using driver_test::LibvirtDaemon;
using driver_test::LibvirtDomain;
using driver_test::must_run;
using driver_test::Session;
using support::wait_until;

constexpr auto kSoon = std::chrono::seconds(30);

// vda has content to be kept: 160 MiB of it.
class LargeWorld : public driver_test::DomainWorld
{
  public:
    LargeWorld()
    {
        must_run({"qemu-img", "resize", "-q", image(0), "160M"});
        domain_->start();
        for (unsigned at = 0; at < 160; at += 32)
            write_at(at, 32, 1);
    }
    // Also while libvirtd is away, other than disk_io().
    void
    write(unsigned index, const std::string &command) override
    {
        const std::string device = "/machine/peripheral/virtio-disk" + std::to_string(index);
        const std::string error = domain_->monitor().human("qemu-io -d " + device +
                                                           "/virtio-backend \"" + command + "\"");
        if (!error.empty())
            throw std::runtime_error(command + ": " + error);
    }
    bool
    is_running() const override
    {
        return true;
    }
    void
    upset() override
    {
        domain_->destroy();
    }
    void
    write_at(unsigned mib, unsigned count, int pattern)
    {
        write(0, "write -P " + std::to_string(pattern) + " " + std::to_string(mib) + "M " +
                     std::to_string(count) + "M");
    }
    LibvirtDaemon &
    daemon()
    {
        return daemon_;
    }
    LibvirtDomain &
    domain()
    {
        return *domain_;
    }
    // A folder in which QEMU can reach what it is given.
    std::string
    folder() const
    {
        return dir_.file("small");
    }
    // What the scratch file, which has no name any more but is open here, has reserved or written.
    static uint64_t
    reserved()
    {
        for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) {
            std::error_code gone;
            const std::string name = std::filesystem::read_symlink(entry.path(), gone);
            struct stat status;
            if (name.find(driver_test::kSnapshots[0]) != name.npos &&
                stat(entry.path().c_str(), &status) == 0)
                return static_cast<uint64_t>(status.st_blocks) * 512;
        }
        throw std::runtime_error("there is no scratch file");
    }
    // Whether QEMU is to tell when it goes beyond one.
    bool
    has_threshold()
    {
        const auto nodes = domain_->monitor().execute("query-named-block-nodes");
        for (const support::Json &node : nodes.items())
            if (node["write_threshold"].number() > 0)
                return true;
        return false;
    }
    // QEMU tells each pause by an event, also one that has passed.
    void
    expect_never_paused()
    {
        domain_->monitor().execute("query-status"); // what came before is read now
        EXPECT_THROW(domain_->monitor().wait_event("STOP", support::Milliseconds(0)),
                     std::runtime_error);
    }
};

gboolean
on_deadline(gpointer user_data)
{
    *static_cast<bool *>(user_data) = true;
    return G_SOURCE_REMOVE;
}

// Whether the maker's loop, which has nothing to wait for, is woken.
bool
is_woken()
{
    bool is_late = false;
    const guint timer = g_timeout_add_seconds(20, on_deadline, &is_late);
    g_main_context_iteration(nullptr, TRUE);
    if (!is_late)
        g_source_remove(timer);
    return !is_late;
}

class LibvirtScratch : public testing::Test
{
  protected:
    LargeWorld world_;
};

// The driver is not asked for anything meanwhile, so it can't look.
TEST_F(LibvirtScratch, GrowsByQemusEventsWhileNobodyLooks)
{
    Session session(world_);
    ASSERT_TRUE(session.begin({0}, "s-aaaaaaaaaaaaaaaaaaaa")) << session.message();
    EXPECT_LT(world_.reserved(), 66 * kMiB);
    world_.write_at(0, 40, 2);
    EXPECT_TRUE(wait_until(kSoon, [&] { return world_.reserved() >= 128 * kMiB; }));
    EXPECT_LT(world_.reserved(), 130 * kMiB);
    world_.write_at(40, 40, 2);
    EXPECT_TRUE(wait_until(kSoon, [&] { return world_.reserved() >= 256 * kMiB; }));
    EXPECT_FALSE(session.is_lost());
    EXPECT_TRUE(session.settle()) << session.message();
}

TEST_F(LibvirtScratch, OfAStagedDiskGrowsByEventsToo)
{
    Session session(world_);
    ASSERT_TRUE(session.begin({0}, "s-aaaaaaaaaaaaaaaaaaaa", "", true)) << session.message();
    EXPECT_TRUE(wait_until(kSoon, [&] { return world_.reserved() >= 256 * kMiB; }));
    EXPECT_TRUE(session.settle()) << session.message();
}

TEST_F(LibvirtScratch, WithoutRoomWakesItsMakerBeforeAWriteFails)
{
    support::SmallFileSystem small(world_.folder(), "96m");
    Session session(world_);
    session.use_scratch(small.path());
    ASSERT_TRUE(session.begin({0}, "s-aaaaaaaaaaaaaaaaaaaa")) << session.message();
    while (g_main_context_iteration(nullptr, FALSE))
        ;
    world_.write_at(0, 70, 2);
    EXPECT_TRUE(is_woken());
    EXPECT_TRUE(session.is_lost());
    EXPECT_TRUE(session.settle()) << session.message();
    for (unsigned at = 0; at < 160; at += 32)
        world_.write_at(at, 32, 3); // more than there was room for
    world_.expect_never_paused();
    EXPECT_EQ(world_.domain().state(), "running");
}

TEST_F(LibvirtScratch, IsLookedAtWhileLibvirtIsAwayAndWatchedByEventsAgainAfterwards)
{
    Session session(world_);
    ASSERT_TRUE(session.begin({0}, "s-aaaaaaaaaaaaaaaaaaaa")) << session.message();
    ASSERT_TRUE(world_.has_threshold());
    world_.daemon().stop();
    world_.write_at(0, 40, 2);
    EXPECT_FALSE(world_.has_threshold()) << "the event was to be lost";
    EXPECT_TRUE(
        wait_until(kSoon, [&] { return !session.is_lost() && world_.reserved() >= 128 * kMiB; }));
    world_.daemon().start();
    EXPECT_TRUE(wait_until(kSoon, [&] { return !session.is_lost() && world_.has_threshold(); }));
    world_.write_at(40, 40, 2);
    EXPECT_TRUE(wait_until(kSoon, [&] { return world_.reserved() >= 256 * kMiB; }));
    EXPECT_TRUE(session.settle()) << session.message();
}

} // namespace

VS_TEST_MAIN("qemu", "libvirt");
