// SPDX-License-Identifier: LGPL-2.1-or-later
// Files that must not change while they are read.
#include <errno.h>
#include <string.h>

#include "plugin/error.h"
#include "plugin/hypervisor/storage-driver-private.h"

// File times advance with the kernel's tick, which is 10 ms at most: what was written less than
// two ago may be written again without a trace.
#define COARSE_US 20000
#define WAIT_STEP_US 5000
// A file that is written all the time, or has a time from the future, will be found changed.
#define WAIT_STEPS_MAX 20u

static void
stamp_free(VsFileStamp *stamp)
{
    g_free(stamp->path);
    g_free(stamp);
}

static bool
is_young(const struct stat *status)
{
    int64_t written_us =
        (int64_t)status->st_mtim.tv_sec * G_USEC_PER_SEC + status->st_mtim.tv_nsec / 1000;
    return g_get_real_time() - written_us < COARSE_US;
}

static bool
take_stamp(VsFileStamp *stamp, GError **error)
{
    for (unsigned step = 0; step <= WAIT_STEPS_MAX; step++) {
        if (stat(stamp->path, &stamp->status) < 0) {
            int code = errno;
            g_set_error(error, VS_ERROR, VS_ERROR_DISK_STATUS, "examining '%s': %s", stamp->path,
                        g_strerror(code));
            return false;
        }
        if (stamp->kind == VS_STAMP_FILE || !is_young(&stamp->status))
            break;
        g_usleep(WAIT_STEP_US);
    }
    return true;
}

bool
vs_storage_read_stamp(VsStorageRead *read, GError **error)
{
    const VsDisk *disk = read->disk->disk;
    read->stamps = g_ptr_array_new_with_free_func((GDestroyNotify)stamp_free);
    for (unsigned i = 0; i < MAX(disk->chain->len, 1); i++) {
        const char *path = i == 0 ? disk->source : g_ptr_array_index(disk->chain, i);
        if (!g_path_is_absolute(path))
            continue; // a backing file elsewhere: nothing tells of its changes
        VsFileStamp *stamp = g_new0(VsFileStamp, 1);
        g_ptr_array_add(read->stamps, stamp);
        stamp->path = g_strdup(path);
        stamp->kind = i > 0                ? VS_STAMP_CONTENT
                      : read->disk->bitmap ? VS_STAMP_FILE
                                           : VS_STAMP_TIMES;
        if (!take_stamp(stamp, error))
            return false;
    }
    return true;
}

static bool
is_same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool
is_same(const VsFileStamp *stamp)
{
    const struct stat *then = &stamp->status;
    struct stat now;
    if (stat(stamp->path, &now) < 0 || now.st_dev != then->st_dev || now.st_ino != then->st_ino)
        return false;
    if (stamp->kind == VS_STAMP_FILE)
        return true;
    return now.st_size == then->st_size && is_same_time(&now.st_mtim, &then->st_mtim) &&
           (stamp->kind == VS_STAMP_CONTENT || is_same_time(&now.st_ctim, &then->st_ctim));
}

bool
vs_storage_read_check_stamps(const VsStorageRead *read, GError **error)
{
    for (unsigned i = 0; i < read->stamps->len; i++) {
        const VsFileStamp *stamp = g_ptr_array_index(read->stamps, i);
        if (is_same(stamp))
            continue;
        g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                    "the file '%s' of disk '%s' has changed while it was read: the snapshot is "
                    "given up",
                    stamp->path, read->disk->disk->target);
        return false;
    }
    return true;
}
