/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check-records A.raw B.raw ...: verifies that raw images, in the order in which the writer writes
 * its disks, show one point in time. Every slot of every image must hold exactly the record that
 * the image's last sequence implies (or zeroes where none was written yet), and the last sequences
 * may only fall, by one at most, from the first image to the last.
 *
 * Prints `seq_a=N seq_b=M records_ok=K` and exits 0, else prints one line and exits 1; 2: usage.
 */
#include "vm-images/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    const char *path;
    uint32_t disk;
    VsRecordGeometry geometry; /* as the image's newest record says; no slots: blank image */
    uint64_t last;
    uint64_t records;
    uint64_t *found; /* by slot: the sequence in it, 0 where zero */
} Image;

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void
fail(const char *format, ...)
{
    va_list arguments;

    (void)fputs("check-records: ", stderr);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
    exit(1);
}

/* Reads the record at @slot; returns false at the end of the image. */
static bool
read_record(const Image *image, int fd, uint64_t slot, VsRecord *record)
{
    ssize_t got = pread(fd, record, sizeof *record, (off_t)(slot * sizeof *record));

    if (got < 0)
        fail("%s: read at slot %llu: %s", image->path, (unsigned long long)slot, strerror(errno));
    return got == (ssize_t)sizeof *record;
}

/* A record that is itself sound must also be of this disk, this slot and this geometry. */
static void
check_place(const Image *image, uint64_t slot, const VsRecord *record)
{
    if (record->disk != image->disk)
        fail("%s: slot %llu holds a record of disk %u, not %u", image->path,
             (unsigned long long)slot, record->disk, image->disk);
    if (record->slot != slot)
        fail("%s: slot %llu holds record %llu of slot %llu", image->path, (unsigned long long)slot,
             (unsigned long long)record->sequence, (unsigned long long)record->slot);
    if (record->slots != image->geometry.slots || record->disks != image->geometry.disks)
        fail("%s: slot %llu says %llu slots on %u disks, others say %llu on %u", image->path,
             (unsigned long long)slot, (unsigned long long)record->slots, record->disks,
             (unsigned long long)image->geometry.slots, image->geometry.disks);
}

static void
load_slot(Image *image, uint64_t slot, const VsRecord *record)
{
    static const char *const faults[] = {
        [VS_RECORD_NO_MAGIC] = "neither zero nor a record",
        [VS_RECORD_BAD_CHECKSUM] = "torn record: wrong checksum",
    };
    VsRecordState state = vs_record_state(record);

    if (state == VS_RECORD_BLANK)
        return;
    if (state != VS_RECORD_OK)
        fail("%s: slot %llu: %s", image->path, (unsigned long long)slot, faults[state]);
    check_place(image, slot, record);
    image->found[slot] = record->sequence;
    image->records++;
    if (record->sequence > image->last)
        image->last = record->sequence;
}

/* Finds the geometry in the image's first sound record; leaves it empty in an image without one. */
static void
find_geometry(Image *image, int fd)
{
    VsRecord record;

    for (uint64_t slot = 0; slot < VS_RECORD_MAX_SLOTS; slot++) {
        if (!read_record(image, fd, slot, &record))
            return;
        if (vs_record_state(&record) == VS_RECORD_OK) {
            image->geometry = (VsRecordGeometry){.slots = record.slots, .disks = record.disks};
            if (!vs_record_geometry_valid(image->geometry))
                fail("%s: slot %llu: impossible geometry", image->path, (unsigned long long)slot);
            return;
        }
    }
}

static void
load_image(Image *image)
{
    VsRecord record;
    int fd = open(image->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        fail("open %s: %s", image->path, strerror(errno));
    find_geometry(image, fd);
    image->found = calloc(image->geometry.slots + 1, sizeof *image->found);
    if (image->found == NULL)
        fail("%s: no memory for %llu slots", image->path,
             (unsigned long long)image->geometry.slots);
    for (uint64_t slot = 0; slot < image->geometry.slots; slot++) {
        if (!read_record(image, fd, slot, &record))
            fail("%s: ends before slot %llu", image->path, (unsigned long long)slot);
        load_slot(image, slot, &record);
    }
    (void)close(fd);
}

/* Every slot must hold the newest record that belongs there and is not newer than the last. */
static void
check_content(const Image *image)
{
    uint64_t slots = image->geometry.slots;
    uint64_t oldest = image->last > slots ? image->last - slots + 1 : 1;
    uint64_t expected = image->last - oldest + 1;

    for (uint64_t sequence = oldest; sequence <= image->last; sequence++) {
        uint64_t slot = vs_record_slot(image->geometry, image->disk, sequence);

        if (image->found[slot] != sequence)
            fail("%s: slot %llu holds record %llu, must hold %llu (last is %llu)", image->path,
                 (unsigned long long)slot, (unsigned long long)image->found[slot],
                 (unsigned long long)sequence, (unsigned long long)image->last);
    }
    if (image->records != expected)
        fail("%s: %llu records, must be %llu (last is %llu)", image->path,
             (unsigned long long)image->records, (unsigned long long)expected,
             (unsigned long long)image->last);
}

static void
check_order(const Image *images, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const Image *image = &images[i];

        if (image->last > 0 &&
            (image->geometry.disks != count || image->geometry.slots != images[0].geometry.slots))
            fail("%s: written with %llu slots on %u disks, %u images given", image->path,
                 (unsigned long long)image->geometry.slots, image->geometry.disks, count);
        if (i > 0 && (image->last > images[i - 1].last || images[0].last - image->last > 1))
            fail("write order: %s ends at record %llu, %s at %llu", images[i - 1].path,
                 (unsigned long long)images[i - 1].last, image->path,
                 (unsigned long long)image->last);
    }
}

int
main(int argc, char **argv)
{
    Image images[VS_RECORD_MAX_DISKS] = {0};
    unsigned count = (unsigned)(argc - 1);
    uint64_t records = 0;

    if (argc < 2 || count > VS_RECORD_MAX_DISKS || argv[1][0] == '-') {
        (void)fputs("usage: check-records IMAGE... (raw, in the order the writer writes)\n",
                    stderr);
        return 2;
    }
    for (unsigned i = 0; i < count; i++) {
        images[i].path = argv[i + 1];
        images[i].disk = i;
        load_image(&images[i]);
        check_content(&images[i]);
        records += images[i].records;
    }
    check_order(images, count);
    if (records == 0)
        fail("%s: no record at all", images[0].path);
    for (unsigned i = 0; i < count; i++) {
        printf("seq_%c=%llu ", 'a' + (int)i, (unsigned long long)images[i].last);
        free(images[i].found);
    }
    printf("records_ok=%llu\n", (unsigned long long)records);
    return 0;
}
