// SPDX-License-Identifier: LGPL-2.1-or-later
// Making a captured disk readable over NBD: from the VM's QEMU (live), or by qemu-nbd from the
// staging file (staged).
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/offline-fleece.h"
#include "plugin/hypervisor/qemu-nbd.h"
#include "plugin/hypervisor/qmp-guard.h"
#include "plugin/hypervisor/unix-socket.h"

// Name of the bitmap that a staging image carries.
#define STAGED_BITMAP "dirty"
#define STAGE_POLL_MS 200u

// Live: QEMU's NBD server -----------------------------------------------------------------------

void
vs_qmp_driver_forget_server(VsQmpDriver *driver)
{
    if (driver->server_path)
        unlink(driver->server_path);
    if (driver->server_folder)
        rmdir(driver->server_folder);
    g_clear_pointer(&driver->server_path, g_free);
    g_clear_pointer(&driver->server_folder, g_free);
}

static bool
set_socket_error(const char *what, GError **error)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s the NBD socket: %s", what,
                g_strerror(errno));
    return false;
}

// A listening socket in a folder that only we may enter.
static int
listen_privately(VsQmpDriver *driver, GError **error)
{
    struct sockaddr_un address;
    vs_qmp_driver_forget_server(driver); // of a server that ended before all had connected
    driver->server_folder = g_dir_make_tmp("virtsnap-XXXXXX", error);
    if (!driver->server_folder)
        return -1;
    driver->server_path = g_build_filename(driver->server_folder, "nbd", NULL);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && vs_unix_address_init(&address, driver->server_path) &&
        bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 64) == 0)
        return fd;
    set_socket_error("creating", error);
    if (fd >= 0)
        close(fd);
    return -1;
}

// An empty file in a set that says whose the server is, and the node that keeps the set.
static bool
mark_server(VsQmpDriver *driver, GCancellable *cancellable, GError **error)
{
    int fd = memfd_create("virtsnap-server", MFD_CLOEXEC);
    if (fd < 0)
        return set_socket_error("marking", error);
    g_autofree char *label = g_strdup_printf("%s %s", driver->owner, VS_FDSET_SERVER);
    bool ok =
        vs_qmp_fdset_add(driver->client, fd, label, &driver->server_fdset, cancellable, error);
    close(fd);
    if (!ok)
        return false;
    g_free(driver->server_node);
    driver->server_node = vs_qmp_server_node(strrchr(driver->owner, ' ') + 1);
    g_autofree char *filename =
        g_strdup_printf("/dev/fdset/%" G_GINT64_FORMAT, driver->server_fdset);
    struct json_object *node =
        vs_qmp_args("driver", vs_qmp_str("file"), "node-name", vs_qmp_str(driver->server_node),
                    "filename", vs_qmp_str(filename), NULL);
    if (vs_qmp_node_add(driver->client, node, cancellable, error))
        return true;
    g_autoptr(GError) undo = NULL;
    if (!vs_qmp_fdset_remove(driver->client, driver->server_fdset, NULL, &undo))
        g_debug("taking the NBD server's mark away: %s", undo->message);
    return false;
}

static bool
unmark_server(VsQmpDriver *driver, GError **error)
{
    bool ok = vs_qmp_node_delete(driver->client, driver->server_node, NULL, error);
    return vs_qmp_fdset_remove(driver->client, driver->server_fdset, NULL, ok ? error : NULL) && ok;
}

// The mark comes before the server and goes after it: whoever finds it may stop a server without
// exports.
static bool
start_server(VsQmpDriver *driver, GCancellable *cancellable, GError **error)
{
    if (driver->has_server)
        return true;
    int fd = listen_privately(driver, error);
    if (fd < 0)
        return false;
    GError *failure = NULL;
    bool is_marked = mark_server(driver, cancellable, &failure);
    driver->has_server =
        is_marked && vs_qmp_nbd_server_start(driver->client, fd, cancellable, &failure);
    close(fd);
    g_autoptr(GError) unmarking = NULL;
    if (is_marked && !driver->has_server && !unmark_server(driver, &unmarking))
        g_debug("taking the NBD server's mark away: %s", unmarking->message);
    if (is_marked && g_error_matches(failure, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND))
        g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                    "QEMU's one NBD server can't be had: another may be in use there; stop that "
                    "(nbd-server-stop), or use --capture staged: %s",
                    failure->message);
    else if (failure)
        g_propagate_error(error, g_error_copy(failure));
    g_clear_error(&failure);
    return driver->has_server;
}

