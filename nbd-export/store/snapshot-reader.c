// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/snapshot-reader.h"

#include <string.h>

#define NO_CHUNK UINT64_MAX

struct _VsSnapshotReader {
    VsChunkAccess access; // owns its codec
    VsTreeIo io;
    VsTree tree;
    VsTreeCursor *cursor;
    uint64_t size_bytes;
    uint32_t chunk_size;
    uint64_t cached; // the chunk that cache holds, or NO_CHUNK
    bool cached_is_zero;
    uint8_t *cache; // of chunk_size, made at the first partial read
};

GQuark
vs_snapshot_reader_error_quark(void)
{
    return g_quark_from_static_string("vs-snapshot-reader-error-quark");
}

VsSnapshotReader *
vs_snapshot_reader_new(VsRepository *repository, const VsTree *tree, uint64_t size_bytes)
{
    VsSnapshotReader *reader = g_new0(VsSnapshotReader, 1);

    reader->access.store = vs_repository_chunks(repository);
    reader->access.codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    reader->size_bytes = size_bytes;
    reader->tree = *tree;
    reader->chunk_size = vs_repository_chunk_size(repository);
    reader->cached = NO_CHUNK;
    reader->io = vs_chunk_access_tree_io(&reader->access);
    reader->cursor = vs_tree_cursor_new(&reader->io, tree);
    return reader;
}

void
vs_snapshot_reader_free(VsSnapshotReader *reader)
{
    if (reader == NULL)
        return;
    vs_tree_cursor_free(reader->cursor);
    vs_codec_free(reader->access.codec);
    g_free(reader->cache);
    g_free(reader);
}

static bool
fail_range(const VsSnapshotReader *reader, uint64_t offset, uint64_t length, GError **error)
{
    g_set_error(error, VS_SNAPSHOT_READER_ERROR, VS_SNAPSHOT_READER_ERROR_RANGE,
                "cannot read %" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT
                ": the snapshot ends at %" G_GUINT64_FORMAT,
                length, offset, reader->size_bytes);
    return false;
}

bool
vs_snapshot_reader_chunk(VsSnapshotReader *reader, uint64_t index, void *data, bool *is_zero,
                         GError **error)
{
    VsDigest digest;

    if (index >= reader->tree.chunk_count)
        return fail_range(reader, index * reader->chunk_size, reader->chunk_size, error);
    if (!vs_tree_cursor_get(reader->cursor, index, &digest, error))
        return false;
    *is_zero = vs_digest_is_zero(&digest);
    return *is_zero || vs_chunk_store_get(&reader->access, VS_OBJECT_CHUNK, &digest, data,
                                          reader->chunk_size, error);
}

static bool
load_cache(VsSnapshotReader *reader, uint64_t index, GError **error)
{
    if (reader->cached == index)
        return true;
    if (reader->cache == NULL)
        reader->cache = g_malloc(reader->chunk_size);
    reader->cached = NO_CHUNK;
    if (!vs_snapshot_reader_chunk(reader, index, reader->cache, &reader->cached_is_zero, error))
        return false;
    reader->cached = index;
    return true;
}

// Part of one chunk, through the cache.
static bool
read_part(VsSnapshotReader *reader, uint64_t index, size_t start, uint8_t *data, size_t length,
          GError **error)
{
    if (!load_cache(reader, index, error))
        return false;
    if (reader->cached_is_zero)
        memset(data, 0, length);
    else
        memcpy(data, reader->cache + start, length);
    return true;
}

static bool
read_whole(VsSnapshotReader *reader, uint64_t index, uint8_t *data, GError **error)
{
    bool is_zero;

    if (reader->cached == index)
        return read_part(reader, index, 0, data, reader->chunk_size, error);
    if (!vs_snapshot_reader_chunk(reader, index, data, &is_zero, error))
        return false;
    if (is_zero)
        memset(data, 0, reader->chunk_size);
    return true;
}

bool
vs_snapshot_reader_read(VsSnapshotReader *reader, uint64_t offset, void *data, size_t length,
                        GError **error)
{
    uint8_t *to = data;

    if (offset > reader->size_bytes || length > reader->size_bytes - offset)
        return fail_range(reader, offset, length, error);
    while (length > 0) {
        uint64_t index = offset / reader->chunk_size;
        size_t start = offset % reader->chunk_size;
        size_t part = MIN(length, reader->chunk_size - start);
        if (part == reader->chunk_size ? !read_whole(reader, index, to, error)
                                       : !read_part(reader, index, start, to, part, error)) {
            g_prefix_error(error, "cannot read at %" G_GUINT64_FORMAT ": ", offset);
            return false;
        }
        to += part;
        offset += part;
        length -= part;
    }
    return true;
}

// The same in the cached chunk: among its first `length` bytes.
static bool
last_in_cache(const VsSnapshotReader *reader, size_t length, size_t *position)
{
    if (reader->cached_is_zero)
        return false;
    while (length > 0)
        if (reader->cache[--length] != 0) {
            *position = length;
            return true;
        }
    return false;
}

bool
vs_snapshot_reader_last_content(VsSnapshotReader *reader, uint64_t below, bool *found,
                                uint64_t *offset, GError **error)
{
    const uint32_t chunk_size = reader->chunk_size;

    below = MIN(below, reader->size_bytes);
    *found = false;
    while (below > 0) {
        uint64_t index;
        size_t position;
        bool exists;
        if (!vs_tree_last(&reader->io, &reader->tree, (below - 1) / chunk_size + 1, &exists, &index,
                          error) ||
            (exists && !load_cache(reader, index, error))) {
            g_prefix_error(error, "cannot look for content below %" G_GUINT64_FORMAT ": ", below);
            return false;
        }
        if (!exists)
            return true;
        const uint64_t start = index * chunk_size;
        *found = last_in_cache(reader, MIN(below - start, chunk_size), &position);
        if (*found) {
            *offset = start + position;
            return true;
        }
        below = start;
    }
    return true;
}
