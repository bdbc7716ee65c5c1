// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/storage-daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugin/hypervisor/unix-socket.h"
#include "qmp/job.h"

#define START_TIMEOUT_MS 10000u
#define QUIT_TIMEOUT_MS 10000u
// The daemon's descriptor of the listening socket, and how it is told.
#define LISTEN_FD 3
#define LISTEN_OPTIONS "socket,id=qmp,fd=3,server=on,wait=on"
#define SAID_MAX_BYTES 4096

struct _VsStorageDaemon {
    GSubprocess *process;
    VsQmpClient *client;
    int output; // a nameless file that gets all it prints
};

// Starting --------------------------------------------------------------------------------------

// A listening socket in a folder that only we may enter.
typedef struct {
    char *folder;
    char *path;
    int fd;
} Meeting;

static void
meeting_clear(Meeting *meeting)
{
    if (meeting->fd >= 0)
        close(meeting->fd);
    if (meeting->path)
        g_unlink(meeting->path);
    if (meeting->folder)
        g_rmdir(meeting->folder);
    g_free(meeting->path);
    g_free(meeting->folder);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Meeting, meeting_clear)

static bool
set_errno_error(const char *what, GError **error)
{
    int code = errno;
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code), "%s for the storage daemon: %s",
                what, g_strerror(code));
    return false;
}

static bool
meeting_init(Meeting *meeting, GError **error)
{
    struct sockaddr_un address;
    meeting->folder = g_dir_make_tmp("virtsnap-XXXXXX", error);
    if (!meeting->folder)
        return false;
    meeting->path = g_build_filename(meeting->folder, "qmp", NULL);
    if (!vs_unix_address_init(&address, meeting->path))
        return set_errno_error("naming a socket", error);
    meeting->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return (meeting->fd >= 0 &&
            bind(meeting->fd, (struct sockaddr *)&address, sizeof address) == 0 &&
            listen(meeting->fd, 1) == 0) ||
           set_errno_error("creating a socket", error);
}

// In the child: only functions that are safe after fork(). The signal comes when the parent's
// thread ends; should that have happened already, nobody will send it.
static void
tie_to_parent(gpointer parent)
{
    setsid();
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != GPOINTER_TO_INT(parent))
        _exit(1);
}

// wait=on: the daemon accepts us before it makes its monitor. Otherwise two of its threads may both
// see that we have come, while the monitor moves to its own one; the second waits in accept() for
// ever then (QEMU 7.2; the socket is not a blocking one for the same reason).
static bool
spawn(VsStorageDaemon *daemon, Meeting *meeting, GError **error)
{
    const char *command[] = {"qemu-storage-daemon", "--chardev",   LISTEN_OPTIONS,
                             "--monitor",           "chardev=qmp", NULL};
    daemon->output = memfd_create("virtsnap-storage-daemon", MFD_CLOEXEC);
    int copy = daemon->output >= 0 ? fcntl(daemon->output, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy < 0)
        return set_errno_error("creating a file", error);
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_SILENCE);
    g_subprocess_launcher_take_stderr_fd(launcher, copy);
    g_subprocess_launcher_take_fd(launcher, meeting->fd, LISTEN_FD);
    meeting->fd = -1;
    g_subprocess_launcher_set_child_setup(launcher, tie_to_parent, GINT_TO_POINTER(getpid()), NULL);
    daemon->process = g_subprocess_launcher_spawnv(launcher, command, error);
    return daemon->process != NULL;
}

VsStorageDaemon *
vs_storage_daemon_start(GCancellable *cancellable, GError **error)
{
    g_auto(Meeting) meeting = {.fd = -1};
    g_autoptr(VsStorageDaemon) daemon = g_new0(VsStorageDaemon, 1);
    daemon->output = -1;
    if (!meeting_init(&meeting, error) || !spawn(daemon, &meeting, error))
        return NULL;
    GError *failure = NULL;
    daemon->client = vs_qmp_client_connect(meeting.path, START_TIMEOUT_MS, cancellable, &failure);
    if (daemon->client)
        return g_steal_pointer(&daemon);
    g_autofree char *said = vs_storage_daemon_said(daemon);
    g_propagate_prefixed_error(error, failure, "starting qemu-storage-daemon: %s%s", said,
                               said[0] ? ": " : "");
    return NULL;
}

