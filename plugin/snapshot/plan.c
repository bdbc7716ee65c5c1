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
    g_free(disk->distrust);
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

bool
vs_plan_has_other_bitmap(const VsDisk *disk, const char *repository_id, const VsManifest *base)
{
    if (base && base->bitmap && find_bitmap(disk, base->bitmap))
        return false;
    for (unsigned i = 0; i < disk->bitmaps->len; i++) {
        const VsQmpBitmap *bitmap = g_ptr_array_index(disk->bitmaps, i);
        if (bitmap->name && vs_bitmap_is_of(bitmap->name, repository_id))
            return true;
    }
    return false;
}

// The companion bitmap that tells whether the disk has been as long as now, or longer, ever since;
// NULL: there is none, only the content can tell (vs_pull_check).
static const VsQmpBitmap *
find_end(const VsDisk *disk, const VsManifest *base)
{
    g_autofree char *name = vs_bitmap_end_name(base->bitmap);
    return find_bitmap(disk, name);
}

static bool
has_lost_its_end(const VsDisk *disk, const VsManifest *base)
{
    const VsQmpBitmap *end = find_end(disk, base);
    return end && base->virtual_size_bytes >= 512 && (end->inconsistent || end->count_bytes == 0);
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
        return g_strdup(disk->can_track ? "the snapshot before started no dirty bitmap"
                                        : "no record of changes can be kept for this image");
    g_autofree char *chain = vs_plan_chain(disk);
    if (g_strcmp0(chain, base->disk_chain) != 0)
        return g_strdup("the disk's image or backing chain is not the one of the snapshot before");
    if (!disk->chain_identity || !base->disk_chain_identity)
        return g_strdup("whether its image and backing files are the same as at the snapshot "
                        "before can't be told");
    if (!g_str_equal(disk->chain_identity, base->disk_chain_identity))
        return g_strdup("the disk's image was replaced, or a backing file replaced or written to");
    if (disk->is_shared)
        return g_strdup("the image is shared: it can change behind the dirty bitmap's back");
    if (disk->virtual_size_bytes < base->virtual_size_bytes)
        return g_strdup("the disk has shrunk");
    const char *fault = bitmap_fault(disk, find_bitmap(disk, base->bitmap));
    if (!fault && has_lost_its_end(disk, base))
        fault = "the disk has been shorter meanwhile";
    return g_strdup(fault);
}

static VsManifest *
make_manifest(const VsPlanContext *context, const VsDisk *disk, const VsBase *base)
{
    const VsInstance *instance = context->instance;
    VsManifest *manifest = vs_manifest_new();
    manifest->id = vs_id_new("s-");
    manifest->group = g_strdup(context->group);
    manifest->name = g_strdup(context->request->name);
    manifest->description = g_strdup(context->request->description);
    manifest->kind = g_strdup("manual");
    manifest->parent = base->manifest ? g_strdup(base->manifest->id) : NULL;
    manifest->consistency = g_strdup(context->request->quiesce ? "filesystem" : "crash");
    manifest->generation = base->generation + 1;
    manifest->virtual_size_bytes = disk->virtual_size_bytes;
    manifest->instance_id = g_strdup(instance->id);
    manifest->instance_name = g_strdup(instance->id ? instance->name : NULL);
    manifest->instance_kind = g_strdup(instance->kind);
    manifest->instance_definition = g_strdup(instance->definition);
    manifest->disk_id = g_strdup(disk->id);
    manifest->disk_target = g_strdup(disk->target);
    manifest->disk_source = g_strdup(disk->source);
    manifest->disk_format = g_strdup(disk->format);
    manifest->disk_chain = vs_plan_chain(disk);
    // One name for all disks of a group: libvirt's checkpoints are the domain's, not a disk's.
    if (disk->can_track)
        manifest->bitmap =
            vs_bitmap_name(context->repository_id, context->group ? context->group : manifest->id);
    return manifest;
}

static char *
find_reason(const VsPlanContext *context, const VsDisk *disk, const VsBase *base)
{
    if (context->request->full && base->manifest)
        return g_strdup("a full read was asked for");
    char *reason = vs_plan_full_reason(disk, base);
    if (!reason && context->distrusted)
        reason = g_strdup(g_hash_table_lookup(context->distrusted, disk->id));
    return reason;
}

// Why what is sound live is not so staged.
static const char *
staged_fault(const VsPlanDisk *plan)
{
    // QEMU stages what the bitmap says, which leaves a new end out.
    if (plan->disk->virtual_size_bytes > plan->base->virtual_size_bytes)
        return "the disk has grown, and is captured staged";
    // The staging file has no clean content: only the image itself can be the witness.
    if (!find_end(plan->disk, plan->base) &&
        (plan->disk->live_only || !g_path_is_absolute(plan->disk->source)))
        return "whether the disk has been shorter meanwhile can't be told, as its image can't be "
               "opened beside QEMU, and it is captured staged";
    return NULL;
}

static void
settle_disk(VsPlanDisk *plan)
{
    const char *fault = plan->incremental && plan->staged ? staged_fault(plan) : NULL;
    if (fault) {
        plan->manifest->mode_reason = g_strdup(fault);
        g_free(plan->manifest->mode);
        plan->manifest->mode = g_strdup("full");
        plan->incremental = false;
    }
    plan->needs_witness = plan->incremental && !(plan->staged && find_end(plan->disk, plan->base));
}

VsPlanDisk *
vs_plan_disk(const VsPlanContext *context, const VsDisk *disk, VsBase *base)
{
    VsPlanDisk *plan = g_new0(VsPlanDisk, 1);
    plan->disk = disk;
    plan->manifest = make_manifest(context, disk, base);
    plan->manifest->mode_reason = find_reason(context, disk, base);
    plan->base = g_steal_pointer(&base->manifest);
    plan->incremental = plan->manifest->mode_reason == NULL;
    plan->manifest->mode = g_strdup(plan->incremental ? "incremental" : "full");
    plan->staged = context->request->capture == VS_CAPTURE_STAGED ||
                   (context->request->capture == VS_CAPTURE_AUTO && disk->iothread);
    return plan;
}

void
vs_plan_settle_capture(const VsPlanContext *context, GPtrArray *plan)
{
    bool any = false;
    for (unsigned i = 0; i < plan->len; i++)
        any |= ((VsPlanDisk *)g_ptr_array_index(plan, i))->staged;
    for (unsigned i = 0; i < plan->len; i++) {
        VsPlanDisk *disk = g_ptr_array_index(plan, i);
        disk->staged |= any && context->instance->one_capture;
        settle_disk(disk);
    }
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
