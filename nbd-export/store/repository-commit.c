// SPDX-License-Identifier: LGPL-2.1-or-later
// Making several snapshots exist at once.
//
// commits/ID put            from here on all of them exist (list and load look here, too), whatever
// happens to this process snapshots/ID put, each    from here on each exists by itself commits/ID
// removed
//
// All under the publish lock: whoever holds it and finds a commit knows that its process has died,
// and takes the last two steps for it. Since no snapshot can be deleted between them, nothing that
// was deleted comes back.
//
// commits/ID, little-endian:
//
//    0  8 bytes  "VSCOMMIT"
//    8  u32      version, 1
//   12  u32      number of manifests, at least 1
//   then for each: u32 length, and the manifest's file
//   at the end: 32 bytes, the SHA-256 of all before
#include "nbd-export/store/repository-internal.h"

#include <string.h>
#include <unistd.h>

#include "nbd-export/store/little-endian.h"

#define MAGIC "VSCOMMIT"
#define MAGIC_BYTES 8u
#define VERSION 1u
#define HEADER_BYTES (MAGIC_BYTES + 8u)

// Coding ----------------------------------------------------------------------------------------

static void
append_u32(GByteArray *array, uint32_t value)
{
    uint8_t wire[4];

    vs_le32_put(wire, value);
    g_byte_array_append(array, wire, sizeof wire);
}

GBytes *
vs_commit_encode(GPtrArray *encoded_manifests)
{
    GByteArray *array = g_byte_array_new();
    VsDigest digest;

    g_byte_array_append(array, (const uint8_t *)MAGIC, MAGIC_BYTES);
    append_u32(array, VERSION);
    append_u32(array, encoded_manifests->len);
    for (unsigned i = 0; i < encoded_manifests->len; i++) {
        size_t length;
        const uint8_t *data = g_bytes_get_data(encoded_manifests->pdata[i], &length);
        append_u32(array, (uint32_t)length);
        g_byte_array_append(array, data, (unsigned)length);
    }
    vs_digest_compute(array->data, array->len, &digest);
    g_byte_array_append(array, digest.bytes, VS_DIGEST_BYTES);
    return g_byte_array_free_to_bytes(array);
}

void
vs_commit_free(VsCommit *commit)
{
    if (commit == NULL)
        return;
    g_free(commit->id);
    g_clear_pointer(&commit->manifests, g_ptr_array_unref);
    g_clear_pointer(&commit->encoded, g_ptr_array_unref);
    g_free(commit);
}

static VsCommit *
commit_new(const char *id)
{
    VsCommit *commit = g_new0(VsCommit, 1);

    commit->id = g_strdup(id);
    commit->manifests = g_ptr_array_new_with_free_func((GDestroyNotify)vs_manifest_free);
    commit->encoded = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    return commit;
}

// Takes count manifests from the bytes between offset and end.
static bool
decode_manifests(VsCommit *commit, GBytes *bytes, size_t end, uint32_t count, GError **error)
{
    const uint8_t *data = g_bytes_get_data(bytes, NULL);
    size_t offset = HEADER_BYTES;

    for (; count > 0; count--) {
        uint32_t length = end - offset >= 4 ? vs_le32_get(data + offset) : UINT32_MAX;
        if (end - offset < 4 || end - offset - 4 < length)
            break;
        GBytes *encoded = g_bytes_new_from_bytes(bytes, offset + 4, length);
        g_ptr_array_add(commit->encoded, encoded);
        VsManifest *manifest = vs_manifest_decode(encoded, error);
        if (manifest == NULL)
            return false;
        g_ptr_array_add(commit->manifests, manifest);
        offset += 4 + length;
    }
    if (count == 0 && offset == end)
        return true;
    g_set_error_literal(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT,
                        "cannot decode a commit: its lengths are wrong");
    return false;
}

VsCommit *
vs_commit_decode(const char *id, GBytes *bytes, GError **error)
{
    g_autoptr(VsCommit) commit = commit_new(id);
    size_t length;
    const uint8_t *data = g_bytes_get_data(bytes, &length);
    VsDigest digest = VS_DIGEST_ZERO;

    if (length >= HEADER_BYTES + VS_DIGEST_BYTES)
        vs_digest_compute(data, length - VS_DIGEST_BYTES, &digest);
    if (length < HEADER_BYTES + VS_DIGEST_BYTES || memcmp(data, MAGIC, MAGIC_BYTES) != 0 ||
        memcmp(data + length - VS_DIGEST_BYTES, digest.bytes, VS_DIGEST_BYTES) != 0) {
        g_set_error_literal(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT,
                            "cannot decode a commit: its digest is wrong");
        return NULL;
    }
    if (vs_le32_get(data + MAGIC_BYTES) != VERSION) {
        g_set_error(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_UNSUPPORTED,
                    "cannot decode a commit: its format %u is unknown to this program",
                    vs_le32_get(data + MAGIC_BYTES));
        return NULL;
    }
    if (!decode_manifests(commit, bytes, length - VS_DIGEST_BYTES,
                          vs_le32_get(data + MAGIC_BYTES + 4), error))
        return NULL;
    return g_steal_pointer(&commit);
}

