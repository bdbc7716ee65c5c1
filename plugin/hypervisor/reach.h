// SPDX-License-Identifier: LGPL-2.1-or-later
// INSTANCE as users name it, and the driver that reaches it in the state that it is in.
#pragma once

#include "plugin/hypervisor/driver.h"

G_BEGIN_DECLS

typedef enum {
    VS_REACH_QMP,    // qmp:SOCKET
    VS_REACH_IMAGE,  // file:PATH, an image that no instance has
    VS_REACH_DOMAIN, // a libvirt domain, by name or UUID
} VsReachKind;

typedef struct {
    VsReachKind kind;
    char *name;        // as it is shown and found again
    char *instance_id; // i-…, derived from this host and what does not change about it; NULL: image
    char *path;        // socket or image, absolute; NULL: domain
    VsDisk *defined;   // of an image: what is known of the disk by its definition; the caller
                       // sets it before vs_reach_open()
    char *connect_uri; // NULL: libvirt's default
} VsReach;
void vs_reach_clear(VsReach *reach);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VsReach, vs_reach_clear)

// Asks libvirt for domains, so that a name and a UUID are one instance; nothing else is asked.
// VS_ERROR_INVALID_PARAMETER where the form is wrong, VS_ERROR_NO_SUCH_INSTANCE. The caller clears
// reach also after a failure.
bool vs_reach_find(VsReach *reach, const char *connect_uri, const char *instance,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Every domain that libvirt knows there, as VsReach *. Without libvirt in this build: none.
GPtrArray *vs_reach_list_domains(const char *connect_uri, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_reach_free(VsReach *reach);

// The disk with that image (absolute, no link) in a domain's definition, NULL: none is known.
VsDisk *vs_reach_find_definition(const char *connect_uri,
                                 const char *image) G_GNUC_WARN_UNUSED_RESULT;

// A domain's driver depends on whether it runs: ask with the instance's lock held.
VsDriver *vs_reach_open(const VsReach *reach, const char *repository_id, GCancellable *cancellable,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
