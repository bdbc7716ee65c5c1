// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/snapshot/transfer.h"

#include "nbd-export/store/snapshot-reader.h"
#include "plugin/error.h"
#include "plugin/hypervisor/qemu-nbd.h"
#include "plugin/hypervisor/scratch.h"

// How often the main loop looks at progress, cancellation and the state of the point in time.
#define TICK_MS 100u
// How long after a failure to look whether QEMU has ended.
#define LOSS_WAIT_MS 1000u
// How often other processes get to see progress.
#define PUBLISH_US (400 * 1000)

typedef struct {
    VsPull *pull; // NULL: nothing to read, or all is read
    VsIngest *ingest;
    VsIngestResult result;
    VsPullOptions options;
    uint64_t staged_bytes;   // copied by QEMU first; counts as work too
    bool has_spool;          // all disks are read before this one is stored
    VsPullProgress progress; // the pull's, once it has ended
    bool is_closed;          // read, and its source closed
    bool is_stored;
} DiskTransfer;

struct _VsTransfer {
    VsTransferJob job;
    DiskTransfer *disks;
    unsigned count;
    int64_t started_us;
    int64_t published_us;
    unsigned percent;   // never goes back
    bool without_qemu;  // which has ended
    bool is_unstorable; // what was read
};

static VsPlanDisk *
plan_of(const VsTransfer *transfer, unsigned index)
{
    return g_ptr_array_index(transfer->job.plan, index);
}

// Progress --------------------------------------------------------------------------------------

static void
add_disk_progress(const VsTransfer *transfer, unsigned index, VsProgress *sum)
{
    const DiskTransfer *disk = &transfer->disks[index];
    const VsPointDisk *point = &transfer->job.points[index];
    VsPullProgress pull = disk->progress;
    if (disk->pull)
        vs_pull_progress(disk->pull, &pull);
    uint64_t total = pull.total_bytes ? pull.total_bytes : point->dirty_bytes;
    uint64_t waiting = disk->ingest ? vs_ingest_waiting_bytes(disk->ingest) : 0;
    uint64_t stored = disk->is_stored ? total : pull.read_bytes - MIN(waiting, pull.read_bytes);
    uint64_t copied = disk->has_spool ? pull.read_bytes : MIN(disk->staged_bytes, total);
    sum->total_bytes += total * (point->staged || disk->has_spool ? 2 : 1);
    sum->done_bytes += stored + copied;
}

static VsProgress
measure(const VsTransfer *transfer)
{
    VsProgress progress = {.remaining_seconds = -1};
    for (unsigned i = 0; i < transfer->count; i++)
        add_disk_progress(transfer, i, &progress);
    double seconds = (g_get_monotonic_time() - transfer->started_us) / 1e6;
    if (seconds > 0)
        progress.rate_bytes = progress.done_bytes / seconds;
    if (progress.rate_bytes > 0)
        progress.remaining_seconds =
            (progress.total_bytes - MIN(progress.done_bytes, progress.total_bytes)) /
            progress.rate_bytes;
    return progress;
}

static void
publish(VsTransfer *transfer, const VsProgress *progress)
{
    int64_t now = g_get_monotonic_time();
    if (now - transfer->published_us < PUBLISH_US)
        return;
    transfer->published_us = now;
    VsCatalogue *catalogue = transfer->job.engine->catalogue;
    // 100 is for what is accomplished.
    unsigned percent =
        progress->total_bytes ? MIN(99, 100.0 * progress->done_bytes / progress->total_bytes) : 0;
    transfer->percent = MAX(transfer->percent, percent);
    for (unsigned i = 0; i < transfer->count; i++) {
        const char *id = plan_of(transfer, i)->manifest->id;
        g_autoptr(GError) error = NULL;
        if (!vs_catalogue_progress(catalogue, id, transfer->percent, progress->remaining_seconds,
                                   &error))
            g_debug("publishing progress of %s: %s", id, error->message);
        uint64_t limit;
        VsPull *pull = transfer->disks[i].pull;
        if (pull && vs_catalogue_requested_speed(catalogue, id, &limit))
            vs_pull_set_speed_limit(pull, limit);
        if (vs_catalogue_is_cancel_requested(catalogue, id))
            g_cancellable_cancel(transfer->job.cancellable);
    }
}

