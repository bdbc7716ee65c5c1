// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/attachment.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd-export/store/repository-internal.h"

GQuark
vs_attachment_error_quark(void)
{
    return g_quark_from_static_string("vs-attachment-error-quark");
}

static bool
fail_errno(GError **error, const char *operation)
{
    int number = errno;

    g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(number), "%s: %s", operation,
                g_strerror(number));
    return false;
}

// store -------------------------------------------------------------------------------------------

typedef struct {
    int fd;
    uint64_t size_bytes;
    VsChunkAccess access; // its codec and the chunk are owned by the caller
    uint8_t *chunk;
    uint32_t chunk_bytes;
} Source;

static bool
describe(int fd, VsManifestFile *file, GError **error)
{
    struct stat status;

    if (fstat(fd, &status) != 0)
        return fail_errno(error, "stat");
    if (!S_ISREG(status.st_mode)) {
        g_set_error_literal(error, VS_ATTACHMENT_ERROR, VS_ATTACHMENT_ERROR_UNFIT,
                            "it is not a regular file");
        return false;
    }
    if (status.st_size > (off_t)VS_MANIFEST_FILE_MAX_BYTES) {
        g_set_error(error, VS_ATTACHMENT_ERROR, VS_ATTACHMENT_ERROR_UNFIT,
                    "it is larger than %u MiB", VS_MANIFEST_FILE_MAX_BYTES >> 20);
        return false;
    }
    file->size_bytes = (uint64_t)status.st_size;
    file->mode = status.st_mode & 07777;
    return true;
}

static bool
fail_changed(GError **error)
{
    g_set_error_literal(error, VS_ATTACHMENT_ERROR, VS_ATTACHMENT_ERROR_CHANGED,
                        "its size changed while it was read");
    return false;
}

// Reads length bytes at offset: neither less, nor a read error.
static bool
read_fully(int fd, uint8_t *data, size_t length, uint64_t offset, GError **error)
{
    while (length > 0) {
        ssize_t got = pread(fd, data, length, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_errno(error, "read");
        if (got == 0)
            return fail_changed(error);
        data += got;
        length -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

static bool
is_zero(const uint8_t *data, size_t length)
{
    return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

// Chunks of zeroes are not stored: the builder begins with nothing else.
static bool
store_chunks(Source *source, VsTreeBuilder *builder, GError **error)
{
    uint64_t offset = 0;

    for (uint64_t index = 0; offset < source->size_bytes; index++) {
        size_t length = MIN(source->chunk_bytes, source->size_bytes - offset);
        VsDigest digest;
        if (!read_fully(source->fd, source->chunk, length, offset, error))
            return false;
        memset(source->chunk + length, 0, source->chunk_bytes - length);
        offset += length;
        if (is_zero(source->chunk, source->chunk_bytes))
            continue;
        if (!vs_chunk_store_put(&source->access, VS_OBJECT_CHUNK, source->chunk,
                                source->chunk_bytes, &digest, error) ||
            !vs_tree_builder_set(builder, index, &digest, error))
            return false;
    }
    return true;
}

static bool
check_size(const Source *source, GError **error)
{
    struct stat status;

    if (fstat(source->fd, &status) != 0)
        return fail_errno(error, "stat");
    return (uint64_t)status.st_size == source->size_bytes || fail_changed(error);
}

static bool
store_content(VsRepository *repository, int fd, VsManifestFile *file, GError **error)
{
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    g_autofree uint8_t *chunk = g_malloc(repository->chunk_size);
    Source source = {.fd = fd,
                     .size_bytes = file->size_bytes,
                     .access = {repository->chunks, codec, 0},
                     .chunk = chunk,
                     .chunk_bytes = repository->chunk_size};
    VsTreeIo io = vs_chunk_access_tree_io(&source.access);
    VsTree tree = vs_repository_file_tree(repository, file);
    g_autoptr(VsTreeBuilder) builder = vs_tree_builder_new(&io, NULL, tree.chunk_count);

    if (!store_chunks(&source, builder, error) || !check_size(&source, error) ||
        !vs_tree_builder_finish(builder, &tree, error))
        return false;
    file->root = tree.root;
    return true;
}

VsManifestFile *
vs_attachment_store(VsRepository *repository, const char *role, const char *path, GError **error)
{
    g_assert(repository->use_fd >= 0);
    g_autoptr(VsManifestFile) file = g_new0(VsManifestFile, 1);

    file->role = g_strdup(role);
    file->path = g_strdup(path);
    // Whatever the definition names: opening a FIFO must not wait for its other end.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    bool done = fd >= 0 ? describe(fd, file, error) && store_content(repository, fd, file, error)
                        : fail_errno(error, "open");
    if (fd >= 0)
        close(fd);
    if (done)
        return g_steal_pointer(&file);
    g_prefix_error(error, "cannot store the %s file %s: ", role, path);
    return NULL;
}

// restore -----------------------------------------------------------------------------------------

typedef struct {
    int fd;
    uint64_t size_bytes;
    VsChunkAccess access;
    uint8_t *chunk;
    uint32_t chunk_bytes;
} Target;

static bool
write_fully(int fd, const uint8_t *data, size_t length, uint64_t offset, GError **error)
{
    while (length > 0) {
        ssize_t written = pwrite(fd, data, length, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return fail_errno(error, "write");
        data += written;
        length -= (size_t)written;
        offset += (uint64_t)written;
    }
    return true;
}

static bool
restore_chunk(uint64_t index, const VsDigest *digest, gpointer user_data, GError **error)
{
    Target *target = user_data;
    uint64_t offset = index * target->chunk_bytes;

    return vs_chunk_store_get(&target->access, VS_OBJECT_CHUNK, digest, target->chunk,
                              target->chunk_bytes, error) &&
           write_fully(target->fd, target->chunk,
                       MIN(target->chunk_bytes, target->size_bytes - offset), offset, error);
}

bool
vs_attachment_restore(VsRepository *repository, const VsManifestFile *file, int fd, GError **error)
{
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    g_autofree uint8_t *chunk = g_malloc(repository->chunk_size);
    Target target = {.fd = fd,
                     .size_bytes = file->size_bytes,
                     .access = {repository->chunks, codec, 0},
                     .chunk = chunk,
                     .chunk_bytes = repository->chunk_size};
    VsTreeIo io = vs_chunk_access_tree_io(&target.access);
    VsTree tree = vs_repository_file_tree(repository, file);

    // Emptied first: what is not written then reads as zeroes.
    bool done = ftruncate(fd, 0) == 0 && ftruncate(fd, (off_t)file->size_bytes) == 0;
    if (!done)
        fail_errno(error, "truncate");
    done = done && vs_tree_walk(&io, &tree, NULL, restore_chunk, &target, error);
    if (!done)
        g_prefix_error(error, "cannot restore the %s file %s: ", file->role, file->path);
    return done;
}
