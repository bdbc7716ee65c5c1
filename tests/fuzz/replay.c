// SPDX-License-Identifier: LGPL-2.1-or-later
// Runs a fuzz target as a test, without libFuzzer: first each file of the corpus as it is, then
// mutations of them.
//
//     fuzz-NAME CORPUS-FOLDER
//
// The seed is printed. $VIRTSNAP_FUZZ_SEED repeats a run, $VIRTSNAP_FUZZ_ROUNDS (default ROUNDS)
// makes it longer. Whatever the target does wrong ends the process: by its abort(), a sanitizer or
// a signal.
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/fuzz/fuzz.h"

#define ROUNDS 20000u
// The rounds end here even on a slow machine or under valgrind.
#define MAX_SECONDS 20
#define MAX_FILES 1024u
// Longer files are replayed, but mutated only this far.
#define MAX_MUTANT_BYTES (64u << 10)

typedef struct {
    uint8_t *bytes;
    size_t size;
} Input;

static Input corpus[MAX_FILES];
static unsigned corpus_count;
static uint64_t random_state;

// SplitMix64: small, and the same on every machine for one seed.
static uint64_t
next_random(void)
{
    uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

// From 0 to bound - 1; 0 for a bound of 0.
static size_t
random_below(size_t bound)
{
    return bound > 0 ? (size_t)(next_random() % bound) : 0;
}

static void
die(const char *what, const char *object)
{
    (void)fprintf(stderr, "replay: %s '%s': %s\n", what, object, strerror(errno));
    exit(2);
}

static Input
read_file(const char *folder, const char *name)
{
    Input input = {NULL, 0};
    char path[4096];

    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        die("the path is too long", name);
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        die("opening", path);
    long size = ftell(file);
    if (size < 0 || fseek(file, 0, SEEK_SET) != 0)
        die("measuring", path);
    input.size = (size_t)size;
    input.bytes = malloc(
        input.size > 0 ? input.size : 1); // no longer: a sanitizer is to see a read past the end
    if (input.bytes == NULL || fread(input.bytes, 1, input.size, file) != input.size)
        die("reading", path);
    (void)fclose(file);
    return input;
}

// In the order of names, so that a seed means the same on every file system.
static void
read_corpus(const char *folder)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, NULL, alphasort);

    if (count < 0)
        die("listing", folder);
    for (int i = 0; i < count; i++) {
        if (entries[i]->d_name[0] != '.' && corpus_count < MAX_FILES)
            corpus[corpus_count++] = read_file(folder, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    if (corpus_count == 0) {
        errno = ENOENT;
        die("the corpus has no file", folder);
    }
}

// Replaces length bytes at offset by the replacement, as far as the mutant's room goes.
static void
splice(Input *mutant, size_t offset, size_t length, const uint8_t *replacement,
       size_t replacement_size)
{
    size_t tail = mutant->size - offset - length;

    if (offset + replacement_size + tail > MAX_MUTANT_BYTES)
        return;
    memmove(mutant->bytes + offset + replacement_size, mutant->bytes + offset + length, tail);
    memcpy(mutant->bytes + offset, replacement, replacement_size);
    mutant->size = offset + replacement_size + tail;
}

static void
mutate_once(Input *mutant)
{
    static const uint8_t telling[] = {0,    1,   0x7f, 0x80, 0xff, '\n', '\r', '"',
                                      '\\', '{', '}',  '[',  ']',  ',',  ':',  '-'};
    const Input *donor = &corpus[random_below(corpus_count)];
    uint8_t piece[64];
    size_t offset = random_below(mutant->size);
    size_t length = random_below(mutant->size - offset < 64 ? mutant->size - offset : 64);
    size_t donor_offset = random_below(donor->size);
    size_t donor_length =
        random_below(donor->size - donor_offset < 64 ? donor->size - donor_offset : 64);

    switch (random_below(7)) {
    case 0: // one bit
        if (mutant->size > 0)
            mutant->bytes[offset] ^= (uint8_t)(1u << random_below(8));
        break;
    case 1: // one telling byte
        if (mutant->size > 0)
            mutant->bytes[offset] = telling[random_below(sizeof telling)];
        break;
    case 2: // noise
        for (size_t i = 0; i < length; i++)
            mutant->bytes[offset + i] = (uint8_t)next_random();
        break;
    case 3: // take out
        splice(mutant, offset, length, piece, 0);
        break;
    case 4: // repeat
        memcpy(piece, mutant->bytes + offset, length);
        splice(mutant, offset, 0, piece, length);
        break;
    case 5: // a piece of another file, over or between
        splice(mutant, offset, random_below(2) * length, donor->bytes + donor_offset, donor_length);
        break;
    default: // cut off
        mutant->size = offset;
        break;
    }
}

static void
run_mutant(uint8_t *room)
{
    const Input *parent = &corpus[random_below(corpus_count)];
    Input mutant = {room, parent->size < MAX_MUTANT_BYTES ? parent->size : MAX_MUTANT_BYTES};

    memcpy(room, parent->bytes, mutant.size);
    for (size_t i = 0, count = 1 + random_below(8); i < count; i++)
        mutate_once(&mutant);

    // Exactly as long as it is, for the sanitizer.
    uint8_t *exact = malloc(mutant.size > 0 ? mutant.size : 1);
    if (exact == NULL)
        die("allocating", "a mutant");
    memcpy(exact, mutant.bytes, mutant.size);
    (void)LLVMFuzzerTestOneInput(exact, mutant.size);
    free(exact);
}

static uint64_t
number_from(const char *variable, uint64_t otherwise)
{
    const char *text = getenv(variable);

    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

int
main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]);
        return 2;
    }
    read_corpus(argv[1]);

    struct timespec now = {0, 0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed = number_from("VIRTSNAP_FUZZ_SEED",
                                (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
    uint64_t rounds = number_from("VIRTSNAP_FUZZ_ROUNDS", ROUNDS);
    bool endless = getenv("VIRTSNAP_FUZZ_ROUNDS") != NULL; // who asks for rounds gets them
    (void)printf("corpus of %u files, seed %" PRIu64 "\n", corpus_count, seed);
    (void)fflush(stdout);

    for (unsigned i = 0; i < corpus_count; i++)
        (void)LLVMFuzzerTestOneInput(corpus[i].bytes, corpus[i].size);

    uint8_t *room = malloc(MAX_MUTANT_BYTES);
    if (room == NULL)
        die("allocating", "the mutants' room");
    random_state = seed;
    time_t end = time(NULL) + MAX_SECONDS;
    uint64_t round = 0;
    for (; round < rounds && (endless || time(NULL) < end); round++)
        run_mutant(room);
    (void)printf("%" PRIu64 " mutations\n", round);

    free(room);
    for (unsigned i = 0; i < corpus_count; i++)
        free(corpus[i].bytes);
    return 0;
}
