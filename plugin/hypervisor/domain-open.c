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
typedef struct {
    char *uri;
    GMutex mutex;
    GCond cond;
    bool has_ended;
    virConnectPtr connection; // till somebody takes it
    virErrorPtr failure;
} Opening;

static void
opening_clear(gpointer data)
{
    Opening *opening = data;
    if (opening->connection)
        virConnectClose(opening->connection);
    virFreeError(opening->failure);
    g_mutex_clear(&opening->mutex);
    g_cond_clear(&opening->cond);
    g_free(opening->uri);
}

static void
opening_release(Opening *opening)
{
    g_atomic_rc_box_release_full(opening, opening_clear);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Opening, opening_release)

static Opening *
opening_new(const char *uri)
{
    Opening *opening = g_atomic_rc_box_new0(Opening);
    opening->uri = g_strdup(uri);
    g_mutex_init(&opening->mutex);
    g_cond_init(&opening->cond);
    return opening;
}

static void *
open_main(void *user_data)
{
    g_autoptr(Opening) opening = user_data;
    virConnectPtr connection = virConnectOpen(opening->uri);
    g_mutex_lock(&opening->mutex);
    opening->connection = connection;
    opening->failure = connection ? NULL : virSaveLastError();
    opening->has_ended = true;
    g_cond_signal(&opening->cond);
    g_mutex_unlock(&opening->mutex);
    return NULL;
}

static char *
why_not(const Opening *opening)
{
    if (!opening->has_ended)
        return g_strdup("it takes the connection, but does not answer");
    const virError *failure = opening->failure;
    return vs_domain_flatten(failure && failure->message ? failure->message
                                                         : "no reason was given");
}

static virConnectPtr
wait_for(Opening *opening, unsigned timeout_ms, char **why)
{
    int64_t deadline_us = g_get_monotonic_time() + timeout_ms * INT64_C(1000);
    g_mutex_lock(&opening->mutex);
    while (!opening->has_ended && g_get_monotonic_time() < deadline_us)
        g_cond_wait_until(&opening->cond, &opening->mutex, g_get_monotonic_time() + POLL_US);
    virConnectPtr connection = g_steal_pointer(&opening->connection);
    if (!connection)
        *why = why_not(opening);
    g_mutex_unlock(&opening->mutex);
    return connection;
}

virConnectPtr
vs_domain_open_connection(const char *uri, unsigned timeout_ms, char **why)
{
    g_autoptr(Opening) opening = opening_new(uri);
    if (!vs_domain_start_thread(open_main, g_atomic_rc_box_acquire(opening))) {
        opening_release(opening);
        *why = g_strdup("no thread can be started");
        return NULL;
    }
    virConnectPtr connection = wait_for(opening, timeout_ms, why);
    // What is on no daemon needs none, and says so.
    if (connection &&
        virConnectSetKeepAlive(connection, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT) != 0)
        g_debug("libvirt without keepalive messages");
    return connection;
}
