// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/libvirt-driver.h"

#include <stdlib.h>
#include <string.h>

#include "plugin/error.h"
#include "plugin/hypervisor/image-info.h"
#include "plugin/hypervisor/libvirt-driver-private.h"
#include "plugin/hypervisor/qmp-disks.h"
#include "qmp/block.h"

char *
vs_libvirt_prefix(const char *repository_id)
{
    return vs_bitmap_name(repository_id, "");
}

// Describing ------------------------------------------------------------------------------------

static void
canonicalize(VsDisk *disk)
{
    for (unsigned i = 0; i < disk->chain->len; i++) {
        char *written = g_ptr_array_index(disk->chain, i);
        disk->chain->pdata[i] = vs_qmp_image_name(written, NULL);
        g_free(written);
    }
    g_free(disk->source);
    disk->source = g_strdup(g_ptr_array_index(disk->chain, 0));
}

// A sound bitmap, as far as libvirt tells.
static void
add_bitmap(const VsInstance *instance, const VsCheckpointDisk *entry)
{
    VsDisk *disk = vs_instance_find_disk(instance, entry->target);
    if (!disk || !entry->has_size)
        return;
    VsQmpBitmap *bitmap = g_new0(VsQmpBitmap, 1);
    bitmap->name = g_strdup(entry->bitmap);
    bitmap->recording = bitmap->persistent = true;
    bitmap->count_bytes = entry->size_bytes;
    g_ptr_array_add(disk->bitmaps, bitmap);
}

static bool
find_bitmaps(VsLibvirtDriver *driver, const VsInstance *instance, GError **error)
{
    g_autofree char *prefix = vs_libvirt_prefix(driver->repository_id);
    g_autoptr(GPtrArray) texts = vs_domain_checkpoints(driver->domain, prefix, true, error);
    if (!texts)
        return false;
    for (unsigned i = 0; i < texts->len; i++) {
        g_autoptr(VsCheckpointXml) checkpoint =
            vs_checkpoint_xml_parse(g_ptr_array_index(texts, i), NULL);
        for (unsigned j = 0; checkpoint && j < checkpoint->disks->len; j++)
            add_bitmap(instance, g_ptr_array_index(checkpoint->disks, j));
    }
    return true;
}

// Why the domain can't be snapshotted now, where a job of libvirt's keeps it.
static char *
describe_job(VsLibvirtDriver *driver, const VsDomainJob *job)
{
    g_autofree char *xml = vs_domain_backup_xml(driver->domain, NULL);
    g_autoptr(VsBackupXml) backup = xml ? vs_backup_xml_parse(xml, NULL) : NULL;
    const VsBackupDisk *first =
        backup && backup->disks->len > 0 ? g_ptr_array_index(backup->disks, 0) : NULL;
    const char *scratch = first ? first->scratch : NULL;
    if (scratch && vs_handover_has(scratch, driver->label))
        return g_strdup(vs_handover_is_held(scratch)
                            ? "a snapshot of it is in progress"
                            : "a snapshot that died has left its job; the next create ends it");
    if (scratch && vs_handover_has(scratch, NULL))
        return g_strdup(vs_handover_is_held(scratch)
                            ? "a snapshot of it into another repository is in progress"
                            : "a snapshot into another repository has died and left its job; a "
                              "create there ends it, or `virsh domjobabort`");
    const char *place = backup && backup->socket ? backup->socket : scratch;
    return place ? g_strdup_printf("the domain is busy with %s of something else (it uses '%s')",
                                   job->operation, place)
                 : g_strdup_printf("the domain is busy with %s", job->operation);
}

static bool
find_jobs(VsLibvirtDriver *driver, const VsInstance *instance, GError **error)
{
    VsDomainJob job;
    if (!vs_domain_job(driver->domain, &job, error))
        return false;
    g_autofree char *reason = job.is_active ? describe_job(driver, &job) : NULL;
    for (unsigned i = 0; i < instance->disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(instance->disks, i);
        const char *block_job = vs_domain_block_job(driver->domain, disk->target);
        if (disk->unavailable)
            continue;
        if (reason)
            disk->unavailable = g_strdup(reason);
        else if (block_job)
            disk->unavailable = g_strdup_printf("%s of libvirt is active on it", block_job);
    }
    return true;
}

static bool
fill_disks(VsLibvirtDriver *driver, const VsInstance *instance, GError **error)
{
    for (unsigned i = 0; i < instance->disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(instance->disks, i);
        canonicalize(disk);
        // libvirt would refuse the whole checkpoint for one such disk.
        if (vs_image_info_is_old_qcow2(disk->source))
            disk->can_track = disk->persistent_bitmaps = false;
        g_autoptr(GError) failure = NULL;
        if (!disk->unavailable &&
            !vs_domain_disk_size(driver->domain, disk->target, &disk->virtual_size_bytes, &failure))
            disk->unavailable = g_strdup(failure->message);
    }
    return find_bitmaps(driver, instance, error) && find_jobs(driver, instance, error);
}

VsInstance *
vs_libvirt_parse_domain(VsDomain *domain, bool is_active, GError **error)
{
    g_autofree char *definition = vs_domain_xml(domain, true, error);
    g_autofree char *live = definition && is_active ? vs_domain_xml(domain, false, error) : NULL;
    if (!definition || (is_active && !live))
        return NULL;
    VsInstance *instance = vs_domain_xml_parse(live ? live : definition, error);
    if (instance)
        instance->definition = g_steal_pointer(&definition);
    return instance;
}

