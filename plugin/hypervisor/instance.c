// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/instance.h"

#include "qmp/block.h"

VsDisk *
vs_disk_new(void)
{
    VsDisk *disk = g_new0(VsDisk, 1);
    disk->id = g_strdup("");
    disk->aliases = g_ptr_array_new_with_free_func(g_free);
    disk->chain = g_ptr_array_new_with_free_func(g_free);
    disk->chain_formats = g_ptr_array_new_with_free_func(g_free);
    disk->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_bitmap_free);
    return disk;
}

void
vs_disk_free(VsDisk *disk)
{
    if (!disk)
        return;
    g_free(disk->id);
    g_free(disk->target);
    g_ptr_array_unref(disk->aliases);
    g_free(disk->node);
    g_free(disk->source);
    g_free(disk->format);
    g_ptr_array_unref(disk->chain);
    g_free(disk->chain_identity);
    g_ptr_array_unref(disk->bitmaps);
    g_free(disk->live_only);
    g_free(disk->unavailable);
    g_ptr_array_unref(disk->chain_formats);
    g_free(disk);
}

static GPtrArray *
copy_texts(const GPtrArray *texts)
{
    GPtrArray *copy = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < texts->len; i++)
        g_ptr_array_add(copy, g_strdup(g_ptr_array_index(texts, i)));
    return copy;
}

VsDisk *
vs_disk_copy_definition(const VsDisk *disk)
{
    VsDisk *copy = vs_disk_new();
    copy->target = g_strdup(disk->target);
    copy->source = g_strdup(disk->source);
    copy->format = g_strdup(disk->format);
    g_ptr_array_unref(copy->chain);
    copy->chain = copy_texts(disk->chain);
    g_ptr_array_unref(copy->chain_formats);
    copy->chain_formats = copy_texts(disk->chain_formats);
    copy->chain_ends = disk->chain_ends;
    copy->is_shared = disk->is_shared;
    copy->live_only = g_strdup(disk->live_only);
    copy->unavailable = g_strdup(disk->unavailable);
    return copy;
}

bool
vs_disk_is_cut_off(const VsDisk *disk)
{
    return disk->chain_ends && disk->chain_formats->len == 1;
}

bool
vs_disk_has_twin(const VsDisk *disk, const GPtrArray *disks)
{
    for (unsigned i = 0; i < disks->len; i++) {
        const VsDisk *other = g_ptr_array_index(disks, i);
        if (other != disk && other->chain->len > 0 && disk->chain->len > 0 &&
            g_str_equal(other->chain->pdata[0], disk->chain->pdata[0]))
            return true;
    }
    return false;
}

VsInstanceFile *
vs_instance_file_new(const char *role, const char *path)
{
    VsInstanceFile *file = g_new0(VsInstanceFile, 1);
    file->role = g_strdup(role);
    file->path = g_strdup(path);
    return file;
}

void
vs_instance_file_free(VsInstanceFile *file)
{
    if (!file)
        return;
    g_free(file->role);
    g_free(file->path);
    g_free(file);
}

VsInstance *
vs_instance_new(void)
{
    VsInstance *instance = g_new0(VsInstance, 1);
    instance->files = g_ptr_array_new_with_free_func((GDestroyNotify)vs_instance_file_free);
    instance->disks = g_ptr_array_new_with_free_func((GDestroyNotify)vs_disk_free);
    return instance;
}

void
vs_instance_free(VsInstance *instance)
{
    if (!instance)
        return;
    g_free(instance->id);
    g_free(instance->name);
    g_free(instance->kind);
    g_free(instance->status);
    g_free(instance->definition);
    g_ptr_array_unref(instance->files);
    g_ptr_array_unref(instance->disks);
    g_free(instance);
}

bool
vs_instance_is_running(const VsInstance *instance)
{
    return !g_str_equal(instance->status, "stopped");
}

static bool
answers_to(const VsDisk *disk, const char *name)
{
    return g_strcmp0(disk->id, name) == 0 || g_strcmp0(disk->target, name) == 0 ||
           g_ptr_array_find_with_equal_func(disk->aliases, name, g_str_equal, NULL);
}

VsDisk *
vs_instance_find_disk(const VsInstance *instance, const char *name)
{
    // A target outranks an alias: what one disk is called may be another one's node name.
    for (unsigned i = 0; i < instance->disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(instance->disks, i);
        if (g_strcmp0(disk->target, name) == 0)
            return disk;
    }
    for (unsigned i = 0; i < instance->disks->len; i++)
        if (answers_to(g_ptr_array_index(instance->disks, i), name))
            return g_ptr_array_index(instance->disks, i);
    return NULL;
}
