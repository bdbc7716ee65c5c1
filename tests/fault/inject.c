/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A fault at the Nth call across one of the program's boundaries, by standing in for libc
 * (LD_PRELOAD), so that the program itself knows nothing of it.
 *
 *   VIRTSNAP_FAULT=BOUNDARY:ACTION:N
 *     BOUNDARY  store       what changes files in VIRTSNAP_FAULT_REPO, but for the catalogue
 *               catalogue   the same of catalogue.db and what SQLite has beside it
 *               qmp, nbd    messages over sockets named "….qmp", "…nbd" or "…sock"
 *     ACTION    eio, enospc  the call fails so (files)
 *               hangup       the socket is shut down first (sockets)
 *               kill         SIGKILL instead of the call
 *               count        nothing; N is ignored
 *   VIRTSNAP_FAULT_COUNT=FILE  gets the number of calls that there were, when the process ends
 *
 * Children don't inherit it. A call is counted when it begins.
 */
#undef _FILE_OFFSET_BITS /* it renames what is to be stood in for */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum boundary { NOWHERE, STORE, CATALOGUE, QMP, NBD };

static struct {
    enum boundary boundary;
    char action[16];
    unsigned long at;
    char repository[PATH_MAX];
    char count_path[PATH_MAX];
} plan;
static atomic_ulong calls;

static enum boundary
boundary_of(const char *name)
{
    static const char *const names[] = {"", "store", "catalogue", "qmp", "nbd"};
    for (int i = STORE; i <= NBD; i++)
        if (strcmp(name, names[i]) == 0)
            return (enum boundary)i;
    return NOWHERE;
}

__attribute__((constructor)) static void
begin(void)
{
    const char *text = getenv("VIRTSNAP_FAULT");
    const char *repository = getenv("VIRTSNAP_FAULT_REPO");
    const char *count_path = getenv("VIRTSNAP_FAULT_COUNT");
    char name[16] = "";
    if (text != NULL && sscanf(text, "%15[^:]:%15[^:]:%lu", name, plan.action, &plan.at) == 3)
        plan.boundary = boundary_of(name);
    (void)snprintf(plan.repository, sizeof plan.repository, "%s/", repository ? repository : "");
    (void)snprintf(plan.count_path, sizeof plan.count_path, "%s", count_path ? count_path : "");
    (void)unsetenv("LD_PRELOAD");
    (void)unsetenv("VIRTSNAP_FAULT");
}

__attribute__((destructor)) static void
end(void)
{
    FILE *file = plan.count_path[0] != '\0' ? fopen(plan.count_path, "w") : NULL;
    if (file == NULL)
        return;
    (void)fprintf(file, "%lu\n", atomic_load(&calls));
    (void)fclose(file);
}

static enum boundary
boundary_of_path(const char *path)
{
    if (strncmp(path, plan.repository, strlen(plan.repository)) != 0)
        return NOWHERE;
    return strstr(path, "/catalogue.db") != NULL ? CATALOGUE : STORE;
}

static enum boundary
boundary_of_file(int fd)
{
    char link[64], path[PATH_MAX];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    return boundary_of_path(path);
}

/* Of a name in a folder; a folder of the store is in it too. */
static enum boundary
boundary_of_name(int folder, const char *name)
{
    if (name[0] == '/' || folder == AT_FDCWD)
        return boundary_of_path(name);
    return boundary_of_file(folder) == NOWHERE ? NOWHERE : STORE;
}

static bool
ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static enum boundary
boundary_of_socket(int fd)
{
    struct sockaddr_un address = {0};
    socklen_t length = sizeof address - 1;
    int saved = errno;
    int failed = getpeername(fd, (struct sockaddr *)&address, &length);
    errno = saved;
    if (failed != 0 || address.sun_family != AF_UNIX)
        return NOWHERE;
    if (ends_with(address.sun_path, ".qmp"))
        return QMP;
    return ends_with(address.sun_path, "nbd") || ends_with(address.sun_path, "/sock") ? NBD
                                                                                      : NOWHERE;
}

