// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/restore/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nbd-export/restore/target.h"

#define BATCH_CHUNKS 16
#define QUEUE_BATCHES 32
#define WAIT_MS 100

// Chunks for one worker to fetch.
typedef struct {
    uint64_t index[BATCH_CHUNKS];
    VsDigest digest[BATCH_CHUNKS];
    unsigned count;
} Batch;

typedef struct {
    VsRepository *repository;
    const VsRestoreRequest *request;
    VsTarget *target;
    uint32_t chunk_bytes;

    pthread_mutex_t mutex; // guards the rest
    pthread_cond_t cond;   // the queue, or failure, or the end has changed
    GQueue queue;          // of Batch *
    unsigned busy;         // workers at work on one
    bool ended;            // no more will come
    GError *error;         // the first

    Batch *batch; // being put together by the calling thread
} Restore;

GQuark
vs_restore_error_quark(void)
{
    return g_quark_from_static_string("vs-restore-error");
}

// The temporary file ----------------------------------------------------------------------------

// Without a name where the file system can do that (O_TMPFILE), so that nothing is left of it
// whoever dies.
typedef struct {
    char *final_path; // absolute
    char *path;       // by which it can be opened, also by our children
    bool is_named;    // path is a name in the folder: to be removed if things fail
    int fd;
} Partial;

static void
partial_clear(Partial *partial)
{
    if (partial->is_named)
        unlink(partial->path);
    if (partial->fd >= 0)
        close(partial->fd);
    g_free(partial->path);
    g_free(partial->final_path);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Partial, partial_clear)

// 0666: the user's umask decides who may read the restored disk.
static void
create_file(Partial *partial, const char *folder)
{
    partial->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    if (partial->fd >= 0) {
        partial->path = g_strdup_printf("/proc/%d/fd/%d", (int)getpid(), partial->fd);
        return;
    }
    if (errno != EOPNOTSUPP && errno != EISDIR)
        return;
    partial->path =
        g_strdup_printf("%s/.virtsnap-%08x%08x.partial", folder, g_random_int(), g_random_int());
    partial->fd = open(partial->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    partial->is_named = partial->fd >= 0;
}

static bool
partial_open(Partial *partial, const char *path, GError **error)
{
    partial->final_path = g_canonicalize_filename(path, NULL);
    struct stat st;
    if (lstat(partial->final_path, &st) == 0) {
        g_set_error(error, VS_RESTORE_ERROR, VS_RESTORE_ERROR_EXISTS,
                    "restoring to '%s': it exists already, and is not overwritten", path);
        return false;
    }
    g_autofree char *folder = g_path_get_dirname(partial->final_path);
    create_file(partial, folder);
    if (partial->fd >= 0)
        return true;
    g_set_error(error, VS_RESTORE_ERROR, VS_RESTORE_ERROR_FAILED,
                "restoring to '%s': creating a file there: %s", path, g_strerror(errno));
    return false;
}

static bool
sync_folder(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

// None of these ever overwrites; link(2) is for file systems that can't rename without replacing.
static bool
give_name(Partial *partial)
{
    if (!partial->is_named)
        return linkat(AT_FDCWD, partial->path, AT_FDCWD, partial->final_path, AT_SYMLINK_FOLLOW) ==
               0;
    if (renameat2(AT_FDCWD, partial->path, AT_FDCWD, partial->final_path, RENAME_NOREPLACE) != 0 &&
        (errno != EINVAL || link(partial->path, partial->final_path) != 0 ||
         unlink(partial->path) != 0))
        return false;
    partial->is_named = false;
    return true;
}

static bool
partial_finish(Partial *partial, GError **error)
{
    if (fsync(partial->fd) == 0 && give_name(partial) && sync_folder(partial->final_path))
        return true;
    g_set_error(error, VS_RESTORE_ERROR,
                errno == EEXIST ? VS_RESTORE_ERROR_EXISTS : VS_RESTORE_ERROR_FAILED,
                "finishing '%s': %s", partial->final_path, g_strerror(errno));
    return false;
}

// Workers ---------------------------------------------------------------------------------------

static void
fail(Restore *restore, GError *error)
{
    pthread_mutex_lock(&restore->mutex);
    if (restore->error)
        g_error_free(error);
    else
        restore->error = error;
    pthread_cond_broadcast(&restore->cond);
    pthread_mutex_unlock(&restore->mutex);
}

static bool
write_batch(Restore *restore, VsChunkAccess *access, const Batch *batch, uint8_t *data,
            GError **error)
{
    uint64_t size = restore->request->manifest->virtual_size_bytes;
    for (unsigned i = 0; i < batch->count; i++) {
        uint64_t offset = batch->index[i] * restore->chunk_bytes;
        if (!vs_chunk_store_get(access, VS_OBJECT_CHUNK, &batch->digest[i], data,
                                restore->chunk_bytes, error)) {
            g_prefix_error(error, "reading %s at byte %" G_GUINT64_FORMAT ": ",
                           restore->request->manifest->id, offset);
            return false;
        }
        size_t length = MIN((uint64_t)restore->chunk_bytes, size - offset);
        if (!restore->target->ops->write(restore->target, offset, data, length, error))
            return false;
    }
    return true;
}

static Batch *
next_batch(Restore *restore)
{
    pthread_mutex_lock(&restore->mutex);
    while (!restore->error && !restore->ended && g_queue_is_empty(&restore->queue))
        pthread_cond_wait(&restore->cond, &restore->mutex);
    Batch *batch = restore->error ? NULL : g_queue_pop_head(&restore->queue);
    if (batch)
        restore->busy++;
    pthread_cond_broadcast(&restore->cond);
    pthread_mutex_unlock(&restore->mutex);
    return batch;
}

static void *
worker_main(void *user_data)
{
    Restore *restore = user_data;
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    VsChunkAccess access = {vs_repository_chunks(restore->repository), codec, 0};
    g_autofree uint8_t *data = g_malloc(restore->chunk_bytes);
    Batch *batch;
    while ((batch = next_batch(restore))) {
        GError *error = NULL;
        if (!write_batch(restore, &access, batch, data, &error))
            fail(restore, error);
        g_free(batch);
        pthread_mutex_lock(&restore->mutex);
        restore->busy--;
        pthread_cond_broadcast(&restore->cond);
        pthread_mutex_unlock(&restore->mutex);
    }
    return NULL;
}

// The calling thread ----------------------------------------------------------------------------

static void
report(Restore *restore, uint64_t done_chunks)
{
    uint64_t total = restore->request->manifest->virtual_size_bytes;
    if (restore->request->progress)
        restore->request->progress(MIN(done_chunks * restore->chunk_bytes, total), total,
                                   restore->request->progress_data);
}

static void
wait_a_while(Restore *restore)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    at.tv_nsec += WAIT_MS * 1000000L;
    at.tv_sec += at.tv_nsec / 1000000000L;
    at.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(&restore->cond, &restore->mutex, &at);
}

// Waits until no more than `most` batches are queued (0: and none is being worked on).
static bool
wait_for_workers(Restore *restore, unsigned most, GError **error)
{
    pthread_mutex_lock(&restore->mutex);
    bool cancelled = false;
    while (!restore->error && !cancelled &&
           restore->queue.length + (most ? 0 : restore->busy) > most) {
        wait_a_while(restore);
        cancelled = g_cancellable_is_cancelled(restore->request->cancellable);
    }
    bool ok = !restore->error && !cancelled;
    if (restore->error)
        g_propagate_error(error, g_error_copy(restore->error));
    pthread_mutex_unlock(&restore->mutex);
    if (cancelled && error && !*error)
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "restoring %s: cancelled",
                    restore->request->manifest->id);
    return ok;
}

