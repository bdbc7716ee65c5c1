// SPDX-License-Identifier: LGPL-2.1-or-later
// libvirt's domains at a glance: what libvirt itself tells of all of them over one connection. No
// image is looked at, so that a listing of hundreds of stopped domains takes no time.
#pragma once

#include "plugin/catalogue/catalogue.h"
#include "plugin/hypervisor/instance.h"

G_BEGIN_DECLS

typedef struct {
    char *uuid;
    // With id, name, kind and status; of its disks only target, source, format and the chain as
    // far as libvirt tells: all of it of a running domain, the source of a stopped one.
    VsInstance *instance;
    char *fault; // why its definition is not known (it has no disks then), NULL: it is
} VsDomainGlance;
void vs_domain_glance_free(VsDomainGlance *glance);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsDomainGlance, vs_domain_glance_free)

// All domains there, as VsDomainGlance *. uri NULL: libvirt's default. Without libvirt in this
// build: an error.
GPtrArray *vs_domains_glance(const char *uri, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Gives the disks their ids. False where libvirt does not tell enough for that, so that the images
// have to be asked.
bool vs_domain_glance_identify(VsDomainGlance *glance, const GPtrArray *known, const char *host);

G_END_DECLS
