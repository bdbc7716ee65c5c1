// SPDX-License-Identifier: LGPL-2.1-or-later
// A point in time of a running domain: scratch files, the backup job, its end.
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/libvirt-driver-private.h"
#include "qmp/block.h"

// How often the domain's state is asked for while its disks are read.
#define LOOK_INTERVAL_US (100 * 1000)
// A connection that has been silent for so long has nothing more to say.
#define DRAIN_QUIET_MS 200
#define THAW_TRIES 3

// Before the point in time ----------------------------------------------------------------------

// The socket's folder is also what tells after our death that we had begun: it is made for push,
// too, since nobody remembers which scratch folder was asked for.
static bool
make_folders(VsLibvirtDriver *driver, const VsPoint *point, GError **error)
{
    const char *parent =
        point->scratch.folder ? point->scratch.folder : vs_scratch_default_folder();
    vs_handover_sweep(parent, driver->label);
    driver->socket_folder = vs_handover_new(g_get_tmp_dir(), driver->short_label, error);
    if (!driver->socket_folder)
        return false;
    driver->scratch_folder = vs_handover_new(parent, driver->label, error);
    if (!driver->scratch_folder)
        return false;
    uid_t user;
    gid_t group;
    return !vs_domain_owner(driver->domain, &user, &group) ||
           (vs_handover_give_to(driver->scratch_folder, user, group, error) &&
            vs_handover_give_to(driver->socket_folder, user, group, error));
}

static bool
prepare(VsLibvirtDriver *driver, VsLibvirtCapture *capture, VsPointDisk *disk,
        const VsScratchOptions *scratch, GError **error)
{
    capture->disk = disk;
    capture->scratch = vs_scratch_new_named(driver->scratch_folder->inner, disk->snapshot_id,
                                            scratch->most_bytes, error);
    return capture->scratch &&
           vs_scratch_format(capture->scratch, disk->disk->virtual_size_bytes, error) &&
           vs_scratch_grow(capture->scratch, error) &&
           vs_handover_share(driver->scratch_folder, capture->scratch->fd, error);
}

static bool
prepare_all(VsLibvirtDriver *driver, VsPoint *point, GError **error)
{
    driver->is_push = point->disks[0].staged;
    if (!make_folders(driver, point, error))
        return false;
    for (unsigned i = 0; i < point->count; i++)
        if (!prepare(driver, &driver->captures[i], &point->disks[i], &point->scratch, error))
            return false;
    return true;
}

static VsBackupDisk *
backup_disk(const VsLibvirtDriver *driver, const VsPointDisk *point)
{
    VsBackupDisk *disk = vs_backup_disk_new();
    disk->target = g_strdup(point->disk->target);
    disk->scratch = g_build_filename(driver->scratch_folder->inner, point->snapshot_id, NULL);
    disk->incremental = g_strdup(point->old_bitmap);
    if (driver->is_push)
        return disk;
    disk->export_name = g_strdup(point->snapshot_id);
    disk->bitmap = g_strdup(point->old_bitmap ? VS_LIBVIRT_EXPORT_BITMAP : NULL);
    return disk;
}

static char *
backup_xml(const VsLibvirtDriver *driver, const VsInstance *instance)
{
    g_autoptr(VsBackupXml) backup = g_new0(VsBackupXml, 1);
    backup->push = driver->is_push;
    backup->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vs_backup_disk_free);
    if (!driver->is_push)
        backup->socket = g_build_filename(driver->socket_folder->inner, VS_LIBVIRT_SOCKET, NULL);
    for (unsigned i = 0; i < driver->capture_count; i++)
        g_ptr_array_add(backup->disks, backup_disk(driver, driver->captures[i].disk));
    return vs_backup_xml_format(backup, instance);
}

// NULL where no disk can have a bitmap.
static char *
checkpoint_xml(const VsLibvirtDriver *driver, const VsInstance *instance)
{
    const char *name = NULL;
    g_autoptr(GPtrArray) targets = g_ptr_array_new();
    for (unsigned i = 0; i < driver->capture_count; i++) {
        const VsPointDisk *disk = driver->captures[i].disk;
        if (!disk->bitmap)
            continue;
        name = disk->bitmap;
        g_ptr_array_add(targets, disk->disk->target);
    }
    return name ? vs_checkpoint_xml_format(name, targets, instance, NULL, 0) : NULL;
}

