// SPDX-License-Identifier: LGPL-2.1-or-later
// A domain's checkpoints, and its guest's agent.
#include <stdlib.h>

#include "plugin/error.h"
#include "plugin/hypervisor/domain-private.h"

// For what an agent does at once.
#define AGENT_TIMEOUT_S 5

G_DEFINE_AUTOPTR_CLEANUP_FUNC(virDomainCheckpoint, virDomainCheckpointFree)

// Checkpoints -----------------------------------------------------------------------------------

static char *
checkpoint_xml(virDomainCheckpointPtr checkpoint, bool with_size)
{
    unsigned flags = VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN;
    char *xml = with_size ? virDomainCheckpointGetXMLDesc(checkpoint,
                                                          flags | VIR_DOMAIN_CHECKPOINT_XML_SIZE)
                          : NULL;
    // A bitmap that is not sound may make the question for sizes fail as a whole.
    if (!xml)
        xml = virDomainCheckpointGetXMLDesc(checkpoint, flags);
    char *copy = g_strdup(xml);
    free(xml);
    return copy;
}

GPtrArray *
vs_domain_checkpoints(VsDomain *domain, const char *prefix, bool with_size, GError **error)
{
    virDomainCheckpointPtr *list = NULL;
    int count;
    WITH_RETRY(count, count < 0, virDomainListAllCheckpoints(domain->handle, &list, 0));
    if (count < 0) {
        vs_domain_set_error(domain, "listing its checkpoints", error);
        return NULL;
    }
    GPtrArray *found = g_ptr_array_new_with_free_func(g_free);
    for (int i = 0; i < count; i++) {
        g_autoptr(virDomainCheckpoint) checkpoint = list[i];
        if (!g_str_has_prefix(virDomainCheckpointGetName(checkpoint), prefix))
            continue;
        char *xml = checkpoint_xml(checkpoint, with_size);
        if (xml)
            g_ptr_array_add(found, xml);
    }
    free(list);
    return found;
}

bool
vs_domain_checkpoint_delete(VsDomain *domain, const char *name, bool metadata_only, GError **error)
{
    virDomainCheckpointPtr found;
    WITH_RETRY(found, !found, virDomainCheckpointLookupByName(domain->handle, name, 0));
    if (!found && vs_domain_last_code(domain) == VIR_ERR_NO_DOMAIN_CHECKPOINT)
        return true;
    g_autoptr(virDomainCheckpoint) checkpoint = found;
    unsigned flags = metadata_only ? VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY : 0;
    if (checkpoint && virDomainCheckpointDelete(checkpoint, flags) == 0)
        return true;
    vs_domain_set_error(domain, "removing a checkpoint", error);
    return false;
}

bool
vs_domain_checkpoint_redefine(VsDomain *domain, const char *xml, GError **error)
{
    virDomainCheckpointPtr made;
    WITH_RETRY(
        made, !made,
        virDomainCheckpointCreateXML(domain->handle, xml, VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE));
    g_autoptr(virDomainCheckpoint) checkpoint = made;
    if (!checkpoint)
        vs_domain_set_error(domain, "making a bitmap known as a checkpoint", error);
    return checkpoint != NULL;
}

// Guest agent -----------------------------------------------------------------------------------

// How long the agent may take. Libvirt can't be asked what it was set to before; its default is to
// wait for ever, and what it is set to holds for everybody.
static void
set_agent_timeout(VsDomain *domain, int seconds)
{
    if (virDomainAgentSetResponseTimeout(domain->handle, seconds, 0) < 0)
        virResetLastError();
}

static void
set_agent_error(const VsDomain *domain, const char *operation, const char *cause, GError **error)
{
    g_set_error(error, VS_ERROR, VS_ERROR_AGENT, "domain '%s': %s: %s", domain->name, operation,
                cause);
}

bool
vs_domain_find_agent(VsDomain *domain, GError **error)
{
    long long seconds;
    unsigned nanoseconds;
    set_agent_timeout(domain, AGENT_TIMEOUT_S);
    int result = virDomainGetTime(domain->handle, &seconds, &nanoseconds, 0);
    int code = virGetLastErrorCode();
    // Any agent will do that says something, if only that it does not tell the time.
    bool found =
        result == 0 || (code != VIR_ERR_AGENT_UNRESPONSIVE && code != VIR_ERR_ARGUMENT_UNSUPPORTED);
    if (!found)
        set_agent_error(domain, "asking for its guest agent", virGetLastErrorMessage(), error);
    set_agent_timeout(domain, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    return found;
}

bool
vs_domain_freeze(VsDomain *domain, unsigned timeout_ms, unsigned *count, GError **error)
{
    set_agent_timeout(domain, (int)MAX(1, timeout_ms / 1000));
    int frozen = virDomainFSFreeze(domain->handle, NULL, 0, 0);
    if (frozen < 0)
        set_agent_error(domain, "having its guest agent freeze the file systems",
                        virGetLastErrorMessage(), error);
    set_agent_timeout(domain, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    *count = (unsigned)MAX(0, frozen);
    return frozen >= 0;
}

bool
vs_domain_thaw(VsDomain *domain, GError **error)
{
    set_agent_timeout(domain, AGENT_TIMEOUT_S);
    int result = virDomainFSThaw(domain->handle, NULL, 0, 0);
    // Asking whether the connection is alive would forget why it failed.
    g_autofree char *cause = g_strdup(virGetLastErrorMessage());
    if (result < 0 && vs_domain_can_retry(domain, VS_DOMAIN_RECONNECT_MS))
        result = virDomainFSThaw(domain->handle, NULL, 0, 0);
    if (result < 0)
        set_agent_error(domain, "having its guest agent thaw the file systems", cause, error);
    set_agent_timeout(domain, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    return result >= 0;
}
