// SPDX-License-Identifier: LGPL-2.1-or-later
// What the files of the QMP driver share. Not for others.
//
// Objects in QEMU, for the snapshot s-XXXX (node names are limited to 31 characters):
//
//   fdset            labelled "virtsnap <repository> <instance> s-XXXX [<disk's node>]": made
//                    first, removed last, finds all the others after a crash
//   vs-file-XXXX     the scratch file's protocol node
//   vs-fleece-XXXX   the qcow2 on it
//   vs-mark-XXXX     where the ".end" bitmap is made, gone after the point in time
//   vs-filter-XXXX, vs-job-XXXX   the copy-before-write filter and its backup job; guarded
//                    (qmp-guard.h) perhaps a filter alone
//   vs-top-XXXX, vs-access-XXXX   guarded: by which the device is moved to the filter, and the
//                    disk as it was
//   vs-export-XXXX   the export of the fleece, by the NBD name s-XXXX
//   vs-probe-XXXX    guarded: the export of vs-access, by that name
//   virtsnap.<repository>.s-XXXX[.end|.frozen]   bitmaps on the disk's node
//
// and while the NBD server is ours an fdset labelled "virtsnap <repository> <i-YYYY> server", with
// vs-server-YYYY, a node on it. QEMU forgets what nobody uses of an fdset once its last monitor has
// hung up and the guest runs: a node keeps each set.
#pragma once

#include "plugin/hypervisor/driver.h"
#include "plugin/hypervisor/offline-disks.h"
#include "plugin/hypervisor/scratch.h"
#include "qmp/agent.h"
#include "qmp/block.h"
#include "qmp/export.h"
#include "qmp/job.h"

G_BEGIN_DECLS

#define VS_FDSET_LABEL "virtsnap"
// In the place of the snapshot, in the mark that the NBD server is ours.
#define VS_FDSET_SERVER "server"
// How long tear-down waits for QEMU to let something go.
#define VS_QMP_SETTLE_TIMEOUT_MS 20000u

// Names of a snapshot's objects.
typedef struct {
    char *label;
    char *mark_node;
    char *file_node;
    char *fleece_node;
    char *filter_node;
    char *top_node;
    char *access_node;

    char *job;
    char *export_id;
    char *probe_id;
} VsQmpNames;
// node: the disk's, for the label; NULL: it need not be known in tear-down.
void vs_qmp_names_init(VsQmpNames *names, const char *owner, const char *snapshot_id,
                       const char *node);
void vs_qmp_names_clear(VsQmpNames *names);

// Who is spared when a write to the scratch fails; see qmp-guard.h.
typedef enum {
    VS_QMP_GUARD_NONE,   // the snapshot: the guest's write fails, or the guest is paused
    VS_QMP_GUARD_JOB,    // the guest, by the backup job's policy
    VS_QMP_GUARD_FILTER, // the guest, by the policy of a filter without a job
} VsQmpGuard;

// How far a disk's capture has come; tear-down undoes what is set.
typedef struct {
    VsPointDisk *disk; // the caller's
    VsQmpNames names;
    VsQmpGuard guard;
    char *device_path; // VS_QMP_GUARD_FILTER: of the device, in QOM
    char *node;        // of the disk; in tear-down NULL where no filter of ours is without a job
    VsPull *probe;     // guarded: asks whether the point in time is still there; NULL: not now
    char *frozen;      // name of the frozen bitmap, NULL: full
    VsScratch *scratch;
    int64_t fdset;
    bool has_fdset;
    bool has_mark;
    bool has_file;
    bool has_fleece;
    bool has_guard; // any of filter without a job, top, access and its export
    bool has_job;
    bool has_export;
    bool is_detached;           // the export's removal has begun
    bool is_connected;          // its NBD client has been connected
    bool was_paused;            // the guest was stopped by a failed write to the scratch
    bool is_read;               // all that was wanted of it
    int inherited;              // descriptor of the scratch file for qemu-nbd, -1
    char **command;             // how to serve it, once QEMU has let go of it
    uint64_t granularity_bytes; // of the frozen bitmap
} VsQmpCapture;

