// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/idle-processor.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

// Of the time between two looks: what is left of one processor when others begin to want it.
#define SPARE_SHARE 0.8

static int64_t
read_clock_us(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) < 0)
        return 0;
    return now.tv_sec * G_USEC_PER_SEC + now.tv_nsec / 1000;
}

// "cpu user nice system idle iowait …", in ticks: proc(5). A processor that waits for a disk is
// idle.
static bool
read_idle(int64_t *idle_us)
{
    unsigned long long idle, waiting;
    FILE *stat = fopen("/proc/stat", "re");
    if (!stat)
        return false;
    bool ok = fscanf(stat, "cpu %*u %*u %*u %llu %llu", &idle, &waiting) == 2;
    (void)fclose(stat);
    long ticks = sysconf(_SC_CLK_TCK);
    *idle_us = ok ? (int64_t)((idle + waiting) * G_USEC_PER_SEC / (unsigned long long)ticks) : 0;
    return ok;
}

bool
vs_idle_processor_judge(VsIdleProcessor *processor, int64_t at_us, int64_t idle_us, int64_t own_us)
{
    int64_t spare_us = idle_us - processor->idle_us + own_us - processor->own_us;
    bool is_spare = processor->at_us != 0 && spare_us >= (at_us - processor->at_us) * SPARE_SHARE;
    *processor = (VsIdleProcessor){at_us, idle_us, own_us, is_spare};
    return is_spare;
}

bool
vs_idle_processor_look(VsIdleProcessor *processor)
{
    int64_t at_us = read_clock_us(CLOCK_MONOTONIC), idle_us;
    if (processor->at_us != 0 && at_us - processor->at_us < VS_IDLE_LOOK_US)
        return processor->is_spare;
    return read_idle(&idle_us) && vs_idle_processor_judge(processor, at_us, idle_us,
                                                          read_clock_us(CLOCK_THREAD_CPUTIME_ID));
}
