// SPDX-License-Identifier: LGPL-2.1-or-later
// Making a captured disk of a running domain readable: by its QEMU's NBD server (pull), or by
// qemu-nbd from the file that QEMU has copied the changes into (push).
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/libvirt-driver-private.h"
#include "plugin/hypervisor/offline-fleece.h"
#include "plugin/hypervisor/qemu-nbd.h"
#include "plugin/hypervisor/unix-socket.h"

#define STAGE_POLL_MS 200u
// How long after a failed pull to look whether the domain has stopped.
#define END_WAIT_MS 3000u

// Pull ------------------------------------------------------------------------------------------

// Once all are connected nobody else needs the socket's name.
static void
forget_socket_if_connected(VsLibvirtDriver *driver)
{
    for (unsigned i = 0; i < driver->capture_count; i++)
        if (!driver->captures[i].is_connected)
            return;
    vs_handover_empty(driver->socket_folder);
}

static bool
open_pull(VsLibvirtDriver *driver, VsLibvirtCapture *capture, VsPullSource *source, GError **error)
{
    const VsPointDisk *disk = capture->disk;
    g_autofree char *path = g_build_filename(driver->socket_folder->inner, VS_LIBVIRT_SOCKET, NULL);
    int fd = vs_unix_connect_nbd(path, error);
    if (fd < 0)
        return false;
    if (disk->disk->iothread)
        capture->held_connection = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    capture->is_connected = true;
    forget_socket_if_connected(driver);
    *source = (VsPullSource){.socket = fd,
                             .export_name = disk->snapshot_id,
                             .bitmap = disk->old_bitmap ? VS_LIBVIRT_EXPORT_BITMAP : NULL,
                             .live = true};
    return true;
}

// Push ------------------------------------------------------------------------------------------

static gboolean
on_timer(gpointer user_data)
{
    return G_SOURCE_CONTINUE;
}

static void
iterate_for(unsigned milliseconds)
{
    GMainContext *context = g_main_context_ref_thread_default();
    GSource *timer = g_timeout_source_new(milliseconds);
    g_source_set_callback(timer, on_timer, NULL, NULL);
    g_source_attach(timer, context);
    g_main_context_iteration(context, TRUE);
    g_source_destroy(timer);
    g_source_unref(timer);
    g_main_context_unref(context);
}

// libvirt copies all disks in one job, so that waiting is done once.
static bool
wait_for_copy(VsLibvirtDriver *driver, const VsStageReport *report, GCancellable *cancellable,
              GError **error)
{
    while (driver->has_job) {
        VsDomainJob job;
        if (vs_libvirt_is_lost(&driver->base, error) ||
            g_cancellable_set_error_if_cancelled(cancellable, error) ||
            !vs_domain_job(driver->domain, &job, error))
            return false;
        if (!job.is_active)
            break;
        report->func(job.done_bytes, job.total_bytes, report->user_data);
        iterate_for(STAGE_POLL_MS);
    }
    if (!driver->has_job)
        return true;
    if (!vs_domain_job_succeeded(driver->domain, error))
        return false;
    driver->has_job = false;
    return true;
}

// A descriptor without close-on-exec, for qemu-nbd.
static bool
inherit_scratch(VsLibvirtCapture *capture, GError **error)
{
    capture->inherited = dup(capture->scratch->fd);
    if (capture->inherited >= 0)
        return true;
    int code = errno;
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code),
                "duplicating the scratch file's descriptor: %s", g_strerror(code));
    return false;
}

static bool
open_push(VsLibvirtDriver *driver, VsLibvirtCapture *capture, VsPullSource *source, GError **error)
{
    if (!inherit_scratch(capture, error))
        return false;
    bool incremental = capture->disk->old_bitmap != NULL;
    capture->command = incremental ? vs_qemu_nbd_allocation(capture->inherited)
                                   : vs_qemu_nbd_staged(capture->inherited, NULL);
    *source = (VsPullSource){.socket = -1,
                             .command = (const char *const *)capture->command,
                             .export_name = "",
                             .allocated_only = incremental};
    return true;
}

