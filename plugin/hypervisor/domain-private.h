// SPDX-License-Identifier: LGPL-2.1-or-later
// What the files of VsDomain share. Not for others.
#pragma once

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>

#include "plugin/hypervisor/domain.h"

G_BEGIN_DECLS

typedef struct _VsDomainWatch VsDomainWatch;
typedef struct _VsDomainOpening VsDomainOpening;

struct _VsDomain {
    char *uri; // NULL: libvirt's default
    virConnectPtr connection;
    virDomainPtr handle;
    VsDomainOpening *pending; // to connect again, without an answer yet; NULL: none
    char *name;
    char uuid[VIR_UUID_STRING_BUFLEN];
    virErrorPtr failure;  // of the last call that failed: asking whether the connection is alive
                          // makes libvirt forget it
    char *why_gone;       // libvirt can't be connected to; NULL: it could, or nobody has tried
    bool is_given_up;     // libvirt has not come back in time: no longer waited for
    VsDomainWatch *watch; // of this connection, NULL: none
    int watch_id;
};

// To be called before libvirt is connected to. Where it fails there are no events, and no more.
void vs_domain_start_event_loop(void);
// A thread to join or to detach. It gets no signals: the others know what to do with them.
bool vs_domain_start_thread(void *(*main)(void *), void *user_data, pthread_t *thread);

// NULL where there is none by then, and why. Calls over it fail when the daemon has not answered
// for half a minute, whatever they ask for. *pending: an earlier try that got no answer, which is
// gone on with, or NULL; set to this one where it gets none.
virConnectPtr vs_domain_open_connection(const char *uri, unsigned timeout_ms,
                                        VsDomainOpening **pending,
                                        char **why) G_GNUC_WARN_UNUSED_RESULT;
// A try that nobody waits for ends by itself. NULL is nothing.
void vs_domain_opening_release(VsDomainOpening *opening);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsDomainOpening, vs_domain_opening_release)

// Sets error from what libvirt last complained of.
void vs_domain_set_error(const VsDomain *domain, const char *operation, GError **error);
// Its code (VIR_ERR_…).
int vs_domain_last_code(const VsDomain *domain);
// What libvirt says in a line of its own.
char *vs_domain_flatten(const char *text) G_GNUC_WARN_UNUSED_RESULT;

// Whether the call that has just failed is worth another try: the connection was gone, and is there
// again within timeout_ms (0: one try).
bool vs_domain_can_retry(VsDomain *domain, unsigned timeout_ms);

// A domain without a handle is fine: libvirt's functions refuse NULL with an error.
#define WITH_RETRY(result, failed, call)                                                           \
    do {                                                                                           \
        (result) = (call);                                                                         \
        if ((failed) && vs_domain_can_retry(domain, VS_DOMAIN_RECONNECT_MS))                       \
            (result) = (call);                                                                     \
    } while (0)

G_END_DECLS
