// SPDX-License-Identifier: LGPL-2.1-or-later
// Write thresholds of a domain's images: set, and told by an event.
#include <stdatomic.h>

#include "plugin/hypervisor/domain-private.h"

// Belongs to the VsDomain and to libvirt, which lets go of it when no callback can run any more.
struct _VsDomainWatch {
    VsThresholdFunc func;
    gpointer user_data;
    GDestroyNotify free_data;
    atomic_bool has_failed;
};

static void
watch_clear(gpointer data)
{
    VsDomainWatch *watch = data;
    if (watch->free_data)
        watch->free_data(watch->user_data);
}

static void
watch_release(void *watch)
{
    g_atomic_rc_box_release_full(watch, watch_clear);
}

// In the thread of the event loop. What is written before QEMU knows the next threshold may be
// beyond that already, so that it is asked for once more.
static void
// NOLINTNEXTLINE(readability-function-size): libvirt's type of callback
on_threshold(virConnectPtr connection, virDomainPtr handle, const char *device, const char *path,
             unsigned long long threshold, unsigned long long excess, void *opaque)
{
    VsDomainWatch *watch = opaque;
    uint64_t set = 0, next = watch->func(device, threshold, watch->user_data);
    while (next > 0 && next != set) {
        if (virDomainSetBlockThreshold(handle, device, next, 0) < 0) {
            atomic_store(&watch->has_failed, true);
            return;
        }
        set = next;
        next = watch->func(device, 0, watch->user_data);
    }
}

bool
vs_domain_watch(VsDomain *domain, VsThresholdFunc func, gpointer user_data,
                GDestroyNotify free_data, GError **error)
{
    vs_domain_unwatch(domain);
    VsDomainWatch *watch = g_atomic_rc_box_new0(VsDomainWatch);
    *watch = (VsDomainWatch){.func = func, .user_data = user_data, .free_data = free_data};
    domain->watch_id = virConnectDomainEventRegisterAny(
        domain->connection, domain->handle, VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD,
        VIR_DOMAIN_EVENT_CALLBACK(on_threshold), watch, watch_release);
    if (domain->watch_id < 0) {
        vs_domain_set_error(domain, "asking for its events", error);
        watch_release(watch);
        return false;
    }
    domain->watch = g_atomic_rc_box_acquire(watch);
    return true;
}

void
vs_domain_unwatch(VsDomain *domain)
{
    if (!domain->watch)
        return;
    // Where the connection is gone libvirt forgets the callback all the same.
    if (virConnectDomainEventDeregisterAny(domain->connection, domain->watch_id) < 0)
        virResetLastError();
    g_clear_pointer(&domain->watch, watch_release);
}

bool
vs_domain_is_watched(const VsDomain *domain)
{
    return domain->watch && !atomic_load(&domain->watch->has_failed);
}

bool
vs_domain_set_threshold(VsDomain *domain, const char *device, uint64_t bytes, GError **error)
{
    int result = virDomainSetBlockThreshold(domain->handle, device, bytes, 0);
    if (result < 0)
        vs_domain_set_error(domain, "setting a write threshold", error);
    return result == 0;
}
