// SPDX-License-Identifier: LGPL-2.1-or-later
// The pull: from an NBD export of a point in time into an ingest.
//
// Asks for the extents window by window, reads what is dirty and not zero with several requests in
// flight, and hands full spans to the ingest's workers. Memory is bounded by the ingest's pool and
// by one window's extents.
//
// One thread checks and runs a pull; vs_pull_progress(), vs_pull_set_speed_limit() and
// vs_pull_cancel() may be called from others. Nothing waits for ever: a server that answers nothing
// for VS_PULL_STALL_TIMEOUT_MS while requests are in flight is given up. After any error but
// VS_PULL_ERROR_DISTRUSTED the connection is dropped, never reused. Source: NBD protocol
// (doc/proto.md), libnbd(3); QEMU's meta contexts: docs/interop/nbd.txt there.
#pragma once

#include "nbd-export/store/ingest.h"

G_BEGIN_DECLS

#define VS_PULL_ERROR (vs_pull_error_quark())
GQuark vs_pull_error_quark(void);

typedef enum {
    VS_PULL_ERROR_CONNECT,    // no connection, or the export lacks what is needed
    VS_PULL_ERROR_SERVER,     // the server answered with an error, or nonsense
    VS_PULL_ERROR_CLOSED,     // the server hung up
    VS_PULL_ERROR_STALLED,    // no answer in time
    VS_PULL_ERROR_CANCELLED,  // vs_pull_cancel()
    VS_PULL_ERROR_DISTRUSTED, // vs_pull_check(): what is called dirty may lack a change
} VsPullError;

#define VS_PULL_CONNECT_TIMEOUT_MS 10000u
#define VS_PULL_STALL_TIMEOUT_MS 30000u
#define VS_PULL_REQUESTS 8u // reads in flight at most; measured, see tests/bench

// Where to pull from: a connected socket, or a program to start with systemd socket activation
// (qemu-nbd).
typedef struct {
    int socket; // taken over; -1: start `command`
    const char *const *command;
    const char *export_name;
    bool live;          // a fleece of a running guest: its "zero" answers are asked for twice
    const char *bitmap; // pull what this dirty bitmap says; NULL: everything
    // Without a bitmap, of an image that holds just what has changed: what is allocated in it (or
    // in its backing chain), zeroes included, counts as dirty. Excludes bitmap. The export must
    // offer qemu:allocation-depth (qemu-nbd --allocation-depth), else VS_PULL_ERROR_CONNECT.
    bool allocated_only;
} VsPullSource;

typedef struct _VsPull VsPull;

// Connects and negotiates. size_bytes: what the export must have (a disk of another size is
// VS_PULL_ERROR_CONNECT).
VsPull *vs_pull_connect(const VsPullSource *source, uint64_t size_bytes,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Closes the connection.
void vs_pull_free(VsPull *pull);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsPull, vs_pull_free)

typedef struct {
    uint64_t dirty_from; // everything from this offset on counts as dirty (a disk that has grown);
                         // size: nothing
    uint64_t speed_limit_bytes; // a second, 0: none; vs_pull_set_speed_limit() has precedence
    unsigned stall_timeout_ms;  // 0: VS_PULL_STALL_TIMEOUT_MS
} VsPullOptions;

// The base's content, for vs_pull_check().
typedef struct {
    // The highest byte below `below` that is not zero; *found false where there is none.
    bool (*last_content)(uint64_t below, bool *found, uint64_t *offset, gpointer user_data,
                         GError **error);
    bool (*read)(uint64_t offset, void *data, size_t length, gpointer user_data, GError **error);
    gpointer user_data;
    unsigned stall_timeout_ms; // of the check, 0: VS_PULL_STALL_TIMEOUT_MS
} VsPullWitness;

// Where content is compared: at the witness, and at this many places less one below it.
#define VS_PULL_CHECK_PLACES 8u
#define VS_PULL_CHECK_READ_BYTES 4096u // read at each, at most

// Whether what `pull` calls dirty (from dirty_from on: all) can lack a change since the base was
// taken. VS_PULL_ERROR_DISTRUSTED: it does, or that can't be told (too many rounds); the disk must
// be read in full. The witness's own errors are passed on.
//
// QEMU cuts bitmaps with a disk and adds clean bits when it grows again, while what was cut off is
// gone. The witness is the base's highest byte that is neither zero nor dirty: if the disk was cut
// below it, the disk now reads as zeroes there, however it grew; if the disk is the same there, no
// cut went below, and all content above is dirty. What a cut leaves of a qcow2 cluster comes back
// when the disk grows, though: where the bitmap counts in less than a cluster, bits that a cut took
// within the cluster it ended in are not missed.
//
// At VS_PULL_CHECK_PLACES in all, spread over the disk, clean content is compared too: another
// disk's image in this one's place, with a bitmap of the same name, mostly shows there, for which
// there is no proof.
//
// disk is asked for the content. It may be `pull` itself; otherwise it is the disk as it is now,
// later than the point in time: its guest may have written meanwhile. Then zeroes in the place of
// clean content are distrusted (also where that guest has discarded it), what differs is passed
// over for the next lower clean content, and nothing else is compared. Content of the base beyond
// pull's size is not looked at: a disk that is smaller than its base is read in full anyway.
//
// Called between connecting and vs_pull_run(), on the same thread. What it reads is compared and
// dropped, no part of the pull and not counted as read by it. Cancelling either connection ends it.
// Without a bitmap or allocated_only nothing is clean, and all is sound.
bool vs_pull_check(VsPull *pull, VsPull *disk, const VsPullWitness *witness, uint64_t dirty_from,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Whether the server can still read what it serves: its first bytes are asked for, and dropped.
// VS_PULL_ERROR_SERVER where it can't. Blocks; gives up (VS_PULL_ERROR_STALLED) after timeout_ms.
bool vs_pull_probe(VsPull *pull, unsigned timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Pulls all of it. Afterwards vs_ingest_finish() waits for the workers.
bool vs_pull_run(VsPull *pull, VsIngest *ingest, const VsPullOptions *options,
                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    uint64_t total_bytes; // to read; 0 until it is known
    uint64_t read_bytes;  // read so far: exactly what was asked of the server
} VsPullProgress;
void vs_pull_progress(VsPull *pull, VsPullProgress *progress);

// Changes the rate from now on (bytes a second, 0: none), at any time, also before vs_pull_run();
// what was read until then counts neither for nor against it. The same again changes nothing.
void vs_pull_set_speed_limit(VsPull *pull, uint64_t bytes);

// Makes vs_pull_check() or vs_pull_run() return soon with VS_PULL_ERROR_CANCELLED.
void vs_pull_cancel(VsPull *pull);

G_END_DECLS