static void
tick(VsTransfer *transfer)
{
    const VsEngine *engine = transfer->job.engine;
    VsProgress progress = measure(transfer);
    if (engine->progress)
        engine->progress(&progress, engine->progress_data);
    publish(transfer, &progress);
}

// Whether the work must stop, with the reason.
static bool
must_stop(const VsTransfer *transfer, GError **error)
{
    VsDriver *driver = transfer->job.session->driver;
    return driver->ops->is_lost(driver, error) ||
           g_cancellable_set_error_if_cancelled(transfer->job.cancellable, error);
}

// The data plane's thread -----------------------------------------------------------------------

typedef struct {
    DiskTransfer *disk;
    bool (*run)(DiskTransfer *disk, GError **error);
    GError *error;
    bool ok;
    bool has_ended; // set on the main loop
    GMainContext *context;
} Work;

static bool
pull_disk(DiskTransfer *disk, GError **error)
{
    return vs_pull_run(disk->pull, disk->ingest, &disk->options, error);
}

static bool
finish_disk(DiskTransfer *disk, GError **error)
{
    return vs_ingest_finish(disk->ingest, &disk->result, error);
}

static gboolean
on_work_ended(gpointer user_data)
{
    Work *work = user_data;
    work->has_ended = true;
    return G_SOURCE_REMOVE;
}

static gpointer
work_main(gpointer user_data)
{
    Work *work = user_data;
    work->ok = work->run(work->disk, &work->error);
    g_main_context_invoke(work->context, on_work_ended, work);
    return NULL;
}

static gboolean
wake(gpointer user_data)
{
    return G_SOURCE_CONTINUE;
}

static void
stop_disk(DiskTransfer *disk)
{
    if (disk->pull)
        vs_pull_cancel(disk->pull);
    vs_ingest_fail(disk->ingest, g_error_new(G_IO_ERROR, G_IO_ERROR_CANCELLED, "storing: stopped"));
}

typedef bool StopCheck(const VsTransfer *transfer, GError **error);

// Till the thread has ended; is_over says, in error, why it has to.
static bool
wait_for_work(VsTransfer *transfer, Work *work, StopCheck *is_over, GError **error)
{
    bool is_stopped = false;
    GSource *timer = g_timeout_source_new(TICK_MS);
    g_source_set_callback(timer, wake, NULL, NULL);
    g_source_attach(timer, work->context);
    while (!work->has_ended) {
        g_main_context_iteration(work->context, TRUE);
        tick(transfer);
        if (is_stopped || !is_over(transfer, error))
            continue;
        is_stopped = true;
        stop_disk(work->disk);
    }
    g_source_destroy(timer);
    g_source_unref(timer);
    return !is_stopped;
}

// Runs in a thread of its own what takes long, while the main loop serves all others.
static bool
run_work(VsTransfer *transfer, unsigned index, bool (*run)(DiskTransfer *disk, GError **error),
         StopCheck *is_over, GError **error)
{
    g_autoptr(GMainContext) context = g_main_context_ref_thread_default();
    Work work = {.disk = &transfer->disks[index], .run = run, .context = context};
    if (is_over(transfer, error))
        return false;
    GThread *thread = g_thread_try_new("pull", work_main, &work, error);
    if (!thread)
        return false;
    bool is_whole = wait_for_work(transfer, &work, is_over, error);
    g_thread_join(thread);
    if (is_whole && work.ok)
        return true;
    if (is_whole)
        g_propagate_prefixed_error(error, work.error,
                                   "disk '%s': ", plan_of(transfer, index)->disk->target);
    else
        g_clear_error(&work.error);
    return false;
}

// Reads a disk, and closes its source.
static bool
read_disk(VsTransfer *transfer, unsigned index, GError **error)
{
    DiskTransfer *disk = &transfer->disks[index];
    VsDriver *driver = transfer->job.session->driver;
    if (!run_work(transfer, index, pull_disk, must_stop, error))
        return false;
    vs_pull_progress(disk->pull, &disk->progress);
    if (!driver->ops->detach_source(driver, index, error))
        return false;
    g_clear_pointer(&disk->pull, vs_pull_free);
    disk->is_closed = driver->ops->close_source(driver, index, error);
    return disk->is_closed;
}

