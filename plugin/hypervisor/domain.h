// SPDX-License-Identifier: LGPL-2.1-or-later
// A libvirt domain: the few calls of libvirt that are needed, by one handle. The only file that
// knows libvirt.
//
// libvirtd may be restarted at any moment: the domain goes on, and so does a backup job. Each call
// connects again where the connection is gone (for up to VS_DOMAIN_RECONNECT_MS; the question for
// the state tries but once) and is repeated, but for the one that begins a backup, and for those
// about thresholds. Calls block, and libvirt has no way to give one up; but a daemon that stands
// still is found out within half a minute, and counts as gone. One thread; events come by another,
// which all connections of the process share.
#pragma once

#include <gio/gio.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

#define VS_DOMAIN_ERROR (vs_domain_error_quark())
GQuark vs_domain_error_quark(void);

typedef enum {
    VS_DOMAIN_ERROR_FAILED,
    VS_DOMAIN_ERROR_CONNECT,    // no libvirt there
    VS_DOMAIN_ERROR_CHECKPOINT, // a checkpoint's bitmap is missing or not sound
} VsDomainError;

#define VS_DOMAIN_RECONNECT_MS 10000u
// How long the end of a backup job is waited for.
#define VS_DOMAIN_ABORT_TIMEOUT_MS 20000u

typedef struct _VsDomain VsDomain;

// By name or UUID. uri NULL: libvirt's default. VS_ERROR_NO_SUCH_INSTANCE where there is none.
VsDomain *vs_domain_open(const char *uri, const char *name,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
// All that are defined or run, as VsDomain *.
GPtrArray *vs_domain_list(const char *uri, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_domain_free(VsDomain *domain);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsDomain, vs_domain_free)

const char *vs_domain_name(const VsDomain *domain);
const char *vs_domain_uuid(const VsDomain *domain);

typedef struct {
    bool is_active;      // there is a QEMU process
    bool is_paused;      // the guest's processors stand still
    bool has_io_error;   // because a write failed
    bool is_unreachable; // libvirt didn't answer: the rest is not known
} VsDomainState;
void vs_domain_state(VsDomain *domain, VsDomainState *state);
// Waits till libvirt has been at no call on the domain for half a second, at most ten: it works on
// at what it was told by a client that has died. libvirtd 9.0 crashes (qemuMonitorSend, two threads
// in one monitor) where it is asked for a checkpoint's size while it is beginning a backup.
void vs_domain_wait_for_calm(VsDomain *domain);
bool vs_domain_resume(VsDomain *domain, GError **error) G_GNUC_WARN_UNUSED_RESULT;

char *vs_domain_xml(VsDomain *domain, bool inactive, GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_domain_disk_size(VsDomain *domain, const char *target, uint64_t *size_bytes,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
// What keeps a block job of libvirt from being begun on the disk ("a block commit"), NULL: nothing.
const char *vs_domain_block_job(VsDomain *domain, const char *target);
// The user and group that its QEMU runs as, where libvirt tells; false: the session's own.
bool vs_domain_owner(VsDomain *domain, uid_t *user, gid_t *group);

// Jobs ------------------------------------------------------------------------------------------

// checkpoint_xml: NULL for none. The scratch or target files are there already. Whether it took
// place is unknown where the connection broke meanwhile.
bool vs_domain_backup_begin(VsDomain *domain, const char *backup_xml, const char *checkpoint_xml,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The backup job's definition, NULL without error: there is none.
char *vs_domain_backup_xml(VsDomain *domain, GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
    bool is_active;
    const char *operation; // for people: "a backup", "a migration"; static
    uint64_t done_bytes;
    uint64_t total_bytes;
} VsDomainJob;
bool vs_domain_job(VsDomain *domain, VsDomainJob *job, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Of a job that has ended: whether it did all of its work.
bool vs_domain_job_succeeded(VsDomain *domain, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Ends the backup job, if there is one, and waits until it has gone.
bool vs_domain_abort_backup(VsDomain *domain, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Thresholds ------------------------------------------------------------------------------------

// How far an image of the domain's is written: QEMU tells once, before the write that goes beyond.
// device: an image as libvirt names it, "vda[3]" (VsBackupDisk). Runs in the events' thread;
// passed_bytes is what had been set; 0: none was passed, the next one has been set. Returns the
// next one to set, 0: none.
typedef uint64_t (*VsThresholdFunc)(const char *device, uint64_t passed_bytes, gpointer user_data);

// Calls func for each threshold of the domain's that is passed, till vs_domain_unwatch(), and once
// the connection is gone no more. In the place of an earlier one. free_data (of user_data, called
// in any thread, also on failure) comes after the last call, which may be after the unwatching.
bool vs_domain_watch(VsDomain *domain, VsThresholdFunc func, gpointer user_data,
                     GDestroyNotify free_data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_domain_unwatch(VsDomain *domain);
// false: it is told nothing (any more): libvirt was connected to anew, or did not take the next
// threshold.
bool vs_domain_is_watched(const VsDomain *domain);
bool vs_domain_set_threshold(VsDomain *domain, const char *device, uint64_t bytes,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Checkpoints -----------------------------------------------------------------------------------

// The XML (char *) of each checkpoint whose name begins with prefix; with_size: of a running
// domain, with sizes on sound bitmaps.
GPtrArray *vs_domain_checkpoints(VsDomain *domain, const char *prefix, bool with_size,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
// With its bitmaps (running domains only), or metadata_only.
bool vs_domain_checkpoint_delete(VsDomain *domain, const char *name, bool metadata_only,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Makes known a checkpoint whose bitmaps are in the images already.
bool vs_domain_checkpoint_redefine(VsDomain *domain, const char *xml,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Guest agent -----------------------------------------------------------------------------------

// Each bounds libvirt's own timeout of the domain's agent while it runs, and leaves it at libvirt's
// default. Errors are VS_ERROR_AGENT.

// Whether an agent answers at all: who is not there need not be thawed later.
bool vs_domain_find_agent(VsDomain *domain, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// timeout_ms: how long the agent may take. *count: file systems. Where it fails the guest may have
// frozen all the same, or may do so yet.
bool vs_domain_freeze(VsDomain *domain, unsigned timeout_ms, unsigned *count,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_domain_thaw(VsDomain *domain, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