/* Whether the call is to fail; errno is set then. */
static bool
strike(enum boundary boundary, int socket)
{
    if (boundary == NOWHERE || boundary != plan.boundary)
        return false;
    if (atomic_fetch_add(&calls, 1) + 1 != plan.at)
        return false;
    if (strcmp(plan.action, "kill") == 0)
        (void)kill(getpid(), SIGKILL);
    if (strcmp(plan.action, "hangup") == 0)
        (void)shutdown(socket, SHUT_RDWR);
    errno = strcmp(plan.action, "enospc") == 0 ? ENOSPC : EIO;
    return strcmp(plan.action, "eio") == 0 || strcmp(plan.action, "enospc") == 0;
}

/* Each NAME of libc, with what boundary its arguments say. */
#define STAND_IN(type, name, boundary, socket, parameters, ...)                                    \
    type name parameters;                                                                          \
    type name parameters                                                                           \
    {                                                                                              \
        static type(*real) parameters;                                                             \
        if (real == NULL)                                                                          \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        if (strike(boundary, socket))                                                              \
            return -1;                                                                             \
        return real(__VA_ARGS__);                                                                  \
    }

static enum boundary
boundary_of_stream(int fd)
{
    enum boundary boundary = boundary_of_file(fd);
    return boundary != NOWHERE ? boundary : boundary_of_socket(fd);
}

STAND_IN(ssize_t, write, boundary_of_stream(fd), fd, (int fd, const void *data, size_t length), fd,
         data, length)
STAND_IN(ssize_t, pwrite, boundary_of_file(fd), fd,
         (int fd, const void *data, size_t length, off_t offset), fd, data, length, offset)
STAND_IN(ssize_t, pwrite64, boundary_of_file(fd), fd,
         (int fd, const void *data, size_t length, off_t offset), fd, data, length, offset)
STAND_IN(ssize_t, writev, boundary_of_stream(fd), fd,
         (int fd, const struct iovec *parts, int count), fd, parts, count)
STAND_IN(int, fsync, boundary_of_file(fd), fd, (int fd), fd)
STAND_IN(int, fdatasync, boundary_of_file(fd), fd, (int fd), fd)
STAND_IN(int, ftruncate, boundary_of_file(fd), fd, (int fd, off_t length), fd, length)
STAND_IN(int, ftruncate64, boundary_of_file(fd), fd, (int fd, off_t length), fd, length)
STAND_IN(int, rename, boundary_of_path(to), -1, (const char *from, const char *to), from, to)
STAND_IN(int, renameat, boundary_of_name(to_folder, to), -1,
         (int from_folder, const char *from, int to_folder, const char *to), from_folder, from,
         to_folder, to)
STAND_IN(int, renameat2, boundary_of_name(to_folder, to), -1,
         (int from_folder, const char *from, int to_folder, const char *to, unsigned flags),
         from_folder, from, to_folder, to, flags)
STAND_IN(int, linkat, boundary_of_name(to_folder, to), -1,
         (int from_folder, const char *from, int to_folder, const char *to, int flags), from_folder,
         from, to_folder, to, flags)
STAND_IN(int, unlink, boundary_of_path(path), -1, (const char *path), path)
STAND_IN(int, unlinkat, boundary_of_name(folder, name), -1,
         (int folder, const char *name, int flags), folder, name, flags)
STAND_IN(int, mkdirat, boundary_of_name(folder, name), -1,
         (int folder, const char *name, mode_t mode), folder, name, mode)
STAND_IN(ssize_t, send, boundary_of_socket(fd), fd,
         (int fd, const void *data, size_t length, int flags), fd, data, length, flags)
STAND_IN(ssize_t, recv, boundary_of_socket(fd), fd, (int fd, void *data, size_t length, int flags),
         fd, data, length, flags)
STAND_IN(ssize_t, sendmsg, boundary_of_socket(fd), fd,
         (int fd, const struct msghdr *message, int flags), fd, message, flags)
STAND_IN(ssize_t, recvmsg, boundary_of_socket(fd), fd, (int fd, struct msghdr *message, int flags),
         fd, message, flags)