bool
vs_qmp_driver_stop_server(VsQmpDriver *driver, GError **error)
{
    if (!driver->has_server)
        return true;
    driver->has_server = false;
    GError *failure = NULL;
    bool ok = vs_qmp_nbd_server_stop(driver->client, NULL, &failure);
    // As long as it may run it stays marked. What QEMU refuses is to stop one that doesn't run.
    bool may_run = failure && !g_error_matches(failure, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND);
    if (!may_run && !unmark_server(driver, ok ? &failure : NULL))
        ok = false;
    if (failure)
        g_propagate_error(error, failure);
    return ok;
}

static bool
is_wanted(const VsPointDisk *disk)
{
    return disk->needs_source || disk->dirty_bytes > 0;
}

// Once every disk whose source is wanted is connected, nobody else needs the socket's name.
static void
forget_server_if_connected(VsQmpDriver *driver)
{
    for (unsigned i = 0; i < driver->capture_count; i++) {
        const VsQmpCapture *capture = &driver->captures[i];
        const VsPointDisk *disk = capture->disk;
        if (!disk->staged && !capture->is_connected && is_wanted(disk))
            return;
    }
    vs_qmp_driver_forget_server(driver);
}

static bool
open_live(VsQmpDriver *driver, VsQmpCapture *capture, VsPullSource *source,
          GCancellable *cancellable, GError **error)
{
    const VsPointDisk *disk = capture->disk;
    if (!start_server(driver, cancellable, error))
        return false;
    VsQmpExport export = {.id = capture->names.export_id,
                          .node = capture->names.fleece_node,
                          .name = disk->snapshot_id,
                          .bitmap_node = disk->disk->node,
                          .bitmap = capture->frozen};
    if (!vs_qmp_export_add(driver->client, &export, cancellable, error))
        return false;
    capture->has_export = true;
    int fd = vs_unix_connect_nbd(driver->server_path, error);
    if (fd < 0)
        return false;
    if (!vs_qmp_guard_connect(driver, capture, cancellable, error)) {
        close(fd);
        return false;
    }
    capture->is_connected = true;
    forget_server_if_connected(driver);
    *source = (VsPullSource){
        .socket = fd, .export_name = disk->snapshot_id, .bitmap = capture->frozen, .live = true};
    return true;
}

// Staged: QEMU copies, then lets go of the file -------------------------------------------------

typedef struct {
    VsQmpDriver *driver;
    VsQmpCapture *capture;
    const VsStageReport *report;
} Stage;

// Whether the copying has ended, in one way or the other.
static bool
has_concluded(Stage *stage, bool *concluded, GCancellable *cancellable, GError **error)
{
    g_autoptr(GPtrArray) jobs = vs_qmp_query_jobs(stage->driver->client, cancellable, error);
    if (!jobs)
        return false;
    *concluded = true;
    for (unsigned i = 0; i < jobs->len; i++) {
        const VsQmpJob *job = g_ptr_array_index(jobs, i);
        if (!g_str_equal(job->id, stage->capture->names.job))
            continue;
        *concluded = g_str_equal(job->status, "concluded");
        stage->report->func(job->current_progress, job->total_progress, stage->report->user_data);
    }
    return true;
}

static bool
never(gpointer user_data, GError **error)
{
    VsQmpDriver *driver = user_data;
    return driver->lost && vs_qmp_driver_is_lost(&driver->base, error);
}

static bool
wait_for_copy(Stage *stage, GCancellable *cancellable, GError **error)
{
    VsQmpClient *client = stage->driver->client;
    for (bool concluded = false; !concluded;) {
        if (!has_concluded(stage, &concluded, cancellable, error))
            return false;
        g_autoptr(GError) waited = NULL;
        if (!concluded &&
            !vs_qmp_client_wait(client, never, stage->driver, STAGE_POLL_MS, cancellable,
                                &waited) &&
            !g_error_matches(waited, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT)) {
            g_propagate_error(error, g_steal_pointer(&waited));
            return false;
        }
    }
    if (!vs_qmp_job_finish(client, stage->capture->names.job, VS_QMP_SETTLE_TIMEOUT_MS, cancellable,
                           error))
        return false;
    stage->capture->has_job = false;
    return true;
}

