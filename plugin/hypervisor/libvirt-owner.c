// SPDX-License-Identifier: LGPL-2.1-or-later
// The owner of a stopped domain's images.
#include "plugin/error.h"
#include "plugin/hypervisor/libvirt-driver-private.h"

typedef struct {
    VsDomain *domain;
    char *repository_id;
} Owner;

static VsInstance *
describe(gpointer user_data, GError **error)
{
    Owner *owner = user_data;
    VsInstance *instance = vs_libvirt_parse_domain(owner->domain, false, error);
    if (instance)
        instance->status = g_strdup("stopped");
    return instance;
}

static bool
check_stopped(gpointer user_data, GError **error)
{
    Owner *owner = user_data;
    VsDomainState state;
    vs_domain_state(owner->domain, &state);
    if (!state.is_active && !state.is_unreachable)
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS, "domain '%s' %s",
                vs_domain_name(owner->domain),
                state.is_unreachable ? "can't be asked for its state: libvirt does not answer"
                                     : "has been started meanwhile");
    return false;
}

static bool
tidied(const VsInstance *instance, const VsKeptBitmap *kept, unsigned count, gpointer user_data,
       GError **error)
{
    Owner *owner = user_data;
    return vs_libvirt_sync_checkpoints(owner->domain, owner->repository_id, instance, kept, count,
                                       error);
}

static void
owner_free(gpointer user_data)
{
    Owner *owner = user_data;
    vs_domain_free(owner->domain);
    g_free(owner->repository_id);
    g_free(owner);
}

void
vs_libvirt_owner(VsStorageOwner *owner, VsDomain *domain, const char *repository_id)
{
    Owner *data = g_new0(Owner, 1);
    data->domain = domain;
    data->repository_id = g_strdup(repository_id);
    *owner = (VsStorageOwner){.describe = describe,
                              .check_stopped = check_stopped,
                              .tidied = tidied,
                              .user_data = data,
                              .free = owner_free};
}
