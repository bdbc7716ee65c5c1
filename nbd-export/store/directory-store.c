// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/directory-store.h"

#include "nbd-export/store/file-cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEMPORARY_PREFIX ".tmp-"
#define STREAM_BUFFER_BYTES (256u << 10)
#define FAN_OUT_LEVELS 1 // folders below a folder that list() looks into

// A repository holds the content of machines' disks: nobody else's business.
#define FILE_MODE 0600
#define FOLDER_MODE 0700

typedef struct {
    VsObjectStore base;
    int root; // the directory
    char *path;
    VsFileCache *files;
} DirectoryStore;

static bool
fail(GError **error, const char *operation, const char *name, int cause)
{
    VsObjectStoreError code = VS_OBJECT_STORE_ERROR_FAILED;
    if (cause == ENOENT || cause == ENOTDIR) {
        code = VS_OBJECT_STORE_ERROR_NOT_FOUND;
    } else if (cause == ENOSPC || cause == EDQUOT) {
        code = VS_OBJECT_STORE_ERROR_NO_SPACE;
    } else if (cause == EROFS || cause == EACCES || cause == EPERM) {
        code = VS_OBJECT_STORE_ERROR_READ_ONLY;
    }
    g_set_error(error, VS_OBJECT_STORE_ERROR, code, "%s object \"%s\": %s", operation, name,
                g_strerror(cause));
    return false;
}

// The part of name before its last component; "." where there is none.
static char *
folder_of(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash == NULL ? g_strdup(".") : g_strndup(name, (size_t)(slash - name));
}

// Makes what is in a folder durable: the names, not the content. 0 or an errno.
static int
sync_folder(DirectoryStore *store, const char *folder)
{
    int fd = openat(store->root, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    int cause = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return cause;
}

// Makes the folder and those above it as needed, each durable in the one above. 0 or an errno.
static int
make_folder(DirectoryStore *store, const char *folder)
{
    if (mkdirat(store->root, folder, FOLDER_MODE) == 0) {
        g_autofree char *above = folder_of(folder);
        return sync_folder(store, above);
    }
    if (errno == EEXIST) {
        return 0;
    }
    g_autofree char *above = folder_of(folder);
    if (errno != ENOENT || strcmp(above, ".") == 0) {
        return errno;
    }
    int cause = make_folder(store, above);
    return cause != 0 ? cause : make_folder(store, folder);
}

// A file that is being written under a temporary name -------------------------------------------

typedef struct {
    DirectoryStore *store;
    const char *name; // that it will have
    char *folder;
    char *temporary; // NULL once renamed
    int fd;
} NewFile;

static void
new_file_clear(NewFile *file)
{
    if (file->fd >= 0) {
        close(file->fd);
    }
    if (file->temporary != NULL && file->fd >= 0) {
        unlinkat(file->store->root, file->temporary, 0);
    }
    g_free(file->temporary);
    g_free(file->folder);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(NewFile, new_file_clear)

static bool
new_file_open(NewFile *file, DirectoryStore *store, const char *name, GError **error)
{
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
        return fail(error, "write", name, errno);
    }
    file->store = store;
    file->name = name;
    file->folder = folder_of(name);
    file->temporary =
        g_strdup_printf("%s/" TEMPORARY_PREFIX "%016" G_GINT64_MODIFIER "x", file->folder, random);
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
    file->fd = openat(store->root, file->temporary, flags, FILE_MODE);
    if (file->fd < 0 && errno == ENOENT) {
        int cause = make_folder(store, file->folder);
        if (cause != 0) {
            return fail(error, "write", name, cause);
        }
        file->fd = openat(store->root, file->temporary, flags, FILE_MODE);
    }
    return file->fd >= 0 || fail(error, "write", name, errno);
}

static bool
new_file_write(NewFile *file, const void *data, size_t length, GError **error)
{
    const uint8_t *at = data;
    while (length > 0) {
        ssize_t written = write(file->fd, at, length);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return fail(error, "write", file->name, written == 0 ? EIO : errno);
        }
        at += written;
        length -= (size_t)written;
    }
    return true;
}

