// SPDX-License-Identifier: LGPL-2.1-or-later
#include <string.h>
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/qmp-disks.h"
#include "plugin/hypervisor/qmp-driver-private.h"

#define CONNECT_TIMEOUT_MS 5000u

static VsQmpDeviceFacts *
facts_new(unsigned count)
{
    return g_new0(VsQmpDeviceFacts, count + 1);
}

static void
facts_free(VsQmpDeviceFacts *facts, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        g_free(facts[i].type);
    g_free(facts);
}

// QEMU's working directory, for image names relative to it; NULL where it can't be known.
static char *
find_cwd(VsQmpClient *client)
{
    pid_t pid = vs_qmp_client_peer_pid(client);
    if (pid <= 0)
        return NULL;
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)pid);
    return g_file_read_link(link, NULL);
}

static char *
get_string(VsQmpClient *client, const char *path, const char *property)
{
    return vs_qmp_qom_get_string(client, path, property, NULL, NULL);
}

static bool
get_flag(VsQmpClient *client, const char *path, const char *property)
{
    struct json_object *value = vs_qmp_client_call(
        client, "qom-get",
        vs_qmp_args("path", vs_qmp_str(path), "property", vs_qmp_str(property), NULL), NULL, NULL);
    bool flag = json_object_is_type(value, json_type_boolean) && json_object_get_boolean(value);
    json_object_put(value);
    return flag;
}

// Whether the device, or the controller whose bus it is on, is given to an iothread. What can't be
// found out counts as "yes": staged capture is right for both.
static bool
is_on_iothread(VsQmpClient *client, const char *device_path)
{
    g_autofree char *own = get_string(client, device_path, "iothread");
    if (own)
        return own[0] != '\0';
    g_autofree char *path = get_string(client, device_path, "parent_bus");
    while (path && strrchr(path, '/') > path) {
        g_autofree char *value = get_string(client, path, "iothread");
        if (value)
            return value[0] != '\0';
        *strrchr(path, '/') = '\0';
        if (g_str_equal(path, "/machine"))
            return false; // a controller without the property: ide, nvme on QEMU 7.2
    }
    return true;
}

bool
vs_qmp_has_iothreads(VsQmpClient *client, bool *has, GCancellable *cancellable, GError **error)
{
    struct json_object *threads =
        vs_qmp_client_call(client, "query-iothreads", NULL, cancellable, error);
    if (!threads)
        return false;
    *has = !json_object_is_type(threads, json_type_array) || json_object_array_length(threads) > 0;
    json_object_put(threads);
    return true;
}

static bool
find_facts(VsQmpClient *client, const GPtrArray *devices, VsQmpDeviceFacts *facts,
           GCancellable *cancellable, GError **error)
{
    bool iothreads = false;
    if (!vs_qmp_has_iothreads(client, &iothreads, cancellable, error))
        return false;
    for (unsigned i = 0; i < devices->len; i++) {
        const VsQmpDevice *device = g_ptr_array_index(devices, i);
        if (!vs_qmp_device_may_be_disk(device))
            continue;
        g_autofree char *path = vs_qmp_device_path(device->qdev);
        facts[i].type = get_string(client, path, "type");
        facts[i].iothread = iothreads && is_on_iothread(client, path);
        facts[i].is_shared = get_flag(client, path, "share-rw");
    }
    return vs_qmp_client_is_open(client) ||
           vs_qmp_client_do(client, "query-status", NULL, cancellable, error);
}

static GPtrArray *
find_disks(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    g_autoptr(GPtrArray) devices = vs_qmp_query_devices(client, cancellable, error);
    if (!devices)
        return NULL;
    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(client, cancellable, error);
    if (!nodes)
        return NULL;
    g_autofree char *cwd = find_cwd(client);
    VsQmpDeviceFacts *facts = facts_new(devices->len);
    GPtrArray *disks = NULL;
    if (find_facts(client, devices, facts, cancellable, error))
        disks = vs_qmp_find_disks(devices, facts, nodes, cwd);
    facts_free(facts, devices->len);
    return disks;
}

static char *
find_status(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    struct json_object *reply =
        vs_qmp_client_call(client, "query-status", NULL, cancellable, error);
    if (!reply)
        return NULL;
    struct json_object *running;
    bool is_running =
        json_object_object_get_ex(reply, "running", &running) && json_object_get_boolean(running);
    json_object_put(reply);
    return g_strdup(is_running ? "running" : "paused");
}

