// SPDX-License-Identifier: LGPL-2.1-or-later
#include <unistd.h>

#include "plugin/cli/commands.h"
#include "plugin/cli/inventory.h"
#include "plugin/cli/output.h"
#include "plugin/cli/validate.h"

static struct json_object *
disk_object(const VsInventoryDisk *disk)
{
    struct json_object *object = json_object_new_object();
    struct json_object *instance = NULL;
    if (disk->instance_id != NULL) {
        instance = json_object_new_object();
        json_object_object_add(instance, "id", vs_output_string(disk->instance_id));
        json_object_object_add(instance, "name", vs_output_string(disk->instance_name));
    }
    json_object_object_add(object, "id", vs_output_string(disk->id));
    json_object_object_add(object, "instance", instance);
    json_object_object_add(object, "target", vs_output_string(disk->target));
    json_object_object_add(object, "source", vs_output_string(disk->source));
    json_object_object_add(object, "format", vs_output_string(disk->format));
    json_object_object_add(object, "virtual_size",
                           json_object_new_uint64(disk->virtual_size_bytes));
    json_object_object_add(object, "status",
                           json_object_new_string(disk->in_use ? "in_use" : "available"));
    json_object_object_add(object, "snapshots", json_object_new_int64(disk->snapshots));
    json_object_object_add(object, "newest", vs_output_string(disk->newest));
    json_object_object_add(object, "incremental", json_object_new_boolean(disk->incremental));
    json_object_object_add(object, "reason", vs_output_string(disk->reason));
    return object;
}

static void
add_row(VsTable *table, const VsInventoryDisk *disk)
{
    g_autofree char *size = vs_format_size(disk->virtual_size_bytes);
    g_autofree char *snapshots = g_strdup_printf("%u", disk->snapshots);
    const char *next = disk->incremental ? "incremental" : "full";
    const char *const cells[] = {disk->id,
                                 disk->target,
                                 disk->format,
                                 size,
                                 disk->in_use ? "in_use" : "available",
                                 snapshots,
                                 disk->is_next_known ? next : NULL,
                                 disk->instance_name,
                                 disk->reason};
    vs_table_add(table, cells);
}

bool
vs_cmd_disks(VsInvocation *invocation, GError **error)
{
    if (!vs_options_parse(invocation, NULL, error))
        return false;
    const char *instance = invocation->arguments[0];
    if (instance != NULL && !vs_validate_instance(instance, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    if (context == NULL)
        return false;
    g_autoptr(VsInventory) inventory = vs_inventory_gather(context, instance, true, error);
    if (inventory == NULL)
        return false;
    static const char *const titles[] = {"ID",        "TARGET", "FORMAT",   "SIZE",   "STATUS",
                                         "SNAPSHOTS", "NEXT",   "INSTANCE", "REASON", NULL};
    g_autoptr(VsTable) table = vs_table_new(titles, !isatty(STDOUT_FILENO));
    invocation->document = json_object_new_array();
    for (guint i = 0; i < inventory->disks->len; i++) {
        const VsInventoryDisk *disk = g_ptr_array_index(inventory->disks, i);
        json_object_array_add(invocation->document, disk_object(disk));
        add_row(table, disk);
    }
    vs_table_print(table, invocation->text);
    return true;
}
