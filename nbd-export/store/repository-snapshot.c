// SPDX-License-Identifier: LGPL-2.1-or-later
// Finding, relabelling and deleting snapshots.
#include "nbd-export/store/repository-internal.h"

#include <string.h>
#include <unistd.h>

static void
ignore_damaged(const char *what, const GError *cause, gpointer user_data)
{
    g_debug("%s: %s", what, cause->message);
}

static bool
is_not_found(const GError *error)
{
    return g_error_matches(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND);
}

static bool
fail_not_found(const VsRepository *repository, const char *id, GError **error)
{
    g_set_error(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_NOT_FOUND,
                "there is no snapshot %s in the repository %s", id, repository->path);
    return false;
}

// list and load -----------------------------------------------------------------------------------

static GPtrArray *
list_folder(VsRepository *repository, const char *folder, GError **error)
{
    g_autoptr(GPtrArray) names = vs_object_store_list(repository->objects, folder, error);
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);

    if (names == NULL)
        return NULL;
    for (unsigned i = 0; i < names->len; i++) {
        if (vs_id_is_valid(names->pdata[i], "s-"))
            g_ptr_array_add(ids, g_strdup(names->pdata[i]));
    }
    return g_steal_pointer(&ids);
}

GPtrArray *
vs_repository_list(VsRepository *repository, GError **error)
{
    g_autoptr(GPtrArray) ids = list_folder(repository, VS_REPOSITORY_SNAPSHOTS, error);
    g_autoptr(GPtrArray) commits =
        ids != NULL ? vs_repository_read_commits(repository, ignore_damaged, NULL, error) : NULL;

    if (commits == NULL) {
        g_prefix_error(error, "cannot list the repository %s: ", repository->path);
        return NULL;
    }
    for (unsigned i = 0; i < commits->len; i++) {
        const VsCommit *commit = commits->pdata[i];
        for (unsigned m = 0; m < commit->manifests->len; m++) {
            const VsManifest *manifest = commit->manifests->pdata[m];
            if (!g_ptr_array_find_with_equal_func(ids, manifest->id, g_str_equal, NULL))
                g_ptr_array_add(ids, g_strdup(manifest->id));
        }
    }
    return g_steal_pointer(&ids);
}

// Of a commit under way; NULL without error where it is in none.
static VsManifest *
load_from_commits(VsRepository *repository, const char *id)
{
    g_autoptr(GPtrArray) commits =
        vs_repository_read_commits(repository, ignore_damaged, NULL, NULL);

    for (unsigned i = 0; commits != NULL && i < commits->len; i++) {
        const VsCommit *commit = commits->pdata[i];
        for (unsigned m = 0; m < commit->manifests->len; m++) {
            const VsManifest *manifest = commit->manifests->pdata[m];
            if (strcmp(manifest->id, id) == 0)
                return vs_manifest_copy(manifest);
        }
    }
    return NULL;
}

// In a folder, or where it is missing in a commit under way. NULL without error: in neither.
static VsManifest *
load_visible(VsRepository *repository, const char *id, GError **error)
{
    g_autoptr(GError) cause = NULL;

    for (unsigned attempt = 0; attempt < 2; attempt++) {
        g_clear_error(&cause);
        VsManifest *manifest =
            vs_repository_get_manifest(repository, VS_REPOSITORY_SNAPSHOTS, id, &cause);
        if (manifest == NULL && is_not_found(cause))
            manifest = load_from_commits(repository, id);
        if (manifest != NULL)
            return manifest;
        if (!is_not_found(cause)) {
            g_propagate_prefixed_error(error, g_steal_pointer(&cause),
                                       "cannot load the snapshot %s: ", id);
            return NULL;
        }
        // It may have gone from commits/ to snapshots/ in between: once more.
    }
    return NULL;
}

VsManifest *
vs_repository_load(VsRepository *repository, const char *id, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (!vs_id_is_valid(id, "s-")) {
        fail_not_found(repository, id, error);
        return NULL;
    }
    VsManifest *manifest = load_visible(repository, id, &cause);
    if (cause != NULL)
        g_propagate_error(error, g_steal_pointer(&cause));
    else if (manifest == NULL)
        fail_not_found(repository, id, error);
    return manifest;
}

