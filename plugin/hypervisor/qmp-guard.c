// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/qmp-guard.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "plugin/hypervisor/qmp-disks.h"
#include "plugin/hypervisor/unix-socket.h"

// Choosing --------------------------------------------------------------------------------------

// Their schemas say the same, in 200 KB that take QEMU's main loop 20 ms and more. Moving devices
// was tested with 7.2, and what it rests on was changed in 8.0.
#define VERSION_OF_FILTER_POLICY 7001000u
#define VERSION_UNTESTED 8000000u
#define VERSION_OF_JOB_POLICY 10001000u

VsQmpGuard
vs_qmp_guard_of_version(unsigned qemu_version)
{
    if (qemu_version >= VERSION_OF_JOB_POLICY) // in the transaction, without moving the device
        return VS_QMP_GUARD_JOB;
    bool has_filter = qemu_version >= VERSION_OF_FILTER_POLICY && qemu_version < VERSION_UNTESTED;
    return has_filter ? VS_QMP_GUARD_FILTER : VS_QMP_GUARD_NONE;
}

static bool
is_any_live(const VsPoint *point)
{
    for (unsigned i = 0; i < point->count; i++)
        if (!point->disks[i].staged)
            return true;
    return false;
}

// The one device that is on the disk's node by -blockdev; NULL: none, or not alone.
static const VsQmpDevice *
find_device(const GPtrArray *devices, const char *node)
{
    const VsQmpDevice *found = NULL;
    for (unsigned i = 0; i < devices->len; i++) {
        const VsQmpDevice *device = g_ptr_array_index(devices, i);
        if (g_strcmp0(device->node, node) != 0)
            continue;
        if (found || !device->qdev || device->device[0] != '\0')
            return NULL;
        found = device;
    }
    return found;
}

// Images and devices of which it was tested.
static bool
is_tested_image(const VsDisk *disk)
{
    return g_str_equal(disk->format, "qcow2") || g_str_equal(disk->format, "raw");
}

static bool
is_tested_device(const char *type)
{
    return type && (g_str_has_prefix(type, "virtio-blk-") || g_str_equal(type, "scsi-hd"));
}

// The device that can be moved away from the disk, by its path; NULL: there is none.
static char *
find_movable(VsQmpClient *client, const GPtrArray *devices, const VsPointDisk *point)
{
    const VsDisk *disk = point->disk;
    const VsQmpDevice *device = find_device(devices, disk->node);
    if (!device || point->staged || disk->iothread || disk->is_shared || !is_tested_image(disk))
        return NULL;
    g_autofree char *path = vs_qmp_device_path(device->qdev);
    g_autofree char *type = vs_qmp_qom_get_string(client, path, "type", NULL, NULL);
    g_autofree char *drive = vs_qmp_qom_get_string(client, path, "drive", NULL, NULL);
    return is_tested_device(type) && g_strcmp0(drive, disk->node) == 0 ? g_steal_pointer(&path)
                                                                       : NULL;
}

// All of them, or none: a point in time is one step.
static bool
choose_filter(VsQmpDriver *driver, const VsPoint *point, GCancellable *cancellable, GError **error)
{
    g_autoptr(GPtrArray) devices = vs_qmp_query_devices(driver->client, cancellable, error);
    bool has_iothreads;
    if (!devices || !vs_qmp_has_iothreads(driver->client, &has_iothreads, cancellable, error))
        return false;
    bool all = !has_iothreads; // with them adding a filter has aborted QEMU 7.2
    for (unsigned i = 0; i < point->count && all; i++) {
        VsQmpCapture *capture = &driver->captures[i];
        capture->device_path = find_movable(driver->client, devices, &point->disks[i]);
        all = capture->device_path != NULL;
    }
    for (unsigned i = 0; i < point->count && all; i++) {
        driver->captures[i].guard = VS_QMP_GUARD_FILTER;
        driver->captures[i].node = g_strdup(point->disks[i].disk->node);
    }
    return vs_qmp_client_is_open(driver->client) ||
           vs_qmp_client_do(driver->client, "query-status", NULL, cancellable, error);
}