// The point in time -----------------------------------------------------------------------------

// Also behind another failure, since somebody has to look at the guest.
static bool
thaw(VsLibvirtDriver *driver, const VsPoint *point, GError **failure)
{
    g_autoptr(GError) frozen = NULL;
    if (point->freeze_timeout_ms == 0)
        return true;
    for (int i = 0; i < THAW_TRIES; i++) {
        g_clear_error(&frozen);
        if (vs_domain_thaw(driver->domain, &frozen))
            return true;
    }
    g_autoptr(GError) before = g_steal_pointer(failure);
    g_set_error(failure, VS_ERROR, VS_ERROR_AGENT,
                "the guest's file systems may be frozen still (`virsh domfsthaw`): %s%s%s%s",
                frozen->message, before ? " (and before that: " : "", before ? before->message : "",
                before ? ")" : "");
    return false;
}

static bool
freeze(VsLibvirtDriver *driver, const VsPoint *point, GError **error)
{
    unsigned count = 0;
    GError *failure = NULL;
    if (point->freeze_timeout_ms == 0)
        return true;
    bool ok = vs_domain_freeze(driver->domain, point->freeze_timeout_ms, &count, &failure);
    if (ok && count == 0)
        g_set_error(&failure, VS_ERROR, VS_ERROR_AGENT,
                    "domain '%s': its guest agent found no file system to freeze",
                    vs_domain_name(driver->domain));
    if (!failure)
        return true;
    // It may have frozen after all, too late for us to hear of it: thaw() says so if that fails
    // too.
    if (!ok)
        (void)!thaw(driver, point, &failure);
    g_propagate_error(error, failure);
    return false;
}

static bool
begin_job(VsLibvirtDriver *driver, VsPoint *point, const char *backup, const char *checkpoint,
          GError **error)
{
    if (point->freeze_timeout_ms > 0 && !vs_domain_find_agent(driver->domain, error))
        return false;
    int64_t from_us = g_get_monotonic_time();
    if (!freeze(driver, point, error))
        return false;
    GError *failure = NULL;
    point->at_us = g_get_real_time();
    // Unless libvirt says so it may have begun all the same; whether it did, the undoing finds out.
    driver->has_job = true;
    bool ok = vs_domain_backup_begin(driver->domain, backup, checkpoint, &failure);
    bool thawed = thaw(driver, point, &failure);
    point->frozen_us = point->freeze_timeout_ms ? g_get_monotonic_time() - from_us : 0;
    if (ok && thawed)
        return true;
    if (g_error_matches(failure, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_CHECKPOINT))
        g_set_error_literal(error, VS_ERROR, VS_ERROR_BITMAP_DISTRUSTED, failure->message);
    else
        g_propagate_error(error, g_error_copy(failure));
    g_error_free(failure);
    return false;
}

static uint64_t
estimate(const VsPointDisk *point)
{
    for (unsigned i = 0; point->old_bitmap && i < point->disk->bitmaps->len; i++) {
        const VsQmpBitmap *bitmap = g_ptr_array_index(point->disk->bitmaps, i);
        if (g_strcmp0(bitmap->name, point->old_bitmap) == 0)
            return bitmap->count_bytes;
    }
    return point->disk->virtual_size_bytes;
}

static bool
start(VsLibvirtDriver *driver, VsPoint *point, GError **error)
{
    g_autofree char *xml = vs_domain_xml(driver->domain, false, error);
    g_autoptr(VsInstance) instance = xml ? vs_domain_xml_parse(xml, error) : NULL;
    if (!instance)
        return false;
    g_autofree char *backup = backup_xml(driver, instance);
    g_autofree char *checkpoint = checkpoint_xml(driver, instance);
    if (!begin_job(driver, point, backup, checkpoint, error))
        return false;
    vs_libvirt_watch_scratch(driver);
    vs_handover_empty(driver->scratch_folder);
    for (unsigned i = 0; i < point->count; i++) {
        point->disks[i].dirty_bytes = estimate(&point->disks[i]);
        point->disks[i].is_estimate = true;
    }
    return true;
}

