// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include "plugin/hypervisor/qmp-guard.h"

namespace
{

TEST(GuardChoice, IsTheBestThatTheVersionHas)
{
    EXPECT_EQ(vs_qmp_guard_of_version(0), VS_QMP_GUARD_NONE);
    EXPECT_EQ(vs_qmp_guard_of_version(7000000), VS_QMP_GUARD_NONE);
    EXPECT_EQ(vs_qmp_guard_of_version(7001000), VS_QMP_GUARD_FILTER);
    EXPECT_EQ(vs_qmp_guard_of_version(7002022), VS_QMP_GUARD_FILTER);
    EXPECT_EQ(vs_qmp_guard_of_version(8000000), VS_QMP_GUARD_NONE);
    EXPECT_EQ(vs_qmp_guard_of_version(10000003), VS_QMP_GUARD_NONE);
    EXPECT_EQ(vs_qmp_guard_of_version(10001000), VS_QMP_GUARD_JOB);
}

} // namespace
