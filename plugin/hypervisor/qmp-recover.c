// SPDX-License-Identifier: LGPL-2.1-or-later
// What is ours in a QEMU, by name, and how it goes.
#include <string.h>

#include "nbd-export/store/id.h"
#include "plugin/error.h"
#include "plugin/hypervisor/qmp-disks.h"
#include "plugin/hypervisor/qmp-guard.h"

void
vs_qmp_names_init(VsQmpNames *names, const char *owner, const char *snapshot_id, const char *node)
{
    const char *id = snapshot_id + strlen("s-");
    names->label = g_strjoin(" ", owner, snapshot_id, node, NULL);
    names->mark_node = g_strconcat("vs-mark-", id, NULL);
    names->file_node = g_strconcat("vs-file-", id, NULL);
    names->fleece_node = g_strconcat("vs-fleece-", id, NULL);
    names->filter_node = g_strconcat(VS_QMP_FILTER_PREFIX, id, NULL);
    names->top_node = g_strconcat(VS_QMP_TOP_PREFIX, id, NULL);
    names->access_node = g_strconcat("vs-access-", id, NULL);
    names->job = g_strconcat("vs-job-", id, NULL);
    names->export_id = g_strconcat("vs-export-", id, NULL);
    names->probe_id = g_strconcat("vs-probe-", id, NULL);
}

void
vs_qmp_names_clear(VsQmpNames *names)
{
    g_free(names->label);
    g_free(names->mark_node);
    g_free(names->file_node);
    g_free(names->fleece_node);
    g_free(names->filter_node);
    g_free(names->top_node);
    g_free(names->access_node);
    g_free(names->job);
    g_free(names->export_id);
    g_free(names->probe_id);
    memset(names, 0, sizeof *names);
}

char *
vs_qmp_server_node(const char *instance_id)
{
    return g_strconcat("vs-server-", instance_id + strlen("i-"), NULL);
}

void
vs_qmp_note_failure(GError **first, GError *failure)
{
    if (!failure)
        return;
    if (first && !*first)
        *first = failure;
    else
        g_error_free(failure);
}

static GError *
remove_export(VsQmpClient *client, VsQmpCapture *capture)
{
    GError *failure = NULL;
    const char *id = capture->names.export_id;
    if ((capture->is_detached || vs_qmp_export_begin_delete(client, id, NULL, &failure)) &&
        vs_qmp_export_wait_deleted(client, id, VS_QMP_SETTLE_TIMEOUT_MS, NULL, &failure))
        capture->has_export = false;
    return failure;
}

static GError *
remove_guard(VsQmpClient *client, VsQmpCapture *capture)
{
    GError *failure = NULL;
    if (!vs_qmp_guard_remove(client, capture, &failure))
        g_assert(failure);
    return failure;
}

static GError *
remove_job(VsQmpClient *client, VsQmpCapture *capture)
{
    GError *failure = NULL;
    if (vs_qmp_job_cancel(client, capture->names.job, VS_QMP_SETTLE_TIMEOUT_MS, NULL, &failure))
        capture->has_job = false;
    return failure;
}

static GError *
remove_node(VsQmpClient *client, const char *node, bool *has)
{
    GError *failure = NULL;
    if (vs_qmp_node_delete(client, node, NULL, &failure))
        *has = false;
    return failure;
}

static GError *
remove_fdset(VsQmpClient *client, VsQmpCapture *capture)
{
    GError *failure = NULL;
    if (vs_qmp_fdset_remove(client, capture->fdset, NULL, &failure))
        capture->has_fdset = false;
    return failure;
}