typedef struct {
    VsDriver base;
    VsQmpClient *client;
    char *socket_path;
    char *repository_id;
    char *owner; // "virtsnap <repository> <instance>": the label of what is ours, less the snapshot
    unsigned subscription;
    unsigned end_subscription;

    VsQmpCapture *captures; // of the point in time, NULL: none
    unsigned capture_count;
    bool has_server; // running, and marked as ours
    int64_t server_fdset;
    char *server_node;
    char *server_folder; // holds the listening socket, NULL once all are connected
    char *server_path;
    VsQmpAgent *agent; // only while a point in time that quiesces begins
    GError *lost;
    bool is_shutting_down;   // QEMU has said so
    bool has_ended;          // it has hung up
    VsOfflineDisks *offline; // what is read on without QEMU, NULL: nothing
    bool is_finished;        // all of the point in time was read, and QEMU has ended
} VsQmpDriver;

// Whether the VM has any.
bool vs_qmp_has_iothreads(VsQmpClient *client, bool *has, GCancellable *cancellable,
                          GError **error);

VsInstance *vs_qmp_driver_describe(VsDriver *driver, GCancellable *cancellable, GError **error);
bool vs_qmp_driver_recover(VsDriver *driver, const VsOwnerCheck *check, GCancellable *cancellable,
                           GError **error);
bool vs_qmp_driver_tidy(VsDriver *driver, const VsKeptBitmap *kept, unsigned count, GError **error);
bool vs_qmp_driver_begin(VsDriver *driver, VsPoint *point, GCancellable *cancellable,
                         GError **error);
bool vs_qmp_driver_open_source(VsDriver *driver, unsigned index, VsPullSource *source,
                               const VsStageReport *report, GCancellable *cancellable,
                               GError **error);
bool vs_qmp_driver_reopen_source(VsDriver *driver, unsigned index, VsPullSource *source,
                                 GCancellable *cancellable, GError **error);
bool vs_qmp_driver_detach_source(VsDriver *driver, unsigned index, GError **error);
bool vs_qmp_driver_close_source(VsDriver *driver, unsigned index, GError **error);
// The point in time is not needed any more.
bool vs_qmp_driver_has_read_all(const VsQmpDriver *driver);
bool vs_qmp_driver_settle(VsDriver *driver, GError **error);
bool vs_qmp_driver_is_lost(VsDriver *driver, GError **error);
void vs_qmp_driver_on_event(const char *name, struct json_object *data, gpointer user_data);

// The guest's agent: found before anything is prepared, used around the transaction. Without one
// (nobody asked for it) freezing and thawing do nothing.
bool vs_qmp_driver_find_agent(VsQmpDriver *driver, GCancellable *cancellable, GError **error);
bool vs_qmp_driver_freeze(VsQmpDriver *driver, unsigned timeout_ms, GCancellable *cancellable,
                          GError **error);
bool vs_qmp_driver_thaw(VsQmpDriver *driver, GError **error);
void vs_qmp_driver_thaw_leftover(VsQmpDriver *driver);

// Makes the node with the bitmap VS_MARK_BITMAP of which only the last bit is set, and takes it
// away again.
#define VS_MARK_BITMAP "end"
#define VS_MARK_GRANULARITY 65536
bool vs_qmp_mark_make(VsQmpClient *client, VsQmpCapture *capture, GCancellable *cancellable,
                      GError **error);
bool vs_qmp_mark_remove(VsQmpClient *client, VsQmpCapture *capture, GError **error);

// Runs a step of tear-down: it goes on after a failure, and the first one is reported.
void vs_qmp_note_failure(GError **first, GError *failure);
// Removes the scratch's objects of a capture from QEMU, export and job first.
bool vs_qmp_capture_remove(VsQmpClient *client, VsQmpCapture *capture, GError **error);
void vs_qmp_driver_forget_server(VsQmpDriver *driver);
// The node that marks the server of that instance.
char *vs_qmp_server_node(const char *instance_id);
// Stops the NBD server, if it is ours, and takes its mark away.
bool vs_qmp_driver_stop_server(VsQmpDriver *driver, GError **error);
bool vs_qmp_driver_resume(VsQmpDriver *driver, GError **error);

G_END_DECLS
