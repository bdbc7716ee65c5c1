// SPDX-License-Identifier: LGPL-2.1-or-later
// Backups and checkpoints: what libvirt defines for one moment of a domain.
#include "plugin/hypervisor/domain-xml.h"

#include "plugin/hypervisor/domain-xml-tree.h"

// Adds a disk with attribute='no' for each of the instance's that is not in the set. Disks that no
// element names are left out by libvirt only as long as there is one element (its backup_conf.c and
// checkpoint_conf.c: an empty list stands for all).
static void
add_others(xmlNode *disks, const char *attribute, const VsInstance *instance, GHashTable *chosen)
{
    for (unsigned i = 0; i < instance->disks->len; i++) {
        const VsDisk *disk = g_ptr_array_index(instance->disks, i);
        if (g_hash_table_contains(chosen, disk->target))
            continue;
        xmlNode *element = vs_xml_add(disks, "disk", NULL);
        vs_xml_set(element, "name", disk->target);
        vs_xml_set(element, attribute, "no");
    }
}

// The disk that an element of <disks> is about; NULL and an error where it has no name.
static char *
read_target(const xmlNode *element, const char *root_name, GError **error)
{
    char *target = vs_xml_attribute(element, "name");
    if (!target)
        vs_xml_set_invalid(error, root_name, "a disk has no name");
    return target;
}

// Backups --------------------------------------------------------------------------------------

VsBackupDisk *
vs_backup_disk_new(void)
{
    return g_new0(VsBackupDisk, 1);
}

void
vs_backup_disk_free(VsBackupDisk *disk)
{
    if (!disk)
        return;
    g_free(disk->target);
    g_free(disk->scratch);
    g_free(disk->export_name);
    g_free(disk->incremental);
    g_free(disk->bitmap);
    g_free(disk->image);
    g_free(disk);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsBackupDisk, vs_backup_disk_free)

void
vs_backup_xml_free(VsBackupXml *backup)
{
    if (!backup)
        return;
    g_free(backup->socket);
    g_clear_pointer(&backup->disks, g_ptr_array_unref);
    g_free(backup);
}

static void
add_backup_disk(xmlNode *disks, const VsBackupDisk *disk, bool push)
{
    xmlNode *element = vs_xml_add(disks, "disk", NULL);

    vs_xml_set(element, "name", disk->target);
    vs_xml_set(element, "backup", "yes");
    vs_xml_set(element, "type", "file");
    vs_xml_set(element, "backupmode", disk->incremental ? "incremental" : "full");
    vs_xml_set(element, "incremental", disk->incremental);
    if (!push)
        vs_xml_set(element, "exportname", disk->export_name);
    if (!push && disk->incremental)
        vs_xml_set(element, "exportbitmap", disk->bitmap);
    vs_xml_set(vs_xml_add(element, "driver", NULL), "type", "qcow2");
    if (disk->scratch)
        vs_xml_set(vs_xml_add(element, push ? "target" : "scratch", NULL), "file", disk->scratch);
}

char *
vs_backup_xml_format(const VsBackupXml *backup, const VsInstance *instance)
{
    g_autoptr(xmlDoc) document = vs_xml_new("domainbackup");
    g_autoptr(GHashTable) chosen = g_hash_table_new(g_str_hash, g_str_equal);
    xmlNode *root = xmlDocGetRootElement(document);

    vs_xml_set(root, "mode", backup->push ? "push" : "pull");
    if (!backup->push) {
        xmlNode *server = vs_xml_add(root, "server", NULL);
        vs_xml_set(server, "transport", "unix");
        vs_xml_set(server, "socket", backup->socket);
    }
    xmlNode *disks = vs_xml_add(root, "disks", NULL);
    for (unsigned i = 0; i < backup->disks->len; i++) {
        const VsBackupDisk *disk = g_ptr_array_index(backup->disks, i);
        g_hash_table_add(chosen, disk->target);
        add_backup_disk(disks, disk, backup->push);
    }
    add_others(disks, "backup", instance, chosen);
    return vs_xml_write(document);
}

// The scratch or target file; libvirt allows devices as well.
static char *
read_store(const xmlNode *element, bool push)
{
    const xmlNode *store = vs_xml_child(element, push ? "target" : "scratch");
    char *file = vs_xml_attribute(store, "file");
    return file ? file : vs_xml_attribute(store, "dev");
}

// default_incremental: the checkpoint of disks that name none and aren't full.
static VsBackupDisk *
read_backup_disk(const xmlNode *element, bool push, const char *default_incremental, GError **error)
{
    g_autoptr(VsBackupDisk) disk = vs_backup_disk_new();
    g_autofree char *index = vs_xml_attribute(element, "index");

    disk->target = read_target(element, "domainbackup", error);
    if (!disk->target)
        return NULL;
    disk->scratch = read_store(element, push);
    if (index)
        disk->image = g_strdup_printf("%s[%s]", disk->target, index);
    disk->incremental = vs_xml_attribute(element, "incremental");
    if (!disk->incremental && !vs_xml_attribute_is(element, "backupmode", "full"))
        disk->incremental = g_strdup(default_incremental);
    if (!push) {
        disk->export_name = vs_xml_attribute(element, "exportname");
        disk->bitmap = vs_xml_attribute(element, "exportbitmap");
    }
    return g_steal_pointer(&disk);
}

static bool
read_mode(VsBackupXml *backup, const xmlNode *root, GError **error)
{
    g_autofree char *mode = vs_xml_attribute(root, "mode");
    // libvirt's default.
    backup->push = !mode || g_str_equal(mode, "push");
    if (backup->push || g_str_equal(mode, "pull"))
        return true;
    vs_xml_set_invalid(error, "domainbackup", "its mode is '%s'", mode);
    return false;
}

