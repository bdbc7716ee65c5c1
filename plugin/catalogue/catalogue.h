// SPDX-License-Identifier: LGPL-2.1-or-later
// The catalogue: an SQLite index of a repository, and the state of work in progress that other
// processes see.
//
// It can be thrown away: opening compares it with the manifests that are there and mends it, a
// missing or damaged file is made anew (a note goes to the caller). Only tags and failed or
// progressing rows are known to it alone. Where the repository can't be written, an index in memory
// is built instead. WAL mode; writers wait up to 10 s for each other (vs_catalogue_set_wait()). One
// thread, one connection each.
//
// State of a row: progressing → accomplished (its manifest is durable) | failed (kept until
// deleted). A progressing row whose instance lock nobody holds belongs to a process that died: it
// is shown as failed.
#pragma once

#include "nbd-export/store/repository.h"
#include "plugin/catalogue/snapshot.h"

G_BEGIN_DECLS

typedef struct _VsCatalogue VsCatalogue;

// repository is borrowed. *note (may be NULL) is set to a line for the user where the catalogue had
// to be made anew (not at the very first time).
VsCatalogue *vs_catalogue_open(VsRepository *repository, char **note,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_catalogue_free(VsCatalogue *catalogue);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsCatalogue, vs_catalogue_free)

// Called again and again while another process holds the catalogue, for up to 10 s in all; to take
// VS_CATALOGUE_WAIT_MS. False: to wait no longer.
#define VS_CATALOGUE_WAIT_MS 10
typedef bool (*VsCatalogueWaitFunc)(gpointer user_data);
// For whom something else must not wait meanwhile. NULL: sleep.
void vs_catalogue_set_wait(VsCatalogue *catalogue, VsCatalogueWaitFunc wait, gpointer user_data);

// Work in progress -----------------------------------------------------------------------------

