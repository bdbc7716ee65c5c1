// SPDX-License-Identifier: LGPL-2.1-or-later
// Sparing the guest when a write to the scratch fails or takes long: then the point in time is lost
// instead, also when nobody of us lives any more.
//
// A backup job's copy-before-write filter fails the guest's write with its own. QEMU 10.1 lets the
// job be told otherwise (VS_QMP_GUARD_JOB). From 7.1 on only a filter that no job made can be told
// (VS_QMP_GUARD_FILTER); nothing in a transaction puts it in the device's way, so the device is
// moved there:
//
//   plain      device ──────────→ disk
//     │ prepare
//   prepared   device → (top) ──→ disk        filter → disk, with the fleece as its target
//     │ attach: THE POINT IN TIME
//   attached   device → (top) → filter → disk
//     │ open
//   open       the same, and access → filter: the disk as it was
//     │ remove, from any of these
//   plain
//
// One device is moved by its "drive" property, to the filter itself. Several, at one instant, by
// one blockdev-reopen of their tops: raw nodes that were put between before, one after the other,
// which changes nothing for the guest. Back they go one by one, and without blockdev-reopen, which
// has QEMU flush the images while the guest's requests wait.
//
// Two things abort QEMU 7.2, and must not happen: setting "drive" to the node that it is (so it is
// asked for before), and a blockdev-reopen that fails once it has replaced a node, as with another
// writer to a disk. A device without share-rw keeps other writers out of its disk at all times, so
// that only such are taken; a failing flush is refused in time.
//
// A copy that fails breaks the filter for good: writes pass, and each read of access fails
// (EINVAL). QEMU tells nobody, and the fleece goes on to be read as if nothing had happened. So
// access is asked once all has been read of the fleece: if it answers then, nothing was broken
// before, and what was read is the point in time. Access itself is not read instead, since QEMU 7.2
// tells the block status of the disk as it is now there: an NBD client gets zeroes for what the
// guest has discarded, or zeroed, since.
//
// A copy that takes long is waited for by the guest's write. QEMU's cbw-timeout could end that; but
// what has timed out goes on, and may then save what the guest has written meanwhile.
//
// The filter has a bitmap of its own, made before anything can be written through it: it holds
// exactly what has been written since the point in time. The disk's new bitmap is made of it.
//
// Where it is not known to be safe (iothreads, -drive, image or device of other kinds, somebody
// else who may write to the disk, a disk of the point that is staged) there is none.
#pragma once

#include "plugin/hypervisor/qmp-driver-private.h"

G_BEGIN_DECLS

// The filter's own bitmap.
#define VS_QMP_GUARD_BITMAP "since"

// The best guard that this QEMU has. qemu_version: as vs_qmp_client_qemu_version().
VsQmpGuard vs_qmp_guard_of_version(unsigned qemu_version);

// Decides, for each of the captures, whose disks are the point's; asks QEMU unless all are staged.
bool vs_qmp_guard_choose(VsQmpDriver *driver, const VsPoint *point, GCancellable *cancellable,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The steps above. All captures, whose fleeces are there; nothing where the guard is another. What
// QEMU refuses is done without.
bool vs_qmp_guard_prepare(VsQmpDriver *driver, GCancellable *cancellable,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Right before the next one, of captures guarded by filters, so that it is short.
void vs_qmp_guard_write_back(const VsQmpDriver *driver);
// All captures at once; they are guarded by a filter. Not cancellable. After VS_QMP_ERROR_TIMEOUT
// or _CLOSED it may have taken place.
bool vs_qmp_guard_attach(VsQmpDriver *driver, GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_qmp_guard_open(VsQmpDriver *driver, VsQmpCapture *capture, GCancellable *cancellable,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Before the fleece is read, while QEMU's NBD server runs: a connection to ask by.
bool vs_qmp_guard_connect(VsQmpDriver *driver, VsQmpCapture *capture, GCancellable *cancellable,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
// All has been read: whether it is the point in time. Closes the connection, and where it is not
// also says so in driver->lost. Blocks. True where there is no connection.
bool vs_qmp_guard_confirm(VsQmpDriver *driver, VsQmpCapture *capture,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

// What of it is in QEMU, for one that died: sets has_guard. nodes, and capture's has_job: what is
// there.
void vs_qmp_guard_look_for(VsQmpCapture *capture, const GPtrArray *nodes);
// Removes what is there, whatever that is, and clears has_guard if nothing is left. Also for a
// job's guard, whose filter goes with the job.
bool vs_qmp_guard_remove(VsQmpClient *client, VsQmpCapture *capture,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