VsBackupXml *
vs_backup_xml_parse(const char *xml, GError **error)
{
    g_autoptr(xmlDoc) document = vs_xml_read(xml, "domainbackup", error);
    if (!document)
        return NULL;
    const xmlNode *root = xmlDocGetRootElement(document);
    g_autoptr(VsBackupXml) backup = g_new0(VsBackupXml, 1);
    g_autofree char *incremental = vs_xml_text(vs_xml_child(root, "incremental"));

    backup->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vs_backup_disk_free);
    if (!read_mode(backup, root, error))
        return NULL;
    if (!backup->push)
        backup->socket = vs_xml_attribute(vs_xml_child(root, "server"), "socket");
    for (const xmlNode *element = vs_xml_child(vs_xml_child(root, "disks"), "disk"); element;
         element = vs_xml_next(element)) {
        if (vs_xml_attribute_is(element, "backup", "no"))
            continue;
        VsBackupDisk *disk = read_backup_disk(element, backup->push, incremental, error);
        if (!disk)
            return NULL;
        g_ptr_array_add(backup->disks, disk);
    }
    return g_steal_pointer(&backup);
}

// Checkpoints ----------------------------------------------------------------------------------

static void
checkpoint_disk_free(VsCheckpointDisk *disk)
{
    g_free(disk->target);
    g_free(disk->bitmap);
    g_free(disk);
}

void
vs_checkpoint_xml_free(VsCheckpointXml *checkpoint)
{
    if (!checkpoint)
        return;
    g_free(checkpoint->name);
    g_clear_pointer(&checkpoint->disks, g_ptr_array_unref);
    g_free(checkpoint);
}

// What makes it a definition of something that is there. A text that is no domain is left out:
// libvirt refuses to redefine a checkpoint without one.
static void
add_past(xmlNode *root, const char *domain_xml, int64_t created_at_s)
{
    g_autofree char *created_at = g_strdup_printf("%" G_GINT64_FORMAT, created_at_s);
    g_autoptr(xmlDoc) domain = vs_xml_read(domain_xml, "domain", NULL);

    vs_xml_add(root, "creationTime", created_at);
    // Only the element: no declaration and no comment around it comes along.
    if (domain)
        xmlAddChild(root, xmlDocCopyNode(xmlDocGetRootElement(domain), root->doc, 1));
}

char *
vs_checkpoint_xml_format(const char *name, const GPtrArray *targets, const VsInstance *instance,
                         const char *domain_xml, int64_t created_at_s)
{
    g_autoptr(xmlDoc) document = vs_xml_new("domaincheckpoint");
    g_autoptr(GHashTable) chosen = g_hash_table_new(g_str_hash, g_str_equal);
    xmlNode *root = xmlDocGetRootElement(document);

    vs_xml_add(root, "name", name);
    xmlNode *disks = vs_xml_add(root, "disks", NULL);
    for (unsigned i = 0; i < targets->len; i++) {
        char *target = g_ptr_array_index(targets, i);
        xmlNode *element = vs_xml_add(disks, "disk", NULL);
        g_hash_table_add(chosen, target);
        vs_xml_set(element, "name", target);
        vs_xml_set(element, "checkpoint", "bitmap");
        vs_xml_set(element, "bitmap", name);
    }
    add_others(disks, "checkpoint", instance, chosen);
    if (domain_xml)
        add_past(root, domain_xml, created_at_s);
    return vs_xml_write(document);
}

static VsCheckpointDisk *
read_checkpoint_disk(const xmlNode *element, const char *checkpoint, GError **error)
{
    char *target = read_target(element, "domaincheckpoint", error);
    if (!target)
        return NULL;
    VsCheckpointDisk *disk = g_new0(VsCheckpointDisk, 1);
    g_autofree char *size = vs_xml_attribute(element, "size");

    disk->target = target;
    disk->bitmap = vs_xml_attribute(element, "bitmap");
    // libvirt's default.
    if (!disk->bitmap)
        disk->bitmap = g_strdup(checkpoint);
    // A size that is no number is none: what isn't known to be sound is not relied on.
    disk->has_size =
        size && g_ascii_string_to_unsigned(size, 10, 0, G_MAXUINT64, &disk->size_bytes, NULL);
    return disk;
}

VsCheckpointXml *
vs_checkpoint_xml_parse(const char *xml, GError **error)
{
    g_autoptr(xmlDoc) document = vs_xml_read(xml, "domaincheckpoint", error);
    if (!document)
        return NULL;
    const xmlNode *root = xmlDocGetRootElement(document);
    g_autoptr(VsCheckpointXml) checkpoint = g_new0(VsCheckpointXml, 1);

    checkpoint->disks = g_ptr_array_new_with_free_func((GDestroyNotify)checkpoint_disk_free);
    checkpoint->name = vs_xml_text(vs_xml_child(root, "name"));
    if (!checkpoint->name) {
        vs_xml_set_invalid(error, "domaincheckpoint", "it has no name");
        return NULL;
    }
    for (const xmlNode *element = vs_xml_child(vs_xml_child(root, "disks"), "disk"); element;
         element = vs_xml_next(element)) {
        if (!vs_xml_attribute_is(element, "checkpoint", "bitmap"))
            continue;
        VsCheckpointDisk *disk = read_checkpoint_disk(element, checkpoint->name, error);
        if (!disk)
            return NULL;
        g_ptr_array_add(checkpoint->disks, disk);
    }
    return g_steal_pointer(&checkpoint);
}
