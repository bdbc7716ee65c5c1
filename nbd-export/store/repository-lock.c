// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/repository-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_FIRST_US 1000
#define POLL_MAX_US 50000

// 0, or an errno; EWOULDBLOCK after the timeout. flock(2) has no timeout of its own, so it is
// polled.
static int
flock_within(int fd, int operation, unsigned timeout_ms)
{
    gint64 deadline_us = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

    for (unsigned pause_us = POLL_FIRST_US;; pause_us = MIN(2 * pause_us, POLL_MAX_US)) {
        if (flock(fd, operation | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return errno;
        if (g_get_monotonic_time() >= deadline_us)
            return EWOULDBLOCK;
        g_usleep(pause_us);
    }
}

// A copy of a repository may have lost its empty folders.
static int
open_lock_file(const char *repository_path, const char *path)
{
    g_autofree char *folder = g_build_filename(repository_path, VS_REPOSITORY_LOCKS, NULL);

    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        return -1;
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

int
vs_repository_lock_file(const char *repository_path, const char *name, int operation,
                        unsigned timeout_ms, GError **error)
{
    g_autofree char *path = g_build_filename(repository_path, name, NULL);
    int fd = open_lock_file(repository_path, path);

    if (fd < 0) {
        vs_repository_fail_errno(error, errno, "open the lock file", path);
        return -1;
    }
    int failure = flock_within(fd, operation, timeout_ms);
    if (failure == 0)
        return fd;
    close(fd);
    if (failure == EWOULDBLOCK)
        g_set_error(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_BUSY,
                    "cannot lock the repository %s: another process has been using it for %u ms; "
                    "try again when it is done",
                    repository_path, timeout_ms);
    else
        vs_repository_fail_errno(error, failure, "lock", path);
    return -1;
}

int
vs_repository_lock_publish(VsRepository *repository, GError **error)
{
    g_assert(repository->use_fd >= 0);
    return vs_repository_lock_file(repository->path, VS_REPOSITORY_PUBLISH_LOCK, LOCK_EX,
                                   VS_REPOSITORY_PUBLISH_TIMEOUT_MS, error);
}

// What can't be completed now (a full disk) is no reason to refuse the lock, which deleting needs:
// a commit under way counts as done for all that read, and is tried again next time.
static void
complete_commits(VsRepository *repository)
{
    g_autoptr(GPtrArray) names =
        vs_object_store_list(repository->objects, VS_REPOSITORY_COMMITS, NULL);

    if (names == NULL || names->len == 0)
        return;
    int publish = vs_repository_lock_publish(repository, NULL);
    if (publish < 0)
        return;
    g_autoptr(GError) ignored = NULL;
    if (!vs_repository_complete_commits(repository, &ignored))
        g_debug("%s", ignored->message);
    close(publish);
}

bool
vs_repository_lock(VsRepository *repository, VsRepositoryLock lock, unsigned timeout_ms,
                   GError **error)
{
    if (repository->use_fd >= 0) {
        g_assert(lock == repository->use || repository->use == VS_REPOSITORY_EXCLUSIVE);
        return true;
    }
    int fd = vs_repository_lock_file(repository->path, VS_REPOSITORY_USE_LOCK,
                                     lock == VS_REPOSITORY_EXCLUSIVE ? LOCK_EX : LOCK_SH,
                                     timeout_ms, error);
    if (fd < 0)
        return false;

    // An index that was read before may name objects that a prune has removed since: a put must not
    // count on them.
    VsChunkStore *chunks = vs_chunk_store_open(repository->objects, error);
    if (chunks == NULL) {
        g_prefix_error(error, "cannot lock the repository %s: ", repository->path);
        close(fd);
        return false;
    }
    vs_chunk_store_free(repository->chunks);
    repository->chunks = chunks;
    repository->use_fd = fd;
    repository->use = lock;
    complete_commits(repository);
    return true;
}
