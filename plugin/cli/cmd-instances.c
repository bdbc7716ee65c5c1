// SPDX-License-Identifier: LGPL-2.1-or-later
#include <unistd.h>

#include "plugin/cli/commands.h"
#include "plugin/cli/inventory.h"
#include "plugin/cli/output.h"

static struct json_object *
instance_object(const VsInventoryInstance *instance)
{
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "id", vs_output_string(instance->id));
    json_object_object_add(object, "name", vs_output_string(instance->name));
    json_object_object_add(object, "kind", vs_output_string(instance->kind));
    json_object_object_add(object, "status", vs_output_string(instance->status));
    struct json_object *disks = json_object_new_array();
    for (guint i = 0; i < instance->disks->len; i++)
        json_object_array_add(disks, vs_output_string(g_ptr_array_index(instance->disks, i)));
    json_object_object_add(object, "disks", disks);
    json_object_object_add(object, "reason", vs_output_string(instance->reason));
    return object;
}

bool
vs_cmd_instances(VsInvocation *invocation, GError **error)
{
    if (!vs_options_parse(invocation, NULL, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    if (context == NULL)
        return false;
    g_autoptr(VsInventory) inventory = vs_inventory_gather(context, NULL, false, error);
    if (inventory == NULL)
        return false;
    static const char *const titles[] = {"ID", "KIND", "STATUS", "DISKS", "NAME", "REASON", NULL};
    g_autoptr(VsTable) table = vs_table_new(titles, !isatty(STDOUT_FILENO));
    invocation->document = json_object_new_array();
    for (guint i = 0; i < inventory->instances->len; i++) {
        const VsInventoryInstance *instance = g_ptr_array_index(inventory->instances, i);
        json_object_array_add(invocation->document, instance_object(instance));
        g_autofree char *disks = g_strdup_printf("%u", instance->disks->len);
        const char *const cells[] = {instance->id, instance->kind, instance->status,
                                     disks,        instance->name, instance->reason};
        vs_table_add(table, cells);
    }
    vs_table_print(table, invocation->text);
    return true;
}
