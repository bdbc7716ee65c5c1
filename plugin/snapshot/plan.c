// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/snapshot/plan.h"

#include <json-c/json.h>

#include "plugin/error.h"
#include "plugin/hypervisor/driver.h"
#include "qmp/block.h"

void
vs_plan_disk_free(VsPlanDisk *disk)
{
    if (!disk)
        return;
    vs_manifest_free(disk->base);
    vs_manifest_free(disk->manifest);
    g_free(disk);
}

char *
vs_plan_chain(const VsDisk *disk)
{
    struct json_object *chain = json_object_new_array();
    for (unsigned i = 0; i < disk->chain->len; i++)
        json_object_array_add(chain, json_object_new_string(g_ptr_array_index(disk->chain, i)));
    char *text = g_strdup(json_object_to_json_string_ext(chain, JSON_C_TO_STRING_PLAIN));
    json_object_put(chain);
    return text;
}

static const VsQmpBitmap *
find_bitmap(const VsDisk *disk, const char *name)
{
    for (unsigned i = 0; i < disk->bitmaps->len; i++) {
        const VsQmpBitmap *bitmap = g_ptr_array_index(disk->bitmaps, i);
        if (bitmap->name && g_str_equal(bitmap->name, name))
            return bitmap;
    }
    return NULL;
}

// Whether the disk has been as long as now, or longer, ever since.
static bool
has_kept_its_end(const VsDisk *disk, const VsManifest *base)
{
    g_autofree char *name = vs_bitmap_end_name(base->bitmap);
    const VsQmpBitmap *end = find_bitmap(disk, name);
    return base->virtual_size_bytes < 512 || (end && !end->inconsistent && end->count_bytes > 0);
}

static const char *
bitmap_fault(const VsDisk *disk, const VsQmpBitmap *bitmap)
{
    if (!bitmap)
        return disk->persistent_bitmaps ? "the image has no dirty bitmap of the snapshot before"
                                        : "the dirty bitmap went with the QEMU that kept it, as "
                                          "the image can't store one";
    if (bitmap->inconsistent)
        return "the dirty bitmap is inconsistent: QEMU did not end in order";
    if (!bitmap->recording)
        return "the dirty bitmap has not been recording";
    if (bitmap->busy)
        return "the dirty bitmap is in use by something else";
    return NULL;
}

char *
vs_plan_full_reason(const VsDisk *disk, const VsBase *newest)
{
    const VsManifest *base = newest->manifest;
    if (!base)
        return g_strdup(newest->fault ? newest->fault : "first snapshot of this disk");
    if (!base->bitmap)
        return g_strdup("the snapshot before started no dirty bitmap");
    g_autofree char *chain = vs_plan_chain(disk);
    if (g_strcmp0(chain, base->disk_chain) != 0)
        return g_strdup("the disk's image or backing chain is not the one of the snapshot before");
    if (disk->is_shared)
        return g_strdup("the image is shared: it can change behind the dirty bitmap's back");
    if (disk->virtual_size_bytes < base->virtual_size_bytes)
        return g_strdup("the disk has shrunk");
    const char *fault = bitmap_fault(disk, find_bitmap(disk, base->bitmap));
    if (!fault && !has_kept_its_end(disk, base))
        fault = "the disk has been shorter meanwhile";
    return g_strdup(fault);
}

static VsManifest *
make_manifest(const VsInstance *instance, const VsDisk *disk, const VsBase *base,
              const VsCreateRequest *request)
{
    VsManifest *manifest = vs_manifest_new();
    manifest->id = vs_id_new("s-");
    manifest->name = g_strdup(request->name);
    manifest->description = g_strdup(request->description);
    manifest->kind = g_strdup("manual");
    manifest->parent = base->manifest ? g_strdup(base->manifest->id) : NULL;
    manifest->consistency = g_strdup("crash");
    manifest->generation = base->generation + 1;
    manifest->virtual_size_bytes = disk->virtual_size_bytes;
    manifest->instance_id = g_strdup(instance->id);
    manifest->instance_name = g_strdup(instance->name);
    manifest->instance_kind = g_strdup(instance->kind);
    manifest->instance_definition = g_strdup(instance->definition);
    manifest->disk_id = g_strdup(disk->id);
    manifest->disk_target = g_strdup(disk->target);
    manifest->disk_source = g_strdup(disk->source);
    manifest->disk_format = g_strdup(disk->format);
    manifest->disk_chain = vs_plan_chain(disk);
    return manifest;
}

