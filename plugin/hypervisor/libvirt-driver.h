// SPDX-License-Identifier: LGPL-2.1-or-later
// libvirt's domains by libvirt's own backup interface: virDomainBackupBegin with a checkpoint.
#pragma once

#include "plugin/hypervisor/domain.h"
#include "plugin/hypervisor/driver.h"

G_BEGIN_DECLS

// For a domain that runs, the libvirt driver; for one that doesn't, the one of its images
// (storage-driver.h). name: as libvirt knows it.
VsDriver *vs_libvirt_driver_open(const char *connect_uri, const char *name,
                                 const char *repository_id, const char *instance_id,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
