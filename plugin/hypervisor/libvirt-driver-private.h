// SPDX-License-Identifier: LGPL-2.1-or-later
// What the files of the libvirt driver share. Not for others.
//
// A point in time is one backup job of libvirt with one checkpoint:
//
//   checkpoint, and bitmap on each qcow2 disk   virtsnap.<repository>.<group or snapshot>
//   scratch (pull) or target (push) of a disk   <scratch folder>/virtsnap.<repository>.<instance>.…
//                                               /…/<snapshot>, unlinked as soon as QEMU has it
//   NBD socket (pull; the folder always)        <temporary folder>/virtsnap.<instance>.…/…/nbd
//   exports (pull)                              <snapshot>; incremental: with the bitmap "dirty"
//
// The handover folders are locked while their maker lives: by the job's scratch file recovery tells
// whose job it is. A domain has one backup job at a time, and that is all pull or all push.
#pragma once

#include "plugin/hypervisor/domain-xml.h"
#include "plugin/hypervisor/handover.h"
#include "plugin/hypervisor/libvirt-driver.h"
#include "plugin/hypervisor/offline-disks.h"
#include "plugin/hypervisor/scratch.h"
#include "plugin/hypervisor/storage-driver.h"

G_BEGIN_DECLS

#define VS_LIBVIRT_EXPORT_BITMAP "dirty"
#define VS_LIBVIRT_SOCKET "nbd"

typedef struct {
    VsPointDisk *disk; // the caller's
    VsScratch *scratch;
    // Pull, on an iothread: holds the NBD connection open till the server has let go, since with
    // some QEMU versions a client that goes first takes the VM along. -1: none.
    int held_connection;
    int inherited;  // descriptor of the scratch or target file for qemu-nbd, -1
    char **command; // how to serve it, once QEMU has let go of it
    bool is_connected;
    bool is_done; // read, and closed
} VsLibvirtCapture;

typedef struct _VsLibvirtWatch VsLibvirtWatch;

typedef struct {
    VsDriver base;
    VsDomain *domain;
    char *repository_id;
    char *label;       // of handover folders: <repository>.<instance>
    char *short_label; // of the socket's: <instance>

    VsLibvirtCapture *captures; // of the point in time, NULL: none
    unsigned capture_count;
    bool is_push;
    bool has_job;
    VsHandover *scratch_folder;
    VsHandover *socket_folder;
    int64_t looked_us;     // when the domain's state was asked for
    bool is_away;          // libvirt did not answer then
    VsLibvirtWatch *watch; // over the captures' scratches, which others then don't touch
    bool is_watched;       // by events; else they are looked at
    int64_t asked_us;      // when events were asked for
    GError *lost;
    VsOfflineDisks *offline; // what is read on without QEMU, NULL: nothing
    bool is_finished;        // all of the point in time was read, in part without QEMU
} VsLibvirtDriver;

// The instance, from the live XML where the domain is active. Its definition is the inactive one,
// from which the domain can be made again.
VsInstance *vs_libvirt_parse_domain(VsDomain *domain, bool is_active, GError **error);
// The owner of a stopped domain's images, which has the domain from then on.
void vs_libvirt_owner(VsStorageOwner *owner, VsDomain *domain, const char *repository_id);

// The bitmaps' common prefix.
char *vs_libvirt_prefix(const char *repository_id);
// Makes libvirt's checkpoints of this repository what the kept bitmaps are. A running domain's
// bitmaps go with their checkpoints; a stopped one's have gone already.
bool vs_libvirt_sync_checkpoints(VsDomain *domain, const char *repository_id,
                                 const VsInstance *instance, const VsKeptBitmap *kept,
                                 unsigned count, GError **error);
// Makes known to a running domain what bitmaps its images have that libvirt has no checkpoint of:
// left from when it was stopped.
void vs_libvirt_adopt_bitmaps(VsDomain *domain, const char *repository_id,
                              const VsInstance *instance);

bool vs_libvirt_begin(VsDriver *driver, VsPoint *point, GCancellable *cancellable, GError **error);
bool vs_libvirt_open_source(VsDriver *driver, unsigned index, VsPullSource *source,
                            const VsStageReport *report, GCancellable *cancellable, GError **error);
bool vs_libvirt_reopen_source(VsDriver *driver, unsigned index, VsPullSource *source,
                              GCancellable *cancellable, GError **error);
bool vs_libvirt_detach_source(VsDriver *driver, unsigned index, GError **error);
bool vs_libvirt_close_source(VsDriver *driver, unsigned index, GError **error);
bool vs_libvirt_settle(VsDriver *driver, GError **error);
bool vs_libvirt_is_lost(VsDriver *driver, GError **error);
// Ends the job, server first, then the connections that were held.
bool vs_libvirt_end_job(VsLibvirtDriver *driver, GError **error);

// Scratch space ---------------------------------------------------------------------------------

// From the point in time on the reservations grow with the files, in a thread of their own.
void vs_libvirt_watch_scratch(VsLibvirtDriver *driver);
// To be called often. Sets error where there is no more room.
void vs_libvirt_look_at_scratch(VsLibvirtDriver *driver, GError **error);
// Frees a capture's scratch; all of them.
void vs_libvirt_drop_scratch(VsLibvirtDriver *driver, VsLibvirtCapture *capture);
void vs_libvirt_end_watch(VsLibvirtDriver *driver);

G_END_DECLS