bool
vs_qmp_capture_remove(VsQmpClient *client, VsQmpCapture *capture, GError **error)
{
    GError *first = NULL;
    if (capture->has_export)
        vs_qmp_note_failure(&first, remove_export(client, capture));
    if (capture->has_guard)
        vs_qmp_note_failure(&first, remove_guard(client, capture));
    if (capture->has_job)
        vs_qmp_note_failure(&first, remove_job(client, capture));
    if (capture->has_fleece)
        vs_qmp_note_failure(&first,
                            remove_node(client, capture->names.fleece_node, &capture->has_fleece));
    if (capture->has_mark)
        vs_qmp_note_failure(&first,
                            remove_node(client, capture->names.mark_node, &capture->has_mark));
    if (capture->has_file)
        vs_qmp_note_failure(&first,
                            remove_node(client, capture->names.file_node, &capture->has_file));
    // By its label the rest is found: as long as there is any, it stays.
    if (capture->has_fdset && !first)
        vs_qmp_note_failure(&first, remove_fdset(client, capture));
    if (first)
        g_propagate_error(error, first);
    return first == NULL;
}

// Leftovers -------------------------------------------------------------------------------------

static bool
has_string(const GPtrArray *strings, const char *wanted)
{
    return g_ptr_array_find_with_equal_func((GPtrArray *)strings, wanted, g_str_equal, NULL);
}

static bool
has_job(const GPtrArray *jobs, const char *id)
{
    for (unsigned i = 0; i < jobs->len; i++)
        if (g_str_equal(((VsQmpJob *)g_ptr_array_index(jobs, i))->id, id))
            return true;
    return false;
}

// What of a snapshot's objects is there now.
static bool
look_for(VsQmpClient *client, VsQmpCapture *capture, GError **error)
{
    g_autoptr(GPtrArray) exports = vs_qmp_query_exports(client, NULL, error);
    if (!exports)
        return false;
    g_autoptr(GPtrArray) jobs = vs_qmp_query_jobs(client, NULL, error);
    if (!jobs)
        return false;
    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(client, NULL, error);
    if (!nodes)
        return false;
    capture->has_export = has_string(exports, capture->names.export_id);
    capture->has_job = has_job(jobs, capture->names.job);
    capture->has_fleece = vs_qmp_find_node(nodes, capture->names.fleece_node) != NULL;
    capture->has_file = vs_qmp_find_node(nodes, capture->names.file_node) != NULL;
    capture->has_mark = vs_qmp_find_node(nodes, capture->names.mark_node) != NULL;
    vs_qmp_guard_look_for(capture, nodes);
    return true;
}

// A guest that a full scratch has stopped goes on, now that the job that needed it is gone: QEMU
// retries the write.
bool
vs_qmp_driver_resume(VsQmpDriver *driver, GError **error)
{
    struct json_object *reply =
        vs_qmp_client_call(driver->client, "query-status", NULL, NULL, error);
    if (!reply)
        return false;
    struct json_object *status;
    bool is_stopped = json_object_object_get_ex(reply, "status", &status) &&
                      g_strcmp0(json_object_get_string(status), "io-error") == 0;
    json_object_put(reply);
    return !is_stopped || vs_qmp_client_do(driver->client, "cont", NULL, NULL, error);
}

// What a label of this repository says.
typedef struct {
    const char *instance_id;
    const char *snapshot_id;
    char *node; // the disk's, NULL: not said
    char **words;
} Label;

static void
label_clear(Label *label)
{
    g_strfreev(label->words);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Label, label_clear)

static bool
parse_label(const VsQmpDriver *driver, const VsQmpFdset *set, Label *label)
{
    if (set->labels->len == 0)
        return false;
    label->words = g_strsplit(g_ptr_array_index(set->labels, 0), " ", 6);
    unsigned count = g_strv_length(label->words);
    if (count < 4 || count > 5 || !g_str_equal(label->words[0], VS_FDSET_LABEL) ||
        !g_str_equal(label->words[1], driver->repository_id))
        return false;
    label->instance_id = label->words[2];
    label->snapshot_id = label->words[3];
    label->node = label->words[4];
    return vs_id_is_valid(label->instance_id, "i-") &&
           (vs_id_is_valid(label->snapshot_id, "s-") ||
            g_str_equal(label->snapshot_id, VS_FDSET_SERVER));
}

