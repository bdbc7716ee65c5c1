// SPDX-License-Identifier: LGPL-2.1-or-later
// flock(2) goes with its process, so a lock that can be had says that nobody works on the instance.
// Telling takes the lock in passing, shared and for an instant; who wants it for himself therefore
// tries for a moment before he believes that it is held.
#include "plugin/catalogue/catalogue-private.h"
#include "plugin/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRY_AGAIN_US 2000
#define INSTANCE_LOCK_TIMEOUT_MS 100

static int
open_lock(const VsCatalogue *catalogue, const char *name, int flags)
{
    g_autofree char *path =
        g_build_filename(vs_repository_path(catalogue->repository), "locks", name, NULL);
    return open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

int
vs_catalogue_open_lock(VsCatalogue *catalogue, const char *name, GError **error)
{
    int fd = open_lock(catalogue, name, O_RDWR | O_CREAT);
    if (fd < 0 && errno == ENOENT) {
        g_autofree char *folder =
            g_build_filename(vs_repository_path(catalogue->repository), "locks", NULL);
        if (mkdir(folder, 0700) == 0 || errno == EEXIST)
            fd = open_lock(catalogue, name, O_RDWR | O_CREAT);
    }
    if (fd < 0)
        g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "lock %s of repository %s: open: %s", name,
                    vs_repository_path(catalogue->repository), g_strerror(errno));
    return fd;
}

bool
vs_catalogue_take_lock(int fd, unsigned timeout_ms)
{
    int64_t deadline_us = g_get_monotonic_time() + (int64_t)timeout_ms * 1000;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK || g_get_monotonic_time() >= deadline_us)
            return false;
        g_usleep(TRY_AGAIN_US);
    }
    return true;
}

bool
vs_catalogue_is_instance_busy(VsCatalogue *catalogue, const char *instance_id)
{
    if (!vs_id_is_valid(instance_id, "i-") && !vs_id_is_valid(instance_id, "d-"))
        return false;
    int fd = open_lock(catalogue, instance_id, O_RDONLY);
    if (fd < 0)
        return false;
    bool held = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

// The ids of the instance's snapshots in progress, for people: "s-…, s-…".
static char *
describe_progressing(VsCatalogue *catalogue, const char *instance_id)
{
    g_autoptr(sqlite3_stmt) query =
        vs_sql_query(catalogue->db, NULL,
                     "SELECT group_concat(id, ', ') FROM snapshot WHERE status=? AND"
                     " ? IN (instance_id, disk_id)",
                     "is", (int64_t)VS_STATUS_PROGRESSING, instance_id);
    bool row;
    if (query == NULL || !vs_sql_next(query, &row, NULL) || !row)
        return NULL;
    return vs_sql_text(query, 0);
}

// The lock is ours: what others left as progressing belongs to nobody any more.
static bool
settle(VsCatalogue *catalogue, const char *instance_id, GError **error)
{
    return vs_catalogue_sync(catalogue, error) &&
           vs_sql_run(catalogue->db, error,
                      "UPDATE snapshot SET status=?, error=?, remaining=-1 WHERE status=? AND"
                      " ? IN (instance_id, disk_id)",
                      "isis", (int64_t)VS_STATUS_FAILED, VS_CATALOGUE_ABANDONED,
                      (int64_t)VS_STATUS_PROGRESSING, instance_id);
}

int
vs_catalogue_lock_instance(VsCatalogue *catalogue, const char *instance_id, GError **error)
{
    if (!vs_id_is_valid(instance_id, "i-") && !vs_id_is_valid(instance_id, "d-")) {
        g_autofree char *quoted = vs_error_quote(instance_id);
        g_set_error(error, VS_ERROR, VS_ERROR_NO_SUCH_INSTANCE, "lock: %s is not an instance id",
                    quoted);
        return -1;
    }
    int fd = vs_catalogue_open_lock(catalogue, instance_id, error);
    if (fd < 0)
        return -1;
    if (vs_catalogue_take_lock(fd, INSTANCE_LOCK_TIMEOUT_MS)) {
        if (settle(catalogue, instance_id, error))
            return fd;
    } else if (errno == EWOULDBLOCK) {
        g_autofree char *ids = describe_progressing(catalogue, instance_id);
        g_set_error(error, VS_ERROR, VS_ERROR_BUSY,
                    "%s: a snapshot is in progress (%s): wait for it, or cancel it", instance_id,
                    ids != NULL ? ids : "just begun");
    } else {
        g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "%s: lock: %s", instance_id,
                    g_strerror(errno));
    }
    close(fd);
    return -1;
}

// Abandoned work --------------------------------------------------------------------------------

// A name or a path, and a URI; what is longer than this was not written by us.
#define NOTE_MAX_BYTES 8192

// "INSTANCE\nURI". A path may have line feeds in it, a URI has none.
bool
vs_catalogue_note_work(int lock, const char *instance, const char *connect_uri, GError **error)
{
    g_autofree char *note =
        instance != NULL ? g_strdup_printf("%s\n%s", instance, connect_uri ? connect_uri : "")
                         : g_strdup("");
    size_t length = strlen(note);
    if (ftruncate(lock, 0) == 0 && pwrite(lock, note, length, 0) == (ssize_t)length)
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "noting what is worked on: %s",
                g_strerror(errno));
    return false;
}

void
vs_abandoned_free(VsAbandoned *abandoned)
{
    if (abandoned == NULL)
        return;
    g_free(abandoned->id);
    g_free(abandoned->instance);
    g_free(abandoned->connect_uri);
    g_free(abandoned);
}

// What is noted there, NULL: nothing, or somebody is at work.
static char *
read_note(const VsCatalogue *catalogue, const char *id)
{
    char note[NOTE_MAX_BYTES];
    int fd = open_lock(catalogue, id, O_RDONLY);
    if (fd < 0)
        return NULL;
    ssize_t length = flock(fd, LOCK_SH | LOCK_NB) == 0 ? pread(fd, note, sizeof note, 0) : 0;
    close(fd);
    bool is_note =
        length > 0 && (size_t)length < sizeof note && memchr(note, '\0', (size_t)length) == NULL;
    return is_note ? g_strndup(note, (gsize)length) : NULL;
}

GPtrArray *
vs_catalogue_list_abandoned(VsCatalogue *catalogue, GError **error)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)vs_abandoned_free);
    g_autofree char *path =
        g_build_filename(vs_repository_path(catalogue->repository), "locks", NULL);
    g_autoptr(GDir) folder = g_dir_open(path, 0, error);
    if (folder == NULL)
        return NULL;
    for (const char *id; (id = g_dir_read_name(folder)) != NULL;) {
        if (!vs_id_is_valid(id, "i-") && !vs_id_is_valid(id, "d-"))
            continue;
        g_autofree char *note = read_note(catalogue, id);
        char *end = note != NULL ? strrchr(note, '\n') : NULL;
        if (end == NULL)
            continue;
        *end = '\0';
        VsAbandoned *abandoned = g_new(VsAbandoned, 1);
        *abandoned =
            (VsAbandoned){g_strdup(id), g_strdup(note), end[1] != '\0' ? g_strdup(end + 1) : NULL};
        g_ptr_array_add(all, abandoned);
    }
    return g_steal_pointer(&all);
}
