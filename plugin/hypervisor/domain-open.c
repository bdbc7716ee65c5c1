// SPDX-License-Identifier: LGPL-2.1-or-later
// Opening a connection to libvirt that nobody can wait for without end, neither while it is made
// nor later.
//
// virConnectOpen() knows no deadline: a daemon that stands still takes the connection and says
// nothing. So it runs in a thread that may be left behind. Later libvirt's own keepalive messages
// find out, and the call under way fails.
#include "plugin/hypervisor/domain-private.h"

// Whoever has not answered these has stopped: the daemon's main loop does nothing that takes long.
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_COUNT 5
#define POLL_US (50 * 1000)

// Shared by both threads, with a reference each.
struct _VsDomainOpening {
    char *uri;
    pthread_t thread; // of the other one, whose end is waited for once it has_ended
    GMutex mutex;
    GCond cond;
    bool has_ended;
    virConnectPtr connection; // till somebody takes it
    virErrorPtr failure;
};

static void
opening_clear(gpointer data)
{
    VsDomainOpening *opening = data;
    if (opening->connection)
        virConnectClose(opening->connection);
    virFreeError(opening->failure);
    g_mutex_clear(&opening->mutex);
    g_cond_clear(&opening->cond);
    g_free(opening->uri);
}

static void
opening_unref(VsDomainOpening *opening)
{
    g_atomic_rc_box_release_full(opening, opening_clear);
}

void
vs_domain_opening_release(VsDomainOpening *opening)
{
    if (!opening)
        return;
    g_mutex_lock(&opening->mutex);
    bool has_ended = opening->has_ended;
    g_mutex_unlock(&opening->mutex);
    // What it still holds of its own goes as it ends, which is at once.
    int failed = has_ended ? pthread_join(opening->thread, NULL) : pthread_detach(opening->thread);
    if (failed)
        g_debug("a thread that opened a connection: %s", g_strerror(failed));
    opening_unref(opening);
}

static VsDomainOpening *
opening_new(const char *uri)
{
    VsDomainOpening *opening = g_atomic_rc_box_new0(VsDomainOpening);
    opening->uri = g_strdup(uri);
    g_mutex_init(&opening->mutex);
    g_cond_init(&opening->cond);
    return opening;
}

static void *
open_main(void *user_data)
{
    VsDomainOpening *opening = user_data;
    virConnectPtr connection = virConnectOpen(opening->uri);
    g_mutex_lock(&opening->mutex);
    opening->connection = connection;
    opening->failure = connection ? NULL : virSaveLastError();
    opening->has_ended = true;
    g_cond_signal(&opening->cond);
    g_mutex_unlock(&opening->mutex);
    opening_unref(opening);
    return NULL;
}

static char *
why_not(const VsDomainOpening *opening)
{
    if (!opening->has_ended)
        return g_strdup("it takes the connection, but does not answer");
    const virError *failure = opening->failure;
    return vs_domain_flatten(failure && failure->message ? failure->message
                                                         : "no reason was given");
}

static VsDomainOpening *
start(const char *uri)
{
    VsDomainOpening *opening = opening_new(uri);
    if (vs_domain_start_thread(open_main, g_atomic_rc_box_acquire(opening), &opening->thread))
        return opening;
    opening_unref(opening);
    opening_unref(opening);
    return NULL;
}

// Whether it has ended by then.
static bool
wait_for(VsDomainOpening *opening, unsigned timeout_ms, virConnectPtr *connection, char **why)
{
    int64_t deadline_us = g_get_monotonic_time() + timeout_ms * INT64_C(1000);
    g_mutex_lock(&opening->mutex);
    while (!opening->has_ended && g_get_monotonic_time() < deadline_us)
        g_cond_wait_until(&opening->cond, &opening->mutex, g_get_monotonic_time() + POLL_US);
    bool has_ended = opening->has_ended;
    *connection = g_steal_pointer(&opening->connection);
    if (!*connection)
        *why = why_not(opening);
    g_mutex_unlock(&opening->mutex);
    return has_ended;
}

virConnectPtr
vs_domain_open_connection(const char *uri, unsigned timeout_ms, VsDomainOpening **pending,
                          char **why)
{
    if (!*pending)
        *pending = start(uri);
    if (!*pending) {
        *why = g_strdup("no thread can be started");
        return NULL;
    }
    virConnectPtr connection;
    if (wait_for(*pending, timeout_ms, &connection, why))
        g_clear_pointer(pending, vs_domain_opening_release);
    // What is on no daemon needs none, and says so.
    if (connection &&
        virConnectSetKeepAlive(connection, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT) != 0)
        g_debug("libvirt without keepalive messages");
    return connection;
}
