// SPDX-License-Identifier: LGPL-2.1-or-later
// Waiting for something that has no event to wait for: with a deadline, never a bare sleep.
#ifndef TESTS_SUPPORT_WAIT_H
#define TESTS_SUPPORT_WAIT_H

#include <chrono>
#include <functional>

namespace support
{

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

// Tries @predicate every few milliseconds until it holds; false when @timeout has passed.
bool wait_until(Milliseconds timeout, const std::function<bool()> &predicate);

// What is left until @deadline for poll(2): never negative.
int left_ms(Clock::time_point deadline);

} // namespace support

#endif
