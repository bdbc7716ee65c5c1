// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/qmp-disks.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

// A backing chain longer than this is a loop or nonsense.
#define CHAIN_MAX 64
// "json:" names nest by protocol layer.
#define JSON_NAME_DEPTH_MAX 8

static const char *const peripheral = "/machine/peripheral/";

char *
vs_qmp_device_path(const char *qdev)
{
    if (qdev[0] != '/')
        return g_strconcat(peripheral, qdev, NULL);
    const char *backend = "/virtio-backend";
    if (g_str_has_suffix(qdev, backend))
        return g_strndup(qdev, strlen(qdev) - strlen(backend));
    return g_strdup(qdev);
}

bool
vs_qmp_device_may_be_disk(const VsQmpDevice *device)
{
    return device->qdev && device->node && !device->removable && !device->read_only;
}

static bool
is_disk_type(const char *type)
{
    static const char *const others[] = {"cfi.pflash", "floppy",  "ide-cd", "scsi-cd",
                                         "sd-card",    "isa-fdc", NULL};
    for (unsigned i = 0; type && others[i]; i++)
        if (g_str_has_prefix(type, others[i]))
            return false;
    return true;
}

// The id that the user gave the device, NULL: none.
static char *
device_id(const char *qdev)
{
    g_autofree char *path = vs_qmp_device_path(qdev);
    if (!g_str_has_prefix(path, peripheral))
        return NULL;
    const char *id = path + strlen(peripheral);
    return strchr(id, '/') ? NULL : g_strdup(id);
}

// The file name within a "json:" name's object.
static const char *
json_filename(struct json_object *object, unsigned depth)
{
    struct json_object *member;
    if (depth == 0 || !json_object_is_type(object, json_type_object))
        return NULL;
    if (json_object_object_get_ex(object, "file.filename", &member) ||
        json_object_object_get_ex(object, "filename", &member))
        return json_object_get_string(member);
    if (json_object_object_get_ex(object, "file", &member))
        return json_filename(member, depth - 1);
    return NULL;
}

static char *
absolute_path(const char *path, const char *cwd)
{
    if (!g_path_is_absolute(path) && !cwd)
        return g_strdup(path);
    g_autofree char *absolute = g_canonicalize_filename(path, cwd ? cwd : "/");
    char *real = realpath(absolute, NULL);
    if (!real)
        return g_steal_pointer(&absolute);
    char *copy = g_strdup(real);
    free(real);
    return copy;
}

// Whether the name is "protocol:…" as QEMU sees it: a colon before any slash.
static bool
has_protocol(const char *name)
{
    size_t plain = strcspn(name, ":/");
    return name[plain] == ':';
}

char *
vs_qmp_image_name(const char *filename, const char *cwd)
{
    if (g_str_has_prefix(filename, "json:")) {
        struct json_object *object = json_tokener_parse(filename + strlen("json:"));
        const char *inner = json_filename(object, JSON_NAME_DEPTH_MAX);
        char *name = inner ? absolute_path(inner, cwd) : g_strdup(filename);
        json_object_put(object);
        return name;
    }
    if (g_str_has_prefix(filename, "file:"))
        return absolute_path(filename + strlen("file:"), cwd);
    return has_protocol(filename) ? g_strdup(filename) : absolute_path(filename, cwd);
}

static const VsQmpNode *
node_of_file(const GPtrArray *nodes, const char *filename)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        const VsQmpNode *node = g_ptr_array_index(nodes, i);
        if (node->filename && g_str_equal(node->filename, filename) && node->backing_filename)
            return node;
    }
    return NULL;
}

static void
fill_chain(VsDisk *disk, const VsQmpNode *node, const GPtrArray *nodes, const char *cwd)
{
    g_ptr_array_add(disk->chain, g_strdup(disk->source));
    while (node && node->backing_filename && disk->chain->len < CHAIN_MAX) {
        g_ptr_array_add(disk->chain, vs_qmp_image_name(node->backing_filename, cwd));
        node = node_of_file(nodes, node->backing_filename);
    }
}

static VsQmpBitmap *
copy_bitmap(const VsQmpBitmap *bitmap)
{
    VsQmpBitmap *copy = g_new(VsQmpBitmap, 1);
    *copy = *bitmap;
    copy->name = g_strdup(bitmap->name);
    return copy;
}

static bool
is_lower_image(const VsDisk *disk, const VsQmpNode *node, const char *cwd)
{
    g_autofree char *name = node->filename ? vs_qmp_image_name(node->filename, cwd) : NULL;
    for (unsigned i = 1; name && i < disk->chain->len; i++)
        if (g_str_equal(disk->chain->pdata[i], name))
            return true;
    return false;
}

