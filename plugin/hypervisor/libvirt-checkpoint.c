// SPDX-License-Identifier: LGPL-2.1-or-later
// libvirt's checkpoints and the bitmaps in the images: made to agree.
#include <string.h>

#include "plugin/hypervisor/image-info.h"
#include "plugin/hypervisor/libvirt-driver-private.h"
#include "qmp/block.h"

static GPtrArray *
load_checkpoints(VsDomain *domain, const char *repository_id, bool with_size, GError **error)
{
    g_autofree char *prefix = vs_libvirt_prefix(repository_id);
    g_autoptr(GPtrArray) texts = vs_domain_checkpoints(domain, prefix, with_size, error);
    if (!texts)
        return NULL;
    GPtrArray *checkpoints = g_ptr_array_new_with_free_func((GDestroyNotify)vs_checkpoint_xml_free);
    for (unsigned i = 0; i < texts->len; i++) {
        VsCheckpointXml *checkpoint = vs_checkpoint_xml_parse(g_ptr_array_index(texts, i), NULL);
        if (checkpoint)
            g_ptr_array_add(checkpoints, checkpoint);
    }
    return checkpoints;
}

static bool
has_checkpoint(const GPtrArray *checkpoints, const char *name)
{
    for (unsigned i = 0; i < checkpoints->len; i++)
        if (g_str_equal(((VsCheckpointXml *)g_ptr_array_index(checkpoints, i))->name, name))
            return true;
    return false;
}

static bool
is_kept(const VsCheckpointXml *checkpoint, const VsKeptBitmap *kept, unsigned count)
{
    for (unsigned i = 0; i < checkpoint->disks->len; i++) {
        const VsCheckpointDisk *disk = g_ptr_array_index(checkpoint->disks, i);
        for (unsigned j = 0; j < count; j++)
            if (g_strcmp0(kept[j].bitmap, checkpoint->name) == 0 &&
                g_str_equal(kept[j].disk->target, disk->target))
                return true;
    }
    return false;
}

// Where QEMU has lost the bitmap (it was killed), libvirt can't remove it any more, only forget it.
static bool
delete_checkpoint(VsDomain *domain, const char *name, bool is_active, GError **error)
{
    return (is_active && vs_domain_checkpoint_delete(domain, name, false, NULL)) ||
           vs_domain_checkpoint_delete(domain, name, true, error);
}

static bool
redefine(VsDomain *domain, const VsInstance *instance, const char *name, const GPtrArray *targets,
         GError **error)
{
    g_autofree char *definition = vs_domain_xml(domain, true, error);
    if (!definition)
        return false;
    g_autofree char *xml = vs_checkpoint_xml_format(name, targets, instance, definition,
                                                    g_get_real_time() / G_USEC_PER_SEC);
    return vs_domain_checkpoint_redefine(domain, xml, error);
}

static GPtrArray *
targets_that_keep(const char *name, const VsKeptBitmap *kept, unsigned count)
{
    GPtrArray *targets = g_ptr_array_new();
    for (unsigned i = 0; i < count; i++)
        if (g_strcmp0(kept[i].bitmap, name) == 0)
            g_ptr_array_add(targets, kept[i].disk->target);
    return targets;
}

// A stopped domain's new bitmaps: libvirt did not make them.
static bool
redefine_missing(VsDomain *domain, const VsInstance *instance, const GPtrArray *checkpoints,
                 const VsKeptBitmap *kept, unsigned count, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (unsigned i = 0; i < count; i++) {
        const char *name = kept[i].bitmap;
        if (!name || has_checkpoint(checkpoints, name) || !g_hash_table_add(seen, (char *)name))
            continue;
        g_autoptr(GPtrArray) targets = targets_that_keep(name, kept, count);
        if (!redefine(domain, instance, name, targets, error))
            return false;
    }
    return true;
}

