// SPDX-License-Identifier: LGPL-2.1-or-later
// A progress bar on standard error, only where that is a terminal.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

// The line (without its end) for a terminal of so many columns; pure. total 0: not known yet. rate
// in bytes a second; remaining_seconds -1: not known.
char *vs_progress_bar_format(uint64_t done_bytes, uint64_t total_bytes, double rate_bytes,
                             int64_t remaining_seconds, unsigned columns);

typedef struct _VsProgressBar VsProgressBar;
// NULL, which the others take, where nothing is to be shown.
VsProgressBar *vs_progress_bar_new(bool quiet);
// Clears the line.
void vs_progress_bar_free(VsProgressBar *bar);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsProgressBar, vs_progress_bar_free)
// Draws it, at most ten times a second.
void vs_progress_bar_show(VsProgressBar *bar, uint64_t done_bytes, uint64_t total_bytes,
                          double rate_bytes, int64_t remaining_seconds);
// The same; rate and remaining time follow from the time since the bar was made.
void vs_progress_bar_update(VsProgressBar *bar, uint64_t done_bytes, uint64_t total_bytes);

G_END_DECLS