// A bitmap that a lower image has too tells a part of the changes: an overlay was added, and
// libvirt goes on in it with one of the same name.
static void
drop_split_bitmaps(VsDisk *disk, const GPtrArray *nodes, const char *cwd)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        const VsQmpNode *node = g_ptr_array_index(nodes, i);
        if (!is_lower_image(disk, node, cwd))
            continue;
        for (unsigned j = disk->bitmaps->len; j > 0; j--) {
            const VsQmpBitmap *bitmap = g_ptr_array_index(disk->bitmaps, j - 1);
            if (bitmap->name && vs_qmp_find_bitmap(node, bitmap->name))
                g_ptr_array_remove_index(disk->bitmaps, j - 1);
        }
    }
}

static void
name_disk(VsDisk *disk, const VsQmpDevice *device, unsigned number)
{
    char *id = device_id(device->qdev);
    const char *const names[] = {id, device->device, disk->node};
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!names[i] || !names[i][0])
            continue;
        g_ptr_array_add(disk->aliases, g_strdup(names[i]));
        // QEMU's own names (#block165) change at each start.
        if (!disk->target && names[i][0] != '#')
            disk->target = g_strdup(names[i]);
    }
    if (!disk->target)
        disk->target = g_strdup_printf("disk%u", number);
    g_free(id);
}

static bool
is_above_disk(const VsQmpNode *node)
{
    return g_str_has_prefix(node->name, VS_QMP_FILTER_PREFIX) ||
           g_str_has_prefix(node->name, VS_QMP_TOP_PREFIX);
}

static bool
is_same_image(const VsQmpNode *one, const VsQmpNode *other, const char *cwd)
{
    g_autofree char *first = vs_qmp_image_name(one->filename ? one->filename : "", cwd);
    g_autofree char *second = vs_qmp_image_name(other->filename ? other->filename : "", cwd);
    return g_str_equal(first, second);
}

// What a snapshot's node is above: QEMU doesn't tell, but that is of the same file, and no
// protocol.
static const VsQmpNode *
find_disk_node(const VsQmpNode *node, const GPtrArray *nodes, const char *cwd)
{
    static const char *const others[] = {"file", "host_device", "copy-before-write",
                                         "snapshot-access", NULL};
    for (unsigned i = 0; i < nodes->len && is_above_disk(node); i++) {
        const VsQmpNode *below = g_ptr_array_index(nodes, i);
        if (!is_above_disk(below) && !g_strv_contains(others, below->driver) &&
            is_same_image(below, node, cwd))
            return below;
    }
    return node;
}

static const char *
find_obstacle(const VsQmpNode *node)
{
    if (is_above_disk(node))
        return "a snapshot of it is in progress, or was interrupted (`virtsnap recover`)";
    return g_str_equal(node->driver, "copy-before-write")
               ? "a backup job of someone else is active on it"
               : NULL;
}

static VsDisk *
make_disk(const VsQmpDevice *device, const VsQmpDeviceFacts *facts, const GPtrArray *nodes,
          const char *cwd)
{
    const VsQmpNode *top = vs_qmp_find_node(nodes, device->node);
    if (!top)
        return NULL;
    const VsQmpNode *node = find_disk_node(top, nodes, cwd);
    VsDisk *disk = vs_disk_new();
    disk->node = g_strdup(node->name);
    disk->format = g_strdup(node->driver);
    disk->source = vs_qmp_image_name(node->filename ? node->filename : "", cwd);
    disk->virtual_size_bytes = node->virtual_size_bytes;
    disk->can_track = node->virtual_size_bytes > 0;
    disk->persistent_bitmaps = g_str_equal(node->driver, "qcow2") &&
                               g_strcmp0(node->compat, "0.10") != 0 && node->virtual_size_bytes > 0;
    disk->iothread = facts->iothread;
    disk->is_shared = facts->is_shared;
    fill_chain(disk, node, nodes, cwd);
    for (unsigned i = 0; i < node->bitmaps->len; i++)
        g_ptr_array_add(disk->bitmaps, copy_bitmap(g_ptr_array_index(node->bitmaps, i)));
    drop_split_bitmaps(disk, nodes, cwd);
    disk->unavailable = g_strdup(find_obstacle(top));
    return disk;
}

GPtrArray *
vs_qmp_find_disks(const GPtrArray *devices, const VsQmpDeviceFacts *facts, const GPtrArray *nodes,
                  const char *cwd)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func((GDestroyNotify)vs_disk_free);
    for (unsigned i = 0; i < devices->len; i++) {
        const VsQmpDevice *device = g_ptr_array_index(devices, i);
        if (!vs_qmp_device_may_be_disk(device) || !is_disk_type(facts[i].type))
            continue;
        VsDisk *disk = make_disk(device, &facts[i], nodes, cwd);
        if (!disk)
            continue;
        name_disk(disk, device, disks->len);
        g_ptr_array_add(disks, disk);
    }
    for (unsigned i = 0; i < disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(disks, i);
        disk->is_shared |= vs_disk_has_twin(disk, disks);
    }
    return disks;
}
