// SPDX-License-Identifier: LGPL-2.1-or-later
// A create that fails where its point in time begins, in a QEMU that does not let it undo all: the
// note for `recover` stays till nothing is left.
#include "plugin/snapshot/engine.h"
#include "tests/component/catalogue_fixture.h"
#include "tests/component/fake_qmp_peer.h"

namespace
{

std::string
device(const std::string &number)
{
    return R"({"device":"","qdev":"/machine/peripheral/d)" + number +
           R"(","removable":false,"io-status":"ok",)" + R"("inserted":{"node-name":"n)" + number +
           R"(","drv":"raw","ro":false}})";
}

std::string
node(const std::string &number)
{
    return R"({"node-name":"n)" + number + R"(","drv":"raw","ro":false,"file":"/nowhere/disk)" +
           number + R"(","image":{"virtual-size":65536}})";
}

class CreateUndo : public catalogue_fixture::Catalogue
{
  protected:
    // Has a QEMU that refuses the transaction, and where told so to give a node back. With two
    // disks it has all that a guard needs, but refuses to move a device.
    void
    create(bool gives_back, bool has_two_disks = false)
    {
        using Handler = std::function<std::string(const FakeQmpCommand &)>;
        const Handler nothing = [](const FakeQmpCommand &) { return "{}"; };
        const Handler none = [](const FakeQmpCommand &) { return "[]"; };
        const auto text = [](std::string json) {
            return [json](const FakeQmpCommand &) { return json; };
        };
        std::map<std::string, Handler> handlers = {
            {"query-status", text(R"({"status":"running","running":true})")},
            {"query-block",
             text("[" + device("0") + (has_two_disks ? "," + device("1") : "") + "]")},
            {"query-named-block-nodes",
             text("[" + node("0") + (has_two_disks ? "," + node("1") : "") + "]")},
            {"qom-get", text(R"("virtio-blk-device")")},
            {"add-fd", text(R"({"fdset-id":1,"fd":9})")},
            {"query-iothreads", none},
            {"query-fdsets", none},
            {"query-jobs", none},
            {"query-block-exports", none},
            {"blockdev-add", nothing},
            {"block-set-write-threshold", nothing},
            {"block-dirty-bitmap-add", nothing},
            {"human-monitor-command", text(R"("")")},
            {"remove-fd",
             [this](const FakeQmpCommand &) {
                 labels_removed_++;
                 return "{}";
             }},
        };
        if (has_two_disks) {
            handlers["qom-get"] = [](const FakeQmpCommand &command) -> std::string {
                const auto asks = [&](const char *what) {
                    return command.arguments.find(what) != std::string::npos;
                };
                if (asks("\"drive\""))
                    return asks("d1\"") ? R"("n1")" : R"("n0")";
                return R"("virtio-blk-pci")";
            };
            handlers["block-export-del"] = nothing;
        }
        if (gives_back)
            handlers["blockdev-del"] = nothing;
        FakeQmpPeer peer([handlers](FakeQmpSession &session) {
            session.Negotiate();
            session.Serve(handlers);
        });
        const std::string instance = "qmp:" + peer.path();
        VsEngine engine = {};
        engine.repository = repository_;
        engine.catalogue = catalogue_;
        VsCreateRequest request = {};
        request.instance = instance.c_str();
        g_autoptr(GError) error = nullptr;
        EXPECT_EQ(vs_engine_create(&engine, &request, &error), nullptr);
        EXPECT_NE(catalogue_fixture::Why(error).find("transaction"), std::string::npos);
    }
    std::atomic<unsigned> labels_removed_{0}; // by which `recover` finds what is left

    unsigned
    count_notes()
    {
        g_autoptr(GPtrArray) notes = vs_catalogue_list_abandoned(catalogue_, nullptr);
        return notes->len;
    }
};

TEST_F(CreateUndo, LeavesItsNoteAndItsLabelWhereSomethingIsLeftInQemu)
{
    create(false);
    EXPECT_EQ(count_notes(), 1u);
    EXPECT_EQ(labels_removed_, 0u);
}

TEST_F(CreateUndo, TakesItsNoteBackWhereNothingIsLeft)
{
    create(true);
    EXPECT_EQ(count_notes(), 0u);
    EXPECT_EQ(labels_removed_, 1u);
}

// Which lacks a piece of it: the job is tried instead.
TEST_F(CreateUndo, DoesWithoutAGuardThatQemuRefuses)
{
    create(true, true);
    EXPECT_EQ(count_notes(), 0u);
}

} // namespace