bool
vs_libvirt_begin(VsDriver *base, VsPoint *point, GCancellable *cancellable, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    g_assert(!driver->captures);
    driver->captures = g_new0(VsLibvirtCapture, point->count);
    driver->capture_count = point->count;
    for (unsigned i = 0; i < point->count; i++)
        driver->captures[i].held_connection = driver->captures[i].inherited = -1;
    if (prepare_all(driver, point, error) &&
        !g_cancellable_set_error_if_cancelled(cancellable, error) && start(driver, point, error))
        return true;
    g_autoptr(GError) undo = NULL;
    point->is_something_left = !vs_libvirt_settle(base, &undo);
    if (point->is_something_left && error && *error)
        g_prefix_error(error, "(and undoing it failed: %s; the next create will do it) ",
                       undo->message);
    return false;
}

// While it is read ------------------------------------------------------------------------------

static void
look_at_domain(VsLibvirtDriver *driver)
{
    int64_t now_us = g_get_monotonic_time();
    if (now_us - driver->looked_us < LOOK_INTERVAL_US)
        return;
    VsDomainState state;
    vs_domain_state(driver->domain, &state);
    driver->looked_us = g_get_monotonic_time();
    driver->is_away = state.is_unreachable;
    if (state.is_unreachable)
        return; // libvirtd is being restarted; QEMU works on
    const char *name = vs_domain_name(driver->domain);
    if (!state.is_active)
        g_set_error(&driver->lost, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                    "domain '%s' was stopped while it was snapshotted", name);
    else if (state.has_io_error)
        g_set_error(&driver->lost, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
                    "domain '%s' was paused by a write that failed; the snapshot is given up",
                    name);
}

bool
vs_libvirt_is_lost(VsDriver *base, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    if (driver->offline)
        return vs_offline_disks_is_lost(driver->offline, error);
    if (!driver->lost && driver->has_job) {
        vs_libvirt_look_at_scratch(driver, &driver->lost);
        if (!driver->lost)
            look_at_domain(driver);
    }
    if (!driver->lost)
        return false;
    g_propagate_error(error, g_error_copy(driver->lost));
    return true;
}

// The end ---------------------------------------------------------------------------------------

// QEMU, when told to stop its server, waits for answers to be taken that it has sent already: the
// whole VM would.
static void
drain(int connection)
{
    static char rest[65536];
    struct timeval quiet = {.tv_usec = DRAIN_QUIET_MS * 1000};
    if (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &quiet, sizeof quiet) < 0)
        return;
    while (recv(connection, rest, sizeof rest, 0) > 0)
        ;
}

bool
vs_libvirt_end_job(VsLibvirtDriver *driver, GError **error)
{
    for (unsigned i = 0; i < driver->capture_count; i++)
        if (driver->captures[i].held_connection >= 0)
            drain(driver->captures[i].held_connection);
    if (driver->has_job && !vs_domain_abort_backup(driver->domain, error))
        return false;
    driver->has_job = false;
    for (unsigned i = 0; i < driver->capture_count; i++) {
        VsLibvirtCapture *capture = &driver->captures[i];
        if (capture->held_connection >= 0)
            close(capture->held_connection);
        capture->held_connection = -1;
    }
    return true;
}

// A guest that a failed write to the scratch has stopped goes on: QEMU retries the write.
static bool
resume(VsLibvirtDriver *driver, GError **error)
{
    VsDomainState state;
    vs_domain_state(driver->domain, &state);
    return !state.has_io_error || vs_domain_resume(driver->domain, error);
}

static void
forget_captures(VsLibvirtDriver *driver)
{
    vs_libvirt_end_watch(driver);
    for (unsigned i = 0; i < driver->capture_count; i++) {
        VsLibvirtCapture *capture = &driver->captures[i];
        g_strfreev(capture->command);
        if (capture->held_connection >= 0)
            close(capture->held_connection);
        if (capture->inherited >= 0)
            close(capture->inherited);
    }
    g_clear_pointer(&driver->captures, g_free);
    driver->capture_count = 0;
    g_clear_pointer(&driver->scratch_folder, vs_handover_free);
    g_clear_pointer(&driver->socket_folder, vs_handover_free);
}

bool
vs_libvirt_settle(VsDriver *base, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    bool had_job = driver->has_job;
    bool ok = vs_libvirt_end_job(driver, error) && (!had_job || resume(driver, error));
    driver->has_job = false;
    forget_captures(driver);
    g_clear_error(&driver->lost);
    return ok;
}
