// SPDX-License-Identifier: LGPL-2.1-or-later
// QEMU's block layer through QMP, typed: devices, nodes, dirty bitmaps, file descriptor sets.
//
// Every call iterates the client's context until QEMU has answered. Structures own their strings.
// An optional member is NULL (strings) where QEMU did not say. Unknown members of a reply are
// ignored, a missing or wrongly typed required one is VS_QMP_ERROR_PROTOCOL. Source:
// qapi/block-core.json of QEMU 7.2.
#pragma once

#include "qmp/args.h"
#include "qmp/client.h"

G_BEGIN_DECLS

typedef struct {
    char *name; // NULL: anonymous (internal to a job or filter)
    bool recording;
    bool busy;
    bool persistent;
    bool inconsistent;
    uint64_t granularity_bytes;
    uint64_t count_bytes; // dirty
} VsQmpBitmap;

// A node as query-named-block-nodes (flat) tells.
typedef struct {
    char *name;
    char *driver;
    char *filename;         // "file": as on the command line; may be relative or "json:{…}"
    char *backing_filename; // "backing_file", NULL without
    char *compat;           // qcow2: "0.10" or "1.1"; NULL otherwise
    bool read_only;
    uint64_t virtual_size_bytes;
    uint64_t cluster_size_bytes; // 0 where unknown
    GPtrArray *bitmaps;          // of VsQmpBitmap *
} VsQmpNode;

// A guest device as query-block tells, without what only a node has.
typedef struct {
    char *device;      // -drive id, "" for -blockdev
    char *qdev;        // id or QOM path of the device, NULL for a drive without one
    char *node;        // inserted node's name, NULL for an empty drive
    char *node_driver; // inserted.drv
    bool removable;
    bool read_only;
    bool has_io_status;
} VsQmpDevice;

void vs_qmp_bitmap_free(VsQmpBitmap *bitmap);
void vs_qmp_node_free(VsQmpNode *node);
void vs_qmp_device_free(VsQmpDevice *device);

// Parsers of the replies, for tests and fuzzing; the queries use them. Elements are owned by the
// array.
GPtrArray *vs_qmp_parse_devices(struct json_object *reply,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *vs_qmp_parse_nodes(struct json_object *reply, GError **error) G_GNUC_WARN_UNUSED_RESULT;

GPtrArray *vs_qmp_query_devices(VsQmpClient *client, GCancellable *cancellable,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *vs_qmp_query_nodes(VsQmpClient *client, GCancellable *cancellable,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Borrowed from the arrays; NULL where there is none.
const VsQmpNode *vs_qmp_find_node(const GPtrArray *nodes, const char *name);
const VsQmpBitmap *vs_qmp_find_bitmap(const VsQmpNode *node, const char *name);

// A string property of a QOM object (qom-get). NULL with error; VS_QMP_ERROR_COMMAND where the
// object lacks it.
char *vs_qmp_qom_get_string(VsQmpClient *client, const char *path, const char *property,
                            GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Sets a string property (qom-set). A device's "drive" may be set to another node while it runs:
// the device's requests go there from then on; both nodes are drained meanwhile.
bool vs_qmp_qom_set_string(VsQmpClient *client, const char *path, const char *property,
                           const char *value, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// blockdev-reopen: all of these nodes at one instant of the guest, or none, as far as none is in an
// iothread; QEMU flushes them before. options: an array (consumed) of what blockdev-add takes,
// where what is left out gets its default. Not cancellable: after VS_QMP_ERROR_TIMEOUT or _CLOSED
// it is unknown whether QEMU has done it.
bool vs_qmp_nodes_reopen(VsQmpClient *client, struct json_object *options,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

// blockdev-add with the given options (consumed), blockdev-del.
bool vs_qmp_node_add(VsQmpClient *client, struct json_object *options, GCancellable *cancellable,
                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_qmp_node_delete(VsQmpClient *client, const char *node, GCancellable *cancellable,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

// block-set-write-threshold; the event is BLOCK_WRITE_THRESHOLD{node-name}. 0 disables.
bool vs_qmp_set_write_threshold(VsQmpClient *client, const char *node, uint64_t threshold_bytes,
                                GCancellable *cancellable,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

bool vs_qmp_bitmap_remove(VsQmpClient *client, const char *node, const char *name,
                          GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// File descriptor sets. add passes fd (borrowed) with a free-form label ("opaque") and gives the
// set's id, so that QEMU can open it as /dev/fdset/ID. QEMU opens such a file with the access mode
// that fd has. It drops sets that nothing uses when the QMP connection closes. A removed descriptor
// is closed only while the VM runs: of a paused VM (QEMU 7.2) the set stays listed until someone
// removes it, or another one, once it runs again.
typedef struct {
    int64_t id;
    GPtrArray *labels; // of char *, one for each descriptor that has one
} VsQmpFdset;
void vs_qmp_fdset_free(VsQmpFdset *set);
bool vs_qmp_fdset_add(VsQmpClient *client, int fd, const char *label, int64_t *id,
                      GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_qmp_fdset_remove(VsQmpClient *client, int64_t id, GCancellable *cancellable,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *vs_qmp_query_fdsets(VsQmpClient *client, GCancellable *cancellable,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
