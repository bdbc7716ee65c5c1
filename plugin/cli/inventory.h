// SPDX-License-Identifier: LGPL-2.1-or-later
// The instances and disks there are: asked live where that is possible, else as the catalogue
// remembers them.
#pragma once

#include "plugin/cli/context.h"
#include "plugin/hypervisor/instance.h"

G_BEGIN_DECLS

typedef struct {
    char *id;
    char *instance_id; // NULL: no instance has it attached
    char *instance_name;
    char *target;
    char *source;
    char *format;
    uint64_t virtual_size_bytes;
    bool in_use;        // by an instance that runs or is paused, or by another QEMU
    bool is_next_known; // what the next snapshot would be; false also where there can be none
    bool incremental;   // it would be
    char *reason;       // why not, or why that is not known
    unsigned snapshots;
    char *newest; // id of the newest accomplished snapshot, NULL: none
} VsInventoryDisk;

typedef struct {
    char *id;
    char *name;
    char *kind;
    char *status;     // "running", "paused", "stopped"
    GPtrArray *disks; // char *: ids
    char *reason;     // why no more is known of it, NULL: it could be asked
} VsInventoryInstance;

typedef struct {
    GPtrArray *instances; // VsInventoryInstance *
    GPtrArray *disks;     // VsInventoryDisk *
} VsInventory;

// instance: INSTANCE, whose being unreachable is an error; NULL: all of libvirt's domains, and what
// the catalogue knows, where it is no more than a status. detailed: with the disks' sizes and what
// their next snapshots would be, for which stopped domains' images are examined. Disks that are
// seen attached are remembered in the catalogue.
VsInventory *vs_inventory_gather(VsContext *context, const char *instance, bool detailed,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_inventory_free(VsInventory *inventory);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsInventory, vs_inventory_free)

G_END_DECLS