VsManifest *
vs_repository_load_base(VsRepository *repository, const char *id, bool *hidden, GError **error)
{
    g_autoptr(GError) cause = NULL;

    *hidden = false;
    if (!vs_id_is_valid(id, "s-")) {
        fail_not_found(repository, id, error);
        return NULL;
    }
    VsManifest *manifest = load_visible(repository, id, &cause);
    if (manifest == NULL && cause == NULL) {
        *hidden = true;
        manifest = vs_repository_get_manifest(repository, VS_REPOSITORY_BASES, id, &cause);
        if (is_not_found(cause))
            return fail_not_found(repository, id, error), NULL;
        g_prefix_error(&cause, "cannot load the hidden base %s: ", id);
    }
    if (cause != NULL)
        g_propagate_error(error, g_steal_pointer(&cause));
    return manifest;
}

// newest ------------------------------------------------------------------------------------------

// What of a manifest decides whether it is the newest. It never changes, so what was read once is
// true for ever.
typedef struct {
    uint64_t generation;
    char disk_id[];
} Known;

// NULL with error where the manifest can't be read.
static const Known *
know(VsRepository *repository, const char *id, GError **error)
{
    bool hidden;

    if (repository->known == NULL)
        repository->known = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    Known *known = g_hash_table_lookup(repository->known, id);
    if (known != NULL)
        return known;

    g_autoptr(VsManifest) manifest = vs_repository_load_base(repository, id, &hidden, error);
    if (manifest == NULL)
        return NULL;
    size_t length = strlen(manifest->disk_id) + 1;
    known = g_malloc(sizeof *known + length);
    known->generation = manifest->generation;
    memcpy(known->disk_id, manifest->disk_id, length);
    g_hash_table_insert(repository->known, g_strdup(id), known);
    return known;
}

// Ids that exist, visible first, then the hidden ones.
static GPtrArray *
list_all(VsRepository *repository, GError **error)
{
    g_autoptr(GPtrArray) ids = vs_repository_list(repository, error);
    g_autoptr(GPtrArray) bases =
        ids != NULL ? list_folder(repository, VS_REPOSITORY_BASES, error) : NULL;

    if (bases == NULL)
        return NULL;
    for (unsigned i = 0; i < bases->len; i++)
        g_ptr_array_add(ids, g_strdup(bases->pdata[i]));
    return g_steal_pointer(&ids);
}

// A manifest that is damaged or gone is no base. False with error for anything else.
static bool
may_be_skipped(GError *cause, GError **error)
{
    if (cause == NULL || cause->domain == VS_MANIFEST_ERROR ||
        g_error_matches(cause, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_NOT_FOUND)) {
        g_clear_error(&cause);
        return true;
    }
    g_propagate_error(error, cause);
    return false;
}

VsManifest *
vs_repository_newest(VsRepository *repository, const char *disk_id, bool *hidden, GError **error)
{
    g_autoptr(GPtrArray) ids = list_all(repository, error);
    const char *newest = NULL;
    uint64_t generation = 0;
    bool is_hidden = false;

    if (hidden != NULL)
        *hidden = false;
    if (ids == NULL)
        return NULL;
    for (unsigned i = 0; i < ids->len; i++) {
        GError *cause = NULL;
        const Known *known = know(repository, ids->pdata[i], &cause);
        if (!may_be_skipped(cause, error))
            return NULL;
        if (known == NULL || strcmp(known->disk_id, disk_id) != 0 ||
            known->generation <= generation)
            continue;
        newest = ids->pdata[i];
        generation = known->generation;
    }
    if (newest == NULL)
        return NULL;
    VsManifest *manifest = vs_repository_load_base(repository, newest, &is_hidden, error);
    if (hidden != NULL)
        *hidden = is_hidden;
    return manifest;
}

// relabel
// -------------------------------------------------------------------------------------------

// What a manifest becomes, given the values that it is to have.
typedef GBytes *(*Edit)(GBytes *bytes, const VsManifest *values, GError **error);

static bool
edit_manifest(VsRepository *repository, const VsManifest *values, Edit edit, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (!vs_repository_complete_commits(repository, error))
        return false;
    g_autoptr(GBytes) bytes =
        vs_repository_get_object(repository, VS_REPOSITORY_SNAPSHOTS, values->id, &cause);
    if (is_not_found(cause))
        return fail_not_found(repository, values->id, error);
    if (bytes == NULL) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    g_autoptr(GBytes) edited = edit(bytes, values, error);
    return edited != NULL && vs_repository_put_manifest(repository, VS_REPOSITORY_SNAPSHOTS,
                                                        values->id, edited, error);
}

