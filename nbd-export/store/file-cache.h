// SPDX-License-Identifier: LGPL-2.1-or-later
// A few open file descriptors, so that reading many ranges of one file opens it once.
//
// At most VS_FILE_CACHE_ENTRIES stay open unused. A file that was removed or replaced since, by
// whomever, is opened anew: an open descriptor whose file has no name left is not given out. Any
// thread.
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define VS_FILE_CACHE_ENTRIES 16

typedef struct _VsFileCache VsFileCache;
typedef struct _VsCachedFile VsCachedFile;

// folder_fd is borrowed: names are relative to it.
VsFileCache *vs_file_cache_new(int folder_fd);
void vs_file_cache_free(VsFileCache *cache);

// NULL with errno. Each is to be closed.
VsCachedFile *vs_file_cache_open(VsFileCache *cache, const char *name);
int vs_cached_file_fd(const VsCachedFile *file);
void vs_file_cache_close(VsFileCache *cache, VsCachedFile *file);

G_END_DECLS