// The point in time is not needed any more: only the user can stop it.
static bool
is_cancelled(const VsTransfer *transfer, GError **error)
{
    return g_cancellable_set_error_if_cancelled(transfer->job.cancellable, error);
}

// All that was read.
static bool
store_disk(VsTransfer *transfer, unsigned index, GError **error)
{
    DiskTransfer *disk = &transfer->disks[index];
    if (!run_work(transfer, index, finish_disk, is_cancelled, error)) {
        transfer->is_unstorable = true;
        return false;
    }
    VsManifest *manifest = plan_of(transfer, index)->manifest;
    manifest->root = disk->result.tree.root;
    manifest->new_bytes = disk->result.new_bytes;
    manifest->read_bytes = disk->progress.read_bytes;
    g_clear_pointer(&disk->ingest, vs_ingest_free);
    disk->is_stored = true;
    return true;
}

// Opening ---------------------------------------------------------------------------------------

// Whose copying by QEMU is being waited for.
typedef struct {
    VsTransfer *transfer;
    DiskTransfer *disk;
} Staging;

static void
on_stage(uint64_t done, uint64_t total, gpointer user_data)
{
    Staging *staging = user_data;
    staging->disk->staged_bytes = done;
    tick(staging->transfer);
}

// The disk itself, for its clean content: a staging file has only what changed.
static VsPull *
connect_image(const VsPlanDisk *plan, GError **error)
{
    g_auto(GStrv) command = vs_qemu_nbd_disk(plan->disk, NULL);
    VsPullSource source = {
        .socket = -1, .command = (const char *const *)command, .export_name = ""};
    return vs_pull_connect(&source, plan->disk->virtual_size_bytes, error);
}

static bool
last_content(uint64_t below, bool *found, uint64_t *offset, gpointer user_data, GError **error)
{
    return vs_snapshot_reader_last_content(user_data, below, found, offset, error);
}

static bool
read_base(uint64_t offset, void *data, size_t length, gpointer user_data, GError **error)
{
    return vs_snapshot_reader_read(user_data, offset, data, length, error);
}

// Whether the bitmap can have missed a change.
static bool
check_bitmap(VsTransfer *transfer, unsigned index, GError **error)
{
    DiskTransfer *disk = &transfer->disks[index];
    VsPlanDisk *plan = plan_of(transfer, index);
    VsRepository *repository = transfer->job.engine->repository;
    uint64_t size = plan->base->virtual_size_bytes;
    VsTree tree = {plan->base->root, vs_repository_chunk_count(repository, size)};
    g_autoptr(VsSnapshotReader) reader = vs_snapshot_reader_new(repository, &tree, size);
    VsPullWitness witness = {.last_content = last_content, .read = read_base, .user_data = reader};
    bool staged = transfer->job.points[index].staged;
    GError *cause = NULL;
    g_autoptr(VsPull) image = staged ? connect_image(plan, &cause) : NULL;
    if (!cause && vs_pull_check(disk->pull, staged ? image : disk->pull, &witness,
                                disk->options.dirty_from, &cause))
        return true;
    if (g_error_matches(cause, VS_PULL_ERROR, VS_PULL_ERROR_DISTRUSTED))
        plan->distrust = g_strdup(cause->message);
    else if (staged && cause->domain == VS_PULL_ERROR && cause->code != VS_PULL_ERROR_CANCELLED)
        plan->distrust = g_strdup_printf("its image can't be looked at beside QEMU, whether "
                                         "anything was missed: %s",
                                         cause->message);
    if (plan->distrust)
        g_set_error_literal(error, VS_ERROR, VS_ERROR_BITMAP_DISTRUSTED, plan->distrust);
    else
        g_propagate_prefixed_error(error, g_error_copy(cause), "disk '%s': ", plan->disk->target);
    g_error_free(cause);
    return false;
}

// Of a running guest's disk one processor less, but while it is idle: with all of them busy each of
// the guest's writes waits for its turn (on two processors: two workers cost it half of its rate,
// one a tenth).
static VsIngest *
ingest_new(VsRepository *repository, const VsTree *base, uint64_t size, bool is_live)
{
    unsigned processors = g_get_num_processors();
    bool has_spare = is_live && processors > 1;
    VsIngest *ingest =
        vs_ingest_new(repository, base, size, has_spare ? processors - 1 : processors);
    if (has_spare)
        vs_ingest_add_spare(ingest);
    return ingest;
}