// Commits under way -------------------------------------------------------------------------------

static VsCommit *
read_commit(VsRepository *repository, const char *id, GError **error)
{
    g_autofree char *name = vs_repository_object_name(VS_REPOSITORY_COMMITS, id);
    g_autoptr(GBytes) bytes =
        vs_object_store_get(repository->objects, name, VS_REPOSITORY_COMMIT_MAX_BYTES, error);

    return bytes != NULL ? vs_commit_decode(id, bytes, error) : NULL;
}

GPtrArray *
vs_repository_read_commits(VsRepository *repository, VsDamagedObjectFunc damaged,
                           gpointer user_data, GError **error)
{
    g_autoptr(GPtrArray) commits = g_ptr_array_new_with_free_func((GDestroyNotify)vs_commit_free);
    g_autoptr(GPtrArray) ids =
        vs_object_store_list(repository->objects, VS_REPOSITORY_COMMITS, error);

    if (ids == NULL)
        return NULL;
    for (unsigned i = 0; i < ids->len; i++) {
        g_autoptr(GError) cause = NULL;
        VsCommit *commit = read_commit(repository, ids->pdata[i], &cause);
        if (commit != NULL) {
            g_ptr_array_add(commits, commit);
            continue;
        }
        // Completed meanwhile by its own process.
        if (g_error_matches(cause, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND))
            continue;
        g_autofree char *what = vs_repository_object_name(VS_REPOSITORY_COMMITS, ids->pdata[i]);
        if (damaged == NULL) {
            g_propagate_prefixed_error(error, g_steal_pointer(&cause), "%s: ", what);
            return NULL;
        }
        damaged(what, cause, user_data);
    }
    return g_steal_pointer(&commits);
}

// The base that a snapshot was built on is its disk's older hidden base, if it is hidden. What is
// missed here, prune finds.
static void
drop_base(VsRepository *repository, const VsManifest *manifest)
{
    g_autoptr(GError) ignored = NULL;

    if (manifest->parent != NULL &&
        !vs_repository_remove_object(repository, VS_REPOSITORY_BASES, manifest->parent, &ignored) &&
        !g_error_matches(ignored, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND))
        g_debug("%s", ignored->message);
}

static bool
exists(VsRepository *repository, const char *folder, const char *id)
{
    g_autofree char *name = vs_repository_object_name(folder, id);
    uint64_t size_bytes;

    return vs_object_store_get_size(repository->objects, name, &size_bytes, NULL);
}

static bool
complete(VsRepository *repository, const VsCommit *commit, GError **error)
{
    for (unsigned i = 0; i < commit->manifests->len; i++) {
        const VsManifest *manifest = commit->manifests->pdata[i];
        if (!exists(repository, VS_REPOSITORY_SNAPSHOTS, manifest->id) &&
            !vs_repository_put_manifest(repository, VS_REPOSITORY_SNAPSHOTS, manifest->id,
                                        commit->encoded->pdata[i], error))
            return false;
    }
    if (!vs_repository_remove_object(repository, VS_REPOSITORY_COMMITS, commit->id, error))
        return false;
    for (unsigned i = 0; i < commit->manifests->len; i++)
        drop_base(repository, commit->manifests->pdata[i]);
    return true;
}

static void
ignore_damaged(const char *what, const GError *cause, gpointer user_data)
{
    g_debug("%s: %s", what, cause->message);
}

bool
vs_repository_complete_commits(VsRepository *repository, GError **error)
{
    g_autoptr(GPtrArray) commits =
        vs_repository_read_commits(repository, ignore_damaged, NULL, error);

    if (commits == NULL)
        return false;
    for (unsigned i = 0; i < commits->len; i++) {
        const VsCommit *commit = commits->pdata[i];
        if (!complete(repository, commit, error)) {
            g_prefix_error(error, "cannot complete the commit %s: ", commit->id);
            return false;
        }
    }
    return true;
}

// Committing --------------------------------------------------------------------------------------

