// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/inventory.h"

#include "plugin/error.h"
#include "plugin/hypervisor/reach.h"
#include "plugin/snapshot/engine.h"
#include "qmp/client.h"

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
    g_ptr_array_unref(instance->disks);
    g_free(instance);
}

static VsInventory *
inventory_new(void)
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

static VsInventoryInstance *
add_instance(VsInventory *inventory, const char *id, const char *name, const char *kind,
             const char *status)
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

// instance: NULL for a disk that none has attached.
static VsInventoryDisk *
add_disk(VsInventory *inventory, VsInventoryInstance *instance, const char *id)
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

// Live ------------------------------------------------------------------------------------------

static void
add_live(VsInventory *inventory, const VsInstance *live, const GPtrArray *reasons)
{
    VsInventoryInstance *instance =
        add_instance(inventory, live->id, live->name, live->kind, live->status);
    for (guint i = 0; i < live->disks->len; i++) {
        const VsDisk *found = g_ptr_array_index(live->disks, i);
        const char *reason =
            reasons != NULL && i < reasons->len ? g_ptr_array_index(reasons, i) : NULL;
        VsInventoryDisk *disk = add_disk(inventory, instance, found->id);
        disk->target = g_strdup(found->target);
        disk->source = g_strdup(found->source);
        disk->format = g_strdup(found->format);
        disk->virtual_size_bytes = found->virtual_size_bytes;
        disk->in_use = true;
        disk->is_next_known = found->unavailable == NULL;
        disk->incremental = reason == NULL && found->unavailable == NULL;
        disk->reason = g_strdup(found->unavailable != NULL ? found->unavailable : reason);
    }
}

static bool
describe_live(VsContext *context, VsInventory *inventory, const char *name, GError **error)
{
    VsEngine engine = {.repository = context->repository,
                       .catalogue = context->catalogue,
                       .connect_uri = context->invocation->connect};
    g_autoptr(GPtrArray) reasons = NULL;
    g_autoptr(VsInstance) live = vs_engine_describe(&engine, name, &reasons, error);
    if (live == NULL)
        return false;
    add_live(inventory, live, reasons);
    return true;
}

// From memory -----------------------------------------------------------------------------------

static void
add_remembered_disk(VsInventory *inventory, VsInventoryInstance *instance, const VsKnownDisk *known,
                    const char *reason)
{
    VsInventoryDisk *disk = add_disk(inventory, instance, known->id);
    disk->target = g_strdup(known->target);
    disk->source = g_strdup(known->source);
    disk->format = g_strdup(known->format);
    disk->virtual_size_bytes = known->virtual_size_bytes;
    disk->in_use = instance != NULL && g_strcmp0(instance->status, "stopped") != 0;
    disk->reason = g_strdup(reason);
}

static void
add_remembered(VsInventory *inventory, const GPtrArray *known, const VsKnownDisk *of,
               const char *status, const char *reason)
{
    VsInventoryInstance *instance =
        add_instance(inventory, of->instance_id, of->instance_name, of->instance_kind, status);
    for (guint i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (g_strcmp0(disk->instance_id, of->instance_id) == 0)
            add_remembered_disk(inventory, instance, disk, reason);
    }
}

static const VsKnownDisk *
find_of_instance(const GPtrArray *known, const char *instance_id)
{
    for (guint i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (g_strcmp0(disk->instance_id, instance_id) == 0)
            return disk;
    }
    return NULL;
}

static const char IN_PROGRESS[] = "a snapshot of its instance is in progress: not known until then";
static const char NOT_RUNNING[] = "its QEMU does not run: not known";

// An instance whose monitor another client holds runs all the same.
static void
add_unreachable(VsContext *context, VsInventory *inventory, const GPtrArray *known,
                const VsKnownDisk *of, const GError *cause)
{
    bool gone = g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_CONNECT) ||
                g_error_matches(cause, VS_ERROR, VS_ERROR_NO_SUCH_INSTANCE);
    bool runs = g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN) ||
                g_error_matches(cause, VS_ERROR, VS_ERROR_BUSY) ||
                g_error_matches(cause, VS_ERROR, VS_ERROR_INSTANCE_STATUS);
    if (!gone)
        vs_warn(context->invocation, cause->message);
    add_remembered(inventory, known, of, runs ? "running" : "stopped",
                   gone ? NOT_RUNNING : cause->message);
}

static bool
is_listed(const VsInventory *inventory, const char *disk_id)
{
    for (guint i = 0; i < inventory->disks->len; i++) {
        const VsInventoryDisk *disk = g_ptr_array_index(inventory->disks, i);
        if (g_strcmp0(disk->id, disk_id) == 0)
            return true;
    }
    return false;
}

static void
gather_all(VsContext *context, VsInventory *inventory, const GPtrArray *known)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        g_autoptr(GError) cause = NULL;
        if (disk->instance_id == NULL || g_strcmp0(disk->instance_kind, "qmp") != 0 ||
            !g_hash_table_add(seen, disk->instance_id))
            continue;
        if (vs_catalogue_is_instance_busy(context->catalogue, disk->instance_id))
            add_remembered(inventory, known, disk, "running", IN_PROGRESS);
        else if (!describe_live(context, inventory, disk->instance_name, &cause))
            add_unreachable(context, inventory, known, disk, cause);
    }
    // What is left was detached, or never belonged to an instance.
    for (guint i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (!is_listed(inventory, disk->id))
            add_remembered_disk(inventory, NULL, disk, "no instance has it attached");
    }
}

static bool
gather_one(VsContext *context, VsInventory *inventory, const GPtrArray *known, const char *name,
           GError **error)
{
    g_auto(VsReach) reach = {0};
    if (!vs_reach_find(&reach, context->invocation->connect, name, error))
        return false;
    const char *id = reach.instance_id;
    const VsKnownDisk *of = find_of_instance(known, id);
    if (of == NULL || !vs_catalogue_is_instance_busy(context->catalogue, id))
        return describe_live(context, inventory, name, error);
    add_remembered(inventory, known, of, "running", IN_PROGRESS);
    return true;
}

// Snapshots are listed oldest first, so that the last one met is the newest.
static void
add_snapshots(VsInventoryDisk *disk, const GPtrArray *snapshots)
{
    for (guint i = 0; i < snapshots->len; i++) {
        const VsSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        if (g_strcmp0(snapshot->manifest->disk_id, disk->id) != 0 ||
            snapshot->status == VS_STATUS_FAILED)
            continue;
        disk->snapshots++;
        if (snapshot->status == VS_STATUS_ACCOMPLISHED) {
            g_free(disk->newest);
            disk->newest = g_strdup(snapshot->manifest->id);
        }
    }
}

VsInventory *
vs_inventory_gather(VsContext *context, const char *instance, GError **error)
{
    g_autoptr(GPtrArray) known = vs_catalogue_known_disks(context->catalogue, error);
    if (known == NULL)
        return NULL;
    g_autoptr(VsInventory) inventory = inventory_new();
    if (instance == NULL)
        gather_all(context, inventory, known);
    else if (!gather_one(context, inventory, known, instance, error))
        return NULL;
    g_autoptr(GPtrArray) snapshots = vs_catalogue_list(context->catalogue, NULL, error);
    if (snapshots == NULL)
        return NULL;
    for (guint i = 0; i < inventory->disks->len; i++)
        add_snapshots(g_ptr_array_index(inventory->disks, i), snapshots);
    return g_steal_pointer(&inventory);
}