static VsSpool *
spool_new(const VsTransferJob *job, const VsIngest *ingest)
{
    return vs_spool_new(vs_scratch_open(job->scratch.folder), vs_ingest_span_bytes(ingest),
                        job->scratch.most_bytes);
}

static bool
open_disk(VsTransfer *transfer, unsigned index, VsPullSource *source, GError **error)
{
    const VsTransferJob *job = &transfer->job;
    VsDriver *driver = job->session->driver;
    Staging staging = {transfer, &transfer->disks[index]};
    VsStageReport report = {on_stage, &staging};
    return transfer->without_qemu
               ? driver->ops->reopen_source(driver, index, source, job->cancellable, error)
               : driver->ops->open_source(driver, index, source, &report, job->cancellable, error);
}

static bool
connect_disk(VsTransfer *transfer, unsigned index, GError **error)
{
    DiskTransfer *disk = &transfer->disks[index];
    const VsPlanDisk *plan = plan_of(transfer, index);
    const VsTransferJob *job = &transfer->job;
    uint64_t size = plan->disk->virtual_size_bytes;
    VsRepository *repository = job->engine->repository;
    VsPullSource source;
    if (!open_disk(transfer, index, &source, error))
        return false;
    disk->pull = vs_pull_connect(&source, size, error);
    if (!disk->pull) {
        g_prefix_error(error, "disk '%s': ", plan->disk->target);
        return false;
    }
    VsTree base = {0};
    if (plan->incremental)
        base = (VsTree){plan->base->root,
                        vs_repository_chunk_count(repository, plan->base->virtual_size_bytes)};
    disk->ingest = ingest_new(repository, plan->incremental ? &base : NULL, size, source.live);
    // A limited rate the workers keep up with.
    disk->has_spool = source.live && job->speed_limit_bytes == 0;
    if (disk->has_spool)
        vs_ingest_set_spool(disk->ingest, spool_new(job, disk->ingest));
    disk->options = (VsPullOptions){
        .dirty_from = plan->incremental ? MIN(size, plan->base->virtual_size_bytes) : size,
        .speed_limit_bytes = job->speed_limit_bytes};
    return !plan->needs_witness || check_bitmap(transfer, index, error);
}

// Nothing changed (or nothing there): the base's content is the snapshot's.
static void
take_base(const VsPlanDisk *plan)
{
    if (plan->incremental)
        plan->manifest->root = plan->base->root;
}

// What was done for the disk is undone, but for what has been stored.
static void
drop_disk(VsTransfer *transfer, unsigned index)
{
    DiskTransfer *disk = &transfer->disks[index];
    VsDriver *driver = transfer->job.session->driver;
    g_autoptr(GError) error = NULL;
    if (disk->pull && !driver->ops->detach_source(driver, index, &error))
        g_debug("detaching a source: %s", error->message);
    // Reads under way write into the ingest's buffers: the connection goes first.
    vs_pull_free(disk->pull);
    vs_ingest_free(disk->ingest);
    *disk = (DiskTransfer){0};
}

void
vs_transfer_free(VsTransfer *transfer)
{
    if (!transfer)
        return;
    for (unsigned i = 0; i < transfer->count; i++)
        drop_disk(transfer, i);
    g_free(transfer->disks);
    g_free(transfer);
}

// Whether the source must be opened: there is something to read, or there may be.
static bool
has_something(const VsTransfer *transfer, unsigned index)
{
    const VsPointDisk *point = &transfer->job.points[index];
    return point->dirty_bytes > 0 || point->is_estimate || point->needs_source;
}

static bool
has_work(const VsTransfer *transfer, unsigned index, bool staged)
{
    return transfer->job.points[index].staged == staged && has_something(transfer, index);
}

// Those that are read of a running guest are stored when all have been read.
static bool
read_and_store(VsTransfer *transfer, unsigned index, GError **error)
{
    return read_disk(transfer, index, error) &&
           (transfer->disks[index].has_spool || store_disk(transfer, index, error));
}

