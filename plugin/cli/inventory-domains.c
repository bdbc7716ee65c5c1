// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/inventory-domains.h"

#include "plugin/error.h"
#ifdef VS_HAVE_LIBVIRT
#include "plugin/hypervisor/domain-xml.h"
#include "plugin/hypervisor/domain.h"
#include "plugin/hypervisor/qmp-disks.h"
#include "plugin/hypervisor/reach.h"
#endif

void
vs_domain_glance_free(VsDomainGlance *glance)
{
    if (glance == NULL)
        return;
    g_free(glance->uuid);
    vs_instance_free(glance->instance);
    g_free(glance->fault);
    g_free(glance);
}

#ifdef VS_HAVE_LIBVIRT
// Paths are written in many ways, a disk is known by one.
static void
canonicalize(VsDisk *disk)
{
    if (disk->chain->len == 0)
        g_ptr_array_add(disk->chain, g_strdup(disk->source != NULL ? disk->source : ""));
    for (guint i = 0; i < disk->chain->len; i++) {
        char *written = g_ptr_array_index(disk->chain, i);
        disk->chain->pdata[i] = vs_qmp_image_name(written, NULL);
        g_free(written);
    }
    g_free(disk->source);
    disk->source = g_strdup(g_ptr_array_index(disk->chain, 0));
}

static const char *
status_name(const VsDomainState *state)
{
    if (!state->is_active)
        return "stopped";
    return state->is_paused ? "paused" : "running";
}

static VsDomainGlance *
glance_at(VsDomain *domain, const char *instance_id)
{
    VsDomainGlance *glance = g_new0(VsDomainGlance, 1);
    VsDomainState state;
    vs_domain_state(domain, &state);
    g_autoptr(GError) error = NULL;
    g_autofree char *xml = vs_domain_xml(domain, !state.is_active, &error);
    glance->instance = xml != NULL ? vs_domain_xml_parse(xml, &error) : NULL;
    if (glance->instance == NULL) {
        glance->fault = g_strdup(error->message);
        glance->instance = vs_instance_new();
    }
    VsInstance *instance = glance->instance;
    g_free(instance->id);
    g_free(instance->name);
    g_free(instance->kind);
    g_free(instance->status);
    glance->uuid = g_strdup(vs_domain_uuid(domain));
    instance->id = g_strdup(instance_id);
    instance->name = g_strdup(vs_domain_name(domain));
    instance->kind = g_strdup("libvirt");
    instance->status = g_strdup(status_name(&state));
    for (guint i = 0; i < instance->disks->len; i++)
        canonicalize(g_ptr_array_index(instance->disks, i));
    return glance;
}

GPtrArray *
vs_domains_glance(const char *uri, GError **error)
{
    // The one knows the ids of instances, the other has the domains.
    g_autoptr(GPtrArray) reaches = vs_reach_list_domains(uri, error);
    g_autoptr(GPtrArray) domains = reaches != NULL ? vs_domain_list(uri, error) : NULL;
    if (domains == NULL)
        return NULL;
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < reaches->len; i++) {
        const VsReach *reach = g_ptr_array_index(reaches, i);
        g_hash_table_insert(ids, reach->name, reach->instance_id);
    }
    GPtrArray *glances = g_ptr_array_new_with_free_func((GDestroyNotify)vs_domain_glance_free);
    for (guint i = 0; i < domains->len; i++) {
        VsDomain *domain = g_ptr_array_index(domains, i);
        const char *id = g_hash_table_lookup(ids, vs_domain_name(domain));
        if (id != NULL) // else it was defined between the two questions
            g_ptr_array_add(glances, glance_at(domain, id));
    }
    return glances;
}
#else
GPtrArray *
vs_domains_glance(const char *uri, GError **error)
{
    g_set_error(error, VS_ERROR, VS_ERROR_NO_SUCH_INSTANCE,
                "libvirt's domains can't be listed: this build has no libvirt");
    return NULL;
}
#endif

static bool
is_taken(const VsInstance *instance, guint before, const char *id)
{
    for (guint i = 0; i < before; i++) {
        const VsDisk *disk = g_ptr_array_index(instance->disks, i);
        if (g_strcmp0(disk->id, id) == 0)
            return true;
    }
    return false;
}

bool
vs_domain_glance_identify(VsDomainGlance *glance, const GPtrArray *known, const char *host)
{
    const VsInstance *instance = glance->instance;
    bool is_stopped = g_strcmp0(instance->status, "stopped") == 0;
    bool is_enough = true;
    for (guint i = 0; i < instance->disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(instance->disks, i);
        g_free(disk->id);
        disk->id = vs_disk_identify(known, host, instance->id, disk->target, disk->chain);
        if (is_taken(instance, i, disk->id) ||
            (is_stopped && vs_disk_needs_chain(known, instance->id, disk->target, disk->source)))
            is_enough = false;
    }
    return is_enough;
}
