// SPDX-License-Identifier: LGPL-2.1-or-later
// Manifests as objects, and all of them.
#include "nbd-export/store/repository-internal.h"

#include <string.h>

char *
vs_repository_object_name(const char *folder, const char *id)
{
    return g_strconcat(folder, "/", id, NULL);
}

bool
vs_repository_put_manifest(VsRepository *repository, const char *folder, const char *id,
                           GBytes *bytes, GError **error)
{
    g_autofree char *name = vs_repository_object_name(folder, id);
    const struct iovec part = {(void *)g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes)};

    return vs_object_store_put(repository->objects, name, &part, 1, error);
}

GBytes *
vs_repository_get_object(VsRepository *repository, const char *folder, const char *id,
                         GError **error)
{
    g_autofree char *name = vs_repository_object_name(folder, id);

    return vs_object_store_get(repository->objects, name, VS_MANIFEST_MAX_BYTES, error);
}

VsManifest *
vs_repository_get_manifest(VsRepository *repository, const char *folder, const char *id,
                           GError **error)
{
    g_autoptr(GBytes) bytes = vs_repository_get_object(repository, folder, id, error);
    g_autoptr(VsManifest) manifest = bytes != NULL ? vs_manifest_decode(bytes, error) : NULL;

    if (manifest == NULL)
        return NULL;
    if (strcmp(manifest->id, id) == 0)
        return g_steal_pointer(&manifest);
    g_set_error(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT,
                "the manifest in %s/%s is that of %s", folder, id, manifest->id);
    return NULL;
}

bool
vs_repository_remove_object(VsRepository *repository, const char *folder, const char *id,
                            GError **error)
{
    g_autofree char *name = vs_repository_object_name(folder, id);

    return vs_object_store_remove(repository->objects, name, error);
}

void
vs_contents_clear(VsContents *contents)
{
    g_clear_pointer(&contents->snapshots, g_ptr_array_unref);
    g_clear_pointer(&contents->bases, g_ptr_array_unref);
}

static GPtrArray *
read_folder(VsRepository *repository, const char *folder, VsDamagedObjectFunc damaged,
            gpointer user_data, GError **error)
{
    g_autoptr(GPtrArray) manifests =
        g_ptr_array_new_with_free_func((GDestroyNotify)vs_manifest_free);
    g_autoptr(GPtrArray) ids = vs_object_store_list(repository->objects, folder, error);

    if (ids == NULL)
        return NULL;
    for (unsigned i = 0; i < ids->len; i++) {
        g_autoptr(GError) cause = NULL;
        VsManifest *manifest =
            vs_repository_get_manifest(repository, folder, ids->pdata[i], &cause);
        if (manifest != NULL) {
            g_ptr_array_add(manifests, manifest);
            continue;
        }
        // Deleted meanwhile, where the caller is not alone.
        if (g_error_matches(cause, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND))
            continue;
        g_autofree char *what = vs_repository_object_name(folder, ids->pdata[i]);
        if (damaged == NULL) {
            g_propagate_prefixed_error(error, g_steal_pointer(&cause), "%s: ", what);
            return NULL;
        }
        damaged(what, cause, user_data);
    }
    return g_steal_pointer(&manifests);
}

static bool
contains_id(const GPtrArray *manifests, const char *id)
{
    for (unsigned i = 0; i < manifests->len; i++) {
        const VsManifest *manifest = manifests->pdata[i];
        if (strcmp(manifest->id, id) == 0)
            return true;
    }
    return false;
}

bool
vs_repository_read_contents(VsRepository *repository, VsDamagedObjectFunc damaged,
                            gpointer user_data, VsContents *contents, GError **error)
{
    *contents = (VsContents){NULL, NULL};
    g_autoptr(GPtrArray) snapshots =
        read_folder(repository, VS_REPOSITORY_SNAPSHOTS, damaged, user_data, error);
    if (snapshots == NULL)
        return false;
    g_autoptr(GPtrArray) bases =
        read_folder(repository, VS_REPOSITORY_BASES, damaged, user_data, error);
    if (bases == NULL)
        return false;
    g_autoptr(GPtrArray) commits =
        vs_repository_read_commits(repository, damaged, user_data, error);
    if (commits == NULL)
        return false;
    for (unsigned i = 0; i < commits->len; i++) {
        const VsCommit *commit = commits->pdata[i];
        for (unsigned m = 0; m < commit->manifests->len; m++) {
            const VsManifest *manifest = commit->manifests->pdata[m];
            if (!contains_id(snapshots, manifest->id))
                g_ptr_array_add(snapshots, vs_manifest_copy(manifest));
        }
    }
    contents->snapshots = g_steal_pointer(&snapshots);
    contents->bases = g_steal_pointer(&bases);
    return true;
}
