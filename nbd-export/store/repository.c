// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/repository-internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd-export/store/directory-store.h"

GQuark
vs_repository_error_quark(void)
{
    return g_quark_from_static_string("vs-repository-error-quark");
}

bool
vs_repository_fail_errno(GError **error, int number, const char *operation, const char *path)
{
    VsObjectStoreError code = VS_OBJECT_STORE_ERROR_FAILED;

    if (number == EROFS || number == EACCES || number == EPERM)
        code = VS_OBJECT_STORE_ERROR_READ_ONLY;
    else if (number == ENOSPC || number == EDQUOT)
        code = VS_OBJECT_STORE_ERROR_NO_SPACE;
    g_set_error(error, VS_OBJECT_STORE_ERROR, code, "cannot %s %s: %s", operation, path,
                g_strerror(number));
    return false;
}

static bool
check_directory(const char *path, GError **error)
{
    struct stat status;

    if (stat(path, &status) != 0 && errno == ENOENT) {
        g_set_error(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_MISSING,
                    "cannot open the repository %s: there is none; `virtsnap repo init` makes one",
                    path);
        return false;
    }
    if (stat(path, &status) != 0 && errno != ENOTDIR)
        return vs_repository_fail_errno(error, errno, "open the repository", path);
    if (!S_ISDIR(status.st_mode)) {
        g_set_error(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_FOREIGN,
                    "cannot open the repository %s: it is not a directory; name another one", path);
        return false;
    }
    return true;
}

VsRepository *
vs_repository_open_wrapped(const char *path, VsRepositoryWrapFunc wrap, gpointer user_data,
                           GError **error)
{
    if (!check_directory(path, error))
        return NULL;

    g_autoptr(VsRepository) repository = g_new0(VsRepository, 1);
    repository->path = g_strdup(path);
    repository->use_fd = -1;
    repository->directory = vs_directory_store_open(path, error);
    if (repository->directory == NULL) {
        g_prefix_error(error, "cannot open the repository %s: ", path);
        return NULL;
    }
    repository->objects =
        wrap != NULL ? wrap(repository->directory, user_data) : repository->directory;
    if (!vs_repository_read_config(repository, error))
        return NULL;
    repository->chunks = vs_chunk_store_open(repository->objects, error);
    if (repository->chunks == NULL) {
        g_prefix_error(error, "cannot open the repository %s: ", path);
        return NULL;
    }
    return g_steal_pointer(&repository);
}

VsRepository *
vs_repository_open(const char *path, GError **error)
{
    return vs_repository_open_wrapped(path, NULL, NULL, error);
}

void
vs_repository_free(VsRepository *repository)
{
    if (repository == NULL)
        return;
    g_clear_pointer(&repository->chunks, vs_chunk_store_free);
    if (repository->objects != repository->directory)
        g_clear_pointer(&repository->objects, vs_object_store_free);
    g_clear_pointer(&repository->directory, vs_object_store_free);
    g_clear_pointer(&repository->known, g_hash_table_unref);
    if (repository->use_fd >= 0)
        close(repository->use_fd);
    g_free(repository->id);
    g_free(repository->path);
    g_free(repository);
}

const char *
vs_repository_path(const VsRepository *repository)
{
    return repository->path;
}

const char *
vs_repository_id(const VsRepository *repository)
{
    return repository->id;
}

uint32_t
vs_repository_chunk_size(const VsRepository *repository)
{
    return repository->chunk_size;
}

VsChunkStore *
vs_repository_chunks(VsRepository *repository)
{
    return repository->chunks;
}

VsObjectStore *
vs_repository_objects(VsRepository *repository)
{
    return repository->objects;
}

uint64_t
vs_repository_chunk_count(const VsRepository *repository, uint64_t size_bytes)
{
    return size_bytes / repository->chunk_size + (size_bytes % repository->chunk_size != 0);
}

VsTree
vs_repository_tree(const VsRepository *repository, const VsManifest *manifest)
{
    return (VsTree){manifest->root,
                    vs_repository_chunk_count(repository, manifest->virtual_size_bytes)};
}

VsTree
vs_repository_file_tree(const VsRepository *repository, const VsManifestFile *file)
{
    return (VsTree){file->root, vs_repository_chunk_count(repository, file->size_bytes)};
}
