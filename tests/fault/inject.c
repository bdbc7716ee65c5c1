/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A fault at the Nth call across one of the program's boundaries, by standing in for libc
 * (LD_PRELOAD), so that the program itself knows nothing of it.
 *
 *   VIRTSNAP_FAULT=BOUNDARY:ACTION:N
 *     BOUNDARY  store       what changes files in VIRTSNAP_FAULT_REPO, but for the catalogue
 *               catalogue   the same of catalogue.db and what SQLite has beside it
 *               qmp, nbd    messages over sockets named "….qmp"; "…nbd" or "sock"
 *               libvirt     messages over a socket named "…libvirt-sock"
 *     ACTION    eio, enospc  the call fails so (files)
 *               hangup       the socket is shut down first (sockets)
 *               stall        from here on the peers answer nothing, nor hang up (sockets), and to
 *                            the process all waits are a tenth as long as it asks for
 *               kill         SIGKILL instead of the call
 *               peerkill     SIGKILL to VIRTSNAP_FAULT_PEER, and the call once that is gone
 *               peerquit     the same with SIGTERM, but for the waiting
 *               count        nothing; N is ignored
 *   VIRTSNAP_FAULT_COUNT=FILE  gets the number of calls that there were, when the process ends
 *   VIRTSNAP_FAULT_PEER=PID    of the peer
 *
 * Children don't inherit it. A call is counted when it begins.
 */
#undef _FILE_OFFSET_BITS /* it renames what is to be stood in for */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PEER_GONE_MS 10000
#define SOCKETS 200 /* more than any process under test has */
#define HASTE 10    /* of the time after a stall */

enum boundary { NOWHERE, STORE, CATALOGUE, QMP, NBD, LIBVIRT };

static struct {
    enum boundary boundary;
    char action[16];
    unsigned long at;
    pid_t peer;
    char repository[PATH_MAX];
    char count_path[PATH_MAX];
} plan;
static atomic_ulong calls;
static atomic_llong stalled_ns; /* when, or 0 */

static enum boundary
boundary_of(const char *name)
{
    static const char *const names[] = {"", "store", "catalogue", "qmp", "nbd", "libvirt"};
    for (int i = STORE; i <= LIBVIRT; i++)
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
    const char *peer = getenv("VIRTSNAP_FAULT_PEER");
    char name[16] = "";
    if (text != NULL && sscanf(text, "%15[^:]:%15[^:]:%lu", name, plan.action, &plan.at) == 3)
        plan.boundary = boundary_of(name);
    plan.peer = peer != NULL ? (pid_t)atoi(peer) : 0;
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
boundary_of_address(const struct sockaddr *address)
{
    const char *path = ((const struct sockaddr_un *)(const void *)address)->sun_path;
    if (address->sa_family != AF_UNIX)
        return NOWHERE;
    if (ends_with(path, ".qmp"))
        return QMP;
    if (ends_with(path, "/libvirt-sock"))
        return LIBVIRT;
    return ends_with(path, "nbd") || ends_with(path, "/sock") ? NBD : NOWHERE;
}

static enum boundary
boundary_of_socket(int fd)
{
    struct sockaddr_un address = {0};
    socklen_t length = sizeof address - 1;
    int saved = errno;
    int failed = getpeername(fd, (struct sockaddr *)&address, &length);
    errno = saved;
    return failed != 0 ? NOWHERE : boundary_of_address((const struct sockaddr *)&address);
}

static long long
nanoseconds(void)
{
    struct timespec now;
    (void)syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static struct {
    atomic_int own, other_end; /* 0: none */
} silenced[SOCKETS];

/*
 * The process gets a socket that nobody writes to in place of its own. That one stays open, unread,
 * until the process closes the other, so that the peer does not know either.
 */
static void
silence(int socket)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int pair[2];
    (void)pthread_mutex_lock(&lock);
    int flags = fcntl(socket, F_GETFL), descriptor_flags = fcntl(socket, F_GETFD);
    if (socket < SOCKETS && boundary_of_socket(socket) == plan.boundary &&
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
        silenced[socket].own = fcntl(socket, F_DUPFD_CLOEXEC, SOCKETS);
        silenced[socket].other_end = pair[1];
        (void)dup2(pair[0], socket);
        (void)fcntl(socket, F_SETFL, flags);
        (void)fcntl(socket, F_SETFD, descriptor_flags);
        (void)syscall(SYS_close, pair[0]);
        long long none = 0;
        (void)atomic_compare_exchange_strong(&stalled_ns, &none, nanoseconds());
    }
    (void)pthread_mutex_unlock(&lock);
}

static void
end_peer(int number, bool is_waited_for)
{
    if (plan.peer <= 0)
        abort();
    struct pollfd gone = {.fd = (int)syscall(SYS_pidfd_open, plan.peer, 0), .events = POLLIN};
    (void)kill(plan.peer, number);
    if (is_waited_for && poll(&gone, 1, PEER_GONE_MS) != 1)
        abort();
    (void)close(gone.fd);
}

/* Whether the call is to fail; errno is set then. */
static bool
strike(enum boundary boundary, int socket)
{
    if (boundary == NOWHERE || boundary != plan.boundary)
        return false;
    unsigned long call = atomic_fetch_add(&calls, 1) + 1;
    if (strcmp(plan.action, "stall") == 0 && call >= plan.at)
        silence(socket);
    if (call != plan.at)
        return false;
    if (strcmp(plan.action, "kill") == 0)
        (void)kill(getpid(), SIGKILL);
    if (strcmp(plan.action, "hangup") == 0)
        (void)shutdown(socket, SHUT_RDWR);
    if (strcmp(plan.action, "peerkill") == 0)
        end_peer(SIGKILL, true);
    if (strcmp(plan.action, "peerquit") == 0)
        end_peer(SIGTERM, false);
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
STAND_IN(ssize_t, read, boundary_of_socket(fd), fd, (int fd, void *data, size_t length), fd, data,
         length)
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

/* After a stall: new connections are silent too, and time flies. */
int
connect(int fd, const struct sockaddr *address, socklen_t length)
{
    static int (*real)(int, const struct sockaddr *, socklen_t);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "connect");
    int result = real(fd, address, length);
    if (result == 0 && atomic_load(&stalled_ns) != 0)
        silence(fd);
    return result;
}

int
close(int fd)
{
    if (fd >= 0 && fd < SOCKETS && atomic_load(&silenced[fd].own) != 0) {
        (void)syscall(SYS_close, atomic_exchange(&silenced[fd].own, 0));
        (void)syscall(SYS_close, atomic_exchange(&silenced[fd].other_end, 0));
    }
    return (int)syscall(SYS_close, fd);
}

int
poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    static int (*real)(struct pollfd *, nfds_t, int);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "poll");
    bool is_hasty = timeout_ms > 0 && atomic_load(&stalled_ns) != 0;
    return real(fds, count, is_hasty ? (timeout_ms + HASTE - 1) / HASTE : timeout_ms);
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    long long from_ns = atomic_load(&stalled_ns);
    if (clock != CLOCK_MONOTONIC || from_ns == 0)
        return real(clock, now);
    long long at_ns = from_ns + (nanoseconds() - from_ns) * HASTE;
    now->tv_sec = (time_t)(at_ns / 1000000000);
    now->tv_nsec = (long)(at_ns % 1000000000);
    return 0;
}
