// SPDX-License-Identifier: LGPL-2.1-or-later
// A folder in which a QEMU of another user finds files for a moment: libvirt's runs as a user of
// its own, and wants names.
//
//   <parent>/virtsnap.<label>.XXXXXX/<random>/<file>
//
// The outer folder can be passed but not listed by others. The inner one belongs to QEMU's user
// where that is known; else anyone who knows its random name may use it. The outer one is locked
// (flock) for as long as its maker lives, so what a dead one left can be told and swept away.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

G_BEGIN_DECLS

typedef struct {
    char *outer;
    char *inner;
    int lock;
    bool has_user; // files go to this user
    uid_t user;
    gid_t group;
} VsHandover;

// label: one path component. has_user false: QEMU's user is not known (or is our own, where we are
// not root).
VsHandover *vs_handover_new(const char *parent, const char *label,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
// To be called before files are put there.
bool vs_handover_give_to(VsHandover *handover, uid_t user, gid_t group,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Lets QEMU read and write the file, which lies in the inner folder.
bool vs_handover_share(const VsHandover *handover, int fd,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Removes the names that are in it; what is open stays so.
void vs_handover_empty(VsHandover *handover);
// Removes all of it.
void vs_handover_free(VsHandover *handover);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsHandover, vs_handover_free)

// Removes the folders with that label whose maker is dead; whether there were any.
bool vs_handover_sweep(const char *parent, const char *label);
// Whether the file at path lies in such a folder (of that label; NULL: of any) ...
bool vs_handover_has(const char *path, const char *label);
// ... and its maker lives.
bool vs_handover_is_held(const char *path);

G_END_DECLS