static bool
remove_leftover(VsQmpDriver *driver, const Label *label, int64_t fdset, GError **error)
{
    VsQmpCapture capture = {.fdset = fdset, .has_fdset = true, .node = label->node};
    vs_qmp_names_init(&capture.names, driver->owner, label->snapshot_id, label->node);
    bool ok = look_for(driver->client, &capture, error);
    bool had_job = capture.has_job;
    if (ok && capture.has_mark)
        vs_qmp_driver_thaw_leftover(driver); // it died while it began
    ok = ok && vs_qmp_capture_remove(driver->client, &capture, error) &&
         (!had_job || vs_qmp_driver_resume(driver, error));
    vs_qmp_names_clear(&capture.names);
    return ok;
}

// A set of ours is left over unless its maker is at work, which it can be only by another socket of
// the same QEMU: by this one we hold the lock.
static bool
recover_set(VsQmpDriver *driver, const VsQmpFdset *set, const VsOwnerCheck *check, GError **error)
{
    g_auto(Label) label = {0};
    if (!parse_label(driver, set, &label))
        return true;
    bool is_server = g_str_equal(label.snapshot_id, VS_FDSET_SERVER);
    bool is_busy = !g_str_has_suffix(driver->owner, label.instance_id) &&
                   check->is_busy(label.instance_id, check->user_data);
    if (is_busy && is_server)
        return true; // the sets of its snapshots say more
    if (is_busy) {
        g_set_error(
            error, VS_ERROR, VS_ERROR_BUSY,
            "the machine of '%s' is being snapshotted through another of its monitors (%s); "
            "wait for it, or cancel it",
            driver->socket_path, label.snapshot_id);
        return false;
    }
    // The server's mark is found, but comes last: its exports have to go first.
    if (is_server) {
        driver->server_fdset = set->id;
        g_free(driver->server_node);
        driver->server_node = vs_qmp_server_node(label.instance_id);
        driver->has_server = true;
        return true;
    }
    return remove_leftover(driver, &label, set->id, error);
}

bool
vs_qmp_driver_recover(VsDriver *base, const VsOwnerCheck *check, GCancellable *cancellable,
                      GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    g_autoptr(GPtrArray) sets = vs_qmp_query_fdsets(driver->client, cancellable, error);
    if (!sets)
        return false;
    for (unsigned i = 0; i < sets->len; i++)
        if (!recover_set(driver, g_ptr_array_index(sets, i), check, error))
            return false;
    // Marked, but perhaps not yet started, or stopped already.
    g_autoptr(GError) no_server = NULL;
    if (!vs_qmp_driver_stop_server(driver, &no_server))
        g_debug("recovering: %s", no_server->message);
    return true;
}

static bool
drop_bitmaps(VsQmpDriver *driver, const VsQmpNode *node, const char *keep, GError **error)
{
    g_autofree char *keep_end = keep ? vs_bitmap_end_name(keep) : NULL;
    for (unsigned i = 0; i < node->bitmaps->len; i++) {
        const VsQmpBitmap *bitmap = g_ptr_array_index(node->bitmaps, i);
        if (!vs_bitmap_is_of(bitmap->name, driver->repository_id) ||
            g_strcmp0(bitmap->name, keep) == 0 || g_strcmp0(bitmap->name, keep_end) == 0)
            continue;
        if (!vs_qmp_bitmap_remove(driver->client, node->name, bitmap->name, NULL, error))
            return false;
    }
    return true;
}

bool
vs_qmp_driver_tidy(VsDriver *base, const VsKeptBitmap *kept, unsigned count, GError **error)
{
    VsQmpDriver *driver = (VsQmpDriver *)base;
    // Asked anew: some may have come and gone since the disks were described.
    g_autoptr(GPtrArray) nodes = vs_qmp_query_nodes(driver->client, NULL, error);
    if (!nodes)
        return false;
    for (unsigned i = 0; i < count; i++) {
        const VsQmpNode *node = vs_qmp_find_node(nodes, kept[i].disk->node);
        if (node && kept[i].is_locked && !drop_bitmaps(driver, node, kept[i].bitmap, error))
            return false;
    }
    return true;
}
