// SPDX-License-Identifier: LGPL-2.1-or-later
// A bitmap with only its last bit set. QMP can't set a bit: a node without content, as long as the
// disk, is written to at its end.
#include "plugin/hypervisor/qmp-driver-private.h"

static bool
write_last_sector(VsQmpClient *client, const VsQmpCapture *capture, GCancellable *cancellable,
                  GError **error)
{
    uint64_t size = capture->disk->disk->virtual_size_bytes;
    g_autofree char *line = g_strdup_printf("qemu-io %s \"write -q -z %" G_GUINT64_FORMAT " 512\"",
                                            capture->names.mark_node, size - 512);
    return vs_qmp_client_do(client, "human-monitor-command",
                            vs_qmp_args("command-line", vs_qmp_str(line), NULL), cancellable,
                            error);
}

bool
vs_qmp_mark_make(VsQmpClient *client, VsQmpCapture *capture, GCancellable *cancellable,
                 GError **error)
{
    uint64_t size = capture->disk->disk->virtual_size_bytes;
    if (size < 512)
        return true;
    struct json_object *node = vs_qmp_args(
        "driver", vs_qmp_str("null-co"), "node-name", vs_qmp_str(capture->names.mark_node), "size",
        vs_qmp_int(size), "read-zeroes", vs_qmp_bool(true), NULL);
    if (!vs_qmp_node_add(client, node, cancellable, error))
        return false;
    capture->has_mark = true;
    // Whether the write took effect shows in the bitmap itself: without the bit the next snapshot
    // will be full.
    return vs_qmp_client_do(client, "block-dirty-bitmap-add",
                            vs_qmp_args("node", vs_qmp_str(capture->names.mark_node), "name",
                                        vs_qmp_str(VS_MARK_BITMAP), "granularity",
                                        vs_qmp_int(VS_MARK_GRANULARITY), NULL),
                            cancellable, error) &&
           write_last_sector(client, capture, cancellable, error);
}

bool
vs_qmp_mark_remove(VsQmpClient *client, VsQmpCapture *capture, GError **error)
{
    if (!capture->has_mark)
        return true;
    if (!vs_qmp_node_delete(client, capture->names.mark_node, NULL, error))
        return false;
    capture->has_mark = false;
    return true;
}
