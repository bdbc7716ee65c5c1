// SPDX-License-Identifier: LGPL-2.1-or-later
// The transaction of qmp/job.h.
#include "qmp/args.h"
#include "qmp/job.h"

struct _VsQmpTransaction {
    struct json_object *actions;
};

VsQmpTransaction *
vs_qmp_transaction_new(void)
{
    VsQmpTransaction *transaction = g_new0(VsQmpTransaction, 1);

    transaction->actions = json_object_new_array();
    return transaction;
}

void
vs_qmp_transaction_free(VsQmpTransaction *transaction)
{
    if (transaction == NULL)
        return;
    json_object_put(transaction->actions);
    g_free(transaction);
}

static void
add_action(VsQmpTransaction *transaction, const char *type, struct json_object *data)
{
    json_object_array_add(transaction->actions,
                          vs_qmp_args("type", vs_qmp_str(type), "data", data, NULL));
}

void
vs_qmp_transaction_bitmap_add(VsQmpTransaction *transaction, const VsQmpBitmapAdd *bitmap)
{
    add_action(
        transaction, "block-dirty-bitmap-add",
        vs_qmp_args("node", vs_qmp_str(bitmap->node), "name", vs_qmp_str(bitmap->name),
                    "granularity",
                    bitmap->granularity_bytes != 0 ? vs_qmp_size(bitmap->granularity_bytes) : NULL,
                    "persistent", vs_qmp_bool(bitmap->persistent), "disabled",
                    vs_qmp_bool(bitmap->disabled), NULL));
}

void
vs_qmp_transaction_bitmap_merge(VsQmpTransaction *transaction, const char *node, const char *target,
                                const char *source_node, const char *source)
{
    struct json_object *sources = json_object_new_array();

    json_object_array_add(
        sources, vs_qmp_args("node", vs_qmp_str(source_node), "name", vs_qmp_str(source), NULL));
    add_action(transaction, "block-dirty-bitmap-merge",
               vs_qmp_args("node", vs_qmp_str(node), "target", vs_qmp_str(target), "bitmaps",
                           sources, NULL));
}

void
vs_qmp_transaction_bitmap_remove(VsQmpTransaction *transaction, const char *node, const char *name)
{
    add_action(transaction, "block-dirty-bitmap-remove",
               vs_qmp_args("node", vs_qmp_str(node), "name", vs_qmp_str(name), NULL));
}

void
vs_qmp_transaction_backup(VsQmpTransaction *transaction, const VsQmpBackup *backup)
{
    const char *bitmap_mode = backup->bitmap != NULL ? "never" : NULL;

    add_action(transaction, "blockdev-backup",
               vs_qmp_args("job-id", vs_qmp_str(backup->job_id), "device",
                           vs_qmp_str(backup->device), "target", vs_qmp_str(backup->target), "sync",
                           vs_qmp_str(backup->sync), "bitmap", vs_qmp_str(backup->bitmap),
                           "bitmap-mode", vs_qmp_str(bitmap_mode), "filter-node-name",
                           vs_qmp_str(backup->filter_node), "on-cbw-error",
                           vs_qmp_str(backup->on_cbw_error), "auto-finalize", vs_qmp_bool(true),
                           "auto-dismiss", vs_qmp_bool(false), NULL));
}

bool
vs_qmp_transaction_is_empty(const VsQmpTransaction *transaction)
{
    return json_object_array_length(transaction->actions) == 0;
}

bool
vs_qmp_transaction_run(VsQmpTransaction *transaction, VsQmpClient *client,
                       GCancellable *cancellable, GError **error)
{
    if (vs_qmp_transaction_is_empty(transaction))
        return !g_cancellable_set_error_if_cancelled(cancellable, error);

    struct json_object *arguments =
        vs_qmp_args("actions", json_object_get(transaction->actions), NULL);
    if (vs_qmp_client_do(client, "transaction", arguments, cancellable, error))
        return true;
    g_prefix_error(error, "running a transaction of %zu actions: ",
                   json_object_array_length(transaction->actions));
    return false;
}
