// SPDX-License-Identifier: LGPL-2.1-or-later
#include <unistd.h>

#include "nbd-export/store/attachment.h"
#include "plugin/error.h"
#include "plugin/hypervisor/chain-identity.h"
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
    bool is_something_left; // in the hypervisor, that could not be removed
    GHashTable *distrusted; // borrowed: disks' ids → why their bitmaps are not believed
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

static void
warn_of_iothread(Create *create, const VsDisk *disk)
{
    if (create->request->capture == VS_CAPTURE_LIVE && disk->iothread)
        g_ptr_array_add(
            create->warnings,
            g_strdup_printf("disk '%s' is on an iothread: with some QEMU versions the VM dies "
                            "if this program is killed during a live capture",
                            disk->target));
}

static bool
plan_disk(Create *create, const VsPlanContext *context, const VsDisk *disk, GError **error)
{
    g_auto(VsBase) base = {0};
    if (!lock_disk(create, disk, error) || !check_quota(create->engine, disk, error) ||
        !vs_session_load_base(create->engine, disk, &base, error))
        return false;
    VsPlanDisk *plan = vs_plan_disk(context, disk, &base);
    g_ptr_array_add(create->plan, plan);
    g_ptr_array_add(create->manifests, plan->manifest);
    warn_of_iothread(create, disk);
    return true;
}

static bool
make_plan(Create *create, GError **error)
{
    VsInstance *instance = create->session.instance;
    g_autoptr(GPtrArray) chosen = vs_plan_choose(instance, create->request->disks, error);
    if (!chosen)
        return false;
    create->group = chosen->len > 1 ? vs_id_new("ssg-") : NULL;
    VsPlanContext context = {instance, create->request,
                             vs_repository_id(create->engine->repository), create->group,
                             create->distrusted};
    for (unsigned i = 0; i < chosen->len; i++)
        if (!plan_disk(create, &context, g_ptr_array_index(chosen, i), error))
            return false;
    vs_plan_settle_capture(&context, create->plan);
    return true;
}

// Bitmaps ---------------------------------------------------------------------------------------

// is_taken: whether the newest snapshot is the one being made.
static bool
tidy(Create *create, bool is_taken, GError **error)
{
    g_autoptr(GHashTable) newest = g_hash_table_new(NULL, NULL);
    for (unsigned i = 0; i < create->plan->len; i++) {
        const VsPlanDisk *plan = g_ptr_array_index(create->plan, i);
        const VsManifest *manifest = is_taken ? plan->manifest : plan->base;
        g_hash_table_insert(newest, (gpointer)plan->disk, manifest ? manifest->bitmap : NULL);
    }
    return vs_session_tidy(&create->session, create->engine, newest, error);
}

// Whoever holds the catalogue keeps us, but not from looking after the scratch space. User data:
// the create.
static bool
look_after_point(gpointer user_data)
{
    Create *create = user_data;
    VsDriver *driver = create->session.driver;
    g_autoptr(GMainContext) context = g_main_context_ref_thread_default();
    g_usleep(VS_CATALOGUE_WAIT_MS * 1000);
    while (g_main_context_iteration(context, FALSE))
        ;
    g_autoptr(GError) lost = NULL;
    return !driver->ops->is_lost(driver, &lost);
}

static bool
announce(Create *create, GError **error)
{
    VsCatalogue *catalogue = create->engine->catalogue;
    VsDriver *driver = create->session.driver;
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
    GError *failure = NULL;
    vs_catalogue_set_wait(catalogue, look_after_point, create);
    bool ok = vs_catalogue_begin(catalogue, rows, &failure);
    vs_catalogue_set_wait(catalogue, NULL, NULL);
    if (ok)
        return true;
    if (driver->ops->is_lost(driver, error))
        g_error_free(failure);
    else
        g_propagate_error(error, failure);
    return false;
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
                          .old_bitmap = plan->incremental ? plan->base->bitmap : NULL,
                          .staged = plan->staged,
                          .needs_source = plan->needs_witness};
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

#define FREEZE_TIMEOUT_MS 10000u

static char *
identify(const Create *create, const VsPlanDisk *plan)
{
    return vs_chain_identity(plan->disk->chain, vs_instance_is_running(create->session.instance));
}

// What the next create will compare with: anything written from now on is no part of the snapshot.
static void
take_identities(Create *create)
{
    for (unsigned i = 0; i < create->plan->len; i++) {
        const VsPlanDisk *plan = g_ptr_array_index(create->plan, i);
        plan->manifest->disk_chain_identity = identify(create, plan);
    }
}