bool
vs_libvirt_sync_checkpoints(VsDomain *domain, const char *repository_id, const VsInstance *instance,
                            const VsKeptBitmap *kept, unsigned count, GError **error)
{
    g_autoptr(GPtrArray) checkpoints = load_checkpoints(domain, repository_id, false, error);
    if (!checkpoints)
        return false;
    VsDomainState state;
    vs_domain_state(domain, &state);
    for (unsigned i = 0; i < checkpoints->len; i++) {
        const VsCheckpointXml *checkpoint = g_ptr_array_index(checkpoints, i);
        if (!is_kept(checkpoint, kept, count) &&
            !delete_checkpoint(domain, checkpoint->name, state.is_active, error))
            return false;
    }
    return state.is_active || redefine_missing(domain, instance, checkpoints, kept, count, error);
}

// Bitmaps that nobody knows ---------------------------------------------------------------------

static bool
is_companion(const char *name)
{
    return g_str_has_suffix(name, ".end") || g_str_has_suffix(name, ".frozen");
}

static bool
has_sound_checkpoint(const GPtrArray *checkpoints, const VsDisk *disk)
{
    for (unsigned i = 0; i < checkpoints->len; i++) {
        const VsCheckpointXml *checkpoint = g_ptr_array_index(checkpoints, i);
        for (unsigned j = 0; j < checkpoint->disks->len; j++) {
            const VsCheckpointDisk *entry = g_ptr_array_index(checkpoint->disks, j);
            if (entry->has_size && g_str_equal(entry->target, disk->target))
                return true;
        }
    }
    return false;
}

// names: char * → GPtrArray of char *: the disks that have a bitmap of that name. A disk that has a
// checkpoint of ours with a sound bitmap needs no other; one that has been elsewhere (migrated) may
// have checkpoints whose bitmaps are gone.
static void
collect(GHashTable *names, const GPtrArray *checkpoints, const char *repository_id,
        const VsDisk *disk)
{
    if (!disk->can_track || disk->unavailable || has_sound_checkpoint(checkpoints, disk))
        return;
    g_autoptr(GPtrArray) chain =
        vs_image_info_run(disk->source, disk->format, VS_IMAGE_INFO_TOP, NULL, NULL);
    const VsImageInfo *info = chain ? g_ptr_array_index(chain, 0) : NULL;
    for (unsigned i = 0; info && i < info->bitmaps->len; i++) {
        const VsQmpBitmap *bitmap = g_ptr_array_index(info->bitmaps, i);
        if (!vs_bitmap_is_of(bitmap->name, repository_id) || is_companion(bitmap->name) ||
            has_checkpoint(checkpoints, bitmap->name))
            continue;
        GPtrArray *targets = g_hash_table_lookup(names, bitmap->name);
        if (!targets) {
            targets = g_ptr_array_new();
            g_hash_table_insert(names, g_strdup(bitmap->name), targets);
        }
        g_ptr_array_add(targets, disk->target);
    }
}

// The image of a running domain tells which bitmaps it was opened with: enough, since what came
// later came from libvirt. Whether they are sound libvirt says afterwards.
void
vs_libvirt_adopt_bitmaps(VsDomain *domain, const char *repository_id, const VsInstance *instance)
{
    g_autoptr(GPtrArray) checkpoints = load_checkpoints(domain, repository_id, true, NULL);
    g_autoptr(GHashTable) names =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
    for (unsigned i = 0; checkpoints && i < instance->disks->len; i++)
        collect(names, checkpoints, repository_id, g_ptr_array_index(instance->disks, i));
    GHashTableIter iterator;
    gpointer name, targets;
    g_hash_table_iter_init(&iterator, names);
    while (g_hash_table_iter_next(&iterator, &name, &targets)) {
        g_autoptr(GError) error = NULL;
        if (!redefine(domain, instance, name, targets, &error))
            g_debug("adopting bitmap %s: %s", (char *)name, error->message);
    }
}