bool
vs_qmp_guard_choose(VsQmpDriver *driver, const VsPoint *point, GCancellable *cancellable,
                    GError **error)
{
    if (!is_any_live(point))
        return true;
    VsQmpGuard best = vs_qmp_guard_of_version(vs_qmp_client_qemu_version(driver->client));
    if (best == VS_QMP_GUARD_FILTER)
        return choose_filter(driver, point, cancellable, error);
    for (unsigned i = 0; i < point->count && best == VS_QMP_GUARD_JOB; i++)
        if (!point->disks[i].staged && !point->disks[i].disk->iothread)
            driver->captures[i].guard = VS_QMP_GUARD_JOB;
    return true;
}

// The steps -------------------------------------------------------------------------------------

// Has to be looked for once it was asked for, whatever the answer.
static bool
add_node(VsQmpDriver *driver, VsQmpCapture *capture, struct json_object *options,
         GCancellable *cancellable, GError **error)
{
    capture->has_guard = true;
    return vs_qmp_node_add(driver->client, options, cancellable, error);
}

// The guest's discards are to pass. For blockdev-reopen all of it has to be said again.
static struct json_object *
top_options(const VsQmpCapture *capture, const char *file)
{
    return vs_qmp_args("driver", vs_qmp_str("raw"), "node-name",
                       vs_qmp_str(capture->names.top_node), "file", vs_qmp_str(file), "discard",
                       vs_qmp_str("unmap"), NULL);
}

static struct json_object *
filter_options(const VsQmpCapture *capture)
{
    return vs_qmp_args("driver", vs_qmp_str("copy-before-write"), "node-name",
                       vs_qmp_str(capture->names.filter_node), "file", vs_qmp_str(capture->node),
                       "target", vs_qmp_str(capture->names.fleece_node), "on-cbw-error",
                       vs_qmp_str("break-snapshot"), "discard", vs_qmp_str("unmap"), NULL);
}

// To a node that it is not on: else QEMU 7.2 aborts.
static bool
move_device(VsQmpClient *client, const char *path, const char *node, GError **error)
{
    return vs_qmp_qom_set_string(client, path, "drive", node, error);
}

static bool
add_top(VsQmpDriver *driver, VsQmpCapture *capture, GCancellable *cancellable, GError **error)
{
    struct json_object *top = top_options(capture, capture->node);
    return add_node(driver, capture, top, cancellable, error) &&
           move_device(driver->client, capture->device_path, capture->names.top_node, error);
}

static bool
prepare(VsQmpDriver *driver, VsQmpCapture *capture, GCancellable *cancellable, GError **error)
{
    if (driver->capture_count > 1 && !add_top(driver, capture, cancellable, error))
        return false;
    return add_node(driver, capture, filter_options(capture), cancellable, error) &&
           vs_qmp_client_do(driver->client, "block-dirty-bitmap-add",
                            vs_qmp_args("node", vs_qmp_str(capture->names.filter_node), "name",
                                        vs_qmp_str(VS_QMP_GUARD_BITMAP), NULL),
                            cancellable, error);
}

static bool
do_without(VsQmpDriver *driver, GError **error)
{
    for (unsigned i = 0; i < driver->capture_count; i++) {
        VsQmpCapture *capture = &driver->captures[i];
        if (capture->has_guard && !vs_qmp_guard_remove(driver->client, capture, error))
            return false;
        capture->guard = VS_QMP_GUARD_NONE;
    }
    return true;
}

static bool
prepare_all(VsQmpDriver *driver, GCancellable *cancellable, GError **error)
{
    for (unsigned i = 0; i < driver->capture_count; i++)
        if (!prepare(driver, &driver->captures[i], cancellable, error))
            return false;
    return true;
}

