// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/domain-xml.h"

#include <string.h>

#include "plugin/hypervisor/domain-xml-tree.h"

// libvirt starts no domain whose disk has a longer chain (its limit for QEMU). libxml2 allows 256
// elements within each other, so that the texts of such chains can be read.
#define CHAIN_MAX 200u

GQuark
vs_domain_xml_error_quark(void)
{
    return g_quark_from_static_string("vs-domain-xml-error-quark");
}

// Where disks are ------------------------------------------------------------------------------

// Adds "name:port", with the brackets that an IPv6 address needs in a URI.
static void
append_host(GString *hosts, const xmlNode *host)
{
    g_autofree char *name = vs_xml_attribute(host, "name");
    g_autofree char *port = vs_xml_attribute(host, "port");
    if (!name)
        return;
    bool is_ipv6 = strchr(name, ':') && name[0] != '[';
    g_string_append_printf(hosts, is_ipv6 ? "%s[%s]" : "%s%s", hosts->len > 0 ? "," : "", name);
    if (port)
        g_string_append_printf(hosts, ":%s", port);
}

// protocol[+transport]://host:port,…/name?socket=…&query. Escaped such that two places never
// have one URI; NULL: no protocol.
static char *
network_uri(const xmlNode *source)
{
    g_autofree char *protocol = vs_xml_attribute(source, "protocol");
    g_autofree char *name = vs_xml_attribute(source, "name");
    g_autofree char *query = vs_xml_attribute(source, "query");
    const xmlNode *host = vs_xml_child(source, "host");
    g_autofree char *transport = vs_xml_attribute(host, "transport");
    g_autofree char *socket = vs_xml_attribute(host, "socket");
    if (!protocol)
        return NULL;

    GString *uri = g_string_new(protocol);
    g_autoptr(GString) hosts = g_string_new(NULL);
    for (; host; host = vs_xml_next(host))
        append_host(hosts, host);
    if (transport && !g_str_equal(transport, "tcp"))
        g_string_append_printf(uri, "+%s", transport);
    g_string_append_printf(uri, "://%s/", hosts->str);
    if (name)
        g_string_append_uri_escaped(uri, name, G_URI_RESERVED_CHARS_ALLOWED_IN_PATH, true);
    if (socket) {
        g_string_append(uri, "?socket=");
        g_string_append_uri_escaped(uri, socket, "/", true);
    }
    if (query)
        g_string_append_printf(uri, "%c%s", socket ? '&' : '?', query);
    return g_string_free(uri, false);
}

// What the <source> of a <disk> or a <backingStore> leads to, "" where that is neither a file, a
// device nor a network disk; NULL: no source.
static char *
source_of(const xmlNode *element)
{
    const xmlNode *source = vs_xml_child(element, "source");
    g_autofree char *type = vs_xml_attribute(element, "type");
    if (!source)
        return NULL;
    if (!type || g_str_equal(type, "file"))
        return vs_xml_attribute(source, "file");
    if (g_str_equal(type, "block"))
        return vs_xml_attribute(source, "dev");
    if (g_str_equal(type, "network"))
        return network_uri(source);
    return g_strdup("");
}

static bool
fill_chain(VsDisk *disk, const xmlNode *element, GError **error)
{
    const xmlNode *layer = vs_xml_child(element, "backingStore");
    char *source;

    g_ptr_array_add(disk->chain, g_strdup(disk->source));
    g_ptr_array_add(disk->chain_formats, g_strdup(disk->format));
    while ((source = source_of(layer)) != NULL) {
        g_ptr_array_add(disk->chain, source);
        g_ptr_array_add(disk->chain_formats,
                        vs_xml_attribute(vs_xml_child(layer, "format"), "type"));
        if (disk->chain->len > CHAIN_MAX) {
            vs_xml_set_invalid(error, "domain", "disk '%s' has more than %u images in its chain",
                               disk->target, CHAIN_MAX);
            return false;
        }
        layer = vs_xml_child(layer, "backingStore");
    }
    disk->chain_ends = layer != NULL; // an empty <backingStore/>
    return true;
}

// Disks ----------------------------------------------------------------------------------------

static bool
has_iothread(const xmlNode *device)
{
    const xmlNode *driver = vs_xml_child(device, "driver");
    g_autofree char *iothread = vs_xml_attribute(driver, "iothread");
    return iothread || vs_xml_child(driver, "iothreads");
}

// The set of the indices of SCSI controllers that are on an iothread.
static GHashTable *
find_iothread_controllers(const xmlNode *devices)
{
    GHashTable *indices = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (const xmlNode *controller = vs_xml_child(devices, "controller"); controller;
         controller = vs_xml_next(controller)) {
        if (!vs_xml_attribute_is(controller, "type", "scsi") || !has_iothread(controller))
            continue;
        char *index = vs_xml_attribute(controller, "index");
        g_hash_table_add(indices, index ? index : g_strdup("0"));
    }
    return indices;
}

static bool
is_on_controller_of(const xmlNode *element, GHashTable *indices)
{
    if (!vs_xml_attribute_is(vs_xml_child(element, "target"), "bus", "scsi"))
        return false;
    g_autofree char *index = vs_xml_attribute(vs_xml_child(element, "address"), "controller");
    return g_hash_table_contains(indices, index ? index : "0");
}

static void
add_alias(VsDisk *disk, char *alias)
{
    if (alias)
        g_ptr_array_add(disk->aliases, alias);
}

