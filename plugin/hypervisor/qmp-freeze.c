// SPDX-License-Identifier: LGPL-2.1-or-later
// The guest's file systems frozen by its agent for the moment of the transaction, and thawed
// whatever happened.
#include "plugin/error.h"
#include "plugin/hypervisor/qmp-driver-private.h"
#include "qmp/agent-channel.h"

#define THAW_TIMEOUT_MS 5000u

static bool
set_agent_error(const VsQmpDriver *driver, GError *cause, GError **error)
{
    if (g_error_matches(cause, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
        g_propagate_error(error, cause);
        return false;
    }
    g_set_error(error, VS_ERROR, VS_ERROR_AGENT, "quiescing 'qmp:%s': %s", driver->socket_path,
                cause->message);
    g_error_free(cause);
    return false;
}

bool
vs_qmp_driver_find_agent(VsQmpDriver *driver, GCancellable *cancellable, GError **error)
{
    GError *cause = NULL;
    g_autofree char *path = vs_qmp_find_agent_socket(driver->client, cancellable, &cause);
    if (path)
        driver->agent =
            vs_qmp_agent_connect(path, VS_QMP_AGENT_SYNC_TIMEOUT_MS, cancellable, &cause);
    return driver->agent || set_agent_error(driver, cause, error);
}

bool
vs_qmp_driver_freeze(VsQmpDriver *driver, unsigned timeout_ms, GCancellable *cancellable,
                     GError **error)
{
    if (!driver->agent)
        return true;
    GError *cause = NULL;
    unsigned count = 0;
    if (vs_qmp_agent_freeze(driver->agent, &count, timeout_ms, cancellable, &cause) && count == 0)
        cause = g_error_new_literal(VS_ERROR, VS_ERROR_AGENT,
                                    "the guest agent found no file system to freeze");
    if (!cause)
        return true;
    // It may have frozen after all, too late for us to hear of it.
    g_autoptr(GError) frozen = NULL;
    if (vs_qmp_driver_thaw(driver, &frozen))
        return set_agent_error(driver, cause, error);
    // Also where this was cancelled: somebody has to look at the guest.
    g_set_error(error, VS_ERROR, VS_ERROR_AGENT, "%s (and before that: %s)", frozen->message,
                cause->message);
    g_error_free(cause);
    return false;
}

bool
vs_qmp_driver_thaw(VsQmpDriver *driver, GError **error)
{
    if (!driver->agent)
        return true;
    GError *cause = NULL;
    bool ok = vs_qmp_agent_thaw(driver->agent, NULL, THAW_TIMEOUT_MS, NULL, NULL) ||
              vs_qmp_agent_thaw(driver->agent, NULL, THAW_TIMEOUT_MS, NULL, &cause);
    g_clear_pointer(&driver->agent, vs_qmp_agent_free);
    if (!ok)
        g_prefix_error(&cause, "the guest's file systems may be frozen still: ");
    return ok || set_agent_error(driver, cause, error);
}

// Who died between freezing and thawing left the guest's file systems frozen.
void
vs_qmp_driver_thaw_leftover(VsQmpDriver *driver)
{
    g_autofree char *path = vs_qmp_find_agent_socket(driver->client, NULL, NULL);
    g_autoptr(VsQmpAgent) agent =
        path ? vs_qmp_agent_connect(path, VS_QMP_AGENT_SYNC_TIMEOUT_MS, NULL, NULL) : NULL;
    bool is_frozen = false;
    g_autoptr(GError) error = NULL;
    if (agent && vs_qmp_agent_status(agent, &is_frozen, VS_QMP_AGENT_SYNC_TIMEOUT_MS, NULL, NULL) &&
        is_frozen && !vs_qmp_agent_thaw(agent, NULL, THAW_TIMEOUT_MS, NULL, &error))
        g_debug("thawing after a leftover: %s", error->message);
}
