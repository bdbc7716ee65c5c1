// SPDX-License-Identifier: LGPL-2.1-or-later
// Background jobs of QEMU and the transaction that starts them.
// Source: qapi/job.json, qapi/transaction.json of QEMU 7.2.
#pragma once

#include "qmp/client.h"

G_BEGIN_DECLS

typedef struct {
    char *id;
    char *type;                // "backup", "create", …
    char *status;              // JobStatus: "running", "concluded", …
    uint64_t current_progress; // of total_progress, in the job's own unit (bytes for block jobs)
    uint64_t total_progress;
    char *error; // NULL: none (yet)
} VsQmpJob;
void vs_qmp_job_free(VsQmpJob *job);

// All jobs, as a GPtrArray of VsQmpJob * that owns them.
GPtrArray *vs_qmp_query_jobs(VsQmpClient *client, GCancellable *cancellable,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Waits until the job (created with auto-dismiss=false) is concluded, then dismisses it. False with
// error where the job itself ended with one (VS_QMP_ERROR_COMMAND, the job is dismissed all the
// same), at the deadline (0: none), or cancelled.
bool vs_qmp_job_finish(VsQmpClient *client, const char *job_id, unsigned timeout_ms,
                       GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Cancels the job and waits until it is gone, whatever state it is in and whether or not it
// dismisses itself; success too where there is no such job (any more). timeout_ms 0:
// VS_QMP_COMMAND_TIMEOUT_MS.
bool vs_qmp_job_cancel(VsQmpClient *client, const char *job_id, unsigned timeout_ms,
                       GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// A transaction: all of its actions at one instant of the guest, or none. Add bitmap actions first,
// backups last.
typedef struct _VsQmpTransaction VsQmpTransaction;
VsQmpTransaction *vs_qmp_transaction_new(void);
void vs_qmp_transaction_free(VsQmpTransaction *transaction);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsQmpTransaction, vs_qmp_transaction_free)

typedef struct {
    const char *node;
    const char *name;
    uint64_t granularity_bytes; // 0: QEMU's default
    bool persistent;
    bool disabled;
} VsQmpBitmapAdd;
void vs_qmp_transaction_bitmap_add(VsQmpTransaction *transaction, const VsQmpBitmapAdd *bitmap);
// Merges the bitmap source of source_node into target of node.
void vs_qmp_transaction_bitmap_merge(VsQmpTransaction *transaction, const char *node,
                                     const char *target, const char *source_node,
                                     const char *source);
void vs_qmp_transaction_bitmap_remove(VsQmpTransaction *transaction, const char *node,
                                      const char *name);

typedef struct {
    const char *job_id;
    const char *device;      // node to copy from
    const char *target;      // node to copy to
    const char *sync;        // "none", "full" or "bitmap"
    const char *bitmap;      // with sync "bitmap" only; bitmap-mode is "never"
    const char *filter_node; // name of the copy-before-write filter, NULL: QEMU's choice
    // What a failing copy before a write costs: NULL, the guest's write; "break-snapshot", the
    // copy.
    const char *on_cbw_error; // only where blockdev-backup has it (QEMU 10.1)
} VsQmpBackup;
// auto-finalize true, auto-dismiss false: the job is there until vs_qmp_job_finish() or _cancel().
void vs_qmp_transaction_backup(VsQmpTransaction *transaction, const VsQmpBackup *backup);

bool vs_qmp_transaction_is_empty(const VsQmpTransaction *transaction);
// Sends it; without actions it does nothing. May be run again. After VS_QMP_ERROR_TIMEOUT, _CLOSED
// or a cancellation it is unknown whether QEMU has carried it out.
bool vs_qmp_transaction_run(VsQmpTransaction *transaction, VsQmpClient *client,
                            GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
