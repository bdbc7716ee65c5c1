// SPDX-License-Identifier: LGPL-2.1-or-later
// What the files of the QMP driver share. Not for others.
//
// Objects in QEMU, for the snapshot s-XXXX (node names are limited to 31 characters):
//
//   fdset     label "virtsnap <repository> s-XXXX"   first made, last removed: finds all the others
//   after a crash vs-file-XXXX, vs-fleece-XXXX                     scratch file's protocol node,
//   and the qcow2 on it vs-filter-XXXX, vs-job-XXXX                      copy-before-write filter
//   and its backup job vs-export-XXXX                                   export of the fleece, NBD
//   name s-XXXX virtsnap.<repository>.s-XXXX[.frozen]            bitmaps on the disk's node
#pragma once

#include "plugin/hypervisor/driver.h"
#include "plugin/hypervisor/scratch.h"
#include "qmp/block.h"
#include "qmp/export.h"
#include "qmp/job.h"

G_BEGIN_DECLS

#define VS_FDSET_LABEL "virtsnap"
// How long tear-down waits for QEMU to let something go.
#define VS_QMP_SETTLE_TIMEOUT_MS 20000u

// Names of a snapshot's objects.
typedef struct {
    char *label;
    char *file_node;
    char *fleece_node;
    char *filter_node;
    char *create_job;
    char *job;
    char *export_id;
} VsQmpNames;
void vs_qmp_names_init(VsQmpNames *names, const char *owner, const char *snapshot_id);
void vs_qmp_names_clear(VsQmpNames *names);

// How far a disk's capture has come; tear-down undoes what is set.
typedef struct {
    VsPointDisk *disk; // the caller's
    VsQmpNames names;
    char *frozen; // name of the frozen bitmap, NULL: full
    VsScratch *scratch;
    int64_t fdset;
    bool has_fdset;
    bool has_file;
    bool has_fleece;
    bool has_job;
    bool has_bitmap;
    bool has_export;
    bool is_detached;           // the export's removal has begun
    bool is_connected;          // its NBD client has been connected
    bool was_paused;            // the guest was stopped by a failed write to the scratch
    int inherited;              // staged: descriptor of the staging file for qemu-nbd, -1
    char **command;             // staged: how to serve it
    uint64_t granularity_bytes; // of the frozen bitmap
} VsQmpCapture;

typedef struct {
    VsDriver base;
    VsQmpClient *client;
    char *socket_path;
    char *repository_id;
    char *owner; // "virtsnap <repository> <instance>": the label of what is ours, less the snapshot
    unsigned subscription;

    VsQmpCapture *captures; // of the point in time, NULL: none
    unsigned capture_count;
    bool has_server;
    char *server_folder; // holds the listening socket, NULL once all are connected
    char *server_path;
    GError *lost;
} VsQmpDriver;

VsInstance *vs_qmp_driver_describe(VsDriver *driver, GCancellable *cancellable, GError **error);
bool vs_qmp_driver_recover(VsDriver *driver, const VsOwnerCheck *check, GCancellable *cancellable,
                           GError **error);
bool vs_qmp_driver_drop_bitmaps(VsDriver *driver, const VsDisk *disk, const char *keep,
                                GError **error);
bool vs_qmp_driver_begin(VsDriver *driver, VsPoint *point, GCancellable *cancellable,
                         GError **error);
bool vs_qmp_driver_open_source(VsDriver *driver, unsigned index, VsPullSource *source,
                               const VsStageReport *report, GCancellable *cancellable,
                               GError **error);
bool vs_qmp_driver_detach_source(VsDriver *driver, unsigned index, GError **error);
bool vs_qmp_driver_close_source(VsDriver *driver, unsigned index, GError **error);
bool vs_qmp_driver_settle(VsDriver *driver, bool keep, GError **error);
bool vs_qmp_driver_is_lost(VsDriver *driver, GError **error);
void vs_qmp_driver_on_event(const char *name, struct json_object *data, gpointer user_data);

// Removes the scratch's objects of a capture from QEMU, export and job first.
bool vs_qmp_capture_remove(VsQmpClient *client, VsQmpCapture *capture, GError **error);
void vs_qmp_driver_forget_server(VsQmpDriver *driver);

G_END_DECLS
