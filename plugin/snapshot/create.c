// SPDX-License-Identifier: LGPL-2.1-or-later
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/snapshot/transfer.h"

// Snapshots taken by hand that a disk may have, as the cloud service's quota is.
#define MANUAL_QUOTA 256u
// How long to wait for a prune to end before giving up.
#define REPOSITORY_LOCK_TIMEOUT_MS 10000u

typedef struct {
    const VsEngine *engine;
    const VsCreateRequest *request;
    GCancellable *cancellable;
    VsSession session;
    GPtrArray *plan; // VsPlanDisk *
    GArray *locks;   // int: descriptors of the disks' locks
    VsPointDisk *points;
    GPtrArray *manifests; // VsManifest *, the plan's
    GPtrArray *warnings;  // char *
    char *group;
} Create;

static void
close_lock(gpointer element)
{
    close(*(int *)element);
}

static void
create_clear(Create *create)
{
    vs_session_clear(&create->session);
    g_clear_pointer(&create->locks, g_array_unref);
    g_clear_pointer(&create->plan, g_ptr_array_unref);
    g_clear_pointer(&create->manifests, g_ptr_array_unref);
    g_clear_pointer(&create->warnings, g_ptr_array_unref);
    g_clear_object(&create->cancellable);
    g_free(create->points);
    g_free(create->group);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Create, create_clear)

void
vs_create_result_free(VsCreateResult *result)
{
    if (!result)
        return;
    g_free(result->group);
    g_ptr_array_unref(result->snapshots);
    g_ptr_array_unref(result->warnings);
    g_free(result);
}

static void
warn(Create *create, const char *what, const GError *error)
{
    g_ptr_array_add(create->warnings, g_strdup_printf("%s: %s", what, error->message));
}

// Planning --------------------------------------------------------------------------------------

static bool
check_quota(const VsEngine *engine, const VsDisk *disk, GError **error)
{
    unsigned count = 0;
    if (!vs_catalogue_count(engine->catalogue, disk->id, "manual", &count, error))
        return false;
    if (count < MANUAL_QUOTA)
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_QUOTA,
                "disk '%s' (%s) has %u snapshots, which is the quota; delete some first",
                disk->target, disk->id, count);
    return false;
}

// One machine may be reached by two sockets, so that the instance's lock alone does not do.
static bool
lock_disk(Create *create, const VsDisk *disk, GError **error)
{
    int fd = vs_catalogue_lock_instance(create->engine->catalogue, disk->id, error);
    if (fd >= 0)
        g_array_append_val(create->locks, fd);
    return fd >= 0;
}

static bool
plan_disk(Create *create, const VsDisk *disk, GError **error)
{
    g_auto(VsBase) base = {0};
    if (!lock_disk(create, disk, error) || !check_quota(create->engine, disk, error) ||
        !vs_session_load_base(create->engine, disk, &base, error))
        return false;
    VsPlanDisk *plan = vs_plan_disk(create->session.instance, disk, &base, create->request,
                                    vs_repository_id(create->engine->repository), create->group);
    g_ptr_array_add(create->plan, plan);
    g_ptr_array_add(create->manifests, plan->manifest);
    if (create->request->capture == VS_CAPTURE_LIVE && disk->iothread)
        g_ptr_array_add(
            create->warnings,
            g_strdup_printf("disk '%s' is on an iothread: with some QEMU versions the VM dies "
                            "if this program is killed during a live capture",
                            disk->target));
    return true;
}

static bool
make_plan(Create *create, GError **error)
{
    g_autoptr(GPtrArray) chosen =
        vs_plan_choose(create->session.instance, create->request->disks, error);
    if (!chosen)
        return false;
    create->group = chosen->len > 1 ? vs_id_new("ssg-") : NULL;
    for (unsigned i = 0; i < chosen->len; i++)
        if (!plan_disk(create, g_ptr_array_index(chosen, i), error))
            return false;
    return true;
}

// Bitmaps of ours that are neither the newest snapshot's nor a stranger's were left by an
// interrupted run, or a removal that failed.
static bool
drop_stale_bitmaps(Create *create, GError **error)
{
    VsDriver *driver = create->session.driver;
    for (unsigned i = 0; i < create->plan->len; i++) {
        const VsPlanDisk *plan = g_ptr_array_index(create->plan, i);
        if (!driver->ops->drop_bitmaps(driver, plan->disk, plan->base ? plan->base->bitmap : NULL,
                                       error))
            return false;
    }
    return true;
}

static bool
announce(Create *create, GError **error)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func((GDestroyNotify)vs_snapshot_free);
    for (unsigned i = 0; i < create->manifests->len; i++) {
        VsManifest *manifest = g_ptr_array_index(create->manifests, i);
        VsSnapshot *row = vs_snapshot_new(vs_manifest_copy(manifest));
        if (create->request->tags) {
            g_hash_table_unref(row->tags);
            row->tags = g_hash_table_ref(create->request->tags);
        }
        g_ptr_array_add(rows, row);
    }
    return vs_catalogue_begin(create->engine->catalogue, rows, error);
}

// Capturing -------------------------------------------------------------------------------------

static void
make_points(Create *create)
{
    create->points = g_new0(VsPointDisk, create->plan->len);
    for (unsigned i = 0; i < create->plan->len; i++) {
        const VsPlanDisk *plan = g_ptr_array_index(create->plan, i);
        create->points[i] =
            (VsPointDisk){.disk = plan->disk,
                          .snapshot_id = plan->manifest->id,
                          .bitmap = plan->manifest->bitmap,
                          .kept_bitmap = plan->base ? plan->base->bitmap : NULL,
                          .old_bitmap = plan->incremental ? plan->base->bitmap : NULL,
                          .staged = plan->staged};
    }
}

