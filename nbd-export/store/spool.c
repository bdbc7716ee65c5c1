// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

// How often, in bytes by which the file grows, the file system's free space is looked at.
#define GROW_BYTES (64ull << 20)

struct _VsSpool {
    uint32_t record_bytes;
    uint64_t records_max;

    // Of the thread that puts.
    int fd;
    bool is_broken;
    uint64_t records_made;
    uint64_t records_granted; // the file may grow to so many without another look

    pthread_mutex_t mutex;
    GArray *free_records; // uint64_t, under the mutex
};

VsSpool *
vs_spool_new(int fd, uint32_t record_bytes, uint64_t most_bytes)
{
    g_assert(record_bytes % VS_SPOOL_ALIGNMENT == 0);
    VsSpool *spool = g_new0(VsSpool, 1);
    // Some file systems don't know it.
    if (fd >= 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) < 0)
        g_debug("spooling through the page cache: %s", g_strerror(errno));
    spool->record_bytes = record_bytes;
    spool->records_max = most_bytes ? most_bytes / record_bytes : G_MAXUINT64;
    spool->fd = fd;
    spool->is_broken = fd < 0;
    pthread_mutex_init(&spool->mutex, NULL);
    spool->free_records = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    return spool;
}

void
vs_spool_free(VsSpool *spool)
{
    if (!spool)
        return;
    if (spool->fd >= 0)
        close(spool->fd);
    pthread_mutex_destroy(&spool->mutex);
    g_array_unref(spool->free_records);
    g_free(spool);
}

// Whether the file may have another record: its size plus a step stays within what is free beside
// it.
static bool
may_grow(VsSpool *spool)
{
    if (spool->records_made < spool->records_granted)
        return true;
    struct statvfs fs;
    if (spool->records_made >= spool->records_max || fstatvfs(spool->fd, &fs) < 0)
        return false;
    uint64_t step =
        MIN(MAX(1, GROW_BYTES / spool->record_bytes), spool->records_max - spool->records_made);
    uint64_t size_after = (spool->records_made + step) * spool->record_bytes;
    uint64_t step_bytes = step * spool->record_bytes;
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes < step_bytes || free_bytes - step_bytes < size_after)
        return false;
    spool->records_granted = spool->records_made + step;
    return true;
}

static bool
take_record(VsSpool *spool, uint64_t *number)
{
    pthread_mutex_lock(&spool->mutex);
    unsigned count = spool->free_records->len;
    if (count > 0) {
        *number = g_array_index(spool->free_records, uint64_t, count - 1);
        g_array_set_size(spool->free_records, count - 1);
    }
    pthread_mutex_unlock(&spool->mutex);
    if (count > 0)
        return true;
    if (!may_grow(spool))
        return false;
    *number = spool->records_made++;
    return true;
}

static void
give_back(VsSpool *spool, uint64_t number)
{
    pthread_mutex_lock(&spool->mutex);
    g_array_append_val(spool->free_records, number);
    pthread_mutex_unlock(&spool->mutex);
}

bool
vs_spool_put(VsSpool *spool, const uint8_t *data, uint64_t *number)
{
    if (spool->is_broken || !take_record(spool, number))
        return false;
    for (uint32_t done = 0; done < spool->record_bytes;) {
        ssize_t part = pwrite(spool->fd, data + done, spool->record_bytes - done,
                              (off_t)(*number * spool->record_bytes + done));
        if (part > 0) {
            done += part;
        } else if (part == 0 || errno != EINTR) {
            g_debug("spooling: %s", g_strerror(errno));
            give_back(spool, *number);
            spool->is_broken = true;
            return false;
        }
    }
    return true;
}

bool
vs_spool_get(VsSpool *spool, uint64_t number, uint8_t *data, GError **error)
{
    for (uint32_t done = 0; done < spool->record_bytes;) {
        ssize_t part = pread(spool->fd, data + done, spool->record_bytes - done,
                             (off_t)(number * spool->record_bytes + done));
        if (part > 0) {
            done += part;
        } else if (part == 0 || errno != EINTR) {
            g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(part == 0 ? EIO : errno),
                        "reading what was put aside while the disk was read: %s",
                        part == 0 ? "it is not there" : g_strerror(errno));
            return false;
        }
    }
    give_back(spool, number);
    return true;
}