static bool
edit_published(VsRepository *repository, const VsManifest *values, Edit edit, GError **error)
{
    g_assert(repository->use_fd >= 0);
    if (!vs_id_is_valid(values->id, "s-"))
        return fail_not_found(repository, values->id, error);
    int lock = vs_repository_lock_publish(repository, error);
    if (lock < 0)
        return false;
    bool done = edit_manifest(repository, values, edit, error);
    close(lock);
    if (!done)
        g_prefix_error(error, "cannot relabel the snapshot %s: ", values->id);
    return done;
}

bool
vs_repository_relabel(VsRepository *repository, const VsManifest *manifest, GError **error)
{
    return edit_published(repository, manifest, vs_manifest_relabel, error);
}

bool
vs_repository_reidentify(VsRepository *repository, const VsManifest *manifest, GError **error)
{
    return edit_published(repository, manifest, vs_manifest_reidentify, error);
}

// delete
// --------------------------------------------------------------------------------------------

// Whether the disk has another snapshot or base that is newer. Where in doubt it has none, which
// only keeps more.
static bool
has_newer(VsRepository *repository, const VsManifest *manifest, GPtrArray *ids)
{
    for (unsigned i = 0; i < ids->len; i++) {
        if (strcmp(ids->pdata[i], manifest->id) == 0)
            continue;
        const Known *known = know(repository, ids->pdata[i], NULL);
        if (known != NULL && strcmp(known->disk_id, manifest->disk_id) == 0 &&
            known->generation > manifest->generation)
            return true;
    }
    return false;
}

static bool
keep_as_base(VsRepository *repository, const VsManifest *manifest, GError **error)
{
    g_autoptr(GPtrArray) ids = list_all(repository, error);

    if (ids == NULL)
        return false;
    if (has_newer(repository, manifest, ids))
        return true;
    g_autoptr(GBytes) bytes =
        vs_repository_get_object(repository, VS_REPOSITORY_SNAPSHOTS, manifest->id, error);
    g_autoptr(GBytes) base = bytes != NULL ? vs_manifest_drop_files(bytes, error) : NULL;
    return base != NULL &&
           vs_repository_put_manifest(repository, VS_REPOSITORY_BASES, manifest->id, base, error);
}

// A hidden base that can't be read stands in the way of prune: deleting its id drops it.
static bool
delete_damaged_base(VsRepository *repository, const char *id, GError **error)
{
    g_autoptr(GError) cause = NULL;
    g_autoptr(VsManifest) manifest =
        vs_repository_get_manifest(repository, VS_REPOSITORY_BASES, id, &cause);

    if (manifest == NULL && cause->domain == VS_MANIFEST_ERROR)
        return vs_repository_remove_object(repository, VS_REPOSITORY_BASES, id, error);
    return fail_not_found(repository, id, error);
}

// The base is there before the snapshot goes: a crash between leaves both, which is as if nothing
// had been done.
static bool
delete_snapshot(VsRepository *repository, const char *id, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (!vs_repository_complete_commits(repository, &cause)) {
        // A commit that can't be completed holds only its own snapshots back.
        g_autoptr(VsManifest) held = load_from_commits(repository, id);
        if (held != NULL) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
        g_clear_error(&cause);
    }
    g_autoptr(VsManifest) manifest =
        vs_repository_get_manifest(repository, VS_REPOSITORY_SNAPSHOTS, id, &cause);
    if (manifest == NULL && is_not_found(cause))
        return delete_damaged_base(repository, id, error);
    // What can't be read can't be a base.
    if (manifest == NULL && cause->domain != VS_MANIFEST_ERROR) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    if (manifest != NULL && !keep_as_base(repository, manifest, error))
        return false;
    return vs_repository_remove_object(repository, VS_REPOSITORY_SNAPSHOTS, id, error);
}

bool
vs_repository_delete(VsRepository *repository, const char *id, GError **error)
{
    g_assert(repository->use_fd >= 0);
    if (!vs_id_is_valid(id, "s-"))
        return fail_not_found(repository, id, error);
    int lock = vs_repository_lock_publish(repository, error);
    if (lock < 0)
        return false;
    bool done = delete_snapshot(repository, id, error);
    close(lock);
    if (!done)
        g_prefix_error(error, "cannot delete the snapshot %s: ", id);
    return done;
}
