// SPDX-License-Identifier: LGPL-2.1-or-later
// What the files of the storage driver share. Not for others.
//
// In the daemon disk N of the point in time is the node "vs-disk-N" while it is open.
#pragma once

#include <sys/stat.h>

#include "plugin/hypervisor/storage-daemon.h"
#include "plugin/hypervisor/storage-driver.h"

G_BEGIN_DECLS

// A file that must not change while it is read, and in which sense.
typedef enum {
    VS_STAMP_FILE,    // it is the same file; a bitmap tells of changes
    VS_STAMP_CONTENT, // not written: a backing file, whose owner may change meanwhile
    VS_STAMP_TIMES,   // nothing at all was done to it
} VsStampKind;

typedef struct {
    char *path;
    VsStampKind kind;
    struct stat status;
} VsFileStamp;

// One disk of the point in time.
typedef struct {
    VsPointDisk *disk; // the caller's
    char *node;
    bool is_open;      // as node, in the daemon
    bool has_bitmap;   // the transaction has made the new one, and nobody has removed it
    int fd;            // for asking for locks, -1
    GPtrArray *stamps; // of VsFileStamp *: the image, its backing files
    char **command;    // how to serve it, NULL
} VsStorageRead;

typedef struct {
    VsDriver base;
    VsStorageOwner owner;
    char *repository_id;
    VsStorageDaemon *daemon; // NULL: none runs

    VsStorageRead *reads; // of the point in time, NULL: none
    unsigned read_count;
    int64_t checked_us; // when the owner was asked last, monotonic
    GError *lost;
} VsStorageDriver;

// Starts the daemon unless it runs.
bool vs_storage_driver_need_daemon(VsStorageDriver *driver, GCancellable *cancellable,
                                   GError **error);
// False with VS_ERROR_INSTANCE_STATUS where the owner runs; true without an owner.
bool vs_storage_driver_check_stopped(const VsStorageDriver *driver, GError **error);
// Makes failure to open an image for its bitmaps the caller's: _INSTANCE_STATUS where something
// runs on it, else _DISK_STATUS. failure is consumed.
void vs_storage_driver_set_open_error(const VsStorageDriver *driver, const VsDisk *disk,
                                      GError *failure, GError **error);

// Compares what the disk's definition says of its chain with what the images' headers say (of
// VsImageInfo): the guest sees the one, reading the image shows the other. NULL: the same, or the
// definition says nothing; otherwise what differs, in words, which the caller frees.
char *vs_storage_find_difference(const VsDisk *disk, const GPtrArray *images);
// The same where a backing file that is named without a folder is looked for beside the disk's
// source, a link, in one place (images) and beside the file that it leads to in another (own).
char *vs_storage_find_link(const VsDisk *disk, const GPtrArray *images, const GPtrArray *own);

bool vs_storage_driver_begin(VsDriver *driver, VsPoint *point, GCancellable *cancellable,
                             GError **error);
bool vs_storage_driver_open_source(VsDriver *driver, unsigned index, VsPullSource *source,
                                   const VsStageReport *report, GCancellable *cancellable,
                                   GError **error);
bool vs_storage_driver_detach_source(VsDriver *driver, unsigned index, GError **error);
bool vs_storage_driver_close_source(VsDriver *driver, unsigned index, GError **error);
bool vs_storage_driver_confirm(VsDriver *driver, GError **error);
bool vs_storage_driver_settle(VsDriver *driver, GError **error);
bool vs_storage_driver_is_lost(VsDriver *driver, GError **error);
bool vs_storage_driver_tidy(VsDriver *driver, const VsKeptBitmap *kept, unsigned count,
                            GError **error);

// Notes all the files that the disk is read from. Waits some milliseconds for files that have just
// been written, since the clock of file times is coarse.
bool vs_storage_read_stamp(VsStorageRead *read, GError **error);
// False with VS_ERROR_INSTANCE_STATUS where one of them has changed.
bool vs_storage_read_check_stamps(const VsStorageRead *read, GError **error);
// The new bitmap of the image that is open as the disk's node: it is there, records, is consistent
// and empty. Otherwise says so in words, which the caller frees; NULL: all is well.
char *vs_storage_read_find_fault(const VsStorageRead *read, const GPtrArray *nodes);

G_END_DECLS
