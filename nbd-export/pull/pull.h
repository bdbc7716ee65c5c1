// SPDX-License-Identifier: LGPL-2.1-or-later
// The pull: from an NBD export of a point in time into an ingest.
//
// Asks for the extents window by window, reads what is dirty and not zero with several requests in
// flight, and hands full spans to the ingest's workers. Memory is bounded by the ingest's pool and
// by one window's extents.
//
// One thread checks and runs a pull; vs_pull_progress() and vs_pull_cancel() may be called from
// others. Nothing waits for ever: a server that answers nothing for VS_PULL_STALL_TIMEOUT_MS while
// requests are in flight is given up. After any error but VS_PULL_ERROR_DISTRUSTED the connection
// is dropped, never reused. Source: NBD protocol (doc/proto.md), libnbd(3); QEMU's meta contexts:
// docs/interop/nbd.txt there.
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
    uint64_t speed_limit_bytes; // a second, 0: none
    unsigned stall_timeout_ms;  // 0: VS_PULL_STALL_TIMEOUT_MS
} VsPullOptions;

// The base's content, for vs_pull_check().
typedef struct {
    // The highest byte below `below` that is not zero; *found false where there is none.
    bool (*last_content)(uint64_t below, bool *found, uint64_t *offset, gpointer user_data,
                         GError **error);
    gpointer user_data;
    unsigned stall_timeout_ms; // of the check, 0: VS_PULL_STALL_TIMEOUT_MS
} VsPullWitness;

// Whether what `pull` calls dirty (from dirty_from on: all) can have missed that the disk was cut
// and grew again since the base was taken: QEMU cuts bitmaps with a disk and adds clean bits when
// it grows, while what was cut off is gone.
//
// The witness is the base's highest byte that is neither zero nor dirty. Where the disk has become
// a hole there, a change was missed, since a guest's own discard or write of zeroes would be dirty:
// VS_PULL_ERROR_DISTRUSTED. Where it is still data, no cut went below, and all content above
// is dirty: sound. A cut within the witness's own cluster is finer than this can see. So is content
// that was cut off and then preallocated, or a medium that doesn't tell its holes: data as it
// seems. In doubt (no base:allocation, too many rounds) it is DISTRUSTED as well: read in full
// then.
//
// disk says what is allocated; it may be `pull` itself. Content of the base beyond pull's size is
// not looked at: a disk that is smaller than its base is read in full anyway. Called
// between connecting and vs_pull_run(), on the same thread; reads no data. The witness's own errors
// are passed on. Cancelling either connection ends it. Without a bitmap or allocated_only nothing
// is clean, and all is sound.
bool vs_pull_check(VsPull *pull, VsPull *disk, const VsPullWitness *witness, uint64_t dirty_from,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Pulls all of it. Afterwards vs_ingest_finish() waits for the workers.
bool vs_pull_run(VsPull *pull, VsIngest *ingest, const VsPullOptions *options,
                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    uint64_t total_bytes; // to read; 0 until it is known
    uint64_t read_bytes;  // read so far: exactly what was asked of the server
} VsPullProgress;
void vs_pull_progress(VsPull *pull, VsPullProgress *progress);

// Makes vs_pull_check() or vs_pull_run() return soon with VS_PULL_ERROR_CANCELLED.
void vs_pull_cancel(VsPull *pull);

G_END_DECLS
