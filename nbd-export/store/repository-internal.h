// SPDX-License-Identifier: LGPL-2.1-or-later
// What the repository's files share.
//
// Lock order: "use" (for as long as the process works), then "publish" (for a moment). Both are
// flock(2)s, so that they go with their process.
#pragma once

#include "nbd-export/store/repository.h"

G_BEGIN_DECLS

#define VS_REPOSITORY_CONFIG "config"
#define VS_REPOSITORY_SNAPSHOTS "snapshots"
#define VS_REPOSITORY_BASES "bases"
#define VS_REPOSITORY_COMMITS "commits"
#define VS_REPOSITORY_PACKS "packs"
#define VS_REPOSITORY_INDEX "index"
#define VS_REPOSITORY_LOCKS "locks"
#define VS_REPOSITORY_USE_LOCK VS_REPOSITORY_LOCKS "/use"
#define VS_REPOSITORY_PUBLISH_LOCK VS_REPOSITORY_LOCKS "/publish"

// How long another process may take to publish: a handful of fsyncs, on a slow disk.
#define VS_REPOSITORY_PUBLISH_TIMEOUT_MS 60000u
#define VS_REPOSITORY_COMMIT_MAX_BYTES (256u << 20)

struct _VsRepository {
    char *path;
    char *id;
    uint32_t chunk_size;
    VsObjectStore *directory;
    VsObjectStore *objects; // the directory, or what a test put around it
    VsChunkStore *chunks;
    int use_fd; // -1: not locked
    VsRepositoryLock use;
    GHashTable
        *known; // id → Known: what never changes of manifests once read (repository-newest.c)
};

// Opens with another object store around the directory's, which it borrows: for fault injection.
typedef VsObjectStore *(*VsRepositoryWrapFunc)(VsObjectStore *directory, gpointer user_data);
VsRepository *vs_repository_open_wrapped(const char *path, VsRepositoryWrapFunc wrap,
                                         gpointer user_data,
                                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Errors of the operating system, in the object store's domain. Returns false.
bool vs_repository_fail_errno(GError **error, int number, const char *operation, const char *path);

// config (repository-init.c): decodes id and chunk size into repository.
bool vs_repository_read_config(VsRepository *repository, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// locks (repository-lock.c): the descriptor to close, -1 with error.
int vs_repository_lock_file(const char *repository_path, const char *name, int operation,
                            unsigned timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The "publish" lock: held while snapshots/, bases/ and commits/ are changed, so that whoever holds
// it finds in commits/ only what a dead process left.
int vs_repository_lock_publish(VsRepository *repository, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// objects -----------------------------------------------------------------------------------------

char *vs_repository_object_name(const char *folder, const char *id);
bool vs_repository_put_manifest(VsRepository *repository, const char *folder, const char *id,
                                GBytes *bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Errors are the object store's (NOT_FOUND) and the manifest's, which also refuses one that is
// under another's name.
VsManifest *vs_repository_get_manifest(VsRepository *repository, const char *folder, const char *id,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The file itself; the object store's errors.
GBytes *vs_repository_get_object(VsRepository *repository, const char *folder, const char *id,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_repository_remove_object(VsRepository *repository, const char *folder, const char *id,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

// commits (repository-commit.c)
// ---------------------------------------------------------------------

typedef struct {
    char *id;             // of the object in commits/
    GPtrArray *manifests; // VsManifest *
    GPtrArray *encoded;   // GBytes *, the same order
} VsCommit;
void vs_commit_free(VsCommit *commit);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsCommit, vs_commit_free)

GBytes *vs_commit_encode(GPtrArray *encoded_manifests);
VsCommit *vs_commit_decode(const char *id, GBytes *bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The commits under way (VsCommit *). damaged (may be NULL): called for one that can't be read,
// which is then left out; with NULL it is the error.
typedef void (*VsDamagedObjectFunc)(const char *what, const GError *cause, gpointer user_data);
GPtrArray *vs_repository_read_commits(VsRepository *repository, VsDamagedObjectFunc damaged,
                                      gpointer user_data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Completes the commits under way. The caller holds the publish lock. A damaged one is left where
// it is (check reports it).
bool vs_repository_complete_commits(VsRepository *repository,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

// What exists (repository-contents.c)
// -----------------------------------------------------------------

typedef struct {
    GPtrArray *snapshots; // VsManifest *: those in snapshots/ and of commits under way
    GPtrArray *bases;     // VsManifest *
} VsContents;
void vs_contents_clear(VsContents *contents);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VsContents, vs_contents_clear)

// Reads all manifests. damaged as above.
bool vs_repository_read_contents(VsRepository *repository, VsDamagedObjectFunc damaged,
                                 gpointer user_data, VsContents *contents,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The tree of a manifest, and that of one of its files.
VsTree vs_repository_tree(const VsRepository *repository, const VsManifest *manifest);
VsTree vs_repository_file_tree(const VsRepository *repository, const VsManifestFile *file);

G_END_DECLS
