// SPDX-License-Identifier: LGPL-2.1-or-later
// The replies of query-block and query-named-block-nodes as structures.
#include "qmp/block.h"
#include "qmp/reply.h"

void
vs_qmp_bitmap_free(VsQmpBitmap *bitmap)
{
    if (bitmap == NULL)
        return;
    g_free(bitmap->name);
    g_free(bitmap);
}

void
vs_qmp_node_free(VsQmpNode *node)
{
    if (node == NULL)
        return;
    g_free(node->name);
    g_free(node->driver);
    g_free(node->filename);
    g_free(node->backing_filename);
    g_free(node->compat);
    g_ptr_array_unref(node->bitmaps);
    g_free(node);
}

void
vs_qmp_device_free(VsQmpDevice *device)
{
    if (device == NULL)
        return;
    g_free(device->device);
    g_free(device->qdev);
    g_free(device->node);
    g_free(device->node_driver);
    g_free(device);
}

static VsQmpDevice *
parse_device(VsQmpReader *reader, struct json_object *object)
{
    VsQmpDevice *device = g_new0(VsQmpDevice, 1);

    device->device = vs_qmp_reader_string(reader, object, "device");
    device->qdev = vs_qmp_reader_optional_string(reader, object, "qdev");
    device->removable = vs_qmp_reader_bool(reader, object, "removable");
    device->has_io_status = vs_qmp_reader_has(reader, object, "io-status");
    if (vs_qmp_reader_has(reader, object, "inserted")) {
        struct json_object *inserted = vs_qmp_reader_object(reader, object, "inserted");
        device->node = vs_qmp_reader_optional_string(reader, inserted, "node-name");
        device->node_driver = vs_qmp_reader_string(reader, inserted, "drv");
        device->read_only = vs_qmp_reader_bool(reader, inserted, "ro");
    }
    return device;
}

static VsQmpBitmap *
parse_bitmap(VsQmpReader *reader, struct json_object *object)
{
    VsQmpBitmap *bitmap = g_new0(VsQmpBitmap, 1);

    bitmap->name = vs_qmp_reader_optional_string(reader, object, "name");
    bitmap->recording = vs_qmp_reader_bool(reader, object, "recording");
    bitmap->busy = vs_qmp_reader_bool(reader, object, "busy");
    bitmap->persistent = vs_qmp_reader_bool(reader, object, "persistent");
    bitmap->inconsistent = vs_qmp_reader_has(reader, object, "inconsistent") &&
                           vs_qmp_reader_bool(reader, object, "inconsistent");
    bitmap->granularity_bytes = vs_qmp_reader_uint(reader, object, "granularity");
    bitmap->count_bytes = vs_qmp_reader_uint(reader, object, "count");
    return bitmap;
}

// "compat" of a qcow2's ImageInfoSpecific, which other drivers lack.
static char *
parse_compat(VsQmpReader *reader, struct json_object *image)
{
    if (!vs_qmp_reader_has(reader, image, "format-specific"))
        return NULL;

    struct json_object *specific = vs_qmp_reader_object(reader, image, "format-specific");
    g_autofree char *type = vs_qmp_reader_string(reader, specific, "type");
    if (g_strcmp0(type, "qcow2") != 0)
        return NULL;
    struct json_object *data = vs_qmp_reader_object(reader, specific, "data");
    return vs_qmp_reader_string(reader, data, "compat");
}

static VsQmpNode *
parse_node(VsQmpReader *reader, struct json_object *object)
{
    VsQmpNode *node = g_new0(VsQmpNode, 1);

    node->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_bitmap_free);
    node->name = vs_qmp_reader_string(reader, object, "node-name");
    node->driver = vs_qmp_reader_string(reader, object, "drv");
    node->filename = vs_qmp_reader_string(reader, object, "file");
    node->backing_filename = vs_qmp_reader_optional_string(reader, object, "backing_file");
    node->read_only = vs_qmp_reader_bool(reader, object, "ro");

    struct json_object *image = vs_qmp_reader_object(reader, object, "image");
    node->virtual_size_bytes = vs_qmp_reader_uint(reader, image, "virtual-size");
    if (vs_qmp_reader_has(reader, image, "cluster-size"))
        node->cluster_size_bytes = vs_qmp_reader_uint(reader, image, "cluster-size");
    node->compat = parse_compat(reader, image);

    if (!vs_qmp_reader_has(reader, object, "dirty-bitmaps"))
        return node;
    struct json_object *bitmaps = vs_qmp_reader_array(reader, object, "dirty-bitmaps");
    for (size_t i = 0; i < vs_qmp_reader_array_length(reader, bitmaps); i++)
        g_ptr_array_add(node->bitmaps,
                        parse_bitmap(reader, vs_qmp_reader_element(reader, bitmaps, i)));
    return node;
}

GPtrArray *
vs_qmp_parse_devices(struct json_object *reply, GError **error)
{
    VsQmpReader reader = {.command = "query-block"};
    g_autoptr(GPtrArray) devices =
        g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_device_free);

    for (size_t i = 0; i < vs_qmp_reader_array_length(&reader, reply); i++)
        g_ptr_array_add(devices, parse_device(&reader, vs_qmp_reader_element(&reader, reply, i)));
    return vs_qmp_reader_finish(&reader, error) ? g_steal_pointer(&devices) : NULL;
}

GPtrArray *
vs_qmp_parse_nodes(struct json_object *reply, GError **error)
{
    VsQmpReader reader = {.command = "query-named-block-nodes"};
    g_autoptr(GPtrArray) nodes = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_node_free);

    for (size_t i = 0; i < vs_qmp_reader_array_length(&reader, reply); i++)
        g_ptr_array_add(nodes, parse_node(&reader, vs_qmp_reader_element(&reader, reply, i)));
    return vs_qmp_reader_finish(&reader, error) ? g_steal_pointer(&nodes) : NULL;
}

const VsQmpNode *
vs_qmp_find_node(const GPtrArray *nodes, const char *name)
{
    for (guint i = 0; i < nodes->len; i++) {
        const VsQmpNode *node = g_ptr_array_index(nodes, i);
        if (g_strcmp0(node->name, name) == 0)
            return node;
    }
    return NULL;
}

const VsQmpBitmap *
vs_qmp_find_bitmap(const VsQmpNode *node, const char *name)
{
    for (guint i = 0; i < node->bitmaps->len; i++) {
        const VsQmpBitmap *bitmap = g_ptr_array_index(node->bitmaps, i);
        if (bitmap->name != NULL && g_strcmp0(bitmap->name, name) == 0)
            return bitmap;
    }
    return NULL;
}