static VsInstance *
describe(VsDriver *base, GCancellable *cancellable, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    g_autoptr(VsInstance) instance = vs_libvirt_parse_domain(driver->domain, true, error);
    if (!instance)
        return NULL;
    VsDomainState state;
    vs_domain_state(driver->domain, &state);
    instance->status = g_strdup(state.is_paused ? "paused" : "running");
    return fill_disks(driver, instance, error) ? g_steal_pointer(&instance) : NULL;
}

// Leftovers -------------------------------------------------------------------------------------

static bool
set_busy(const VsLibvirtDriver *driver, const char *place, GError **error)
{
    g_set_error(error, VS_ERROR, VS_ERROR_BUSY,
                "domain '%s' is being snapshotted already (see '%s'); wait for it, or cancel it",
                vs_domain_name(driver->domain), place);
    return false;
}

// A job is ours by its files; that we hold the instance's lock says that its maker is dead, but for
// the lock on its folder nobody would know of one who uses a copy of the repository.
static bool
end_leftover_job(VsLibvirtDriver *driver, const VsBackupXml *backup, GError **error)
{
    const VsBackupDisk *first = backup->disks->len > 0 ? g_ptr_array_index(backup->disks, 0) : NULL;
    if (!first || !first->scratch || !vs_handover_has(first->scratch, driver->label))
        return true; // a stranger's
    if (vs_handover_is_held(first->scratch))
        return set_busy(driver, first->scratch, error);
    if (!vs_domain_abort_backup(driver->domain, error))
        return false;
    VsDomainState state;
    vs_domain_state(driver->domain, &state);
    return !state.has_io_error || vs_domain_resume(driver->domain, error);
}

// Who died between freezing and thawing left the guest's file systems frozen; and libvirt may work
// on at what it was told last.
static void
sweep(VsLibvirtDriver *driver)
{
    bool found = vs_handover_sweep(vs_scratch_default_folder(), driver->label);
    found |= vs_handover_sweep(g_get_tmp_dir(), driver->short_label);
    if (!found)
        return;
    g_autoptr(GError) error = NULL;
    if (!vs_domain_thaw(driver->domain, &error))
        g_debug("after a leftover: %s", error->message);
    vs_domain_wait_for_calm(driver->domain);
}

static bool
recover(VsDriver *base, const VsOwnerCheck *check, GCancellable *cancellable, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    GError *failure = NULL;
    sweep(driver);
    g_autofree char *xml = vs_domain_backup_xml(driver->domain, &failure);
    if (failure) {
        g_propagate_error(error, failure);
        return false;
    }
    g_autoptr(VsBackupXml) backup = xml ? vs_backup_xml_parse(xml, error) : NULL;
    if (xml && (!backup || !end_leftover_job(driver, backup, error)))
        return false;
    g_autoptr(VsInstance) instance = vs_libvirt_parse_domain(driver->domain, true, error);
    if (!instance)
        return false;
    vs_libvirt_adopt_bitmaps(driver->domain, driver->repository_id, instance);
    return true;
}

static bool
tidy(VsDriver *base, const VsKeptBitmap *kept, unsigned count, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    // Without QEMU old bitmaps stay in the images (driver.h), and so their checkpoints stay too.
    if (driver->is_finished)
        return true;
    g_autoptr(VsInstance) instance = vs_libvirt_parse_domain(driver->domain, true, error);
    return instance && vs_libvirt_sync_checkpoints(driver->domain, driver->repository_id, instance,
                                                   kept, count, error);
}

static bool
confirm(VsDriver *base, GError **error)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    if (vs_libvirt_is_lost(base, error) ||
        (driver->offline && !vs_offline_disks_confirm(driver->offline, error)))
        return false;
    driver->is_finished = driver->offline != NULL;
    return true;
}

// The driver ------------------------------------------------------------------------------------

static void
driver_free(VsDriver *base)
{
    VsLibvirtDriver *driver = (VsLibvirtDriver *)base;
    g_assert(!driver->captures);
    vs_domain_free(driver->domain);
    vs_offline_disks_free(driver->offline);
    g_clear_error(&driver->lost);
    g_free(driver->repository_id);
    g_free(driver->label);
    g_free(driver->short_label);
    g_free(driver);
}

static const VsDriverOps libvirt_ops = {
    .free = driver_free,
    .describe = describe,
    .recover = recover,
    .tidy = tidy,
    .begin = vs_libvirt_begin,
    .open_source = vs_libvirt_open_source,
    .reopen_source = vs_libvirt_reopen_source,
    .detach_source = vs_libvirt_detach_source,
    .close_source = vs_libvirt_close_source,
    .confirm = confirm,
    .settle = vs_libvirt_settle,
    .is_lost = vs_libvirt_is_lost,
};

static VsDriver *
driver_new(VsDomain *domain, const char *repository_id, const char *instance_id)
{
    VsLibvirtDriver *driver = g_new0(VsLibvirtDriver, 1);
    driver->base.ops = &libvirt_ops;
    driver->domain = domain;
    driver->repository_id = g_strdup(repository_id);
    driver->label = g_strdup_printf("%s.%s", repository_id, instance_id);
    driver->short_label = g_strdup(instance_id);
    return &driver->base;
}

VsDriver *
vs_libvirt_driver_open(const char *connect_uri, const char *name, const char *repository_id,
                       const char *instance_id, GError **error)
{
    VsDomain *domain = vs_domain_open(connect_uri, name, error);
    if (!domain)
        return NULL;
    VsDomainState state;
    vs_domain_state(domain, &state);
    if (state.is_active)
        return driver_new(domain, repository_id, instance_id);
    VsStorageOwner owner;
    vs_libvirt_owner(&owner, domain, repository_id);
    return vs_storage_driver_new(&owner, repository_id);
}