static bool
begin_point(Create *create, GError **error)
{
    VsDriver *driver = create->session.driver;
    make_points(create);
    take_identities(create);
    VsPoint point = {.disks = create->points,
                     .count = create->plan->len,
                     .scratch = {create->request->scratch_dir, create->request->scratch_size_bytes},
                     .freeze_timeout_ms = create->request->quiesce ? FREEZE_TIMEOUT_MS : 0};
    if (!driver->ops->begin(driver, &point, create->cancellable, error)) {
        create->is_something_left = point.is_something_left;
        return false;
    }
    count_growth(create);
    for (unsigned i = 0; i < create->manifests->len; i++) {
        VsManifest *manifest = g_ptr_array_index(create->manifests, i);
        manifest->created_at_us = point.at_us;
        manifest->frozen_us = point.frozen_us;
        manifest->expires_at_us =
            create->request->retain_us ? point.at_us + create->request->retain_us : 0;
    }
    return true;
}

// A file of the definition that can't be had does not keep the disks from being saved.
static bool
is_forgivable(const GError *error)
{
    return error->domain == G_FILE_ERROR || error->domain == VS_ATTACHMENT_ERROR;
}

// What the machine itself writes to.
static bool
is_state(const VsInstanceFile *file)
{
    return strcmp(file->role, "nvram") == 0;
}

// What the definition points to belongs to the snapshot too. The machine's state is taken next to
// the point in time, and what it only reads after the disks: the guest works slower until they are
// read.
static bool
store_files(Create *create, bool state, GError **error)
{
    VsRepository *repository = create->engine->repository;
    const GPtrArray *files = create->session.instance->files;
    for (unsigned i = 0; i < files->len; i++) {
        const VsInstanceFile *file = g_ptr_array_index(files, i);
        if (is_state(file) != state)
            continue;
        GError *failure = NULL;
        VsManifestFile *stored = vs_attachment_store(repository, file->role, file->path, &failure);
        for (unsigned j = 0; stored && j < create->manifests->len; j++) {
            VsManifest *manifest = g_ptr_array_index(create->manifests, j);
            g_ptr_array_add(manifest->files, vs_manifest_file_copy(stored));
        }
        vs_manifest_file_free(stored);
        if (failure && !is_forgivable(failure)) {
            g_propagate_error(error, failure);
            return false;
        }
        if (failure)
            warn(create, "saved without one of the machine's files", failure);
        g_clear_error(&failure);
    }
    return true;
}

// All that the point in time holds.
static bool
bring_in(Create *create, GError **error)
{
    VsDriver *driver = create->session.driver;
    VsTransferJob job = {
        .engine = create->engine,
        .session = &create->session,
        .plan = create->plan,
        .points = create->points,
        .speed_limit_bytes = create->request->speed_limit_bytes,
        .scratch = {create->request->scratch_dir, create->request->scratch_size_bytes},
        .cancellable = create->cancellable};
    if (!store_files(create, true, error))
        return false;
    g_autoptr(VsTransfer) transfer = vs_transfer_read(&job, error);
    return transfer && store_files(create, false, error) && vs_transfer_store(transfer, error) &&
           driver->ops->confirm(driver, error) &&
           !g_cancellable_set_error_if_cancelled(create->cancellable, error);
}

// Whether the disk's files are those that the snapshot was taken of.
static bool
is_untouched(const Create *create, const VsPlanDisk *plan)
{
    g_autofree char *identity = identify(create, plan);
    return g_strcmp0(identity, plan->manifest->disk_chain_identity) == 0;
}

// Ours were the bitmaps that went from its backing files: that was no change.
static void
renew_identity(Create *create, VsPlanDisk *plan)
{
    g_autoptr(GError) error = NULL;
    if (is_untouched(create, plan))
        return;
    g_free(plan->manifest->disk_chain_identity);
    plan->manifest->disk_chain_identity = identify(create, plan);
    if (!vs_repository_reidentify(create->engine->repository, plan->manifest, &error))
        g_debug("the next create reads in full: %s", error->message);
}

// Leaves in the hypervisor what the newest snapshot needs, and nothing else.
static void
clean_up(Create *create, bool is_taken)
{
    VsDriver *driver = create->session.driver;
    g_autoptr(GError) unsettled = NULL, untidy = NULL;
    g_autoptr(GPtrArray) untouched = g_ptr_array_new();
    for (unsigned i = 0; is_taken && i < create->plan->len; i++)
        if (is_untouched(create, g_ptr_array_index(create->plan, i)))
            g_ptr_array_add(untouched, g_ptr_array_index(create->plan, i));
    create->is_something_left = false;
    if (!driver->ops->settle(driver, &unsettled))
        warn(create, "cleaning up in QEMU (the next create will do it)", unsettled);
    if (!tidy(create, is_taken, &untidy) && !unsettled)
        warn(create, "removing bitmaps (the next create will do it)", untidy);
    create->is_something_left = unsettled || untidy;
    for (unsigned i = 0; i < untouched->len; i++)
        renew_identity(create, g_ptr_array_index(untouched, i));
}

