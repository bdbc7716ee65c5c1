// SPDX-License-Identifier: LGPL-2.1-or-later
// One way to reach an instance and its disks, and a point in time of some of them.
//
//   open → recover → describe → tidy → begin ──→ for each disk: open_source → (pull) →
//   detach_source → (close) → close_source ──→ confirm → (commit) ──→ settle → tidy
//
// The point in time is in begin. Where QEMU ends before all is read: (pull fails) → detach_source →
// (close) → for each disk not yet read: reopen_source → (pull) → detach_source and so on.
//
// After begin has succeeded settle must be called, whatever happened; close_source before it may be
// skipped. The bitmaps that begin started stay until a tidy that does not keep them. Everything
// runs on the calling thread and its default GMainContext. Nothing that a driver does leaves the
// guest waiting for us.
#pragma once

#include <gio/gio.h>

#include "nbd-export/pull/pull.h"
#include "plugin/hypervisor/instance.h"

G_BEGIN_DECLS

// One disk of a point in time.
typedef struct {
    const VsDisk *disk;      // borrowed
    const char *snapshot_id; // s-…; QEMU objects are named after it
    const char *bitmap;      // the bitmap to start at the point in time; NULL where the disk's
                             // changes can't be recorded
    const char *old_bitmap;  // records the changes since the base, and is sound; NULL: all of the
                             // disk is wanted
    bool staged;             // QEMU copies into a staging file; no NBD server in the VM's QEMU
    bool needs_source;       // its source is opened even if dirty_bytes is 0
    uint64_t dirty_bytes;    // out: what old_bitmap held at the point in time; without one the
                             // virtual size
    bool is_estimate;        // out: dirty_bytes is from a moment before: only the source tells
} VsPointDisk;

// Where captured blocks go meanwhile.
typedef struct {
    const char *folder;  // NULL: the default
    uint64_t most_bytes; // for each disk; 0: no bound but the file system's
} VsScratchOptions;

// The point in time to make of some disks.
typedef struct {
    VsPointDisk *disks; // the caller's, until settle
    unsigned count;
    VsScratchOptions scratch;
    unsigned freeze_timeout_ms; // have the guest's agent freeze the file systems, at most so long;
                                // 0: don't
    int64_t at_us;              // out: the wall clock then, µs since the epoch
    int64_t frozen_us;          // out: how long the file systems were frozen
    bool is_something_left;     // out: begin failed, and could not undo all that it had done
} VsPoint;

// Which bitmap the disk's next snapshot may build on; all others of this repository go.
typedef struct {
    const VsDisk *disk;
    const char *bitmap; // NULL: none
    bool is_locked;     // by us; others' disks are left alone
} VsKeptBitmap;

// Told how far QEMU's own copying of a staged disk has come.
typedef struct {
    void (*func)(uint64_t done, uint64_t total, gpointer user_data);
    gpointer user_data;
} VsStageReport;

// Whether work begun in the name of that instance of this repository is going on: its lock is held.
// One machine may be two instances, by two sockets.
typedef struct {
    bool (*is_busy)(const char *instance_id, gpointer user_data);
    gpointer user_data;
} VsOwnerCheck;

typedef struct _VsDriver VsDriver;

// How long QEMU, once it has begun to end, may take to close its images before it is given up.
#define VS_DRIVER_END_WAIT_MS 7000u

typedef struct {
    void (*free)(VsDriver *driver);
    // The instance and its disks, ids of disks still "".
    VsInstance *(*describe)(VsDriver *driver, GCancellable *cancellable, GError **error);
    // Removes what an interrupted run of this repository left in the instance, but for bitmaps.
    // VS_ERROR_BUSY where it is no leftover: another process is at work.
    bool (*recover)(VsDriver *driver, const VsOwnerCheck *check, GCancellable *cancellable,
                    GError **error);
    // Removes the bitmaps of this repository that are not kept. kept: all disks of the instance.
    bool (*tidy)(VsDriver *driver, const VsKeptBitmap *kept, unsigned count, GError **error);
    // The point in time of all the disks. Nothing is left behind on failure, unless the point says
    // so: that is for recover.
    bool (*begin)(VsDriver *driver, VsPoint *point, GCancellable *cancellable, GError **error);
    // Makes disk `index` readable. source's strings live until close_source. Staged: waits for
    // QEMU's copy.
    bool (*open_source)(VsDriver *driver, unsigned index, VsPullSource *source,
                        const VsStageReport *report, GCancellable *cancellable, GError **error);
    // The pull has ended, well or not, and is still connected: the server lets go first. With disks
    // on an iothread some QEMU versions abort the VM when it is the client.
    bool (*detach_source)(VsDriver *driver, unsigned index, GError **error);
    // The pull's connection is closed: frees what it cost the guest.
    bool (*close_source)(VsDriver *driver, unsigned index, GError **error);
    // After a pull has failed, NULL: can't. Where QEMU has ended in order, and the machine has not
    // been started again: makes disk `index`, which had been opened but not closed, readable once
    // more, from its image and what was captured; source as in open_source, its bitmap may call
    // more dirty. False with error where that is not sound (QEMU was killed, its image is in use or
    // has been written to), within VS_DRIVER_END_WAIT_MS and what a look at the images takes;
    // VS_ERROR_FAILED where it was not QEMU's end that failed the pull. From
    // the first success on is_lost and confirm tell whether somebody starts the machine meanwhile,
    // and detach_source, close_source and settle do without QEMU. The bitmaps that tidy would
    // remove stay for the tidy of the next create, whichever driver it has: an image that is opened
    // for writing would keep its machine from being started.
    bool (*reopen_source)(VsDriver *driver, unsigned index, VsPullSource *source,
                          GCancellable *cancellable, GError **error);
    // All has been read: whether it is what the disks held at the point in time.
    bool (*confirm)(VsDriver *driver, GError **error);
    // Ends the point in time: removes all that was made for it but the new bitmaps. Not
    // cancellable; does all it can, and says what it could not.
    bool (*settle)(VsDriver *driver, GError **error);
    // Why the point in time can't be kept any more (scratch space, the VM has gone), NULL without
    // reason. Sets error.
    bool (*is_lost)(VsDriver *driver, GError **error);
} VsDriverOps;

struct _VsDriver {
    const VsDriverOps *ops;
};

// Connects to the QEMU with its QMP monitor at socket_path. Our bitmaps are named after the
// repository, what else we make in QEMU is labelled with the instance too.
VsDriver *vs_qmp_driver_connect(const char *socket_path, const char *repository_id,
                                const char *instance_id, GCancellable *cancellable,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

static inline void
vs_driver_free(VsDriver *driver)
{
    if (driver)
        driver->ops->free(driver);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsDriver, vs_driver_free)

// Names of our bitmaps: virtsnap.<repository>.<snapshot>.
char *vs_bitmap_name(const char *repository_id, const char *snapshot_id);
// Each has a companion, <name>.end: disabled, with only the disk's last bit set. QEMU cuts bitmaps
// when a disk shrinks and adds clean bits when it grows again; that the bit is gone is then the
// only trace of it.
char *vs_bitmap_end_name(const char *bitmap);
bool vs_bitmap_is_of(const char *name, const char *repository_id);

// What this host is called in keys that ids are derived from (the machine id).
char *vs_host_key(void);

G_END_DECLS