// A QEMU may have been built without the filter, for one.
bool
vs_qmp_guard_prepare(VsQmpDriver *driver, GCancellable *cancellable, GError **error)
{
    GError *failure = NULL;
    if (driver->captures[0].guard != VS_QMP_GUARD_FILTER ||
        prepare_all(driver, cancellable, &failure))
        return true;
    if (!g_error_matches(failure, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND)) {
        g_propagate_error(error, failure);
        return false;
    }
    g_debug("no guard: %s", failure->message);
    g_error_free(failure);
    return do_without(driver, error);
}

// blockdev-reopen has QEMU flush the images while the guests' requests wait: what is written back
// before need not be then.
void
vs_qmp_guard_write_back(const VsQmpDriver *driver)
{
    for (unsigned i = 0; i < driver->capture_count && driver->capture_count > 1; i++) {
        int fd = open(driver->captures[i].disk->disk->source, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 || fdatasync(fd) < 0)
            g_debug("writing an image back: %s", g_strerror(errno));
        if (fd >= 0)
            close(fd);
    }
}

bool
vs_qmp_guard_attach(VsQmpDriver *driver, GError **error)
{
    const VsQmpCapture *first = &driver->captures[0];
    if (driver->capture_count == 1)
        return move_device(driver->client, first->device_path, first->names.filter_node, error);
    struct json_object *options = json_object_new_array();
    for (unsigned i = 0; i < driver->capture_count; i++)
        json_object_array_add(
            options, top_options(&driver->captures[i], driver->captures[i].names.filter_node));
    return vs_qmp_nodes_reopen(driver->client, options, error);
}

bool
vs_qmp_guard_open(VsQmpDriver *driver, VsQmpCapture *capture, GCancellable *cancellable,
                  GError **error)
{
    if (capture->guard == VS_QMP_GUARD_NONE)
        return true;
    struct json_object *access = vs_qmp_args("driver", vs_qmp_str("snapshot-access"), "node-name",
                                             vs_qmp_str(capture->names.access_node), "file",
                                             vs_qmp_str(capture->names.filter_node), NULL);
    return add_node(driver, capture, access, cancellable, error);
}

// Asking ----------------------------------------------------------------------------------------

bool
vs_qmp_guard_connect(VsQmpDriver *driver, VsQmpCapture *capture, GCancellable *cancellable,
                     GError **error)
{
    if (capture->guard == VS_QMP_GUARD_NONE)
        return true;
    const VsQmpNames *names = &capture->names;
    VsQmpExport export = {
        .id = names->probe_id, .node = names->access_node, .name = names->probe_id};
    if (!vs_qmp_export_add(driver->client, &export, cancellable, error))
        return false;
    int fd = vs_unix_connect_nbd(driver->server_path, error);
    if (fd < 0)
        return false;
    VsPullSource source = {.socket = fd, .export_name = names->probe_id};
    capture->probe = vs_pull_connect(&source, capture->disk->disk->virtual_size_bytes, error);
    return capture->probe != NULL;
}

// Why the driver's point in time can't be kept; the first reason counts.
static void
set_lost(VsQmpDriver *driver, const VsQmpCapture *capture)
{
    if (!driver->lost)
        g_set_error(&driver->lost, G_IO_ERROR, G_IO_ERROR_NO_SPACE,
                    "keeping old blocks of disk '%s': a write to the scratch space in '%s' failed; "
                    "the point in time is lost, the guest was spared",
                    capture->disk->disk->target, capture->scratch->folder);
}

