// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/inventory-memory.h"

#include "plugin/snapshot/plan.h"

const VsKnownDisk *
vs_known_disk_find(const GPtrArray *known, const char *id)
{
    for (guint i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (g_strcmp0(disk->id, id) == 0)
            return disk;
    }
    return NULL;
}

void
vs_sightings_add(GPtrArray *sightings, const GPtrArray *known, const VsInstance *instance,
                 const VsDisk *disk)
{
    // A disk without a source (of a kind that can't be captured) could be taken for any other.
    const char *source = disk->chain->len > 0 ? g_ptr_array_index(disk->chain, 0) : disk->source;
    if (instance->id == NULL || source == NULL || *source == '\0')
        return;
    const VsKnownDisk *before = vs_known_disk_find(known, disk->id);
    bool was_examined = disk->virtual_size_bytes > 0;
    bool keeps_chain = before != NULL && !was_examined && g_strcmp0(before->source, source) == 0;
    VsKnownDisk *sighting = g_new0(VsKnownDisk, 1);
    sighting->id = g_strdup(disk->id);
    sighting->instance_id = g_strdup(instance->id);
    sighting->instance_name = g_strdup(instance->name);
    sighting->instance_kind = g_strdup(instance->kind);
    sighting->target = g_strdup(disk->target);
    sighting->source = g_strdup(source);
    sighting->format = g_strdup(disk->format);
    sighting->chain = keeps_chain ? g_strdup(before->chain) : vs_plan_chain(disk);
    sighting->virtual_size_bytes = was_examined     ? disk->virtual_size_bytes
                                   : before != NULL ? before->virtual_size_bytes
                                                    : 0;
    g_ptr_array_add(sightings, sighting);
}

static bool
is_same(const VsKnownDisk *a, const VsKnownDisk *b)
{
    return g_strcmp0(a->instance_id, b->instance_id) == 0 &&
           g_strcmp0(a->instance_name, b->instance_name) == 0 &&
           g_strcmp0(a->instance_kind, b->instance_kind) == 0 &&
           g_strcmp0(a->target, b->target) == 0 && g_strcmp0(a->source, b->source) == 0 &&
           g_strcmp0(a->format, b->format) == 0 && g_strcmp0(a->chain, b->chain) == 0 &&
           a->virtual_size_bytes == b->virtual_size_bytes;
}

void
vs_sightings_remember(const GPtrArray *sightings, const GPtrArray *known, VsCatalogue *catalogue)
{
    g_autoptr(GHashTable) chosen = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < sightings->len; i++) {
        VsKnownDisk *sighting = g_ptr_array_index(sightings, i);
        const VsKnownDisk *before = vs_known_disk_find(known, sighting->id);
        bool is_home = before != NULL && g_strcmp0(before->instance_id, sighting->instance_id) == 0;
        if (is_home || !g_hash_table_contains(chosen, sighting->id))
            g_hash_table_replace(chosen, sighting->id, sighting);
    }
    GHashTableIter iter;
    gpointer value;
    g_hash_table_iter_init(&iter, chosen);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const VsKnownDisk *sighting = value;
        const VsKnownDisk *before = vs_known_disk_find(known, sighting->id);
        g_autoptr(GError) error = NULL;
        if ((before == NULL || !is_same(before, sighting)) &&
            !vs_catalogue_remember_disk(catalogue, sighting, &error))
            g_debug("remembering disk %s: %s", sighting->id, error->message);
    }
}
