// SPDX-License-Identifier: LGPL-2.1-or-later
// The configuration, and making a repository.
#include "nbd-export/store/repository-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd-export/store/directory-store.h"
#include "nbd-export/store/sealed-json.h"

#define CONFIG_MAX_BYTES (64u << 10)
#define DIGEST_NAME "sha256"
#define COMPRESSION_NAME "zstd"
#define INIT_TIMEOUT_MS 10000u

static const char *const FOLDERS[] = {VS_REPOSITORY_PACKS,
                                      VS_REPOSITORY_INDEX,
                                      VS_REPOSITORY_SNAPSHOTS,
                                      VS_REPOSITORY_BASES,
                                      VS_REPOSITORY_COMMITS,
                                      VS_REPOSITORY_LOCKS,
                                      NULL};

static bool
chunk_size_is_valid(uint64_t bytes)
{
    return bytes >= VS_CHUNK_SIZE_MIN && bytes <= VS_CHUNK_SIZE_MAX && (bytes & (bytes - 1)) == 0;
}

// What is in a directory ------------------------------------------------------------------------

typedef enum {
    CONTENT_UNKNOWN,    // can't be listed
    CONTENT_REPOSITORY, // has a configuration
    CONTENT_UNFINISHED, // empty, or an init that did not come to its end
    CONTENT_FOREIGN,
} Content;

static bool
has_entries(const char *path, const char *folder)
{
    g_autofree char *full = g_build_filename(path, folder, NULL);
    g_autoptr(GDir) dir = g_dir_open(full, 0, NULL);

    return dir == NULL || g_dir_read_name(dir) != NULL;
}

static bool
belongs_to_init(const char *path, const char *name)
{
    // A file system's own root may be the repository.
    if (g_str_has_prefix(name, ".tmp-") || strcmp(name, "lost+found") == 0)
        return true;
    if (strcmp(name, VS_REPOSITORY_LOCKS) == 0)
        return true;
    return g_strv_contains(FOLDERS, name) && !has_entries(path, name);
}

static Content
look_at(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    Content content = CONTENT_UNFINISHED;

    if (dir == NULL)
        return CONTENT_UNKNOWN;
    for (const char *name = g_dir_read_name(dir); name != NULL; name = g_dir_read_name(dir)) {
        if (strcmp(name, VS_REPOSITORY_CONFIG) == 0)
            return CONTENT_REPOSITORY;
        if (!belongs_to_init(path, name))
            content = CONTENT_FOREIGN;
    }
    return content;
}

// The configuration -----------------------------------------------------------------------------

static bool
fail_config(const VsRepository *repository, GError **error, VsRepositoryError code,
            const char *cause)
{
    g_set_error(error, VS_REPOSITORY_ERROR, code, "cannot open the repository %s: %s",
                repository->path, cause);
    return false;
}

static bool
fail_unsupported(const VsRepository *repository, GError **error, const char *member,
                 const char *value)
{
    g_autofree char *cause = g_strdup_printf(
        "its %s, %s, is unknown to this program; use a newer virtsnap", member, value);

    return fail_config(repository, error, VS_REPOSITORY_ERROR_UNSUPPORTED, cause);
}

