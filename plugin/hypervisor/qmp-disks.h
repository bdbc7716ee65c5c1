// SPDX-License-Identifier: LGPL-2.1-or-later
// Which disks a QEMU has, from what query-block and query-named-block-nodes say. Pure.
//
// A disk is a non-removable, writable device of the guest with a medium: not CD-ROM, floppy,
// pflash. Its name is the first that the user chose or would recognise: the device's id, the
// drive's, the node's. Source: recipe in qmp/README.md, QEMU's qapi/block-core.json.
#pragma once

#include "plugin/hypervisor/instance.h"
#include "qmp/block.h"

G_BEGIN_DECLS

// So begin the nodes that a snapshot in progress puts above a disk (qmp-driver-private.h).
#define VS_QMP_FILTER_PREFIX "vs-filter-"
#define VS_QMP_TOP_PREFIX "vs-top-"

// What QOM says of a device, by its index in the devices.
typedef struct {
    char *type;     // "virtio-blk-pci", NULL: not known
    bool is_shared; // the device's share-rw
    bool iothread;  // served by an iothread, or not known not to be
} VsQmpDeviceFacts;

// QOM path of a device: "/machine/peripheral/vdA", from either form of query-block's qdev.
char *vs_qmp_device_path(const char *qdev);

// Whether the device can be a disk at all; facts then need to be asked for.
bool vs_qmp_device_may_be_disk(const VsQmpDevice *device);

// The disks, as VsDisk *. facts: as many as devices. cwd: QEMU's working directory for relative
// names, NULL: not known.
GPtrArray *vs_qmp_find_disks(const GPtrArray *devices, const VsQmpDeviceFacts *facts,
                             const GPtrArray *nodes, const char *cwd);

// The image a node's file name stands for: absolute path or URI; "json:" names are looked into.
char *vs_qmp_image_name(const char *filename, const char *cwd);

G_END_DECLS
