// SPDX-License-Identifier: LGPL-2.1-or-later
// QEMU's built-in NBD server and its exports.
// Source: qapi/block-export.json of QEMU 7.2; hazards: nbd-server-stop freezes the VM while a
// client has unread replies, so vs_qmp_nbd_server_stop() refuses while any export exists.
#pragma once

#include "qmp/client.h"

G_BEGIN_DECLS

// Starts the server on a listening unix socket that the caller made (getfd with listen_fd, then
// nbd-server-start). listen_fd is borrowed: QEMU gets a duplicate. QEMU serves up to 100
// connections, one more hangs; when it stops it unlinks the socket's path if it may. The storage
// daemon of QEMU 7.2 has no getfd.
bool vs_qmp_nbd_server_start(VsQmpClient *client, int listen_fd, GCancellable *cancellable,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Stops it. Fails, sending nothing, while query-block-exports is not empty.
bool vs_qmp_nbd_server_stop(VsQmpClient *client, GCancellable *cancellable,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    const char *id;          // export id: letters, digits, '-', '.', '_', first a letter
    const char *node;        // read-only export of this node
    const char *name;        // NBD export name
    const char *bitmap_node; // with bitmap: the node that owns it
    const char *bitmap;      // NULL: no dirty bitmap context
} VsQmpExport;
bool vs_qmp_export_add(VsQmpClient *client, const VsQmpExport *description,
                       GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Ids of all exports, as a GPtrArray of char *.
GPtrArray *vs_qmp_query_exports(VsQmpClient *client, GCancellable *cancellable,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Begins the removal (mode=hard); returns at once. Success where there is no such export.
bool vs_qmp_export_begin_delete(VsQmpClient *client, const char *id, GCancellable *cancellable,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Waits until the export is gone: the client must have closed its socket (or be idle).
// VS_QMP_ERROR_TIMEOUT at the deadline.
bool vs_qmp_export_wait_deleted(VsQmpClient *client, const char *id, unsigned timeout_ms,
                                GCancellable *cancellable,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