// The lock of an instance (i-…) or of a disk (d-…), for as long as a snapshot of it is being made:
// flock(2) on locks/<id>. VS_ERROR_BUSY, naming the snapshots in progress, where another process
// holds it. Returns a file descriptor that the caller closes to let go.
int vs_catalogue_lock_instance(VsCatalogue *catalogue, const char *instance_id,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Whether somebody, this process included, holds that lock.
bool vs_catalogue_is_instance_busy(VsCatalogue *catalogue, const char *instance_id);

// Notes on a lock that is held where something is about to be made that outlives the process, in a
// QEMU or in images: INSTANCE, and libvirt's URI that reaches it (NULL: its default). instance
// NULL: nothing of it is left. Should the process die between, vs_catalogue_list_abandoned() finds
// it.
bool vs_catalogue_note_work(int lock, const char *instance, const char *connect_uri,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Work whose process has died.
typedef struct {
    char *id; // of the lock: i-… or d-…
    char *instance;
    char *connect_uri;
} VsAbandoned;
void vs_abandoned_free(VsAbandoned *abandoned);
// VsAbandoned *. Costs a look at each instance that ever was snapshotted.
GPtrArray *vs_catalogue_list_abandoned(VsCatalogue *catalogue,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The error text of a snapshot whose process died.
#define VS_CATALOGUE_ABANDONED "the process that made it has died"

// Adds the snapshots (VsSnapshot *) as progressing, at once, and remembers their disks.
bool vs_catalogue_begin(VsCatalogue *catalogue, const GPtrArray *snapshots,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Cheap; called several times a second. Fails at once while another process writes.
bool vs_catalogue_progress(VsCatalogue *catalogue, const char *id, unsigned percent,
                           int64_t remaining_seconds, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The manifests (VsManifest *) are durable: the rows take all of their fields and become
// accomplished.
bool vs_catalogue_accomplish(VsCatalogue *catalogue, const GPtrArray *manifests,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
// ids: char *.
bool vs_catalogue_fail(VsCatalogue *catalogue, const GPtrArray *ids, const char *reason,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Asks the process that makes the snapshot to give it up; it polls
// vs_catalogue_is_cancel_requested() for any of its ids. Where that process has died the row
// becomes failed at once. VS_ERROR_SNAPSHOT_STATUS where it is not in progress.
bool vs_catalogue_request_cancel(VsCatalogue *catalogue, const char *id,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Cheap, and without waiting, as is vs_catalogue_requested_speed().
bool vs_catalogue_is_cancel_requested(VsCatalogue *catalogue, const char *id);

// Asks the process that makes the snapshots (ids: char *) to read them at that rate (bytes a
// second, 0: none); it polls vs_catalogue_requested_speed(). All or none: VS_ERROR_SNAPSHOT_STATUS
// where one is not in progress.
bool vs_catalogue_request_speed(VsCatalogue *catalogue, const GPtrArray *ids, uint64_t bytes,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
// false: nobody has asked. Cheap.
bool vs_catalogue_requested_speed(VsCatalogue *catalogue, const char *id, uint64_t *bytes);

// Queries ---------------------------------------------------------------------------------------

typedef struct {
    const char *instance; // name or id
    const char *disk;     // id or target
    const char *group;
    int status;            // VsStatus, -1: any
    const char *tag_key;   // NULL: any
    const char *tag_value; // with tag_key; NULL: any value
} VsSnapshotFilter;

// VsSnapshot *, by creation time, disk target, id. filter may be NULL.
GPtrArray *vs_catalogue_list(VsCatalogue *catalogue, const VsSnapshotFilter *filter,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
// VS_ERROR_NO_SUCH_SNAPSHOT where there is none.
VsSnapshot *vs_catalogue_get(VsCatalogue *catalogue, const char *id,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The id of the disk's newest accomplished snapshot, deleted (hidden base) or not, and its
// number in the disk's chain in *generation (may be NULL); NULL without error: none.
char *vs_catalogue_newest(VsCatalogue *catalogue, const char *disk_id, uint64_t *generation,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Number of snapshots of a kind ("manual", "auto") of a disk, progressing ones included, failed
// ones not.
bool vs_catalogue_count(VsCatalogue *catalogue, const char *disk_id, const char *kind,
                        unsigned *count, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Changes ---------------------------------------------------------------------------------------

// To be called before the manifest of a row is changed: should the process die before
// vs_catalogue_relabel(), the manifest is read again at the next opening.
bool vs_catalogue_expect_change(VsCatalogue *catalogue, const char *id,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Name, description, expiry from the manifest; tags replaced. Not for progressing rows' other
// fields.
bool vs_catalogue_relabel(VsCatalogue *catalogue, const VsSnapshot *snapshot,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Forgets a row (its manifest has been deleted, or it failed). One that is now the disk's hidden
// base stays, unlisted.
bool vs_catalogue_forget(VsCatalogue *catalogue, const char *id,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Disks and instances ---------------------------------------------------------------------------

// A disk known from snapshots or earlier sight.
typedef struct {
    char *id;
    char *instance_id; // NULL: unattached
    char *instance_name;
    char *instance_kind;
    char *target;
    char *source;
    char *format;
    char *chain; // JSON text as in the manifest
    uint64_t virtual_size_bytes;
} VsKnownDisk;
void vs_known_disk_free(VsKnownDisk *disk);
GPtrArray *vs_catalogue_known_disks(VsCatalogue *catalogue,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Adds or replaces by id.
bool vs_catalogue_remember_disk(VsCatalogue *catalogue, const VsKnownDisk *disk,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Which disk an image is (pure): known is vs_catalogue_known_disks(). 1. a known disk with the same
// source; 2. one of the same instance and target whose source is in the image's chain, or whose
// chain has the source (an overlay was added or committed); 3. a new id derived from host and
// source (made different where another disk has it). chain: file names (char *), top first; source
// is the first.
char *vs_disk_identify(const GPtrArray *known, const char *host, const char *instance_id,
                       const char *target, const GPtrArray *chain);

// Whether vs_disk_identify() could answer otherwise if it were given the source's backing files
// too: another image was known in its place. Reading them costs a look into the image.
bool vs_disk_needs_chain(const GPtrArray *known, const char *instance_id, const char *target,
                         const char *source);

G_END_DECLS
