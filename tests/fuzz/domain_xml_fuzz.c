// SPDX-License-Identifier: LGPL-2.1-or-later
// Bytes as each of libvirt's XML texts. What is taken gives backup and checkpoint definitions that
// name the same disks when they are read back.
#include "plugin/hypervisor/domain-xml.h"

#include <stdlib.h>

#include "tests/fuzz/fuzz.h"

static void
check(bool good)
{
    if (!good)
        abort();
}

static void
try_backup_of(const VsInstance *instance)
{
    g_autoptr(VsBackupXml) backup = g_new0(VsBackupXml, 1);
    g_autoptr(GError) error = NULL;

    backup->socket = g_strdup("/s");
    backup->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vs_backup_disk_free);
    for (unsigned i = 0; i < instance->disks->len; i++) {
        const VsDisk *found = g_ptr_array_index(instance->disks, i);
        VsBackupDisk *disk = vs_backup_disk_new();
        disk->target = g_strdup(found->target);
        disk->scratch = g_strdup(found->source);
        g_ptr_array_add(backup->disks, disk);
    }
    g_autofree char *xml = vs_backup_xml_format(backup, instance);
    g_autoptr(VsBackupXml) again = vs_backup_xml_parse(xml, &error);
    check(again != NULL && again->disks->len == backup->disks->len);
    for (unsigned i = 0; i < again->disks->len; i++) {
        const VsBackupDisk *before = g_ptr_array_index(backup->disks, i);
        const VsBackupDisk *after = g_ptr_array_index(again->disks, i);
        check(g_str_equal(before->target, after->target));
        check(g_str_equal(before->scratch, after->scratch ? after->scratch : ""));
    }
}

static void
try_checkpoint_of(const VsInstance *instance, const char *domain_xml)
{
    g_autoptr(GPtrArray) targets = g_ptr_array_new();
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < instance->disks->len; i += 2) {
        const VsDisk *disk = g_ptr_array_index(instance->disks, i);
        g_ptr_array_add(targets, disk->target);
    }
    g_autofree char *xml = vs_checkpoint_xml_format("c", targets, instance, domain_xml, 1);
    g_autoptr(VsCheckpointXml) again = vs_checkpoint_xml_parse(xml, &error);
    check(again != NULL && again->disks->len == targets->len);
}

static void
try_domain(const char *xml)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VsInstance) instance = vs_domain_xml_parse(xml, &error);

    check((instance == NULL) == (error != NULL));
    check(error == NULL || g_utf8_validate(error->message, -1, NULL));
    if (instance == NULL)
        return;
    for (unsigned i = 0; i < instance->disks->len; i++) {
        const VsDisk *disk = g_ptr_array_index(instance->disks, i);
        check(disk->target != NULL && disk->source != NULL && disk->format != NULL);
        check(disk->chain->len > 0 && g_str_equal(disk->chain->pdata[0], disk->source));
    }
    try_backup_of(instance);
    try_checkpoint_of(instance, xml);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *xml = g_strndup((const char *)data, size);
    g_autoptr(GError) backup_error = NULL;
    g_autoptr(GError) checkpoint_error = NULL;

    try_domain(xml);
    g_autoptr(VsBackupXml) backup = vs_backup_xml_parse(xml, &backup_error);
    check((backup == NULL) == (backup_error != NULL));
    g_autoptr(VsCheckpointXml) checkpoint = vs_checkpoint_xml_parse(xml, &checkpoint_error);
    check((checkpoint == NULL) == (checkpoint_error != NULL));
    return 0;
}
