// SPDX-License-Identifier: LGPL-2.1-or-later
#include <errno.h>
#include <unistd.h>

#include "nbd-export/restore/restore.h"
#include "nbd-export/restore/target.h"

typedef struct {
    VsTarget base;
    char *path;
    int fd; // borrowed
} RawTarget;

static void
raw_free(VsTarget *target)
{
    RawTarget *raw = (RawTarget *)target;
    g_free(raw->path);
    g_free(raw);
}

static bool
raw_write(VsTarget *target, uint64_t offset, const void *data, size_t length, GError **error)
{
    RawTarget *raw = (RawTarget *)target;
    const char *at = data;
    while (length > 0) {
        ssize_t written = pwrite(raw->fd, at, length, offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            g_set_error(error, VS_RESTORE_ERROR, VS_RESTORE_ERROR_FAILED, "writing '%s': %s",
                        raw->path, g_strerror(errno));
            return false;
        }
        at += written;
        offset += written;
        length -= written;
    }
    return true;
}

static bool
raw_finish(VsTarget *target, GError **error)
{
    return true;
}

static const VsTargetOps raw_ops = {raw_free, raw_write, raw_finish};

VsTarget *
vs_raw_target_open(const char *path, int fd, uint64_t size_bytes, GError **error)
{
    if (ftruncate(fd, size_bytes) < 0) {
        g_set_error(error, VS_RESTORE_ERROR, VS_RESTORE_ERROR_FAILED,
                    "making '%s' %" G_GUINT64_FORMAT " bytes long: %s", path, size_bytes,
                    g_strerror(errno));
        return NULL;
    }
    RawTarget *raw = g_new0(RawTarget, 1);
    raw->base.ops = &raw_ops;
    raw->path = g_strdup(path);
    raw->fd = fd;
    return &raw->base;
}
