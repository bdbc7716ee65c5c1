/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The record that the guest's writer writes and that check-records verifies: the one place
 * that knows its layout. Plain C11, no allocation, no GLib: it is built into a static guest
 * program as well. Pure functions, safe from any thread. The format is drawn in README.md.
 */
#ifndef VM_IMAGES_RECORD_H
#define VM_IMAGES_RECORD_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define VS_RECORD_SIZE_BYTES 4096u
#define VS_RECORD_MAGIC UINT64_C(0x3144524345525356) /* "VSRECRD1" */
#define VS_RECORD_MAX_DISKS 8u
/* 2^20 slots are 4 GiB: more would only make the check slow. */
#define VS_RECORD_MAX_SLOTS (UINT64_C(1) << 20)
#define VS_RECORD_PAYLOAD_WORDS ((VS_RECORD_SIZE_BYTES - 48) / 8)

/* All fields little endian, as on the only architecture that the guest is built for. */
typedef struct {
    uint64_t magic;
    uint64_t checksum; /* over the whole record, this field taken as zero */
    uint64_t sequence; /* counts from 1 */
    uint64_t slot;     /* where it belongs: byte offset = slot * VS_RECORD_SIZE_BYTES */
    uint64_t slots;    /* size of the area: a power of two */
    uint32_t disk;     /* 0 is written first */
    uint32_t disks;    /* how many disks the writer writes */
    uint64_t payload[VS_RECORD_PAYLOAD_WORDS];
} VsRecord;

_Static_assert(sizeof(VsRecord) == VS_RECORD_SIZE_BYTES, "a record is one 4096-byte block");

/* Where the records go: equal for the writer and the checker. */
typedef struct {
    uint64_t slots;
    uint32_t disks;
} VsRecordGeometry;

typedef enum {
    VS_RECORD_OK,
    VS_RECORD_BLANK, /* all zero: never written */
    VS_RECORD_NO_MAGIC,
    VS_RECORD_BAD_CHECKSUM,
} VsRecordState;

/* True when a writer may use @geometry. */
static inline bool
vs_record_geometry_valid(VsRecordGeometry geometry)
{
    return geometry.slots > 0 && geometry.slots <= VS_RECORD_MAX_SLOTS &&
           (geometry.slots & (geometry.slots - 1)) == 0 && geometry.disks > 0 &&
           geometry.disks <= VS_RECORD_MAX_DISKS;
}

/*
 * The slot of record @sequence on @disk. An odd multiplier permutes the residues of a power of
 * two, so every run of `slots` successive sequences fills each slot once; a different multiplier
 * per disk makes sure that a mix-up of disks or offsets can't pass for the right content.
 */
static inline uint64_t
vs_record_slot(VsRecordGeometry geometry, uint32_t disk, uint64_t sequence)
{
    uint64_t multiplier = UINT64_C(0x9e3779b1) + 2 * UINT64_C(0x3d4d51c3) * disk;

    return ((sequence - 1) * multiplier) & (geometry.slots - 1);
}

/* Steps a 64-bit generator (splitmix64, Steele et al. 2014) and returns its next value. */
static inline uint64_t
vs_record_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* FNV-1a over 64-bit words with a final mix: finds torn and swapped words, not an attacker. */
static inline uint64_t
vs_record_checksum(const VsRecord *record)
{
    const unsigned char *bytes = (const unsigned char *)record;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (unsigned i = 0; i < VS_RECORD_SIZE_BYTES / 8; i++) {
        uint64_t word;

        memcpy(&word, bytes + i * 8u, sizeof word);
        hash = (hash ^ (i == 1 ? 0 : word)) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29;
    }
    return hash;
}

/*
 * Fills @record for @sequence on @disk. Half of the payload is random, half repeats it: stored
 * compressed it takes about 2 KiB, neither nothing nor incompressible.
 */
static inline void
vs_record_fill(VsRecord *record, VsRecordGeometry geometry, uint32_t disk, uint64_t sequence)
{
    uint64_t state = sequence * 16 + disk;
    unsigned half = VS_RECORD_PAYLOAD_WORDS / 2;

    record->magic = VS_RECORD_MAGIC;
    record->sequence = sequence;
    record->slot = vs_record_slot(geometry, disk, sequence);
    record->slots = geometry.slots;
    record->disk = disk;
    record->disks = geometry.disks;
    for (unsigned i = 0; i < VS_RECORD_PAYLOAD_WORDS; i++)
        record->payload[i] = i < half ? vs_record_random(&state) : record->payload[i - half];
    record->checksum = vs_record_checksum(record);
}

/* A first word of zero, and every word equal to the one before it. */
static inline bool
vs_record_is_blank(const VsRecord *record)
{
    const unsigned char *bytes = (const unsigned char *)record;

    return record->magic == 0 && memcmp(bytes, bytes + 8, VS_RECORD_SIZE_BYTES - 8) == 0;
}

/* Judges the record by itself: whether it is where it belongs is for the caller to see. */
static inline VsRecordState
vs_record_state(const VsRecord *record)
{
    if (vs_record_is_blank(record))
        return VS_RECORD_BLANK;
    if (record->magic != VS_RECORD_MAGIC)
        return VS_RECORD_NO_MAGIC;
    return record->checksum == vs_record_checksum(record) ? VS_RECORD_OK : VS_RECORD_BAD_CHECKSUM;
}

#endif
