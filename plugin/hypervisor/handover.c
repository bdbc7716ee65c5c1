// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/handover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "virtsnap."

static bool
set_error(const char *what, const char *path, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s '%s': %s", what, path,
                g_strerror(errno));
    return false;
}

static int
lock_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static char *
random_name(void)
{
    return g_strdup_printf("%08x%08x", g_random_int(), g_random_int());
}

// Where QEMU's user is not known, everybody may use what only the few who know the name can reach;
// nobody but a file's owner may remove or replace it.
static mode_t
shared_mode(void)
{
    return geteuid() == 0 ? 01777 : 0700;
}

// A sweep of somebody else may take a folder for a dead one's before it is locked.
#define MAKE_TRIES 3

static int
make_locked(const char *pattern, char **path)
{
    int lock = -1;
    for (int i = 0; i < MAKE_TRIES && lock < 0; i++) {
        g_free(*path);
        *path = g_strdup(pattern);
        if (!g_mkdtemp(*path))
            return -1;
        struct stat status;
        lock = lock_folder(*path);
        if (lock >= 0 && (fstat(lock, &status) < 0 || status.st_nlink == 0)) {
            close(lock);
            lock = -1;
        }
    }
    return lock;
}

VsHandover *
vs_handover_new(const char *parent, const char *label, GError **error)
{
    g_autoptr(VsHandover) handover = g_new0(VsHandover, 1);
    g_autofree char *name = g_strconcat(PREFIX, label, ".XXXXXX", NULL);
    g_autofree char *pattern = g_build_filename(parent, name, NULL);
    handover->lock = make_locked(pattern, &handover->outer);
    if (handover->lock < 0) {
        set_error("creating a folder like", pattern, error);
        g_clear_pointer(&handover->outer, g_free);
        return NULL;
    }
    g_autofree char *inner = random_name();
    handover->inner = g_build_filename(handover->outer, inner, NULL);
    if (mkdir(handover->inner, 0700) < 0 || chmod(handover->inner, shared_mode()) < 0 ||
        chmod(handover->outer, 0711) < 0) {
        set_error("preparing the folder", handover->outer, error);
        return NULL;
    }
    return g_steal_pointer(&handover);
}

bool
vs_handover_give_to(VsHandover *handover, uid_t user, gid_t group, GError **error)
{
    if (geteuid() != 0)
        return true;
    handover->has_user = true;
    handover->user = user;
    handover->group = group;
    return (chmod(handover->inner, 0700) == 0 && chown(handover->inner, user, group) == 0) ||
           set_error("giving to QEMU's user the folder", handover->inner, error);
}

bool
vs_handover_share(const VsHandover *handover, int fd, GError **error)
{
    bool ok = handover->has_user ? fchown(fd, handover->user, handover->group) == 0
                                 : geteuid() != 0 || fchmod(fd, 0666) == 0;
    return ok || set_error("giving to QEMU's user a file in", handover->inner, error);
}

// Unlinks what is in a folder, by descriptors: others may put there what they like, so nothing is
// followed and nothing descended into.
static void
empty_folder(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) // NOLINT(concurrency-mt-unsafe)
        if (entry->d_name[0] != '.')
            (void)unlinkat(fd, entry->d_name, 0);
    if (dir)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
}

static void
remove_folder(const char *outer)
{
    int fd = open(outer, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    g_autoptr(GDir) dir = fd >= 0 ? g_dir_open(outer, 0, NULL) : NULL;
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        empty_folder(fd, name);
        (void)unlinkat(fd, name, AT_REMOVEDIR);
    }
    if (fd >= 0)
        close(fd);
    rmdir(outer);
}

void
vs_handover_empty(VsHandover *handover)
{
    empty_folder(AT_FDCWD, handover->inner);
}

void
vs_handover_free(VsHandover *handover)
{
    if (!handover)
        return;
    if (handover->outer)
        remove_folder(handover->outer);
    if (handover->lock >= 0)
        close(handover->lock);
    g_free(handover->outer);
    g_free(handover->inner);
    g_free(handover);
}

bool
vs_handover_sweep(const char *parent, const char *label)
{
    g_autofree char *prefix = g_strconcat(PREFIX, label, ".", NULL);
    g_autoptr(GDir) dir = g_dir_open(parent, 0, NULL);
    bool found = false;
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(parent, name, NULL);
        struct stat status;
        if (!g_str_has_prefix(name, prefix) || lstat(path, &status) < 0 ||
            !S_ISDIR(status.st_mode) || status.st_uid != geteuid())
            continue;
        int lock = lock_folder(path);
        if (lock < 0)
            continue;
        found = true;
        remove_folder(path);
        close(lock);
    }
    return found;
}

// <parent>/virtsnap.….XXXXXX of <parent>/virtsnap.….XXXXXX/<random>/<file>.
static char *
outer_of(const char *path)
{
    g_autofree char *inner = g_path_get_dirname(path);
    return g_path_get_dirname(inner);
}

bool
vs_handover_has(const char *path, const char *label)
{
    g_autofree char *outer = outer_of(path);
    g_autofree char *name = g_path_get_basename(outer);
    g_autofree char *prefix = g_strconcat(PREFIX, label, label ? "." : NULL, NULL);
    return g_str_has_prefix(name, prefix);
}

bool
vs_handover_is_held(const char *path)
{
    g_autofree char *outer = outer_of(path);
    int fd = open(outer, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool held = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    return held;
}
