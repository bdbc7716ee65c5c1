// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/progress-bar.h"

#include "plugin/cli/output.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INTERVAL_US (G_USEC_PER_SEC / 10)
#define BAR_MIN_COLUMNS 4
#define BAR_MAX_COLUMNS 40
#define DEFAULT_COLUMNS 80

struct _VsProgressBar {
    int64_t started_us;
    int64_t shown_us; // 0: never
};

char *
vs_progress_bar_format(uint64_t done_bytes, uint64_t total_bytes, double rate_bytes,
                       int64_t remaining_seconds, unsigned columns)
{
    double fraction =
        total_bytes > 0 ? (double)MIN(done_bytes, total_bytes) / (double)total_bytes : 0;
    g_autofree char *done = vs_format_size(done_bytes);
    g_autofree char *total = vs_format_size(total_bytes);
    g_autofree char *rate = vs_format_size((uint64_t)MAX(rate_bytes, 0));
    g_autofree char *remaining = vs_format_seconds(remaining_seconds);
    g_autofree char *numbers = g_strdup_printf("%3d%%  %s of %s  %s/s  %s left",
                                               (int)(fraction * 100), done, total, rate, remaining);
    size_t length = g_utf8_strlen(numbers, -1);
    // Brackets, a blank, and the last column, which would wrap on some terminals.
    if (length + BAR_MIN_COLUMNS + 4 > columns)
        return g_strndup(numbers, MIN(length, columns > 0 ? columns - 1 : 0));
    unsigned width = MIN(columns - (unsigned)length - 4, BAR_MAX_COLUMNS);
    unsigned filled = (unsigned)(fraction * width);
    GString *line = g_string_new("[");
    for (unsigned i = 0; i < width; i++)
        g_string_append_c(line, i < filled ? '#' : '.');
    g_string_append_printf(line, "] %s", numbers);
    return g_string_free(line, FALSE);
}

VsProgressBar *
vs_progress_bar_new(bool quiet)
{
    if (quiet || !isatty(STDERR_FILENO))
        return NULL;
    VsProgressBar *bar = g_new0(VsProgressBar, 1);
    bar->started_us = g_get_monotonic_time();
    return bar;
}

void
vs_progress_bar_free(VsProgressBar *bar)
{
    if (bar == NULL)
        return;
    if (bar->shown_us != 0)
        (void)fputs("\r\033[K", stderr);
    g_free(bar);
}

static unsigned
terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return DEFAULT_COLUMNS;
}

void
vs_progress_bar_show(VsProgressBar *bar, uint64_t done_bytes, uint64_t total_bytes,
                     double rate_bytes, int64_t remaining_seconds)
{
    if (bar == NULL)
        return;
    int64_t now_us = g_get_monotonic_time();
    if (bar->shown_us != 0 && now_us - bar->shown_us < INTERVAL_US)
        return;
    bar->shown_us = now_us;
    g_autofree char *line = vs_progress_bar_format(done_bytes, total_bytes, rate_bytes,
                                                   remaining_seconds, terminal_columns());
    (void)fprintf(stderr, "\r%s\033[K", line);
    (void)fflush(stderr);
}

void
vs_progress_bar_update(VsProgressBar *bar, uint64_t done_bytes, uint64_t total_bytes)
{
    if (bar == NULL)
        return;
    double seconds = (double)(g_get_monotonic_time() - bar->started_us) / G_USEC_PER_SEC;
    double rate = seconds > 0 ? (double)done_bytes / seconds : 0;
    uint64_t left = total_bytes > done_bytes ? total_bytes - done_bytes : 0;
    int64_t remaining = rate > 0 ? (int64_t)((double)left / rate) : -1;
    vs_progress_bar_show(bar, done_bytes, total_bytes, rate, remaining);
}
