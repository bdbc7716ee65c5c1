// SPDX-License-Identifier: LGPL-2.1-or-later
// Whether the machine has a processor to spare for the calling thread.
//
// A thread of low priority still costs others something: they wait for it to be taken off the
// processor, and priorities don't reach across sessions and control groups. Working only while a
// processor would be idle costs them nothing. Linux: /proc/stat.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct {
    int64_t at_us;   // of the last look, monotonic; 0: none yet
    int64_t idle_us; // of all processors together, till then
    int64_t own_us;  // of the thread, till then
    bool is_spare;   // what the last look said
} VsIdleProcessor;

// How long one look holds.
#define VS_IDLE_LOOK_US (100 * 1000)

// Whether, since the look before, a processor was idle or the calling thread's nearly all the time;
// false before the second look, and where that can't be told. Always of the same thread.
bool vs_idle_processor_look(VsIdleProcessor *processor);

// The judgement alone: what a look finds at that time.
bool vs_idle_processor_judge(VsIdleProcessor *processor, int64_t at_us, int64_t idle_us,
                             int64_t own_us);

G_END_DECLS