// Takes back a commit that failed: its snapshots first, so that a crash in between leaves a commit
// to complete.
static void
take_back(VsRepository *repository, const VsCommit *commit, GError **error)
{
    g_autoptr(GError) failure = NULL;
    bool done = true;

    for (unsigned i = 0; i < commit->manifests->len; i++) {
        const VsManifest *manifest = commit->manifests->pdata[i];
        if (!vs_repository_remove_object(repository, VS_REPOSITORY_SNAPSHOTS, manifest->id,
                                         &failure) &&
            !g_error_matches(failure, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND))
            done = false;
        g_clear_error(&failure);
        if (!done)
            break;
    }
    if (done)
        done = vs_repository_remove_object(repository, VS_REPOSITORY_COMMITS, commit->id, &failure);
    if (!done)
        g_prefix_error(error, "the snapshots are recorded, and will be completed by the next "
                              "command that can write: ");
}

// A put that fails may have made the object all the same, when just its folder could not be made
// durable.
static bool
put_or_nothing(VsRepository *repository, const char *folder, const char *id, GBytes *bytes,
               GError **error)
{
    g_autoptr(GError) left = NULL;

    if (vs_repository_put_manifest(repository, folder, id, bytes, error))
        return true;
    if (!vs_repository_remove_object(repository, folder, id, &left) &&
        !g_error_matches(left, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND))
        g_prefix_error(error, "(it may be there all the same: %s) ", left->message);
    return false;
}

static bool
publish_group(VsRepository *repository, const VsCommit *commit, GError **error)
{
    g_autoptr(GBytes) bytes = vs_commit_encode(commit->encoded);
    g_autoptr(GError) failure = NULL;

    if (!put_or_nothing(repository, VS_REPOSITORY_COMMITS, commit->id, bytes, error))
        return false;
    if (complete(repository, commit, &failure))
        return true;
    // All of them are there: only the commit object is left, for the next command to remove.
    unsigned there = 0;
    for (unsigned i = 0; i < commit->manifests->len; i++) {
        const VsManifest *manifest = commit->manifests->pdata[i];
        there += exists(repository, VS_REPOSITORY_SNAPSHOTS, manifest->id);
    }
    if (there == commit->manifests->len)
        return true;
    take_back(repository, commit, &failure);
    g_propagate_error(error, g_steal_pointer(&failure));
    return false;
}

static bool
publish(VsRepository *repository, const VsCommit *commit, GError **error)
{
    const VsManifest *first = commit->manifests->pdata[0];
    g_autoptr(GError) ignored = NULL;

    // Leftovers stay visible even if they can't be completed now, so that is no reason to fail.
    if (!vs_repository_complete_commits(repository, &ignored))
        g_debug("%s", ignored->message);
    if (commit->manifests->len > 1)
        return publish_group(repository, commit, error);
    if (!put_or_nothing(repository, VS_REPOSITORY_SNAPSHOTS, first->id, commit->encoded->pdata[0],
                        error))
        return false;
    drop_base(repository, first);
    return true;
}

// A manifest that no reader would take must not be written.
static VsCommit *
prepare(GPtrArray *manifests, GError **error)
{
    g_autofree char *id = vs_id_new("c-");
    g_autoptr(VsCommit) commit = commit_new(id);

    for (unsigned i = 0; i < manifests->len; i++) {
        GBytes *encoded = vs_manifest_encode(manifests->pdata[i]);
        g_ptr_array_add(commit->encoded, encoded);
        VsManifest *manifest = vs_manifest_decode(encoded, error);
        if (manifest == NULL)
            return NULL;
        g_ptr_array_add(commit->manifests, manifest);
        if (g_bytes_get_size(encoded) > VS_MANIFEST_MAX_BYTES) {
            g_set_error(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT,
                        "the manifest of %s is larger than %u bytes", manifest->id,
                        VS_MANIFEST_MAX_BYTES);
            return NULL;
        }
    }
    return g_steal_pointer(&commit);
}

bool
vs_repository_commit(VsRepository *repository, GPtrArray *manifests, GError **error)
{
    g_assert(repository->use_fd >= 0 && manifests->len > 0);
    g_autoptr(VsCommit) commit = prepare(manifests, error);
    bool done = false;

    if (commit != NULL && vs_chunk_store_flush(repository->chunks, error)) {
        int lock = vs_repository_lock_publish(repository, error);
        done = lock >= 0 && publish(repository, commit, error);
        if (lock >= 0)
            close(lock);
    }
    if (!done)
        g_prefix_error(error, "cannot commit to the repository %s: ", repository->path);
    return done;
}
