/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's writer: writes numbered records to its disks, record n to the first disk and
 * flushed before the same n goes to the second, and so on for ever. So at every instant the
 * disks' last sequences differ by at most one, the earlier disk ahead: what a point in time across
 * disks must keep. README.md has the format, check-records verifies it.
 *
 * Once a second it prints `writer: seq=N max_ms=M worst_ms=W`: the last complete sequence, and
 * the longest write with flush since the line before and since the start.
 */
#include "vm-images/record.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SLOTS 4096u
/* How much is read at once when looking for the last record. */
#define SCAN_RECORDS 64u
#define NANOSECONDS_PER_SECOND INT64_C(1000000000)

typedef struct {
    VsRecordGeometry geometry;
    unsigned rate; /* records per second, 0: as fast as the disks allow */
    const char *paths[VS_RECORD_MAX_DISKS];
    int fds[VS_RECORD_MAX_DISKS];
} Writer;

typedef struct {
    int64_t max_ns;
    int64_t worst_ns;
    int64_t next_line_ns;
} Meter;

static volatile sig_atomic_t stop_requested;

static void
on_signal(int number)
{
    (void)number;
    stop_requested = 1;
}

static void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void
die(const char *format, ...)
{
    va_list arguments;

    (void)fputs("writer: error: ", stdout);
    va_start(arguments, format);
    (void)vprintf(format, arguments);
    va_end(arguments);
    (void)putchar('\n');
    (void)fflush(stdout);
    exit(1);
}

static int64_t
now_ns(void)
{
    struct timespec now;

    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        die("clock_gettime: %s", strerror(errno));
    return (int64_t)now.tv_sec * NANOSECONDS_PER_SECOND + now.tv_nsec;
}

static uint64_t
parse_number(const char *option, const char *text, uint64_t limit)
{
    char *end = NULL;
    unsigned long long value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || value > limit)
        die("%s: '%s' is not a number up to %llu", option, text, (unsigned long long)limit);
    return value;
}

static void
parse_arguments(Writer *writer, int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "s:r:")) != -1) {
        if (option == 's')
            writer->geometry.slots = parse_number("-s", optarg, VS_RECORD_MAX_SLOTS);
        else if (option == 'r')
            writer->rate = (unsigned)parse_number("-r", optarg, 1000000);
        else
            die("usage: writer [-s SLOTS] [-r RECORDS-PER-SECOND] DISK...");
    }
    if (argc - optind > (int)VS_RECORD_MAX_DISKS)
        die("%d disks, at most %u", argc - optind, VS_RECORD_MAX_DISKS);
    writer->geometry.disks = (uint32_t)(argc - optind);
    if (!vs_record_geometry_valid(writer->geometry))
        die("needs at least one disk and a power of two of slots");
    for (uint32_t disk = 0; disk < writer->geometry.disks; disk++)
        writer->paths[disk] = argv[optind + (int)disk];
}

static void
open_disks(Writer *writer)
{
    off_t needed_bytes = (off_t)(writer->geometry.slots * VS_RECORD_SIZE_BYTES);

    for (uint32_t disk = 0; disk < writer->geometry.disks; disk++) {
        int fd = open(writer->paths[disk], O_RDWR | O_DIRECT | O_CLOEXEC);

        if (fd < 0)
            die("open %s: %s", writer->paths[disk], strerror(errno));
        if (lseek(fd, 0, SEEK_END) < needed_bytes)
            die("%s is smaller than %llu slots", writer->paths[disk],
                (unsigned long long)writer->geometry.slots);
        writer->fds[disk] = fd;
    }
}

/* Memory that O_DIRECT can use. Lives as long as the process. */
static VsRecord *
allocate_records(size_t count)
{
    VsRecord *records = aligned_alloc(VS_RECORD_SIZE_BYTES, count * sizeof *records);

    if (records == NULL)
        die("no memory for %zu records", count);
    return records;
}

static void
check_found(const Writer *writer, uint32_t disk, uint64_t slot, const VsRecord *record)
{
    VsRecordState state = vs_record_state(record);

    if (state == VS_RECORD_BLANK)
        return;
    if (state != VS_RECORD_OK)
        die("%s slot %llu: damaged record", writer->paths[disk], (unsigned long long)slot);
    if (record->slots != writer->geometry.slots || record->disks != writer->geometry.disks ||
        record->disk != disk || record->slot != slot)
        die("%s slot %llu: record of disk %u of %u, slot %llu of %llu", writer->paths[disk],
            (unsigned long long)slot, record->disk, record->disks, (unsigned long long)record->slot,
            (unsigned long long)record->slots);
}