// What a newer program may have chosen differently: the first member with an unknown value.
static bool
check_choices(const VsRepository *repository, json_object *object, GError **error)
{
    static const struct {
        const char *member;
        const char *value; // as JSON
    } choices[] = {
        {"format", G_STRINGIFY(VS_REPOSITORY_FORMAT)},
        {"fanout", "64"},
        {"digest", "\"" DIGEST_NAME "\""},
        {"compression", "\"" COMPRESSION_NAME "\""},
        {"encryption", "null"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(choices); i++) {
        const char *value =
            json_object_to_json_string(json_object_object_get(object, choices[i].member));
        if (strcmp(value, choices[i].value) != 0)
            return fail_unsupported(repository, error, choices[i].member, value);
    }
    return true;
}

static bool
decode_config(VsRepository *repository, json_object *object, GError **error)
{
    uint64_t chunk_size;
    const char *id;

    if (!check_choices(repository, object, error))
        return false;
    if (!vs_sealed_json_get_uint(object, "chunk_size", &chunk_size) ||
        !chunk_size_is_valid(chunk_size) || !vs_sealed_json_get_text(object, "id", &id) ||
        !vs_id_is_valid(id, "r-"))
        return fail_config(repository, error, VS_REPOSITORY_ERROR_FOREIGN,
                           "its configuration is damaged (id or chunk_size)");
    repository->chunk_size = (uint32_t)chunk_size;
    repository->id = g_strdup(id);
    return true;
}

static bool
fail_without_config(const VsRepository *repository, GError **error)
{
    if (look_at(repository->path) == CONTENT_UNFINISHED)
        return fail_config(repository, error, VS_REPOSITORY_ERROR_MISSING,
                           "there is none; `virtsnap repo init` makes one");
    return fail_config(repository, error, VS_REPOSITORY_ERROR_FOREIGN,
                       "the directory holds something else (there is no file \"config\"); name "
                       "another one, or make one with `virtsnap repo init`");
}

bool
vs_repository_read_config(VsRepository *repository, GError **error)
{
    g_autoptr(GError) failure = NULL;
    g_autoptr(GBytes) bytes =
        vs_object_store_get(repository->objects, VS_REPOSITORY_CONFIG, CONFIG_MAX_BYTES, &failure);

    if (g_error_matches(failure, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND))
        return fail_without_config(repository, error);
    if (bytes == NULL) {
        g_propagate_prefixed_error(error, g_steal_pointer(&failure),
                                   "cannot open the repository %s: ", repository->path);
        return false;
    }
    const char *cause = NULL;
    json_object *object = vs_sealed_json_decode(bytes, &cause);
    if (object == NULL) {
        g_autofree char *text = g_strdup_printf("its file \"config\" is damaged: %s", cause);
        return fail_config(repository, error, VS_REPOSITORY_ERROR_FOREIGN, text);
    }
    bool done = decode_config(repository, object, error);
    json_object_put(object);
    return done;
}

static GBytes *
encode_config(uint32_t chunk_size_bytes)
{
    g_autofree char *id = vs_id_new("r-");
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *created_at = g_date_time_format_iso8601(now);
    json_object *object = json_object_new_object();

    json_object_object_add(object, "format", json_object_new_int(VS_REPOSITORY_FORMAT));
    json_object_object_add(object, "id", json_object_new_string(id));
    json_object_object_add(object, "chunk_size", json_object_new_int64(chunk_size_bytes));
    json_object_object_add(object, "fanout", json_object_new_int(VS_TREE_FANOUT));
    json_object_object_add(object, "digest", json_object_new_string(DIGEST_NAME));
    json_object_object_add(object, "compression", json_object_new_string(COMPRESSION_NAME));
    json_object_object_add(object, "encryption", NULL);
    json_object_object_add(object, "created_at", json_object_new_string(created_at));
    GBytes *bytes = vs_sealed_json_encode(object);
    json_object_put(object);
    return bytes;
}

// init --------------------------------------------------------------------------------------------

// Best effort: a parent that may not be opened is not ours to make durable.
static void
sync_parents(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);

    for (;;) {
        int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0 && fsync(fd) == 0)
            errno = 0;
        if (fd >= 0)
            close(fd);
        g_autofree char *parent = g_path_get_dirname(folder);
        if (strcmp(parent, folder) == 0)
            return;
        g_free(folder);
        folder = g_steal_pointer(&parent);
    }
}

static bool
make_folders(const char *path, GError **error)
{
    for (size_t i = 0; FOLDERS[i] != NULL; i++) {
        g_autofree char *folder = g_build_filename(path, FOLDERS[i], NULL);
        if (mkdir(folder, 0700) != 0 && errno != EEXIST)
            return vs_repository_fail_errno(error, errno, "make the folder", folder);
    }
    return true;
}

static bool
check_vacant(const char *path, GError **error)
{
    Content content = look_at(path);

    if (content == CONTENT_UNFINISHED)
        return true;
    if (content == CONTENT_UNKNOWN)
        return vs_repository_fail_errno(error, EACCES, "make a repository in", path);
    if (content == CONTENT_REPOSITORY)
        g_set_error(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_EXISTS,
                    "cannot make a repository in %s: there is one already", path);
    else
        g_set_error(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_FOREIGN,
                    "cannot make a repository in %s: the directory is not empty; name another one",
                    path);
    return false;
}

// Under the lock that makes one of several inits the first.
static bool
write_config(const char *path, uint32_t chunk_size_bytes, GError **error)
{
    g_autoptr(VsObjectStore) objects = NULL;
    g_autoptr(GBytes) config = encode_config(chunk_size_bytes);

    if (!check_vacant(path, error) || !make_folders(path, error))
        return false;
    objects = vs_directory_store_open(path, error);
    const struct iovec part = {(void *)g_bytes_get_data(config, NULL), g_bytes_get_size(config)};
    if (objects == NULL || !vs_object_store_put(objects, VS_REPOSITORY_CONFIG, &part, 1, error)) {
        g_prefix_error(error, "cannot make a repository in %s: ", path);
        return false;
    }
    sync_parents(path);
    return true;
}

bool
vs_repository_init(const char *path, uint32_t chunk_size_bytes, GError **error)
{
    if (!chunk_size_is_valid(chunk_size_bytes)) {
        g_set_error(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_UNSUPPORTED,
                    "cannot make a repository in %s: the chunk size %u is not a power of two from "
                    "%u to %u",
                    path, chunk_size_bytes, VS_CHUNK_SIZE_MIN, VS_CHUNK_SIZE_MAX);
        return false;
    }
    if (g_mkdir_with_parents(path, 0700) != 0) {
        if (errno != ENOTDIR && errno != EEXIST)
            return vs_repository_fail_errno(error, errno, "make the directory", path);
        g_set_error(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_FOREIGN,
                    "cannot make a repository in %s: it is not a directory; name another one",
                    path);
        return false;
    }
    if (!check_vacant(path, error))
        return false;
    int fd = vs_repository_lock_file(path, VS_REPOSITORY_USE_LOCK, LOCK_EX, INIT_TIMEOUT_MS, error);
    if (fd < 0)
        return false;
    bool done = write_config(path, chunk_size_bytes, error);
    close(fd);
    return done;
}
