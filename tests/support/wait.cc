// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/wait.h"

#include <algorithm>
#include <thread>

namespace support
{

int
left_ms(Clock::time_point deadline)
{
    auto left = std::chrono::duration_cast<Milliseconds>(deadline - Clock::now()).count();

    return static_cast<int>(std::max<decltype(left)>(left, 0));
}

bool
wait_until(Milliseconds timeout, const std::function<bool()> &predicate)
{
    const auto deadline = Clock::now() + timeout;

    while (!predicate()) {
        if (Clock::now() >= deadline)
            return false;
        std::this_thread::sleep_for(Milliseconds(5));
    }
    return true;
}

} // namespace support
