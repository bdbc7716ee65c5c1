// SPDX-License-Identifier: LGPL-2.1-or-later
// Taking a snapshot: lock → describe → plan → point in time → pull → commit → tear-down.
//
// The bitmap rule: at every instant, every change since the newest accomplished snapshot is
// recorded in an enabled bitmap. The old bitmap keeps recording throughout; a frozen copy of it is
// what is exported; the new one starts in the same transaction; the old one goes only after the
// manifests are durable. Any failure removes the new and the frozen one, and all else that is ours.
//
// Runs on the calling thread's default GMainContext; cancellation undoes everything.
#pragma once

#include <gio/gio.h>

#include "plugin/catalogue/catalogue.h"
#include "plugin/hypervisor/instance.h"

G_BEGIN_DECLS

typedef enum {
    VS_CAPTURE_AUTO,   // live, but staged for disks on an iothread
    VS_CAPTURE_LIVE,   // copy-before-write and NBD from the VM's QEMU
    VS_CAPTURE_STAGED, // QEMU copies into a staging file first
} VsCapture;

typedef struct {
    const char *instance;     // INSTANCE: a libvirt domain, qmp:SOCKET or file:PATH
    const char *const *disks; // names, NULL: all
    const char *name;
    const char *description;
    GHashTable *tags;  // char * → char *, NULL: none
    int64_t retain_us; // 0: for ever
    bool full;
    bool quiesce; // the guest's agent freezes its file systems for the point in time
    VsCapture capture;
    uint64_t speed_limit_bytes;  // a second, 0: none
    const char *scratch_dir;     // NULL: default
    uint64_t scratch_size_bytes; // most scratch a disk may take, 0: default
} VsCreateRequest;

// Progress of the whole request, several times a second. total may be 0 at first. remaining_seconds
// -1: not known.
typedef struct {
    uint64_t done_bytes;
    uint64_t total_bytes;
    double rate_bytes; // a second
    int64_t remaining_seconds;
} VsProgress;
typedef void (*VsEngineProgressFunc)(const VsProgress *progress, gpointer user_data);

typedef struct {
    VsRepository *repository;
    VsCatalogue *catalogue;
    const char *connect_uri; // libvirt's, NULL: its default
    GCancellable *cancellable;
    VsEngineProgressFunc progress; // may be NULL
    gpointer progress_data;
} VsEngine;

typedef struct {
    char *group;          // ssg-…, NULL for a single disk
    GPtrArray *snapshots; // VsSnapshot *, accomplished, in the order of the instance's disks
    GPtrArray *warnings;  // char *
} VsCreateResult;
void vs_create_result_free(VsCreateResult *result);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsCreateResult, vs_create_result_free)

// Makes a snapshot of one disk, or a consistent group of several.
VsCreateResult *vs_engine_create(const VsEngine *engine, const VsCreateRequest *request,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Describes the instance (disks identified), and for each disk whether the next snapshot would be
// incremental: reasons (char *, or NULL in its place: it would be).
VsInstance *vs_engine_describe(const VsEngine *engine, const char *instance, GPtrArray **reasons,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