/* The highest sequence on @disk, 0 when it is blank. */
static uint64_t
find_last(const Writer *writer, uint32_t disk, VsRecord *buffer)
{
    uint64_t last = 0;

    for (uint64_t slot = 0; slot < writer->geometry.slots; slot += SCAN_RECORDS) {
        uint64_t left = writer->geometry.slots - slot;
        size_t count = left < SCAN_RECORDS ? left : SCAN_RECORDS;
        size_t length_bytes = count * sizeof *buffer;

        if (pread(writer->fds[disk], buffer, length_bytes, (off_t)(slot * sizeof *buffer)) !=
            (ssize_t)length_bytes)
            die("read %s: %s", writer->paths[disk], strerror(errno));
        for (size_t i = 0; i < count; i++) {
            check_found(writer, disk, slot + i, &buffer[i]);
            if (buffer[i].sequence > last)
                last = buffer[i].sequence;
        }
    }
    return last;
}

/*
 * Where the last run, or the point in time that the disks were restored to, ended: returns the
 * record to write next and sets @first_disk to the disk that lacks it. Disks that contradict
 * the write order end the program: to go on would hide it.
 */
static uint64_t
find_continuation(const Writer *writer, uint32_t *first_disk)
{
    VsRecord *buffer = allocate_records(SCAN_RECORDS);
    uint64_t first = find_last(writer, 0, buffer);
    uint64_t before = first;

    *first_disk = 0;
    for (uint32_t disk = 1; disk < writer->geometry.disks; disk++) {
        uint64_t last = find_last(writer, disk, buffer);

        if (last > before || first - last > 1)
            die("write order: %s ends at %llu, %s at %llu", writer->paths[0],
                (unsigned long long)first, writer->paths[disk], (unsigned long long)last);
        if (last < before)
            *first_disk = disk;
        before = last;
    }
    free(buffer);
    return *first_disk == 0 ? first + 1 : first;
}

static void
write_record(const Writer *writer, VsRecord *record, uint32_t disk, uint64_t sequence)
{
    ssize_t written;

    vs_record_fill(record, writer->geometry, disk, sequence);
    written =
        pwrite(writer->fds[disk], record, sizeof *record, (off_t)(record->slot * sizeof *record));
    if (written != (ssize_t)sizeof *record)
        die("write %s: %s", writer->paths[disk], written < 0 ? strerror(errno) : "short write");
    if (fdatasync(writer->fds[disk]) != 0)
        die("flush %s: %s", writer->paths[disk], strerror(errno));
}

static void
print_line(Meter *meter, uint64_t sequence, int64_t now)
{
    printf("writer: seq=%llu max_ms=%lld worst_ms=%lld\n", (unsigned long long)sequence,
           (long long)(meter->max_ns / 1000000), (long long)(meter->worst_ns / 1000000));
    (void)fflush(stdout);
    meter->max_ns = 0;
    meter->next_line_ns = now + NANOSECONDS_PER_SECOND;
}

static void
measure(Meter *meter, int64_t took_ns)
{
    if (took_ns > meter->max_ns)
        meter->max_ns = took_ns;
    if (took_ns > meter->worst_ns)
        meter->worst_ns = took_ns;
}

static void
keep_rate(const Writer *writer, int64_t started_ns)
{
    int64_t rest_ns;

    if (writer->rate == 0)
        return;
    rest_ns = NANOSECONDS_PER_SECOND / writer->rate - (now_ns() - started_ns);
    if (rest_ns > 0) {
        struct timespec rest = {.tv_sec = rest_ns / NANOSECONDS_PER_SECOND,
                                .tv_nsec = rest_ns % NANOSECONDS_PER_SECOND};

        (void)nanosleep(&rest, NULL);
    }
}

static void
write_for_ever(const Writer *writer)
{
    VsRecord *record = allocate_records(1);
    Meter meter = {0};
    uint32_t disk;
    uint64_t sequence = find_continuation(writer, &disk);

    print_line(&meter, sequence - 1, now_ns());
    while (!stop_requested) {
        int64_t started_ns = now_ns();
        int64_t before_ns = started_ns;

        for (; disk < writer->geometry.disks; disk++) {
            int64_t after_ns;

            write_record(writer, record, disk, sequence);
            after_ns = now_ns();
            measure(&meter, after_ns - before_ns);
            before_ns = after_ns;
        }
        if (before_ns >= meter.next_line_ns)
            print_line(&meter, sequence, before_ns);
        disk = 0;
        sequence++;
        keep_rate(writer, started_ns);
    }
    print_line(&meter, sequence - 1, now_ns());
    free(record);
}

int
main(int argc, char **argv)
{
    Writer writer = {.geometry = {.slots = DEFAULT_SLOTS}};
    struct sigaction action = {.sa_handler = on_signal};

    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    parse_arguments(&writer, argc, argv);
    open_disks(&writer);
    write_for_ever(&writer);
    return 0;
}