static bool
new_file_commit(NewFile *file, GError **error)
{
    if (fsync(file->fd) != 0) {
        return fail(error, "write", file->name, errno);
    }
    if (renameat(file->store->root, file->temporary, file->store->root, file->name) != 0) {
        return fail(error, "write", file->name, errno);
    }
    g_clear_pointer(&file->temporary, g_free);
    int cause = sync_folder(file->store, file->folder);
    return cause == 0 || fail(error, "write", file->name, cause);
}

static bool
directory_put(VsObjectStore *base, const char *name, const struct iovec *parts, unsigned part_count,
              GError **error)
{
    g_auto(NewFile) file = {.fd = -1};
    if (!new_file_open(&file, (DirectoryStore *)base, name, error)) {
        return false;
    }
    for (unsigned i = 0; i < part_count; i++) {
        if (!new_file_write(&file, parts[i].iov_base, parts[i].iov_len, error)) {
            return false;
        }
    }
    return new_file_commit(&file, error);
}

static bool
directory_put_stream(VsObjectStore *base, const char *name, VsObjectSourceFunc source,
                     gpointer user_data, GError **error)
{
    g_auto(NewFile) file = {.fd = -1};
    if (!new_file_open(&file, (DirectoryStore *)base, name, error)) {
        return false;
    }
    g_autofree void *buffer = g_malloc(STREAM_BUFFER_BYTES);
    for (;;) {
        size_t length = 0;
        if (!source(user_data, buffer, STREAM_BUFFER_BYTES, &length, error)) {
            return false;
        }
        if (length == 0) {
            return new_file_commit(&file, error);
        }
        if (!new_file_write(&file, buffer, length, error)) {
            return false;
        }
    }
}

// Reading -------------------------------------------------------------------------------------