// Why it can't be captured, NULL: it can.
static char *
find_obstacle(const xmlNode *element)
{
    g_autofree char *type = vs_xml_attribute(element, "type");
    static const char *const types[] = {"file", "block", "network", NULL};

    if (type && !g_strv_contains(types, type))
        return g_strdup_printf("its source is of type '%s', not file, block or network", type);
    if (vs_xml_child(element, "transient"))
        return g_strdup("it is transient: what the guest writes is thrown away");
    if (vs_xml_attribute_is(element, "device", "lun"))
        return g_strdup("it is a LUN that is passed through to the guest");
    return NULL;
}

static bool
is_listed(const xmlNode *element)
{
    g_autofree char *source = source_of(element);
    return source && !vs_xml_attribute_is(element, "device", "cdrom") &&
           !vs_xml_attribute_is(element, "device", "floppy") && !vs_xml_child(element, "readonly");
}

// What the guest sees where QEMU is told more than the images say of themselves.
static char *
find_live_only(const xmlNode *element)
{
    bool is_backing = false;
    for (const xmlNode *layer = element; layer; layer = vs_xml_child(layer, "backingStore")) {
        const xmlNode *source = vs_xml_child(layer, "source");
        if (vs_xml_child(source, "encryption") || vs_xml_child(layer, "encryption"))
            return g_strdup_printf("%s encrypted with a key that only its running machine has",
                                   is_backing ? "a backing file of it is" : "it is");
        if (vs_xml_child(source, "slices"))
            return g_strdup_printf("%s: it can be snapshotted while its machine runs",
                                   is_backing ? "a backing file of it is a part of a file"
                                              : "it is a part of its image");
        is_backing = true;
    }
    return NULL;
}

static VsDisk *
read_disk(const xmlNode *element, GHashTable *iothread_controllers, GError **error)
{
    g_autoptr(VsDisk) disk = vs_disk_new();
    char *format = vs_xml_attribute(vs_xml_child(element, "driver"), "type");

    disk->source = source_of(element);
    disk->format = format ? format : g_strdup("raw");
    disk->target = vs_xml_attribute(vs_xml_child(element, "target"), "dev");
    if (!disk->target) {
        vs_xml_set_invalid(error, "domain", "the disk on '%s' has no target", disk->source);
        return NULL;
    }
    add_alias(disk, vs_xml_text(vs_xml_child(element, "serial")));
    add_alias(disk, vs_xml_attribute(vs_xml_child(element, "alias"), "name"));
    disk->can_track = disk->persistent_bitmaps = g_str_equal(disk->format, "qcow2");
    disk->iothread = has_iothread(element) || is_on_controller_of(element, iothread_controllers);
    disk->is_shared = vs_xml_child(element, "shareable") != NULL;
    disk->live_only = find_live_only(element);
    disk->unavailable = find_obstacle(element);
    if (!fill_chain(disk, element, error))
        return NULL;
    return g_steal_pointer(&disk);
}

static bool
read_disks(VsInstance *instance, const xmlNode *devices, GError **error)
{
    g_autoptr(GHashTable) controllers = find_iothread_controllers(devices);
    g_autoptr(GHashTable) targets = g_hash_table_new(g_str_hash, g_str_equal);

    for (const xmlNode *element = vs_xml_child(devices, "disk"); element;
         element = vs_xml_next(element)) {
        if (!is_listed(element))
            continue;
        VsDisk *disk = read_disk(element, controllers, error);
        if (!disk)
            return false;
        g_ptr_array_add(instance->disks, disk);
        // A name for two disks would let one be taken for the other.
        if (!g_hash_table_add(targets, disk->target)) {
            vs_xml_set_invalid(error, "domain", "two disks have the target '%s'", disk->target);
            return false;
        }
    }
    return true;
}

// Files ----------------------------------------------------------------------------------------

static void
add_file(VsInstance *instance, const char *role, const char *path)
{
    if (path && path[0])
        g_ptr_array_add(instance->files, vs_instance_file_new(role, path));
}

// Newer libvirts write <nvram type='…'><source …/></nvram>; one on the network is no file.
static char *
nvram_path(const xmlNode *nvram)
{
    if (!vs_xml_child(nvram, "source"))
        return vs_xml_text(nvram);
    return vs_xml_attribute_is(nvram, "type", "network") ? NULL : source_of(nvram);
}

static void
read_files(VsInstance *instance, const xmlNode *os)
{
    static const char *const roles[] = {"kernel", "initrd", "dtb"};
    const xmlNode *loader = vs_xml_child(os, "loader");

    for (unsigned i = 0; i < G_N_ELEMENTS(roles); i++) {
        g_autofree char *path = vs_xml_text(vs_xml_child(os, roles[i]));
        add_file(instance, roles[i], path);
    }
    g_autofree char *nvram = nvram_path(vs_xml_child(os, "nvram"));
    add_file(instance, "nvram", nvram);
    // A read-only one is the distribution's firmware, which each host has.
    g_autofree char *firmware = vs_xml_text(loader);
    if (!vs_xml_attribute_is(loader, "readonly", "yes"))
        add_file(instance, "loader", firmware);
}

VsInstance *
vs_domain_xml_parse(const char *xml, GError **error)
{
    g_autoptr(xmlDoc) document = vs_xml_read(xml, "domain", error);
    if (!document)
        return NULL;
    const xmlNode *domain = xmlDocGetRootElement(document);
    g_autoptr(VsInstance) instance = vs_instance_new();

    instance->kind = g_strdup("libvirt");
    instance->one_capture = true;
    instance->name = vs_xml_text(vs_xml_child(domain, "name"));
    if (!instance->name) {
        vs_xml_set_invalid(error, "domain", "it has no name");
        return NULL;
    }
    read_files(instance, vs_xml_child(domain, "os"));
    if (!read_disks(instance, vs_xml_child(domain, "devices"), error))
        return NULL;
    return g_steal_pointer(&instance);
}
