// SPDX-License-Identifier: LGPL-2.1-or-later
// What is reachable, and freeing what is not.
//
//   mark      every manifest is read and every tree walked, those of its files too, each node once;
//             anything that can't be read ends it, with nothing removed
//   bases     hidden bases that are nobody's any more are removed: before their chunks
//   compact   the chunk store drops what was not marked
//
// Killed at any point, the next one does the rest. Memory: one VsDigestSet entry for each live
// object (digest-set.h).
#include "nbd-export/store/repository-internal.h"

#include <string.h>

#include "nbd-export/store/digest-set.h"
#include "nbd-export/store/directory-store.h"

static bool
enter_node(gpointer self, const VsDigest *node)
{
    return vs_digest_set_add(self, node);
}

static bool
mark_chunk(gpointer self, const VsDigest *chunk, GError **error)
{
    vs_digest_set_add(self, chunk);
    return true;
}

static bool
mark_manifest(VsRepository *repository, const VsTreeIo *io, const VsManifest *manifest,
              VsDigestSet *live, GError **error)
{
    const VsTreeReach reach = {enter_node, mark_chunk, live};
    VsTree tree = vs_repository_tree(repository, manifest);

    if (!vs_tree_reach(io, &tree, &reach, error)) {
        g_prefix_error(error, "cannot read the tree of %s: ", manifest->id);
        return false;
    }
    for (unsigned i = 0; i < manifest->files->len; i++) {
        const VsManifestFile *file = manifest->files->pdata[i];
        tree = vs_repository_file_tree(repository, file);
        if (!vs_tree_reach(io, &tree, &reach, error)) {
            g_prefix_error(error, "cannot read the tree of the %s file of %s: ", file->role,
                           manifest->id);
            return false;
        }
    }
    return true;
}

static bool
mark(VsRepository *repository, const GPtrArray *manifests, VsDigestSet *live, GError **error)
{
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    VsChunkAccess access = {repository->chunks, codec, 0};
    VsTreeIo io = vs_chunk_access_tree_io(&access);

    for (unsigned i = 0; i < manifests->len; i++) {
        if (!mark_manifest(repository, &io, manifests->pdata[i], live, error))
            return false;
    }
    return true;
}

// A base counts as long as its disk has nothing newer, and it has not (or no more) been deleted by
// half.
static bool
is_stale(const VsManifest *base, const VsContents *contents)
{
    for (unsigned i = 0; i < contents->snapshots->len; i++) {
        const VsManifest *other = contents->snapshots->pdata[i];
        if (strcmp(other->disk_id, base->disk_id) == 0 && other->generation >= base->generation)
            return true;
    }
    for (unsigned i = 0; i < contents->bases->len; i++) {
        const VsManifest *other = contents->bases->pdata[i];
        if (strcmp(other->disk_id, base->disk_id) == 0 && other->generation > base->generation)
            return true;
    }
    return false;
}

static GPtrArray *
pick_bases(const VsContents *contents, bool stale)
{
    GPtrArray *picked = g_ptr_array_new();

    for (unsigned i = 0; i < contents->bases->len; i++) {
        if (is_stale(contents->bases->pdata[i], contents) == stale)
            g_ptr_array_add(picked, contents->bases->pdata[i]);
    }
    return picked;
}

static bool
mark_all(VsRepository *repository, const VsContents *contents, VsDigestSet *live, GError **error)
{
    g_autoptr(GPtrArray) bases = pick_bases(contents, false);

    return mark(repository, contents->snapshots, live, error) &&
           mark(repository, bases, live, error);
}

static bool
remove_stale_bases(VsRepository *repository, const VsContents *contents, GError **error)
{
    g_autoptr(GPtrArray) stale = pick_bases(contents, true);

    for (unsigned i = 0; i < stale->len; i++) {
        const VsManifest *base = stale->pdata[i];
        if (!vs_repository_remove_object(repository, VS_REPOSITORY_BASES, base->id, error))
            return false;
    }
    return true;
}

static bool
is_live(const VsDigest *digest, gpointer user_data)
{
    return vs_digest_set_contains(user_data, digest);
}

static bool
prune(VsRepository *repository, VsCompactResult *result, GError **error)
{
    g_auto(VsContents) contents = {NULL, NULL};
    g_autoptr(VsDigestSet) live = vs_digest_set_new();

    return vs_repository_read_contents(repository, NULL, NULL, &contents, error) &&
           mark_all(repository, &contents, live, error) &&
           remove_stale_bases(repository, &contents, error) &&
           vs_directory_store_clean(repository->directory, error) &&
           vs_chunk_store_compact(repository->chunks, is_live, live, result, error);
}

bool
vs_repository_prune(VsRepository *repository, VsCompactResult *result, GError **error)
{
    g_assert(repository->use_fd >= 0 && repository->use == VS_REPOSITORY_EXCLUSIVE);
    memset(result, 0, sizeof *result);
    if (prune(repository, result, error))
        return true;
    g_prefix_error(error, "cannot prune the repository %s: ", repository->path);
    return false;
}

// usage -------------------------------------------------------------------------------------------

static void
ignore_damaged(const char *what, const GError *cause, gpointer user_data)
{
    g_debug("%s: %s", what, cause->message);
}

// Where check would find a missing object, usage counts nothing.
static void
sum_referenced(VsRepository *repository, const VsDigestSet *live, VsUsage *usage)
{
    uint64_t position = 0;

    for (const VsDigest *digest = vs_digest_set_next(live, &position); digest != NULL;
         digest = vs_digest_set_next(live, &position)) {
        g_autoptr(GError) ignored = NULL;
        VsPackId pack;
        VsPackEntry entry;
        if (vs_chunk_store_locate(repository->chunks, digest, &pack, &entry, &ignored))
            usage->referenced_bytes += entry.stored_length;
    }
}

bool
vs_repository_usage(VsRepository *repository, VsUsage *usage, GError **error)
{
    g_auto(VsContents) contents = {NULL, NULL};
    g_autoptr(VsDigestSet) live = vs_digest_set_new();

    memset(usage, 0, sizeof *usage);
    if (!vs_repository_read_contents(repository, ignore_damaged, NULL, &contents, error) ||
        !mark_all(repository, &contents, live, error) ||
        !vs_chunk_store_size(repository->chunks, &usage->stored_bytes, &usage->packs, error)) {
        g_prefix_error(error, "cannot measure the repository %s: ", repository->path);
        return false;
    }
    usage->snapshots = contents.snapshots->len;
    for (unsigned i = 0; i < contents.snapshots->len; i++) {
        const VsManifest *manifest = contents.snapshots->pdata[i];
        usage->logical_bytes += manifest->virtual_size_bytes;
    }
    sum_referenced(repository, live, usage);
    return true;
}