// The staging image takes the bitmap along that says which of its clusters count.
static bool
add_staged_bitmap(VsQmpDriver *driver, VsQmpCapture *capture, GCancellable *cancellable,
                  GError **error)
{
    if (!capture->frozen)
        return true;
    g_autoptr(VsQmpTransaction) transaction = vs_qmp_transaction_new();
    vs_qmp_transaction_bitmap_add(transaction,
                                  &(VsQmpBitmapAdd){.node = capture->names.fleece_node,
                                                    .name = STAGED_BITMAP,
                                                    .granularity_bytes = capture->granularity_bytes,
                                                    .persistent = true,
                                                    .disabled = true});
    vs_qmp_transaction_bitmap_merge(transaction, capture->names.fleece_node, STAGED_BITMAP,
                                    capture->disk->disk->node, capture->frozen);
    return vs_qmp_transaction_run(transaction, driver->client, cancellable, error);
}

// A descriptor without close-on-exec, for qemu-nbd.
static bool
inherit_scratch(VsQmpCapture *capture, GError **error)
{
    if (capture->inherited < 0)
        capture->inherited = dup(capture->scratch->fd);
    return capture->inherited >= 0 || set_socket_error("duplicating the scratch file for", error);
}

static void
set_staged_source(const VsQmpCapture *capture, VsPullSource *source)
{
    *source = (VsPullSource){.socket = -1,
                             .command = (const char *const *)capture->command,
                             .export_name = "",
                             .bitmap = capture->frozen ? STAGED_BITMAP : NULL};
}

static bool
open_staged(Stage *stage, VsPullSource *source, GCancellable *cancellable, GError **error)
{
    VsQmpCapture *capture = stage->capture;
    if (!wait_for_copy(stage, cancellable, error) ||
        !add_staged_bitmap(stage->driver, capture, cancellable, error) ||
        !vs_qmp_capture_remove(stage->driver->client, capture, error))
        return false;
    if (!inherit_scratch(capture, error))
        return false;
    capture->command =
        vs_qemu_nbd_staged(capture->inherited, capture->frozen ? STAGED_BITMAP : NULL);
    set_staged_source(capture, source);
    return true;
}

bool
vs_qmp_driver_open_source(VsDriver *base, unsigned index, VsPullSource *source,
                          const VsStageReport *report, GCancellable *cancellable, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    VsQmpCapture *capture = &driver->captures[index];
    if (!capture->disk->staged)
        return open_live(driver, capture, source, cancellable, error);
    Stage stage = {driver, capture, report};
    return open_staged(&stage, source, cancellable, error);
}

// Without QEMU ------------------------------------------------------------------------------------

static bool
has_ended(gpointer user_data, GError **error)
{
    return ((VsQmpDriver *)user_data)->has_ended;
}

static bool
set_end_error(const char *why, GError **error)
{
    g_set_error_literal(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS, why);
    return false;
}

// Whether QEMU has ended, in order, as far as it has told.
static bool
wait_for_end(VsQmpDriver *driver, GCancellable *cancellable, GError **error)
{
    bool was_lost =
        driver->lost && !g_error_matches(driver->lost, VS_QMP_ERROR, VS_QMP_ERROR_CLOSED);
    if (was_lost || (!driver->is_shutting_down && !driver->has_ended)) {
        g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "it was not QEMU's end that failed the pull");
        return false;
    }
    if (!driver->is_shutting_down)
        return set_end_error("QEMU did not end in order", error);
    g_autoptr(GError) late = NULL;
    if (!driver->has_ended && !vs_qmp_client_wait(driver->client, has_ended, driver,
                                                  VS_DRIVER_END_WAIT_MS, cancellable, &late))
        g_debug("waiting for QEMU's end: %s", late->message);
    return driver->has_ended || set_end_error("QEMU takes too long to end", error);
}