// A note of what was attached where, for putting a machine together again.
static char *
make_definition(const VsQmpDriver *driver, const VsInstance *instance)
{
    struct json_object *disks = json_object_new_array();
    for (unsigned i = 0; i < instance->disks->len; i++) {
        const VsDisk *disk = g_ptr_array_index(instance->disks, i);
        json_object_array_add(disks, vs_qmp_args("target", vs_qmp_str(disk->target), "node",
                                                 vs_qmp_str(disk->node), "source",
                                                 vs_qmp_str(disk->source), "format",
                                                 vs_qmp_str(disk->format), NULL));
    }
    struct json_object *root = vs_qmp_args(
        "kind", vs_qmp_str("qmp"), "socket", vs_qmp_str(driver->socket_path), "qemu_version",
        vs_qmp_int(vs_qmp_client_qemu_version(driver->client)), "disks", disks, NULL);
    char *text = g_strdup(json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN));
    json_object_put(root);
    return text;
}

VsInstance *
vs_qmp_driver_describe(VsDriver *base, GCancellable *cancellable, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    g_autoptr(VsInstance) instance = vs_instance_new();
    instance->kind = g_strdup("qmp");
    instance->name = g_strconcat("qmp:", driver->socket_path, NULL);
    instance->status = find_status(driver->client, cancellable, error);
    if (!instance->status)
        return NULL;
    GPtrArray *disks = find_disks(driver->client, cancellable, error);
    if (!disks)
        return NULL;
    g_ptr_array_unref(instance->disks);
    instance->disks = disks;
    instance->definition = make_definition(driver, instance);
    return g_steal_pointer(&instance);
}

bool
vs_qmp_driver_is_lost(VsDriver *base, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    if (driver->offline)
        return vs_offline_disks_is_lost(driver->offline, error);
    if (!driver->lost || vs_qmp_driver_has_read_all(driver))
        return false;
    g_propagate_error(error, g_error_copy(driver->lost));
    return true;
}

// The job's fleece or staging file has held the instant still: it does, or it is lost.
static bool
confirm(VsDriver *base, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    if (vs_qmp_driver_is_lost(base, error) ||
        (driver->offline && !vs_offline_disks_confirm(driver->offline, error)))
        return false;
    driver->is_finished = driver->has_ended;
    return true;
}

// Without QEMU old bitmaps stay in the images (driver.h).
static bool
tidy(VsDriver *base, const VsKeptBitmap *kept, unsigned count, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    return driver->is_finished || vs_qmp_driver_tidy(base, kept, count, error);
}

// QEMU says SHUTDOWN before it closes anything, and hangs up when all images are closed.
static void
on_end(const char *name, struct json_object *data, gpointer user_data)
{
    VsQmpDriver *driver = user_data;
    if (!name)
        driver->has_ended = true;
    else if (g_str_equal(name, "SHUTDOWN"))
        driver->is_shutting_down = true;
}

static void
driver_free(VsDriver *base)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    g_assert(!driver->captures);
    if (driver->client) {
        vs_qmp_client_unsubscribe(driver->client, driver->subscription);
        vs_qmp_client_unsubscribe(driver->client, driver->end_subscription);
        vs_qmp_client_free(driver->client);
    }
    vs_qmp_driver_forget_server(driver);
    vs_offline_disks_free(driver->offline);
    g_clear_error(&driver->lost);
    g_free(driver->socket_path);
    g_free(driver->repository_id);
    g_free(driver->owner);
    g_free(driver->server_node);
    g_free(driver);
}

static const VsDriverOps qmp_ops = {
    .free = driver_free,
    .describe = vs_qmp_driver_describe,
    .recover = vs_qmp_driver_recover,
    .tidy = tidy,
    .begin = vs_qmp_driver_begin,
    .open_source = vs_qmp_driver_open_source,
    .reopen_source = vs_qmp_driver_reopen_source,
    .detach_source = vs_qmp_driver_detach_source,
    .close_source = vs_qmp_driver_close_source,
    .confirm = confirm,
    .settle = vs_qmp_driver_settle,
    .is_lost = vs_qmp_driver_is_lost,
};

VsDriver *
vs_qmp_driver_connect(const char *socket_path, const char *repository_id, const char *instance_id,
                      GCancellable *cancellable, GError **error)
{
    VsQmpClient *client =
        vs_qmp_client_connect(socket_path, CONNECT_TIMEOUT_MS, cancellable, error);
    if (!client)
        return NULL;
    VsQmpDriver *driver = g_new0(VsQmpDriver, 1);
    driver->base.ops = &qmp_ops;
    driver->client = client;
    driver->socket_path = g_strdup(socket_path);
    driver->repository_id = g_strdup(repository_id);
    driver->owner = g_strdup_printf("%s %s %s", VS_FDSET_LABEL, repository_id, instance_id);
    driver->subscription = vs_qmp_client_subscribe(client, vs_qmp_driver_on_event, driver);
    driver->end_subscription = vs_qmp_client_subscribe(client, on_end, driver);
    return &driver->base;
}