VsPlanDisk *
vs_plan_disk(const VsInstance *instance, const VsDisk *disk, VsBase *base,
             const VsCreateRequest *request, const char *repository_id, const char *group)
{
    VsPlanDisk *plan = g_new0(VsPlanDisk, 1);
    plan->disk = disk;
    plan->manifest = make_manifest(instance, disk, base, request);
    plan->manifest->group = g_strdup(group);
    plan->manifest->bitmap = vs_bitmap_name(repository_id, plan->manifest->id);
    plan->manifest->mode_reason = request->full && base->manifest
                                      ? g_strdup("a full read was asked for")
                                      : vs_plan_full_reason(disk, base);
    plan->base = g_steal_pointer(&base->manifest);
    plan->staged = request->capture == VS_CAPTURE_STAGED ||
                   (request->capture == VS_CAPTURE_AUTO && disk->iothread);
    // QEMU stages what the bitmap says, which leaves a new end out.
    if (!plan->manifest->mode_reason && plan->staged &&
        disk->virtual_size_bytes > plan->base->virtual_size_bytes)
        plan->manifest->mode_reason = g_strdup("the disk has grown, and is captured staged");
    plan->incremental = plan->manifest->mode_reason == NULL;
    plan->manifest->mode = g_strdup(plan->incremental ? "incremental" : "full");
    return plan;
}

static bool
add_named(GPtrArray *chosen, const VsInstance *instance, const char *name, GError **error)
{
    VsDisk *disk = vs_instance_find_disk(instance, name);
    if (!disk) {
        g_set_error(error, VS_ERROR, VS_ERROR_NO_SUCH_DISK,
                    "%s has no disk '%s' that can be snapshotted; `virtsnap disks` lists them",
                    instance->name, name);
        return false;
    }
    if (g_ptr_array_find(chosen, disk, NULL)) {
        g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "disk '%s' of %s is named twice",
                    name, instance->name);
        return false;
    }
    g_ptr_array_add(chosen, disk);
    return true;
}

static bool
check_available(const VsInstance *instance, const GPtrArray *chosen, GError **error)
{
    if (chosen->len == 0) {
        g_set_error(error, VS_ERROR, VS_ERROR_DISK_STATUS, "%s has no disk that can be snapshotted",
                    instance->name);
        return false;
    }
    for (unsigned i = 0; i < chosen->len; i++) {
        const VsDisk *disk = g_ptr_array_index(chosen, i);
        if (!disk->unavailable)
            continue;
        g_set_error(error, VS_ERROR, VS_ERROR_DISK_STATUS, "disk '%s' of %s: %s", disk->target,
                    instance->name, disk->unavailable);
        return false;
    }
    return true;
}

GPtrArray *
vs_plan_choose(const VsInstance *instance, const char *const *names, GError **error)
{
    g_autoptr(GPtrArray) named = g_ptr_array_new();
    for (unsigned i = 0; names && names[i]; i++)
        if (!add_named(named, instance, names[i], error))
            return NULL;
    GPtrArray *chosen = g_ptr_array_new();
    for (unsigned i = 0; i < instance->disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(instance->disks, i);
        if (named->len == 0 || g_ptr_array_find(named, disk, NULL))
            g_ptr_array_add(chosen, disk);
    }
    if (check_available(instance, chosen, error))
        return chosen;
    g_ptr_array_unref(chosen);
    return NULL;
}