// A grown disk's new end is to be read, whatever the bitmap says.
static void
count_growth(Create *create)
{
    for (unsigned i = 0; i < create->plan->len; i++) {
        const VsPlanDisk *plan = g_ptr_array_index(create->plan, i);
        uint64_t size = plan->disk->virtual_size_bytes;
        if (plan->incremental && size > plan->base->virtual_size_bytes)
            create->points[i].dirty_bytes += size - plan->base->virtual_size_bytes;
    }
}

static bool
begin_point(Create *create, GError **error)
{
    VsDriver *driver = create->session.driver;
    make_points(create);
    VsPoint point = {
        .disks = create->points,
        .count = create->plan->len,
        .scratch = {create->request->scratch_dir, create->request->scratch_size_bytes}};
    if (!driver->ops->begin(driver, &point, create->cancellable, error))
        return false;
    count_growth(create);
    for (unsigned i = 0; i < create->manifests->len; i++) {
        VsManifest *manifest = g_ptr_array_index(create->manifests, i);
        manifest->created_at_us = point.at_us;
        manifest->expires_at_us =
            create->request->retain_us ? point.at_us + create->request->retain_us : 0;
    }
    return true;
}

// From the point in time on: all of it, or nothing is left.
static bool
capture(Create *create, GError **error)
{
    const VsEngine *engine = create->engine;
    VsDriver *driver = create->session.driver;
    VsTransferJob transfer = {.engine = engine,
                              .session = &create->session,
                              .plan = create->plan,
                              .points = create->points,
                              .speed_limit_bytes = create->request->speed_limit_bytes,
                              .cancellable = create->cancellable};
    bool kept = vs_transfer_run(&transfer, error) &&
                !g_cancellable_set_error_if_cancelled(create->cancellable, error) &&
                vs_repository_commit(engine->repository, create->manifests, error);
    g_autoptr(GError) late = NULL;
    if (kept && !vs_catalogue_accomplish(engine->catalogue, create->manifests, &late))
        warn(create, "the snapshots are stored, but the catalogue could not be told", late);
    g_autoptr(GError) unsettled = NULL;
    if (!driver->ops->settle(driver, kept, &unsettled))
        warn(create, "cleaning up in QEMU (the next create will do it)", unsettled);
    return kept;
}

static void
mark_failed(Create *create, const GError *failure)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    for (unsigned i = 0; i < create->manifests->len; i++)
        g_ptr_array_add(ids, ((VsManifest *)g_ptr_array_index(create->manifests, i))->id);
    g_autoptr(GError) error = NULL;
    if (!vs_catalogue_fail(create->engine->catalogue, ids, failure->message, &error))
        warn(create, "noting the failure in the catalogue", error);
}

// What fails before there is a point in time leaves no trace, not even a failed snapshot.
static bool
begin(Create *create, GError **error)
{
    if (!begin_point(create, error))
        return false;
    if (announce(create, error))
        return true;
    g_autoptr(GError) unsettled = NULL;
    VsDriver *driver = create->session.driver;
    if (!driver->ops->settle(driver, false, &unsettled))
        g_prefix_error(error, "(and undoing it failed: %s; the next create will do it) ",
                       unsettled->message);
    return false;
}

static bool
run(Create *create, GError **error)
{
    GError *failure = NULL;
    bool begun = begin(create, &failure);
    if (begun && capture(create, &failure))
        return true;
    if (g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_clear_error(&failure);
        g_set_error(&failure, VS_ERROR, VS_ERROR_CANCELLED, "creating a snapshot of %s: cancelled",
                    create->session.instance->name);
    }
    if (begun)
        mark_failed(create, failure);
    g_propagate_error(error, failure);
    return false;
}

static VsCreateResult *
make_result(Create *create, GError **error)
{
    g_autoptr(VsCreateResult) result = g_new0(VsCreateResult, 1);
    result->group = g_strdup(create->group);
    result->warnings = g_ptr_array_ref(create->warnings);
    result->snapshots = g_ptr_array_new_with_free_func((GDestroyNotify)vs_snapshot_free);
    for (unsigned i = 0; i < create->manifests->len; i++) {
        const VsManifest *manifest = g_ptr_array_index(create->manifests, i);
        VsSnapshot *snapshot = vs_catalogue_get(create->engine->catalogue, manifest->id, error);
        if (!snapshot)
            return NULL;
        g_ptr_array_add(result->snapshots, snapshot);
    }
    return g_steal_pointer(&result);
}

VsCreateResult *
vs_engine_create(const VsEngine *engine, const VsCreateRequest *request, GError **error)
{
    g_auto(Create) create = {.engine = engine, .request = request, .session = {.lock = -1}};
    create.cancellable =
        engine->cancellable ? g_object_ref(engine->cancellable) : g_cancellable_new();
    create.plan = g_ptr_array_new_with_free_func((GDestroyNotify)vs_plan_disk_free);
    create.manifests = g_ptr_array_new();
    create.locks = g_array_new(FALSE, FALSE, sizeof(int));
    g_array_set_clear_func(create.locks, close_lock);
    create.warnings = g_ptr_array_new_with_free_func(g_free);

    if (!vs_repository_lock(engine->repository, VS_REPOSITORY_SHARED, REPOSITORY_LOCK_TIMEOUT_MS,
                            error) ||
        !vs_session_open(&create.session, engine, request->instance, true, error) ||
        !make_plan(&create, error) || !drop_stale_bitmaps(&create, error) || !run(&create, error))
        return NULL;
    return make_result(&create, error);
}