// From the point in time on: all of it, or nothing is left.
static bool
capture(Create *create, GError **error)
{
    const VsEngine *engine = create->engine;
    bool is_taken = bring_in(create, error) &&
                    vs_repository_commit(engine->repository, create->manifests, error);
    g_autoptr(GError) late = NULL;
    if (is_taken && !vs_catalogue_accomplish(engine->catalogue, create->manifests, &late))
        warn(create, "the snapshots are stored, but the catalogue could not be told", late);
    clean_up(create, is_taken);
    return is_taken;
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

// It is tried again in full at once, so nobody needs to see it.
static void
forget(Create *create)
{
    for (unsigned i = 0; i < create->manifests->len; i++) {
        const VsManifest *manifest = g_ptr_array_index(create->manifests, i);
        g_autoptr(GError) error = NULL;
        if (!vs_catalogue_forget(create->engine->catalogue, manifest->id, &error))
            warn(create, "forgetting a first attempt", error);
    }
}

// What fails before there is a point in time leaves no trace, not even a failed snapshot.
static bool
begin(Create *create, GError **error)
{
    GError *failure = NULL;
    if (begin_point(create, &failure)) {
        if (announce(create, &failure))
            return true;
        clean_up(create, false);
    } else {
        // Whether its bitmaps came into being may be unknown.
        g_autoptr(GError) untidy = NULL;
        create->is_something_left |= !tidy(create, false, &untidy);
        if (untidy)
            g_debug("after a failed begin: %s", untidy->message);
    }
    g_propagate_error(error, failure);
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
    if (begun && g_error_matches(failure, VS_ERROR, VS_ERROR_BITMAP_DISTRUSTED))
        forget(create);
    else if (begun)
        mark_failed(create, failure);
    g_propagate_error(error, failure);
    return false;
}

// What is made from here on is found again, should this process die.
static bool
run_noted(Create *create, GError **error)
{
    int lock =
        create->session.lock >= 0 ? create->session.lock : g_array_index(create->locks, int, 0);
    if (!vs_catalogue_note_work(lock, create->session.reach.name, create->engine->connect_uri,
                                error))
        return false;
    bool ok = run(create, error);
    g_autoptr(GError) late = NULL;
    if (!create->is_something_left && !vs_catalogue_note_work(lock, NULL, NULL, &late))
        warn(create, "all is in order, but recover will look here once more", late);
    return ok;
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

static void
create_init(Create *create, const VsEngine *engine, const VsCreateRequest *request)
{
    *create = (Create){.engine = engine, .request = request, .session = {.lock = -1}};
    create->cancellable =
        engine->cancellable ? g_object_ref(engine->cancellable) : g_cancellable_new();
    create->plan = g_ptr_array_new_with_free_func((GDestroyNotify)vs_plan_disk_free);
    create->manifests = g_ptr_array_new();
    create->locks = g_array_new(FALSE, FALSE, sizeof(int));
    g_array_set_clear_func(create->locks, close_lock);
    create->warnings = g_ptr_array_new_with_free_func(g_free);
}

// Notes which bitmaps have proved wrong; where that isn't known, those of all disks.
static void
note_distrust(Create *create, const GError *failure)
{
    bool is_known = false;
    for (unsigned i = 0; i < create->plan->len; i++)
        is_known |= ((VsPlanDisk *)g_ptr_array_index(create->plan, i))->distrust != NULL;
    for (unsigned i = 0; i < create->plan->len; i++) {
        const VsPlanDisk *plan = g_ptr_array_index(create->plan, i);
        if (plan->distrust || !is_known)
            g_hash_table_insert(create->distrusted, g_strdup(plan->disk->id),
                                g_strdup(plan->distrust ? plan->distrust : failure->message));
    }
}

static VsCreateResult *
attempt(const VsEngine *engine, const VsCreateRequest *request, GHashTable *distrusted,
        GError **error)
{
    g_auto(Create) create;
    create_init(&create, engine, request);
    create.distrusted = distrusted;
    GError *failure = NULL;
    VsCreateResult *result = NULL;
    if (vs_session_open(&create.session, engine, request->instance, true, &failure) &&
        make_plan(&create, &failure) && tidy(&create, false, &failure) &&
        run_noted(&create, &failure))
        result = make_result(&create, &failure);
    if (g_error_matches(failure, VS_ERROR, VS_ERROR_BITMAP_DISTRUSTED))
        note_distrust(&create, failure);
    if (failure)
        g_propagate_error(error, failure);
    return result;
}

VsCreateResult *
vs_engine_create(const VsEngine *engine, const VsCreateRequest *request, GError **error)
{
    if (!vs_repository_lock(engine->repository, VS_REPOSITORY_SHARED, REPOSITORY_LOCK_TIMEOUT_MS,
                            error))
        return NULL;
    g_autoptr(GHashTable) distrusted =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    // Where bitmaps prove wrong at or after the point in time there is a new one, and these disks
    // are read in full; each attempt must have found another.
    for (;;) {
        GError *failure = NULL;
        unsigned known = g_hash_table_size(distrusted);
        VsCreateResult *result = attempt(engine, request, distrusted, &failure);
        if (!failure)
            return result;
        if (!g_error_matches(failure, VS_ERROR, VS_ERROR_BITMAP_DISTRUSTED) ||
            g_hash_table_size(distrusted) == known) {
            g_propagate_error(error, failure);
            return NULL;
        }
        g_error_free(failure);
    }
}
