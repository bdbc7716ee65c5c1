// SPDX-License-Identifier: LGPL-2.1-or-later
// A pull's connection: negotiated, waited on, given up.
#include "nbd-export/pull/pull-internal.h"

#include <libnbd.h>
#include <unistd.h>

GQuark
vs_pull_error_quark(void)
{
    return g_quark_from_static_string("vs-pull-error");
}

void
vs_pull_set_nbd_error(GError **error, VsPullError code, const char *what)
{
    const char *cause = nbd_get_error();
    g_set_error(error, VS_PULL_ERROR, code, "%s: %s", what, cause ? cause : "unknown NBD error");
}

static bool
is_cancelled(VsPull *pull)
{
    return atomic_load(&pull->cancelled) ||
           (pull->companion && atomic_load(&pull->companion->cancelled));
}

bool
vs_pull_poll(VsPull *pull, int timeout_ms, GError **error)
{
    if (nbd_poll(pull->nbd, timeout_ms) == -1) {
        vs_pull_set_nbd_error(error, VS_PULL_ERROR_CLOSED, "pulling over NBD");
        return false;
    }
    int64_t silent_us = g_get_monotonic_time() - pull->last_reply_us;
    if (is_cancelled(pull))
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_CANCELLED, "pulling over NBD: cancelled");
    else if (nbd_aio_is_dead(pull->nbd) == 1 || nbd_aio_is_closed(pull->nbd) == 1)
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_CLOSED,
                    "pulling over NBD: the server closed the connection");
    else if (pull->server_error)
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_SERVER,
                    "pulling over NBD: the server answered: %s", g_strerror(pull->server_error));
    else if (pull->in_flight > 0 && silent_us > pull->options.stall_timeout_ms * 1000ll)
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_STALLED,
                    "pulling over NBD: no answer for %u ms", pull->options.stall_timeout_ms);
    else
        return true;
    return false;
}

void
vs_pull_begin_request(VsPull *pull)
{
    if (pull->in_flight++ == 0)
        pull->last_reply_us = g_get_monotonic_time();
}

void
vs_pull_end_request(VsPull *pull, int request_error)
{
    pull->in_flight--;
    pull->last_reply_us = g_get_monotonic_time();
    if (request_error && !pull->server_error)
        pull->server_error = request_error;
}

// Connecting ------------------------------------------------------------------------------------

static bool
configure(VsPull *pull, const VsPullSource *source)
{
    if (source->bitmap) {
        pull->dirty_context = g_strconcat("qemu:dirty-bitmap:", source->bitmap, NULL);
        pull->dirty_mask = 1;
    } else if (source->allocated_only) {
        pull->dirty_context = g_strdup("qemu:allocation-depth");
        pull->dirty_mask = UINT32_MAX; // a number: any depth but 0
    }
    return nbd_set_export_name(pull->nbd, source->export_name) == 0 &&
           nbd_set_pread_initialize(pull->nbd, false) == 0 &&
           nbd_add_meta_context(pull->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
           (!pull->dirty_context || nbd_add_meta_context(pull->nbd, pull->dirty_context) == 0);
}

static bool
start_connecting(VsPull *pull, const VsPullSource *source)
{
    if (source->socket >= 0)
        return nbd_aio_connect_socket(pull->nbd, source->socket) == 0;
    return nbd_aio_connect_systemd_socket_activation(pull->nbd, (char **)source->command) == 0;
}

static bool
wait_connected(VsPull *pull, GError **error)
{
    int64_t deadline = g_get_monotonic_time() + VS_PULL_CONNECT_TIMEOUT_MS * 1000ll;
    while (nbd_aio_is_connecting(pull->nbd) == 1) {
        if (nbd_poll(pull->nbd, VS_PULL_POLL_MS) == -1)
            break;
        if (g_get_monotonic_time() > deadline) {
            g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_STALLED,
                        "connecting to the NBD export: no answer for %u s",
                        VS_PULL_CONNECT_TIMEOUT_MS / 1000);
            return false;
        }
    }
    if (nbd_aio_is_ready(pull->nbd) == 1)
        return true;
    vs_pull_set_nbd_error(error, VS_PULL_ERROR_CONNECT, "connecting to the NBD export");
    return false;
}

static bool
check_export(VsPull *pull, uint64_t size_bytes, GError **error)
{
    pull->has_allocation = nbd_can_meta_context(pull->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
    if (pull->dirty_context && nbd_can_meta_context(pull->nbd, pull->dirty_context) != 1) {
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_CONNECT,
                    "connecting to the NBD export: it does not offer %s", pull->dirty_context);
        return false;
    }
    int64_t size = nbd_get_size(pull->nbd);
    if (size < 0 || (uint64_t)size != size_bytes) {
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_CONNECT,
                    "connecting to the NBD export: its size is %" G_GINT64_FORMAT
                    " bytes, the disk's %" G_GUINT64_FORMAT,
                    size, size_bytes);
        return false;
    }
    return true;
}

VsPull *
vs_pull_connect(const VsPullSource *source, uint64_t size_bytes, GError **error)
{
    g_assert(!source->bitmap || !source->allocated_only);
    g_autoptr(VsPull) pull = g_new0(VsPull, 1);
    pull->options.stall_timeout_ms = VS_PULL_STALL_TIMEOUT_MS;
    atomic_store(&pull->speed_limit_bytes, VS_PULL_SPEED_UNSET);
    pull->size_bytes = size_bytes;
    pull->live = source->live;
    pull->nbd = nbd_create();
    if (!pull->nbd || !configure(pull, source)) {
        vs_pull_set_nbd_error(error, VS_PULL_ERROR_CONNECT, "preparing the NBD connection");
        if (source->socket >= 0)
            close(source->socket);
        return NULL;
    }
    if (!start_connecting(pull, source)) {
        vs_pull_set_nbd_error(error, VS_PULL_ERROR_CONNECT, "connecting to the NBD export");
        return NULL;
    }
    if (!wait_connected(pull, error) || !check_export(pull, size_bytes, error))
        return NULL;
    return g_steal_pointer(&pull);
}

void
vs_pull_free(VsPull *pull)
{
    if (!pull)
        return;
    nbd_close(pull->nbd);
    g_free(pull->dirty_context);
    g_free(pull);
}

void
vs_pull_progress(VsPull *pull, VsPullProgress *progress)
{
    progress->total_bytes = atomic_load(&pull->total_bytes);
    progress->read_bytes = atomic_load(&pull->read_bytes);
}

void
vs_pull_set_speed_limit(VsPull *pull, uint64_t bytes)
{
    atomic_store(&pull->speed_limit_bytes, MIN(bytes, VS_PULL_SPEED_UNSET - 1));
}

void
vs_pull_cancel(VsPull *pull)
{
    atomic_store(&pull->cancelled, true);
}
