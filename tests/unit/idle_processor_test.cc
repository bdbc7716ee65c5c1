// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include "nbd-export/store/idle-processor.h"

namespace
{

constexpr int64_t kStart = 1'000'000'000, kStep = VS_IDLE_LOOK_US;

class IdleProcessor : public testing::Test
{
  protected:
    // A step later: for how much of it processors were idle, and this thread ran.
    bool
    look(double idle, double own)
    {
        at_ += kStep;
        idle_ += static_cast<int64_t>(idle * kStep);
        own_ += static_cast<int64_t>(own * kStep);
        return vs_idle_processor_judge(&processor_, at_, idle_, own_);
    }

    VsIdleProcessor processor_{};
    int64_t at_ = kStart, idle_ = 77 * kStart, own_ = 0;
};

TEST_F(IdleProcessor, OneLookTellsNothing)
{
    EXPECT_FALSE(look(2, 0));
    EXPECT_TRUE(look(2, 0));
}

TEST_F(IdleProcessor, AnIdleProcessorIsSpareAndABusyOneIsNot)
{
    look(0, 0);
    EXPECT_TRUE(look(1, 0));
    EXPECT_FALSE(look(0, 0));
    EXPECT_FALSE(look(0.5, 0));
    EXPECT_TRUE(look(0.9, 0));
}

TEST_F(IdleProcessor, OnesOwnWorkDoesNotMakeItBusy)
{
    look(1, 0);
    EXPECT_TRUE(look(0, 1));
    EXPECT_TRUE(look(0, 1));
    EXPECT_FALSE(look(0, 0.6)); // somebody else wants it
    EXPECT_FALSE(look(0.4, 0));
    EXPECT_TRUE(look(1, 0));
}

} // namespace