static bool
directory_get_range(VsObjectStore *base, const char *name, uint64_t offset, void *buffer,
                    size_t length, GError **error)
{
    DirectoryStore *store = (DirectoryStore *)base;
    if (offset > INT64_MAX || length > INT64_MAX - offset) {
        return fail(error, "read", name, EOVERFLOW);
    }
    VsCachedFile *file = vs_file_cache_open(store->files, name);
    if (file == NULL) {
        return fail(error, "read", name, errno);
    }
    size_t done = 0;
    ssize_t got = 1;
    int cause = 0;
    while (done < length && got != 0) {
        got = pread(vs_cached_file_fd(file), (uint8_t *)buffer + done, length - done,
                    (off_t)(offset + done));
        cause = got < 0 ? errno : 0;
        if (got < 0 && cause != EINTR) {
            break;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    vs_file_cache_close(store->files, file);
    if (got < 0 && cause != 0 && cause != EINTR) {
        return fail(error, "read", name, cause);
    }
    if (done < length) {
        g_set_error(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_SHORT,
                    "read object \"%s\": it ends before byte %" G_GUINT64_FORMAT, name,
                    offset + length);
        return false;
    }
    return true;
}

static bool
directory_get_size(VsObjectStore *base, const char *name, uint64_t *size_bytes, GError **error)
{
    DirectoryStore *store = (DirectoryStore *)base;
    struct stat status;
    if (fstatat(store->root, name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
        return fail(error, "look up", name, errno);
    }
    if (!S_ISREG(status.st_mode)) {
        return fail(error, "look up", name, ENOENT);
    }
    *size_bytes = (uint64_t)status.st_size;
    return true;
}

// Walking a folder ----------------------------------------------------------------------------

// Called with a path below the store's directory; false with error to stop.
typedef bool (*EntryFunc)(DirectoryStore *store, const char *name, gpointer user_data,
                          GError **error);

static unsigned char
entry_type(int folder_fd, const struct dirent *entry)
{
    struct stat status;
    if (entry->d_type != DT_UNKNOWN) {
        return entry->d_type;
    }
    if (fstatat(folder_fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
        return DT_UNKNOWN;
    }
    return S_ISREG(status.st_mode) ? DT_REG : S_ISDIR(status.st_mode) ? DT_DIR : DT_UNKNOWN;
}

static DIR *
open_folder(DirectoryStore *store, const char *folder)
{
    int fd = openat(store->root, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL && fd >= 0) {
        int cause = errno;
        close(fd);
        errno = cause;
    }
    return stream;
}

// Calls visit for each regular file of folder and of the folders down to levels below it.
static bool
walk_folder(DirectoryStore *store, const char *folder, unsigned levels, EntryFunc visit,
            gpointer user_data, GError **error)
{
    DIR *stream = open_folder(store, folder);
    if (stream == NULL) {
        return errno == ENOENT || fail(error, "list", folder, errno);
    }
    bool going_on = true;
    const struct dirent *entry;
    errno = 0;
    while (going_on && (entry = readdir(stream)) != NULL) {
        bool is_dots = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        unsigned char type = is_dots ? DT_UNKNOWN : entry_type(dirfd(stream), entry);
        g_autofree char *name = strcmp(folder, ".") == 0
                                    ? g_strdup(entry->d_name)
                                    : g_strconcat(folder, "/", entry->d_name, NULL);
        if (type == DT_REG) {
            going_on = visit(store, name, user_data, error);
        } else if (type == DT_DIR && levels > 0) {
            going_on = walk_folder(store, name, levels - 1, visit, user_data, error);
        }
        errno = 0;
    }
    int cause = errno;
    closedir(stream);
    return going_on && (cause == 0 || fail(error, "list", folder, cause));
}

typedef struct {
    size_t folder_length;
    GPtrArray *names;
} Listing;

static bool
add_to_listing(DirectoryStore *store, const char *name, gpointer user_data, GError **error)
{
    Listing *listing = user_data;
    if (vs_object_name_is_valid(name)) { // temporary files and foreign ones are not
        g_ptr_array_add(listing->names, g_strdup(name + listing->folder_length + 1));
    }
    return true;
}

static GPtrArray *
directory_list(VsObjectStore *base, const char *folder, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    Listing listing = {.folder_length = strlen(folder), .names = names};
    if (!walk_folder((DirectoryStore *)base, folder, FAN_OUT_LEVELS, add_to_listing, &listing,
                     error)) {
        return NULL;
    }
    return g_steal_pointer(&names);
}

// Removing ------------------------------------------------------------------------------------

static bool
directory_remove(VsObjectStore *base, const char *name, GError **error)
{
    DirectoryStore *store = (DirectoryStore *)base;
    if (unlinkat(store->root, name, 0) != 0) {
        return fail(error, "remove", name, errno);
    }
    g_autofree char *folder = folder_of(name);
    int cause = sync_folder(store, folder);
    return cause == 0 || fail(error, "remove", name, cause);
}

static bool
remove_if_temporary(DirectoryStore *store, const char *name, gpointer user_data, GError **error)
{
    const char *slash = strrchr(name, '/');
    if (!g_str_has_prefix(slash == NULL ? name : slash + 1, TEMPORARY_PREFIX)) {
        return true;
    }
    return unlinkat(store->root, name, 0) == 0 || errno == ENOENT ||
           fail(error, "remove", name, errno);
}

static void
directory_free(VsObjectStore *base)
{
    DirectoryStore *store = (DirectoryStore *)base;
    vs_file_cache_free(store->files);
    close(store->root);
    g_free(store->path);
    g_free(store);
}

static const VsObjectStoreOps directory_ops = {
    .free = directory_free,
    .put = directory_put,
    .put_stream = directory_put_stream,
    .get_range = directory_get_range,
    .get_size = directory_get_size,
    .list = directory_list,
    .remove = directory_remove,
};

bool
vs_directory_store_clean(VsObjectStore *store, GError **error)
{
    g_assert(store->ops == &directory_ops);
    return walk_folder((DirectoryStore *)store, ".", FAN_OUT_LEVELS + 1, remove_if_temporary, NULL,
                       error);
}

VsObjectStore *
vs_directory_store_open(const char *path, GError **error)
{
    int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) {
        int cause = errno;
        g_set_error(error, VS_OBJECT_STORE_ERROR,
                    cause == ENOENT ? VS_OBJECT_STORE_ERROR_NOT_FOUND
                                    : VS_OBJECT_STORE_ERROR_FAILED,
                    "open directory \"%s\": %s", path, g_strerror(cause));
        return NULL;
    }
    DirectoryStore *store = g_new0(DirectoryStore, 1);
    store->base.ops = &directory_ops;
    store->root = root;
    store->path = g_strdup(path);
    store->files = vs_file_cache_new(root);
    return &store->base;
}
