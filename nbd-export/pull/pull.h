// SPDX-License-Identifier: LGPL-2.1-or-later
// The pull: from an NBD export of a point in time into an ingest.
//
// Asks for the extents window by window, reads what is dirty and not zero with several requests in
// flight, and hands full spans to the ingest's workers. Memory is bounded by the ingest's pool and
// by one window's extents.
//
// One thread runs a pull; vs_pull_progress() and vs_pull_cancel() may be called from others.
// Nothing waits for ever: a server that answers nothing for VS_PULL_STALL_TIMEOUT_MS while requests
// are in flight is given up. After any error the connection is dropped, never reused. Source: NBD
// protocol (doc/proto.md), libnbd(3).
#pragma once

#include "nbd-export/store/ingest.h"

G_BEGIN_DECLS

#define VS_PULL_ERROR (vs_pull_error_quark())
GQuark vs_pull_error_quark(void);

typedef enum {
    VS_PULL_ERROR_CONNECT,   // no connection, or the export lacks what is needed
    VS_PULL_ERROR_SERVER,    // the server answered with an error, or nonsense
    VS_PULL_ERROR_CLOSED,    // the server hung up
    VS_PULL_ERROR_STALLED,   // no answer in time
    VS_PULL_ERROR_CANCELLED, // vs_pull_cancel()
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

// Pulls all of it. Afterwards vs_ingest_finish() waits for the workers.
bool vs_pull_run(VsPull *pull, VsIngest *ingest, const VsPullOptions *options,
                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    uint64_t total_bytes; // to read; 0 until it is known
    uint64_t read_bytes;  // read so far: exactly what was asked of the server
} VsPullProgress;
void vs_pull_progress(VsPull *pull, VsPullProgress *progress);

// Makes vs_pull_run() return soon with VS_PULL_ERROR_CANCELLED.
void vs_pull_cancel(VsPull *pull);

G_END_DECLS
