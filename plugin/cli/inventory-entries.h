// SPDX-License-Identifier: LGPL-2.1-or-later
// How an inventory is filled. What is added belongs to the inventory.
#pragma once

#include "plugin/cli/inventory.h"

G_BEGIN_DECLS

VsInventory *vs_inventory_new(void);
VsInventoryInstance *vs_inventory_add_instance(VsInventory *inventory, const char *id,
                                               const char *name, const char *kind,
                                               const char *status);
// instance: NULL for a disk that none has attached.
VsInventoryDisk *vs_inventory_add_disk(VsInventory *inventory, VsInventoryInstance *instance,
                                       const char *id);
bool vs_inventory_has_disk(const VsInventory *inventory, const char *disk_id);

G_END_DECLS
