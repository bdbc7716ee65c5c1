// SPDX-License-Identifier: LGPL-2.1-or-later
// A qemu-storage-daemon of our own, for the bitmaps in images that no QEMU has open.
//
// It is told what to do by QMP over a socket whose name is gone once we are connected. It gets a
// SIGTERM when the thread that started it ends, however that happens, and then closes its images in
// order, so that their bitmaps are stored; and it is in a session of its own, so that the
// terminal's Ctrl-C is not for it. What it prints is kept for error messages. Belongs to the thread
// that started it, and its default GMainContext.
#pragma once

#include "qmp/block.h"

G_BEGIN_DECLS

typedef struct _VsStorageDaemon VsStorageDaemon;

VsStorageDaemon *vs_storage_daemon_start(GCancellable *cancellable,
                                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Has it quit, waits for that, and frees it: 10 s at most, then it is ended by force. NULL is
// ignored.
void vs_storage_daemon_stop(VsStorageDaemon *daemon);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsStorageDaemon, vs_storage_daemon_stop)

VsQmpClient *vs_storage_daemon_client(VsStorageDaemon *daemon);

typedef enum {
    VS_STORAGE_WRITE,       // nobody else has it open
    VS_STORAGE_READ_LOCKED, // nobody else may write
    VS_STORAGE_READ_SHARED, // whatever others do
} VsStorageMode;

// Opens a qcow2 image, without its backing files (bitmaps don't need them), as node.
bool vs_storage_daemon_open(VsStorageDaemon *daemon, const char *node, const char *path,
                            VsStorageMode mode, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Closes it; bitmaps are stored then. QEMU says nothing if that fails: look.
bool vs_storage_daemon_close(VsStorageDaemon *daemon, const char *node,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The last complaint that it printed, for an error message; "" for none.
char *vs_storage_daemon_said(const VsStorageDaemon *daemon) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