static bool
read_all(VsTransfer *transfer, GError **error)
{
    // All that are live are connected before the first is read, so that the socket has a name for
    // moments only.
    for (unsigned i = 0; i < transfer->count; i++)
        if (has_work(transfer, i, false) && !connect_disk(transfer, i, error))
            return false;
    for (unsigned i = 0; i < transfer->count; i++) {
        if (!has_something(transfer, i))
            take_base(plan_of(transfer, i));
        else if (has_work(transfer, i, false) && !read_and_store(transfer, i, error))
            return false;
    }
    // Meanwhile QEMU has been copying the others by itself.
    for (unsigned i = 0; i < transfer->count; i++)
        if (has_work(transfer, i, true) &&
            !(connect_disk(transfer, i, error) && read_and_store(transfer, i, error)))
            return false;
    return true;
}

// The machine has ended, which may be no obstacle: what is not read yet is read anew without it.
static bool
read_rest(VsTransfer *transfer, GError **error)
{
    transfer->without_qemu = true;
    for (unsigned i = 0; i < transfer->count; i++) {
        if (!has_something(transfer, i))
            take_base(plan_of(transfer, i));
        if (!has_something(transfer, i) || transfer->disks[i].is_closed)
            continue;
        drop_disk(transfer, i);
        if (!connect_disk(transfer, i, error) || !read_and_store(transfer, i, error))
            return false;
    }
    return true;
}

// An NBD connection breaks because QEMU has ended more often than by itself; which of its two
// sockets closes first is chance.
static bool
find_reason(const VsTransferJob *job, GError **error)
{
    VsDriver *driver = job->session->driver;
    g_autoptr(GMainContext) context = g_main_context_ref_thread_default();
    GSource *timer = g_timeout_source_new(LOSS_WAIT_MS / 10);
    g_source_set_callback(timer, wake, NULL, NULL);
    g_source_attach(timer, context);
    bool lost = driver->ops->is_lost(driver, error);
    for (int i = 0; i < 10 && !lost; i++) {
        g_main_context_iteration(context, TRUE);
        lost = driver->ops->is_lost(driver, error);
    }
    g_source_destroy(timer);
    g_source_unref(timer);
    return lost;
}

// That has nothing to do with whether the machine is there.
static bool
is_final_failure(const GError *failure)
{
    return g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_CANCELLED) ||
           g_error_matches(failure, VS_ERROR, VS_ERROR_BITMAP_DISTRUSTED);
}

// After reading has failed: why, and whether it could be completed all the same. failure is
// consumed.
static bool
make_good(VsTransfer *transfer, GError *failure, GError **error)
{
    const VsTransferJob *job = &transfer->job;
    GError *reason = NULL, *rest = NULL;
    bool is_final = is_final_failure(failure);
    if (is_final || !find_reason(job, &reason))
        reason = g_steal_pointer(&failure);
    g_clear_error(&failure);
    bool may_go_on =
        !is_final && !transfer->is_unstorable && job->session->driver->ops->reopen_source;
    if (may_go_on && read_rest(transfer, &rest)) {
        g_error_free(reason);
        return true;
    }
    if (is_final_failure(rest))
        g_propagate_error(error, g_steal_pointer(&rest));
    else if (rest && !g_error_matches(rest, VS_ERROR, VS_ERROR_FAILED))
        g_set_error(error, reason->domain, reason->code,
                    "%s; it can't be completed without QEMU: %s", reason->message, rest->message);
    else
        g_propagate_error(error, g_error_copy(reason));
    g_error_free(reason);
    g_clear_error(&rest);
    return false;
}

VsTransfer *
vs_transfer_read(const VsTransferJob *job, GError **error)
{
    g_autoptr(VsTransfer) transfer = g_new0(VsTransfer, 1);
    transfer->job = *job;
    transfer->count = job->plan->len;
    transfer->disks = g_new0(DiskTransfer, transfer->count);
    transfer->started_us = g_get_monotonic_time();
    GError *failure = NULL;
    if (!read_all(transfer, &failure) && !make_good(transfer, failure, error))
        return NULL;
    return g_steal_pointer(&transfer);
}

bool
vs_transfer_store(VsTransfer *transfer, GError **error)
{
    for (unsigned i = 0; i < transfer->count; i++)
        if (transfer->disks[i].is_closed && !transfer->disks[i].is_stored &&
            !store_disk(transfer, i, error))
            return false;
    return true;
}
