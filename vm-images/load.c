/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's load: random 4 KiB writes to one disk, one at a time and past the page cache, for
 * ever. The places follow from a fixed seed, so every run writes the same ones in the same order.
 * It prints how long the writes took, often enough that whoever listens can cut any stretch of
 * time out of it and knows the rate, each percentile and the worst write of that stretch:
 *
 *     load: took_us=200113 n=412 max_us=2210 h=51:3,52:201,53:180,60:27,72:1
 *
 * that is, the time since the line before, the writes in it, the longest of them, and the
 * histogram of their times as bucket:count, without the empty buckets. README.md says what a
 * bucket is. What a write puts there compresses to about a half, like most data.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES 4096u
#define BLOCKS_PER_MIB 256u
/* More than a compressor's window for 4 KiB would notice, less than the guest's memory. */
#define POOL_BLOCKS 256u
/* A line costs the guest some 200 I/O exits: five a second are not seen in its rate. */
#define LINE_US 200000u
/* Eight buckets for each power of two, so that a bucket is at most an eighth wide. */
#define BUCKETS_PER_OCTAVE 8u
#define OCTAVE_BITS 3u
/* 2^27 us are two minutes: longer ones count as that. */
#define MAX_US ((UINT32_C(1) << 27) - 1)
#define BUCKETS ((27u - OCTAVE_BITS + 1) * BUCKETS_PER_OCTAVE)
#define SEED UINT64_C(0x9e3779b97f4a7c15)

typedef struct {
    const char *path;
    int fd;
    uint64_t blocks;
    uint64_t random;
    uint8_t *pool;
} Load;

typedef struct {
    uint64_t began_us; /* the line before */
    uint32_t writes;
    uint32_t max_us;
    uint32_t histogram[BUCKETS];
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

    (void)fputs("load: error: ", stdout);
    va_start(arguments, format);
    (void)vprintf(format, arguments);
    va_end(arguments);
    (void)putchar('\n');
    (void)fflush(stdout);
    exit(1);
}

static uint64_t
now_us(void)
{
    struct timespec now;

    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        die("clock_gettime: %s", strerror(errno));
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* xorshift64*: good enough to spread writes, and cheap in an emulated processor. */
static uint64_t
next_random(Load *load)
{
    load->random ^= load->random >> 12;
    load->random ^= load->random << 25;
    load->random ^= load->random >> 27;
    return load->random * UINT64_C(0x2545f4914f6cdd1d);
}

static unsigned
bucket_of(uint32_t took_us)
{
    unsigned octave;

    if (took_us < BUCKETS_PER_OCTAVE)
        return took_us;
    octave = 31u - (unsigned)__builtin_clz(took_us) - OCTAVE_BITS;
    return (octave + 1) * BUCKETS_PER_OCTAVE + ((took_us >> octave) & (BUCKETS_PER_OCTAVE - 1));
}

static void
measure(Meter *meter, uint64_t took_us)
{
    uint32_t counted_us = took_us < MAX_US ? (uint32_t)took_us : MAX_US;

    meter->writes++;
    meter->histogram[bucket_of(counted_us)]++;
    if (counted_us > meter->max_us)
        meter->max_us = counted_us;
}

static void
print_line(Meter *meter, uint64_t now)
{
    const char *separator = "";

    printf("load: took_us=%llu n=%u max_us=%u h=", (unsigned long long)(now - meter->began_us),
           meter->writes, meter->max_us);
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        if (meter->histogram[bucket] == 0)
            continue;
        printf("%s%u:%u", separator, bucket, meter->histogram[bucket]);
        separator = ",";
    }
    (void)putchar('\n');
    (void)fflush(stdout);
    *meter = (Meter){.began_us = now};
}

static void
parse_arguments(Load *load, uint64_t *limit_mib, int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "m:")) != -1) {
        char *end = NULL;

        if (option != 'm')
            die("usage: load [-m MIB] DISK");
        errno = 0;
        *limit_mib = strtoull(optarg, &end, 10);
        if (errno != 0 || end == optarg || *end != '\0' || *optarg == '-')
            die("-m: '%s' is not a number", optarg);
    }
    if (argc - optind != 1)
        die("usage: load [-m MIB] DISK");
    load->path = argv[optind];
}

static void
open_disk(Load *load, uint64_t limit_mib)
{
    off_t size_bytes;

    load->fd = open(load->path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    if (load->fd < 0)
        die("open %s: %s", load->path, strerror(errno));
    size_bytes = lseek(load->fd, 0, SEEK_END);
    if (size_bytes < (off_t)BLOCK_BYTES)
        die("%s is smaller than a block", load->path);
    load->blocks = (uint64_t)size_bytes / BLOCK_BYTES;
    if (limit_mib != 0 && limit_mib < load->blocks / BLOCKS_PER_MIB)
        load->blocks = limit_mib * BLOCKS_PER_MIB;
}

/* Random bytes, then the same again, as in the writer's records. */
static void
fill_pool(Load *load)
{
    load->pool = aligned_alloc(BLOCK_BYTES, (size_t)POOL_BLOCKS * BLOCK_BYTES);
    if (load->pool == NULL)
        die("no memory");
    for (unsigned block = 0; block < POOL_BLOCKS; block++) {
        uint8_t *data = load->pool + (size_t)block * BLOCK_BYTES;

        for (unsigned at = 0; at < BLOCK_BYTES / 2; at += sizeof(uint64_t)) {
            uint64_t word = next_random(load);

            memcpy(data + at, &word, sizeof word);
        }
        memcpy(data + BLOCK_BYTES / 2, data, BLOCK_BYTES / 2);
    }
}

static void
write_for_ever(Load *load)
{
    Meter meter = {.began_us = now_us()};

    for (uint64_t number = 0; !stop_requested; number++) {
        uint8_t *data = load->pool + (size_t)(number % POOL_BLOCKS) * BLOCK_BYTES;
        uint64_t block = next_random(load) % load->blocks;
        uint64_t before_us;
        uint64_t after_us;
        ssize_t written;

        /* No two blocks are equal, or a store of chunks would have less to do. */
        memcpy(data, &number, sizeof number);
        before_us = now_us();
        written = pwrite(load->fd, data, BLOCK_BYTES, (off_t)(block * BLOCK_BYTES));
        after_us = now_us();
        if (written != (ssize_t)BLOCK_BYTES)
            die("write %s: %s", load->path, written < 0 ? strerror(errno) : "short write");
        measure(&meter, after_us - before_us);
        if (after_us - meter.began_us >= LINE_US)
            print_line(&meter, after_us);
    }
}

int
main(int argc, char **argv)
{
    Load load = {.random = SEED};
    uint64_t limit_mib = 0;
    struct sigaction action = {.sa_handler = on_signal};

    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    parse_arguments(&load, &limit_mib, argc, argv);
    open_disk(&load, limit_mib);
    fill_pool(&load);
    printf("load: begins blocks=%llu\n", (unsigned long long)load.blocks);
    (void)fflush(stdout);
    write_for_ever(&load);
    return 0;
}