static bool
hand_over(Restore *restore, GError **error)
{
    pthread_mutex_lock(&restore->mutex);
    g_queue_push_tail(&restore->queue, g_steal_pointer(&restore->batch));
    pthread_cond_broadcast(&restore->cond);
    pthread_mutex_unlock(&restore->mutex);
    return wait_for_workers(restore, QUEUE_BATCHES, error);
}

static bool
on_chunk(uint64_t index, const VsDigest *digest, gpointer user_data, GError **error)
{
    Restore *restore = user_data;
    if (!restore->batch)
        restore->batch = g_new0(Batch, 1);
    restore->batch->index[restore->batch->count] = index;
    restore->batch->digest[restore->batch->count++] = *digest;
    if (restore->batch->count < BATCH_CHUNKS)
        return true;
    report(restore, index);
    return hand_over(restore, error);
}

static bool
feed(Restore *restore, GError **error)
{
    const VsManifest *manifest = restore->request->manifest;
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    VsChunkAccess access = {vs_repository_chunks(restore->repository), codec, 0};
    VsTreeIo io = vs_chunk_access_tree_io(&access);
    VsTree tree = {manifest->root,
                   vs_repository_chunk_count(restore->repository, manifest->virtual_size_bytes)};
    if (!vs_tree_walk(&io, &tree, NULL, on_chunk, restore, error))
        return false;
    if (restore->batch && !hand_over(restore, error))
        return false;
    if (!wait_for_workers(restore, 0, error))
        return false;
    report(restore, tree.chunk_count);
    return true;
}

static bool
run_workers(Restore *restore, GError **error)
{
    unsigned count = g_get_num_processors();
    g_autofree pthread_t *threads = g_new(pthread_t, count);
    unsigned started = 0;
    while (started < count && pthread_create(&threads[started], NULL, worker_main, restore) == 0)
        started++;
    bool ok = started > 0;
    if (ok)
        ok = feed(restore, error);
    else
        g_set_error(error, VS_RESTORE_ERROR, VS_RESTORE_ERROR_FAILED,
                    "restoring: starting a worker thread failed");

    pthread_mutex_lock(&restore->mutex);
    restore->ended = true;
    if (!ok)
        g_queue_clear_full(&restore->queue, g_free);
    pthread_cond_broadcast(&restore->cond);
    pthread_mutex_unlock(&restore->mutex);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return ok;
}

static void
restore_clear(Restore *restore)
{
    g_queue_clear_full(&restore->queue, g_free);
    g_free(restore->batch);
    g_clear_error(&restore->error);
    vs_target_free(restore->target);
    pthread_mutex_destroy(&restore->mutex);
    pthread_cond_destroy(&restore->cond);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Restore, restore_clear)

bool
vs_restore(VsRepository *repository, const VsRestoreRequest *request, GError **error)
{
    g_auto(Partial) partial = {.fd = -1};
    if (!partial_open(&partial, request->path, error))
        return false;

    g_auto(Restore) restore = {.repository = repository, .request = request};
    restore.chunk_bytes = vs_repository_chunk_size(repository);
    g_queue_init(&restore.queue);
    pthread_mutex_init(&restore.mutex, NULL);
    pthread_cond_init(&restore.cond, NULL);
    uint64_t size = request->manifest->virtual_size_bytes;
    restore.target = g_str_equal(request->format, "raw")
                         ? vs_raw_target_open(partial.final_path, partial.fd, size, error)
                         : vs_nbd_target_open(partial.path, request->format, size, error);
    return restore.target && run_workers(&restore, error) &&
           restore.target->ops->finish(restore.target, error) && partial_finish(&partial, error);
}
