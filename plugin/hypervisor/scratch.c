// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

// The first reservation; each later one doubles the file's, by at most STEP_MOST. At 1 GB/s of
// guest writes half of the first is used up in 32 ms, which is longer than reserving takes.
#define STEP_FIRST (64ull << 20)
#define STEP_MOST (1ull << 30)
// Less than this can't even hold the metadata of an image and a few clusters.
#define STEP_LEAST (1ull << 20)
// What a qcow2 image of all its virtual size takes beside it, at most: one part in so many, and the
// least step.
#define METADATA_PART 1024

const char *
vs_scratch_default_folder(void)
{
    const char *configured = g_getenv("TMPDIR");
    return configured && g_path_is_absolute(configured) ? configured : "/var/tmp";
}

int
vs_scratch_open(const char *folder)
{
    if (!folder)
        folder = vs_scratch_default_folder();
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd;
    g_autofree char *path = g_build_filename(folder, ".virtsnap-scratch-XXXXXX", NULL);
    fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        unlink(path);
    return fd;
}

// Takes the descriptor, which may be the error that opening it gave.
static VsScratch *
scratch_new(const char *folder, int fd, uint64_t most_bytes, GError **error)
{
    if (fd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                    "creating a scratch file in '%s': %s", folder, g_strerror(errno));
        return NULL;
    }
    VsScratch *scratch = g_new0(VsScratch, 1);
    scratch->folder = g_strdup(folder);
    scratch->most_bytes = most_bytes ? most_bytes : G_MAXUINT64;
    scratch->is_reserving = true;
    scratch->fd = fd;
    return scratch;
}

VsScratch *
vs_scratch_new(const char *folder, uint64_t most_bytes, GError **error)
{
    if (!folder)
        folder = vs_scratch_default_folder();
    return scratch_new(folder, vs_scratch_open(folder), most_bytes, error);
}

VsScratch *
vs_scratch_new_named(const char *folder, const char *name, uint64_t most_bytes, GError **error)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
    return scratch_new(folder, fd, most_bytes, error);
}

void
vs_scratch_free(VsScratch *scratch)
{
    if (!scratch)
        return;
    if (scratch->fd >= 0)
        close(scratch->fd);
    g_free(scratch->folder);
    g_free(scratch);
}

bool
vs_scratch_format(VsScratch *scratch, uint64_t size_bytes, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)getpid(), scratch->fd);
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, size_bytes);
    const char *command[] = {"qemu-img", "create", "-q", "-f", "qcow2", path, size, NULL};
    scratch->need_bytes = size_bytes + size_bytes / METADATA_PART + STEP_LEAST;
    g_autofree char *complaint = NULL;
    g_autoptr(GError) cause = NULL;
    int status = 0;
    if (g_spawn_sync(NULL, (char **)command, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL,
                     NULL, NULL, NULL, &complaint, &status, &cause) &&
        g_spawn_check_wait_status(status, &cause))
        return true;
    const char *said = complaint ? g_strchomp(complaint) : "";
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "formatting a scratch file in '%s': %s",
                scratch->folder, said[0] ? said : cause->message);
    return false;
}

static uint64_t
free_bytes(const VsScratch *scratch)
{
    struct statvfs fs;
    return fstatvfs(scratch->fd, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
}

static bool
set_no_room(const VsScratch *scratch, const char *cause, GError **error)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
                "reserving scratch space in '%s' beyond %" G_GUINT64_FORMAT
                " bytes, with %" G_GUINT64_FORMAT
                " free: %s; make room, or choose --scratch-dir or --scratch-size",
                scratch->folder, scratch->reserved_bytes, free_bytes(scratch), cause);
    return false;
}

// How much the file may grow, 0: not at all.
static uint64_t
find_step(const VsScratch *scratch)
{
    uint64_t reserved = scratch->reserved_bytes;
    uint64_t step = MIN(CLAMP(reserved, STEP_FIRST, STEP_MOST), scratch->most_bytes - reserved);
    // Leave some to others on a small file system.
    uint64_t room = free_bytes(scratch) / 4 * 3;
    if (reserved == 0 && room < MIN(step, scratch->need_bytes))
        return 0;
    step = MIN(step, room);
    return step < STEP_LEAST ? 0 : step;
}

bool
vs_scratch_grow(VsScratch *scratch, GError **error)
{
    uint64_t step = find_step(scratch);
    if (step == 0)
        return set_no_room(scratch,
                           scratch->reserved_bytes + STEP_LEAST > scratch->most_bytes
                               ? "the limit set is reached"
                               : "no space left",
                           error);
    if (scratch->is_reserving &&
        fallocate(scratch->fd, FALLOC_FL_KEEP_SIZE, scratch->reserved_bytes, step) < 0) {
        if (errno != EOPNOTSUPP)
            return set_no_room(scratch, g_strerror(errno), error);
        scratch->is_reserving = false;
    }
    scratch->reserved_bytes += step;
    return true;
}

uint64_t
vs_scratch_threshold(const VsScratch *scratch)
{
    return scratch->reserved_bytes - MIN(scratch->reserved_bytes / 2, STEP_FIRST);
}

bool
vs_scratch_keep_up(VsScratch *scratch, GError **error)
{
    struct stat status;
    if (fstat(scratch->fd, &status) < 0)
        return true; // never of an open file
    while ((uint64_t)status.st_size >= vs_scratch_threshold(scratch))
        if (!vs_scratch_grow(scratch, error))
            return false;
    return true;
}
