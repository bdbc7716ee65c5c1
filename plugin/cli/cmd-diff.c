// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"

typedef struct {
    uint64_t offset;
    uint64_t length;
} Extent;

typedef struct {
    GArray *extents; // Extent, ascending, none touching another
    uint64_t chunk_bytes;
    uint64_t size_bytes; // of the larger disk
    uint64_t changed_bytes;
} Difference;

static bool
on_chunk(uint64_t index, const VsDigest *a, const VsDigest *b, gpointer user_data, GError **error)
{
    Difference *difference = user_data;
    uint64_t offset = index * difference->chunk_bytes;
    if (offset >= difference->size_bytes)
        return true;
    uint64_t length = MIN(difference->chunk_bytes, difference->size_bytes - offset);
    difference->changed_bytes += length;
    GArray *extents = difference->extents;
    Extent *last = extents->len > 0 ? &g_array_index(extents, Extent, extents->len - 1) : NULL;
    if (last != NULL && last->offset + last->length == offset) {
        last->length += length;
        return true;
    }
    Extent extent = {offset, length};
    g_array_append_val(extents, extent);
    return true;
}

static bool
compare(VsRepository *repository, const VsManifest *from, const VsManifest *to,
        Difference *difference, GError **error)
{
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    VsChunkAccess access = {vs_repository_chunks(repository), codec, 0};
    VsTreeIo io = vs_chunk_access_tree_io(&access);
    VsTree a = {from->root, vs_repository_chunk_count(repository, from->virtual_size_bytes)};
    VsTree b = {to->root, vs_repository_chunk_count(repository, to->virtual_size_bytes)};
    difference->chunk_bytes = vs_repository_chunk_size(repository);
    difference->size_bytes = MAX(from->virtual_size_bytes, to->virtual_size_bytes);
    return vs_tree_diff(&io, &a, &b, on_chunk, difference, error);
}

static void
answer(VsInvocation *invocation, const VsManifest *from, const VsManifest *to,
       const Difference *difference)
{
    struct json_object *extents = json_object_new_array();
    for (guint i = 0; i < difference->extents->len; i++) {
        const Extent *extent = &g_array_index(difference->extents, Extent, i);
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "offset", json_object_new_uint64(extent->offset));
        json_object_object_add(object, "length", json_object_new_uint64(extent->length));
        json_object_array_add(extents, object);
        g_string_append_printf(invocation->text,
                               "%16" G_GUINT64_FORMAT " %12" G_GUINT64_FORMAT "\n", extent->offset,
                               extent->length);
    }
    g_autofree char *changed = vs_format_size(difference->changed_bytes);
    g_string_append_printf(invocation->text, "%s (%" G_GUINT64_FORMAT " bytes) differ.\n", changed,
                           difference->changed_bytes);
    struct json_object *document = json_object_new_object();
    json_object_object_add(document, "from", vs_output_string(from->id));
    json_object_object_add(document, "to", vs_output_string(to->id));
    json_object_object_add(document, "chunk_size", json_object_new_uint64(difference->chunk_bytes));
    json_object_object_add(document, "changed_bytes",
                           json_object_new_uint64(difference->changed_bytes));
    json_object_object_add(document, "extents", extents);
    invocation->document = document;
}

bool
vs_cmd_diff(VsInvocation *invocation, GError **error)
{
    if (!vs_options_parse(invocation, NULL, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    if (context == NULL)
        return false;
    g_autoptr(VsManifest) from =
        vs_context_load_accomplished(context, invocation->arguments[0], error);
    if (from == NULL)
        return false;
    g_autoptr(VsManifest) to =
        vs_context_load_accomplished(context, invocation->arguments[1], error);
    if (to == NULL)
        return false;
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Extent));
    Difference difference = {.extents = extents};
    if (!compare(context->repository, from, to, &difference, error))
        return false;
    answer(invocation, from, to, &difference);
    return true;
}
