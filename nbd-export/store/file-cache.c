// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/file-cache.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct _VsCachedFile {
    char *name;
    int fd;
    unsigned users; // the cache itself counts as one while it holds the file
    uint64_t last_used;
};

struct _VsFileCache {
    int folder_fd;
    pthread_mutex_t mutex; // a leaf; guards all below and each file's users
    VsCachedFile *files[VS_FILE_CACHE_ENTRIES];
    uint64_t clock;
};

VsFileCache *
vs_file_cache_new(int folder_fd)
{
    VsFileCache *cache = g_new0(VsFileCache, 1);
    cache->folder_fd = folder_fd;
    pthread_mutex_init(&cache->mutex, NULL);
    return cache;
}

static void
drop_user(VsCachedFile *file)
{
    if (--file->users == 0) {
        close(file->fd);
        g_free(file->name);
        g_free(file);
    }
}

void
vs_file_cache_free(VsFileCache *cache)
{
    for (unsigned i = 0; i < VS_FILE_CACHE_ENTRIES; i++) {
        if (cache->files[i] != NULL) {
            drop_user(cache->files[i]);
        }
    }
    pthread_mutex_destroy(&cache->mutex);
    g_free(cache);
}

static bool
has_a_name(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && status.st_nlink > 0;
}

// The cached file of that name with a user more, or NULL. Under the mutex.
static VsCachedFile *
find(VsFileCache *cache, const char *name)
{
    for (unsigned i = 0; i < VS_FILE_CACHE_ENTRIES; i++) {
        VsCachedFile *file = cache->files[i];
        if (file == NULL || strcmp(file->name, name) != 0) {
            continue;
        }
        if (!has_a_name(file->fd)) {
            cache->files[i] = NULL;
            drop_user(file);
            continue;
        }
        file->last_used = ++cache->clock;
        file->users++;
        return file;
    }
    return NULL;
}

// Puts file into the place that is free or was used longest ago. Under the mutex.
static void
remember(VsFileCache *cache, VsCachedFile *file)
{
    unsigned oldest = 0;
    for (unsigned i = 0; i < VS_FILE_CACHE_ENTRIES; i++) {
        if (cache->files[i] == NULL) {
            oldest = i;
            break;
        }
        if (cache->files[i]->last_used < cache->files[oldest]->last_used) {
            oldest = i;
        }
    }
    if (cache->files[oldest] != NULL) {
        drop_user(cache->files[oldest]);
    }
    file->last_used = ++cache->clock;
    file->users++;
    cache->files[oldest] = file;
}

VsCachedFile *
vs_file_cache_open(VsFileCache *cache, const char *name)
{
    pthread_mutex_lock(&cache->mutex);
    VsCachedFile *file = find(cache, name);
    pthread_mutex_unlock(&cache->mutex);
    if (file != NULL) {
        return file;
    }
    int fd = openat(cache->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return NULL;
    }
    file = g_new0(VsCachedFile, 1);
    file->name = g_strdup(name);
    file->fd = fd;
    file->users = 1;
    pthread_mutex_lock(&cache->mutex);
    remember(cache, file);
    pthread_mutex_unlock(&cache->mutex);
    return file;
}

int
vs_cached_file_fd(const VsCachedFile *file)
{
    return file->fd;
}

void
vs_file_cache_close(VsFileCache *cache, VsCachedFile *file)
{
    pthread_mutex_lock(&cache->mutex);
    drop_user(file);
    pthread_mutex_unlock(&cache->mutex);
}