VsQmpClient *
vs_storage_daemon_client(VsStorageDaemon *daemon)
{
    return daemon->client;
}

char *
vs_storage_daemon_said(const VsStorageDaemon *daemon)
{
    struct stat status;
    char text[SAID_MAX_BYTES + 1];
    if (daemon->output < 0 || fstat(daemon->output, &status) < 0)
        return g_strdup("");
    off_t from = MAX(0, status.st_size - SAID_MAX_BYTES);
    ssize_t length = pread(daemon->output, text, SAID_MAX_BYTES, from);
    text[MAX(length, 0)] = '\0';
    g_strchomp(text);
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    if (g_str_has_prefix(line, "qemu-storage-daemon: "))
        line += strlen("qemu-storage-daemon: ");
    bool is_remark = g_str_has_prefix(line, "info: ") || g_str_has_prefix(line, "warning: ");
    return is_remark ? g_strdup("") : g_utf8_make_valid(line, -1);
}

// Ending ----------------------------------------------------------------------------------------

typedef struct {
    bool has_exited;
    bool is_late;
} Ending;

static void
on_exited(GObject *source, GAsyncResult *result, gpointer user_data)
{
    Ending *ending = user_data;
    ending->has_exited = g_subprocess_wait_finish(G_SUBPROCESS(source), result, NULL);
    ending->is_late |= !ending->has_exited;
}

static gboolean
on_late(gpointer cancellable)
{
    g_cancellable_cancel(cancellable);
    return G_SOURCE_REMOVE;
}

static bool
wait_for_exit(GSubprocess *process, unsigned timeout_ms)
{
    g_autoptr(GMainContext) context = g_main_context_ref_thread_default();
    g_autoptr(GCancellable) late = g_cancellable_new();
    g_autoptr(GSource) timer = g_timeout_source_new(timeout_ms);
    g_source_set_callback(timer, on_late, late, NULL);
    g_source_attach(timer, context);
    Ending ending = {0};
    g_subprocess_wait_async(process, late, on_exited, &ending);
    while (!ending.has_exited && !ending.is_late)
        g_main_context_iteration(context, TRUE);
    g_source_destroy(timer);
    return ending.has_exited;
}

void
vs_storage_daemon_stop(VsStorageDaemon *daemon)
{
    if (!daemon)
        return;
    if (daemon->process) {
        g_autoptr(GError) deaf = NULL;
        if (!daemon->client || !vs_qmp_client_do(daemon->client, "quit", NULL, NULL, &deaf))
            g_subprocess_send_signal(daemon->process, SIGTERM);
        if (!wait_for_exit(daemon->process, QUIT_TIMEOUT_MS))
            g_subprocess_force_exit(daemon->process);
    }
    vs_qmp_client_free(daemon->client);
    g_clear_object(&daemon->process);
    if (daemon->output >= 0)
        close(daemon->output);
    g_free(daemon);
}

// Images ----------------------------------------------------------------------------------------

// A local disk that is a device (a logical volume) has another protocol driver.
static const char *
protocol_of(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISBLK(status.st_mode) ? "host_device" : "file";
}

bool
vs_storage_daemon_open(VsStorageDaemon *daemon, const char *node, const char *path,
                       VsStorageMode mode, GError **error)
{
    struct json_object *file = vs_qmp_args("driver", vs_qmp_str(protocol_of(path)), "filename",
                                           vs_qmp_str(path), "locking", vs_qmp_str("on"), NULL);
    struct json_object *image =
        vs_qmp_args("driver", vs_qmp_str("qcow2"), "node-name", vs_qmp_str(node), "read-only",
                    vs_qmp_bool(mode != VS_STORAGE_WRITE), "force-share",
                    vs_qmp_bool(mode == VS_STORAGE_READ_SHARED), "file", file, NULL);
    json_object_object_add(image, "backing", NULL);
    return vs_qmp_node_add(daemon->client, image, NULL, error);
}

bool
vs_storage_daemon_close(VsStorageDaemon *daemon, const char *node, GError **error)
{
    return vs_qmp_node_delete(daemon->client, node, NULL, error);
}
