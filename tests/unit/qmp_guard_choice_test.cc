// SPDX-License-Identifier: LGPL-2.1-or-later
// Which guard a QEMU has, by its schema.
#include <gtest/gtest.h>
#include <string>

#include "plugin/hypervisor/qmp-guard.h"

namespace
{

// What blockdev-add's copy-before-write and blockdev-backup have, and the other pieces.
struct Abilities {
    bool policy, timeout, access, reopen, job_policy;
};

std::string
member(const char *name)
{
    return std::string(R"({"name":")") + name + R"(","type":"str"})";
}

VsQmpGuard
guard_of(const Abilities &has)
{
    std::string filter = member("file"), backup = member("device");
    filter += has.policy ? "," + member("on-cbw-error") : "";
    filter += has.timeout ? "," + member("cbw-timeout") : "";
    backup += has.job_policy ? "," + member("on-cbw-error") : "";
    const std::string access = has.access ? R"(,{"case":"snapshot-access","type":"3"})" : "";
    const std::string text =
        R"([{"meta-type":"command","name":"blockdev-add","arg-type":"1","ret-type":"0"},)"
        R"({"meta-type":"command","name":"blockdev-backup","arg-type":"4","ret-type":"0"},)" +
        std::string(has.reopen ? R"({"meta-type":"command","name":"blockdev-reopen",)"
                                 R"("arg-type":"0","ret-type":"0"},)"
                               : "") +
        R"({"meta-type":"object","name":"0","members":[]},)"
        R"({"meta-type":"builtin","name":"str","json-type":"string"},)"
        R"({"meta-type":"object","name":"1","tag":"driver","members":[],"variants":[)"
        R"({"case":"copy-before-write","type":"2"})" +
        access + R"(]},{"meta-type":"object","name":"2","members":[)" + filter +
        R"(]},{"meta-type":"object","name":"3","members":[)" + member("file") +
        R"(]},{"meta-type":"object","name":"4","members":[)" + backup + "]}]";
    json_object *reply = json_tokener_parse(text.c_str());
    EXPECT_NE(reply, nullptr) << text;
    g_autoptr(VsQmpSchema) schema = vs_qmp_schema_parse(reply, nullptr);
    json_object_put(reply);
    return vs_qmp_guard_of_schema(schema);
}

TEST(GuardChoice, AJobsOwnPolicyIsBest)
{
    EXPECT_EQ(guard_of({true, true, true, true, true}), VS_QMP_GUARD_JOB);
    EXPECT_EQ(guard_of({false, false, true, false, true}), VS_QMP_GUARD_JOB);
}

TEST(GuardChoice, AFilterNeedsAllOfItsPieces)
{
    EXPECT_EQ(guard_of({true, true, true, true, false}), VS_QMP_GUARD_FILTER);
    EXPECT_EQ(guard_of({false, true, true, true, false}), VS_QMP_GUARD_NONE);
    EXPECT_EQ(guard_of({true, false, true, true, false}), VS_QMP_GUARD_NONE);
    EXPECT_EQ(guard_of({true, true, true, false, false}), VS_QMP_GUARD_NONE);
}

TEST(GuardChoice, NobodyCanAskWithoutSnapshotAccess)
{
    EXPECT_EQ(guard_of({true, true, false, true, true}), VS_QMP_GUARD_NONE);
}

} // namespace