bool
vs_qmp_guard_confirm(VsQmpDriver *driver, VsQmpCapture *capture, GError **error)
{
    if (!capture->probe)
        return true;
    GError *failure = NULL;
    bool ok = vs_pull_probe(capture->probe, VS_QMP_SETTLE_TIMEOUT_MS, &failure);
    g_clear_pointer(&capture->probe, vs_pull_free);
    if (g_error_matches(failure, VS_PULL_ERROR, VS_PULL_ERROR_SERVER)) {
        set_lost(driver, capture);
        g_propagate_error(error, g_error_copy(driver->lost));
        g_error_free(failure);
    } else if (failure) {
        g_propagate_prefixed_error(error, failure, "disk '%s': ", capture->disk->disk->target);
    }
    return ok;
}

// Back ------------------------------------------------------------------------------------------

static bool
has_node(const GPtrArray *nodes, const char *name)
{
    return vs_qmp_find_node(nodes, name) != NULL;
}

void
vs_qmp_guard_look_for(VsQmpCapture *capture, const GPtrArray *nodes)
{
    const VsQmpNames *names = &capture->names;
    capture->has_guard = has_node(nodes, names->access_node) || has_node(nodes, names->top_node) ||
                         (!capture->has_job && has_node(nodes, names->filter_node));
}

static void
delete_node(VsQmpClient *client, const GPtrArray *nodes, const char *name, GError **first)
{
    GError *failure = NULL;
    if (has_node(nodes, name) && !vs_qmp_node_delete(client, name, NULL, &failure))
        vs_qmp_note_failure(first, failure);
}

// Nobody is connected to it any more.
static void
delete_export(VsQmpClient *client, const char *id, GError **first)
{
    GError *failure = NULL;
    if (!vs_qmp_export_begin_delete(client, id, NULL, &failure) ||
        !vs_qmp_export_wait_deleted(client, id, VS_QMP_SETTLE_TIMEOUT_MS, NULL, &failure))
        vs_qmp_note_failure(first, failure);
}

static void
put_device(VsQmpClient *client, const char *path, const char *node, GError **first)
{
    GError *failure = NULL;
    if (!node)
        failure =
            g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL,
                        "device '%s' is on a filter of ours, and nothing says of which disk", path);
    else if (!move_device(client, path, node, &failure))
        g_assert(failure);
    vs_qmp_note_failure(first, failure);
}

// A filter that anything but the device is on keeps the device from its disk, and so does one that
// a top is on: the device comes to the filter, the top goes, the device goes. A device that is on
// neither was unplugged, or somebody has put more in between: then that is left alone, and said.
static void
put_back(VsQmpClient *client, const VsQmpCapture *capture, const GPtrArray *nodes,
         const GPtrArray *devices, GError **first)
{
    const VsQmpNames *names = &capture->names;
    const VsQmpDevice *on_top = find_device(devices, names->top_node);
    const VsQmpDevice *on_filter = find_device(devices, names->filter_node);
    bool has_filter = has_node(nodes, names->filter_node);
    const VsQmpDevice *device = on_top ? on_top : on_filter;
    g_autofree char *path = device ? vs_qmp_device_path(device->qdev) : NULL;
    if (on_top)
        put_device(client, path, has_filter ? names->filter_node : capture->node, first);
    delete_node(client, nodes, names->top_node, first);
    if (device && has_filter)
        put_device(client, path, capture->node, first);
    delete_node(client, nodes, names->filter_node, first);
}

bool
vs_qmp_guard_remove(VsQmpClient *client, VsQmpCapture *capture, GError **error)
{
    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(client, NULL, error);
    if (!nodes)
        return false;
    g_autoptr(GPtrArray) devices = vs_qmp_query_devices(client, NULL, error);
    if (!devices)
        return false;
    GError *first = NULL;
    g_clear_pointer(&capture->probe, vs_pull_free);
    delete_export(client, capture->names.probe_id, &first);
    delete_node(client, nodes, capture->names.access_node, &first);
    if (!capture->has_job)
        put_back(client, capture, nodes, devices, &first);
    capture->has_guard = first != NULL;
    if (first)
        g_propagate_error(error, first);
    return first == NULL;
}