bool
vs_libvirt_open_source(VsDriver *base, unsigned index, VsPullSource *source,
                       const VsStageReport *report, GCancellable *cancellable, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    VsLibvirtCapture *capture = &driver->captures[index];
    if (!driver->is_push)
        return open_pull(driver, capture, source, error);
    return wait_for_copy(driver, report, cancellable, error) &&
           open_push(driver, capture, source, error);
}

// Without QEMU ------------------------------------------------------------------------------------

// Whether the domain has stopped, or does so now.
static bool
wait_for_end(VsLibvirtDriver *driver, GCancellable *cancellable, GError **error)
{
    int64_t deadline_us = g_get_monotonic_time() + END_WAIT_MS * INT64_C(1000);
    g_autoptr(GError) lost = NULL;
    while (!vs_libvirt_is_lost(&driver->base, &lost) && g_get_monotonic_time() < deadline_us) {
        if (g_cancellable_set_error_if_cancelled(cancellable, error))
            return false;
        iterate_for(STAGE_POLL_MS);
    }
    if (!driver->is_push && g_error_matches(lost, VS_ERROR, VS_ERROR_INSTANCE_STATUS))
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "it was not QEMU's end that failed the pull");
    return false;
}

// All disks that are still to be read are looked at, and watched, before the first is.
static bool
go_offline(VsLibvirtDriver *driver, GCancellable *cancellable, GError **error)
{
    if (!wait_for_end(driver, cancellable, error))
        return false;
    g_autoptr(VsOfflineDisks) offline = vs_offline_disks_new();
    for (unsigned i = 0; i < driver->capture_count; i++) {
        const VsLibvirtCapture *capture = &driver->captures[i];
        if (!capture->is_done &&
            !vs_offline_disks_add(offline, capture->disk, capture->scratch->fd, cancellable, error))
            return false;
    }
    if (vs_offline_disks_is_lost(offline, error))
        return false;
    driver->has_job = false;
    g_clear_error(&driver->lost);
    driver->offline = g_steal_pointer(&offline);
    return true;
}

bool
vs_libvirt_reopen_source(VsDriver *base, unsigned index, VsPullSource *source,
                         GCancellable *cancellable, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    VsLibvirtCapture *capture = &driver->captures[index];
    const VsPointDisk *disk = capture->disk;
    if (capture->is_done) {
        g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS, "it is not watched any more");
        return false;
    }
    if ((!driver->offline && !go_offline(driver, cancellable, error)) ||
        !inherit_scratch(capture, error))
        return false;
    // The checkpoint's own bitmap has recorded since, and calls more dirty.
    g_clear_pointer(&capture->command, g_strfreev);
    capture->command = vs_offline_fleece_command(capture->inherited, disk->disk, disk->old_bitmap);
    *source = (VsPullSource){.socket = -1,
                             .command = (const char *const *)capture->command,
                             .export_name = "",
                             .bitmap = disk->old_bitmap};
    return true;
}

bool
vs_libvirt_detach_source(VsDriver *base, unsigned index, GError **error)
{
    return true; // the connection is held open where that matters
}

bool
vs_libvirt_close_source(VsDriver *base, unsigned index, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    VsLibvirtCapture *capture = &driver->captures[index];
    if (capture->inherited >= 0)
        close(capture->inherited);
    capture->inherited = -1;
    capture->is_done = true;
    if (driver->is_push)
        vs_libvirt_drop_scratch(driver, capture);
    for (unsigned i = 0; i < driver->capture_count; i++)
        if (!driver->captures[i].is_done)
            return true;
    // All has been read: that the job can't be ended now is settle's to tell.
    g_autoptr(GError) unended = NULL;
    if (!vs_libvirt_end_job(driver, &unended))
        g_debug("ending the backup job early: %s", unended->message);
    return true;
}