static bool
add_offline(VsOfflineDisks *offline, const VsQmpCapture *capture, GCancellable *cancellable,
            GError **error)
{
    if (capture->is_read || !is_wanted(capture->disk))
        return true;
    if (capture->disk->staged)
        return capture->command || set_end_error("QEMU had not copied all of it", error);
    return vs_offline_disks_add(offline, capture->disk, capture->scratch->fd, cancellable, error);
}

// Went with QEMU.
static void
forget_objects(VsQmpDriver *driver, VsQmpCapture *capture)
{
    capture->has_export = capture->has_job = capture->has_fleece = capture->has_mark = false;
    capture->has_guard = false;
    capture->has_file = capture->has_fdset = capture->was_paused = false;
    driver->has_server = false;
    vs_qmp_driver_forget_server(driver);
}

// All disks that are still to be read are looked at, and watched, before the first is.
static bool
go_offline(VsQmpDriver *driver, GCancellable *cancellable, GError **error)
{
    if (!wait_for_end(driver, cancellable, error))
        return false;
    g_autoptr(VsOfflineDisks) offline = vs_offline_disks_new();
    for (unsigned i = 0; i < driver->capture_count; i++)
        if (!add_offline(offline, &driver->captures[i], cancellable, error))
            return false;
    if (vs_offline_disks_is_lost(offline, error))
        return false;
    for (unsigned i = 0; i < driver->capture_count; i++)
        forget_objects(driver, &driver->captures[i]);
    driver->offline = g_steal_pointer(&offline);
    return true;
}

bool
vs_qmp_driver_reopen_source(VsDriver *base, unsigned index, VsPullSource *source,
                            GCancellable *cancellable, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    VsQmpCapture *capture = &driver->captures[index];
    const VsPointDisk *disk = capture->disk;
    if (capture->is_read)
        return set_end_error("it is not watched any more", error);
    if ((!driver->offline && !go_offline(driver, cancellable, error)) ||
        !inherit_scratch(capture, error))
        return false;
    if (disk->staged) {
        set_staged_source(capture, source);
        return true;
    }
    // The frozen bitmap is gone with QEMU; the old one has recorded since, and calls more dirty.
    g_clear_pointer(&capture->command, g_strfreev);
    capture->command = vs_offline_fleece_command(capture->inherited, disk->disk, disk->old_bitmap);
    *source = (VsPullSource){.socket = -1,
                             .command = (const char *const *)capture->command,
                             .export_name = "",
                             .bitmap = disk->old_bitmap};
    return true;
}

bool
vs_qmp_driver_detach_source(VsDriver *base, unsigned index, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    VsQmpCapture *capture = &driver->captures[index];
    if (!capture->has_export || capture->is_detached)
        return true;
    bool is_whole = vs_qmp_guard_confirm(driver, capture, error);
    g_autoptr(GError) failure = NULL;
    capture->is_detached =
        vs_qmp_export_begin_delete(driver->client, capture->names.export_id, NULL, &failure) ||
        driver->has_ended;
    if (is_whole && !capture->is_detached)
        g_propagate_error(error, g_steal_pointer(&failure));
    return is_whole && capture->is_detached;
}

bool
vs_qmp_driver_has_read_all(const VsQmpDriver *driver)
{
    for (unsigned i = 0; i < driver->capture_count; i++)
        if (is_wanted(driver->captures[i].disk) && !driver->captures[i].is_read)
            return false;
    return driver->capture_count > 0;
}

bool
vs_qmp_driver_close_source(VsDriver *base, unsigned index, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    VsQmpCapture *capture = &driver->captures[index];
    capture->is_read = true;
    if (capture->inherited >= 0)
        close(capture->inherited);
    capture->inherited = -1;
    GError *failure = NULL;
    if (!vs_qmp_capture_remove(driver->client, capture, &failure) && !driver->has_ended) {
        g_propagate_error(error, failure);
        return false;
    }
    g_clear_error(&failure);
    if (driver->has_ended) {
        // Where it may only have hung up they are still there, and the scratch is in use.
        if (driver->is_shutting_down)
            forget_objects(driver, capture);
        return true;
    }
    for (unsigned i = 0; i < driver->capture_count; i++)
        if (driver->captures[i].has_export)
            return true;
    return vs_qmp_driver_stop_server(driver, error);
}
