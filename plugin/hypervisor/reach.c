// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/reach.h"

#include <stdlib.h>
#include <string.h>

#include "nbd-export/store/id.h"
#include "plugin/error.h"
#include "plugin/hypervisor/storage-driver.h"
#ifdef VS_HAVE_LIBVIRT
#include "plugin/hypervisor/domain-xml.h"
#include "plugin/hypervisor/domain.h"
#include "plugin/hypervisor/libvirt-driver.h"
#endif

static const char qmp_prefix[] = "qmp:";
static const char image_prefix[] = "file:";

void
vs_reach_clear(VsReach *reach)
{
    g_free(reach->name);
    g_free(reach->instance_id);
    g_free(reach->path);
    vs_disk_free(reach->defined);
    g_free(reach->connect_uri);
    memset(reach, 0, sizeof *reach);
}

void
vs_reach_free(VsReach *reach)
{
    if (!reach)
        return;
    vs_reach_clear(reach);
    g_free(reach);
}

// Absolute and without links but for the last component.
static char *
absolute_path(const char *path)
{
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    g_autofree char *folder = g_path_get_dirname(absolute);
    g_autofree char *name = g_path_get_basename(absolute);
    char *real = realpath(folder, NULL);
    char *resolved = g_build_filename(real ? real : folder, name, NULL);
    free(real);
    return resolved;
}

static char *
instance_id(const char *kind, const char *key)
{
    g_autofree char *host = vs_host_key();
    g_autofree char *text = g_strdup_printf("%s:%s:%s", host, kind, key);
    return vs_id_from_key("i-", text);
}

static bool
set_empty_error(const char *instance, GError **error)
{
    g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "instance '%s': nothing follows '%s'",
                instance, instance);
    return false;
}

static bool
find_socket(VsReach *reach, const char *instance, GError **error)
{
    const char *path = instance + strlen(qmp_prefix);
    if (!*path)
        return set_empty_error(instance, error);
    reach->kind = VS_REACH_QMP;
    reach->path = absolute_path(path);
    reach->name = g_strconcat(qmp_prefix, reach->path, NULL);
    reach->instance_id = instance_id("qmp", reach->path);
    return true;
}

// The image itself, not a link to it: its path is what the disk is known by.
static bool
find_image(VsReach *reach, const char *instance, GError **error)
{
    const char *path = instance + strlen(image_prefix);
    if (!*path)
        return set_empty_error(instance, error);
    reach->kind = VS_REACH_IMAGE;
    g_autofree char *absolute = absolute_path(path);
    char *real = realpath(absolute, NULL);
    reach->path = g_strdup(real ? real : absolute);
    free(real);
    reach->name = g_strconcat(image_prefix, reach->path, NULL);
    return true;
}

static bool
find_domain(VsReach *reach, const char *instance, GError **error)
{
#ifdef VS_HAVE_LIBVIRT
    g_autoptr(VsDomain) domain = vs_domain_open(reach->connect_uri, instance, error);
    if (!domain)
        return false;
    reach->kind = VS_REACH_DOMAIN;
    reach->name = g_strdup(vs_domain_name(domain));
    reach->instance_id = instance_id("libvirt", vs_domain_uuid(domain));
    return true;
#else
    g_set_error(error, VS_ERROR, VS_ERROR_NO_SUCH_INSTANCE,
                "instance '%.200s': this build reaches qmp:SOCKET and file:PATH only, it has no "
                "libvirt",
                instance);
    return false;
#endif
}

bool
vs_reach_find(VsReach *reach, const char *connect_uri, const char *instance, GError **error)
{
    reach->connect_uri = g_strdup(connect_uri);
    if (g_str_has_prefix(instance, qmp_prefix))
        return find_socket(reach, instance, error);
    if (g_str_has_prefix(instance, image_prefix))
        return find_image(reach, instance, error);
    return find_domain(reach, instance, error);
}

GPtrArray *
vs_reach_list_domains(const char *connect_uri, GError **error)
{
    g_autoptr(GPtrArray) reaches = g_ptr_array_new_with_free_func((GDestroyNotify)vs_reach_free);
#ifdef VS_HAVE_LIBVIRT
    g_autoptr(GPtrArray) domains = vs_domain_list(connect_uri, error);
    if (!domains)
        return NULL;
    for (unsigned i = 0; i < domains->len; i++) {
        const VsDomain *domain = g_ptr_array_index(domains, i);
        VsReach *reach = g_new0(VsReach, 1);
        reach->kind = VS_REACH_DOMAIN;
        reach->connect_uri = g_strdup(connect_uri);
        reach->name = g_strdup(vs_domain_name(domain));
        reach->instance_id = instance_id("libvirt", vs_domain_uuid(domain));
        g_ptr_array_add(reaches, reach);
    }
#endif
    return g_steal_pointer(&reaches);
}

#ifdef VS_HAVE_LIBVIRT
// The domain's disk with that image, NULL: it has none.
static VsDisk *
find_image_of(VsDomain *domain, const char *image)
{
    g_autofree char *xml = vs_domain_xml(domain, true, NULL);
    g_autoptr(VsInstance) instance = xml ? vs_domain_xml_parse(xml, NULL) : NULL;
    for (unsigned i = 0; instance && i < instance->disks->len; i++) {
        const VsDisk *disk = g_ptr_array_index(instance->disks, i);
        char *real = realpath(disk->source, NULL);
        bool same = g_strcmp0(real, image) == 0;
        free(real);
        if (same)
            return vs_disk_copy_definition(disk);
    }
    return NULL;
}
#endif

VsDisk *
vs_reach_find_definition(const char *connect_uri, const char *image)
{
#ifdef VS_HAVE_LIBVIRT
    g_autoptr(GPtrArray) domains = vs_domain_list(connect_uri, NULL);
    for (unsigned i = 0; domains && i < domains->len; i++) {
        VsDisk *disk = find_image_of(g_ptr_array_index(domains, i), image);
        if (disk)
            return disk;
    }
#endif
    return NULL;
}

VsDriver *
vs_reach_open(const VsReach *reach, const char *repository_id, GCancellable *cancellable,
              GError **error)
{
    VsStorageOwner owner = {0};
    switch (reach->kind) {
    case VS_REACH_QMP:
        return vs_qmp_driver_connect(reach->path, repository_id, reach->instance_id, cancellable,
                                     error);
    case VS_REACH_IMAGE:
        vs_storage_image_owner(&owner, reach->path, reach->defined);
        return vs_storage_driver_new(&owner, repository_id);
    case VS_REACH_DOMAIN:
#ifdef VS_HAVE_LIBVIRT
        return vs_libvirt_driver_open(reach->connect_uri, reach->name, repository_id,
                                      reach->instance_id, error);
#else
        break;
#endif
    }
    g_assert_not_reached();
}
