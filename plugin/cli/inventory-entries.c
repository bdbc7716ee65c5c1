// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/inventory-entries.h"

static void
disk_free(VsInventoryDisk *disk)
{
    g_free(disk->id);
    g_free(disk->instance_id);
    g_free(disk->instance_name);
    g_free(disk->target);
    g_free(disk->source);
    g_free(disk->format);
    g_free(disk->reason);
    g_free(disk->newest);
    g_free(disk);
}

static void
instance_free(VsInventoryInstance *instance)
{
    g_free(instance->id);
    g_free(instance->name);
    g_free(instance->kind);
    g_free(instance->status);
    g_free(instance->reason);
    g_ptr_array_unref(instance->disks);
    g_free(instance);
}

VsInventory *
vs_inventory_new(void)
{
    VsInventory *inventory = g_new0(VsInventory, 1);
    inventory->instances = g_ptr_array_new_with_free_func((GDestroyNotify)instance_free);
    inventory->disks = g_ptr_array_new_with_free_func((GDestroyNotify)disk_free);
    return inventory;
}

void
vs_inventory_free(VsInventory *inventory)
{
    if (inventory == NULL)
        return;
    g_ptr_array_unref(inventory->instances);
    g_ptr_array_unref(inventory->disks);
    g_free(inventory);
}

VsInventoryInstance *
vs_inventory_add_instance(VsInventory *inventory, const char *id, const char *name,
                          const char *kind, const char *status)
{
    VsInventoryInstance *instance = g_new0(VsInventoryInstance, 1);
    instance->id = g_strdup(id);
    instance->name = g_strdup(name);
    instance->kind = g_strdup(kind);
    instance->status = g_strdup(status);
    instance->disks = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(inventory->instances, instance);
    return instance;
}

VsInventoryDisk *
vs_inventory_add_disk(VsInventory *inventory, VsInventoryInstance *instance, const char *id)
{
    VsInventoryDisk *disk = g_new0(VsInventoryDisk, 1);
    disk->id = g_strdup(id);
    if (instance != NULL) {
        disk->instance_id = g_strdup(instance->id);
        disk->instance_name = g_strdup(instance->name);
        g_ptr_array_add(instance->disks, g_strdup(id));
    }
    g_ptr_array_add(inventory->disks, disk);
    return disk;
}

bool
vs_inventory_has_disk(const VsInventory *inventory, const char *disk_id)
{
    for (guint i = 0; i < inventory->disks->len; i++) {
        const VsInventoryDisk *disk = g_ptr_array_index(inventory->disks, i);
        if (g_strcmp0(disk->id, disk_id) == 0)
            return true;
    }
    return false;
}
