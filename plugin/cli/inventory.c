// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/inventory.h"

#include "plugin/cli/inventory-domains.h"
#include "plugin/cli/inventory-entries.h"
#include "plugin/cli/inventory-memory.h"
#include "plugin/error.h"
#include "plugin/hypervisor/image-lock.h"
#include "plugin/hypervisor/reach.h"
#include "plugin/snapshot/engine.h"
#include "qmp/client.h"

// What a gathering has and makes.
typedef struct {
    VsContext *context;
    bool detailed;
    GPtrArray *known;     // VsKnownDisk *
    GPtrArray *sightings; // VsKnownDisk *
    VsInventory *inventory;
} Gathering;

static void
gathering_clear(Gathering *g)
{
    g_clear_pointer(&g->known, g_ptr_array_unref);
    g_clear_pointer(&g->sightings, g_ptr_array_unref);
    g_clear_pointer(&g->inventory, vs_inventory_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Gathering, gathering_clear)

static const char IN_PROGRESS[] = "a snapshot of its instance is in progress: not known until then";
static const char NOT_RUNNING[] = "its QEMU does not run: not known";
static const char UNATTACHED[] = "no instance has it attached";
static const char NOT_THERE[] = "its image is not there";

static bool
is_stopped(const char *status)
{
    return g_strcmp0(status, "stopped") == 0;
}

// A QEMU that nobody has told us of may have it, too.
static bool
is_written(const char *source)
{
    return source != NULL && g_path_is_absolute(source) && vs_image_lock_is_path_written(source);
}

// Live ------------------------------------------------------------------------------------------

static void
fill_live_disk(VsInventoryDisk *disk, const VsDisk *found, const char *reason)
{
    disk->target = g_strdup(found->target);
    disk->source = g_strdup(found->source);
    disk->format = g_strdup(found->format);
    disk->virtual_size_bytes = found->virtual_size_bytes;
    disk->is_next_known = found->unavailable == NULL;
    disk->incremental = reason == NULL && found->unavailable == NULL;
    disk->reason = g_strdup(found->unavailable != NULL ? found->unavailable : reason);
}

static void
add_live(Gathering *g, const VsInstance *live, const GPtrArray *reasons)
{
    const char *status = live->status != NULL ? live->status : "stopped";
    VsInventoryInstance *instance =
        vs_inventory_add_instance(g->inventory, live->id, live->name, live->kind, status);
    for (guint i = 0; i < live->disks->len; i++) {
        const VsDisk *found = g_ptr_array_index(live->disks, i);
        VsInventoryDisk *disk = vs_inventory_add_disk(g->inventory, instance, found->id);
        fill_live_disk(disk, found, g_ptr_array_index(reasons, i));
        disk->in_use = !is_stopped(status) || is_written(found->source);
        vs_sightings_add(g->sightings, g->known, live, found);
    }
}

static VsInstance *
describe(const Gathering *g, const char *name, GPtrArray **reasons, GError **error)
{
    VsEngine engine = {.repository = g->context->repository,
                       .catalogue = g->context->catalogue,
                       .connect_uri = g->context->invocation->connect};
    return vs_engine_describe(&engine, name, reasons, error);
}

static bool
describe_live(Gathering *g, const char *name, GError **error)
{
    g_autoptr(GPtrArray) reasons = NULL;
    g_autoptr(VsInstance) live = describe(g, name, &reasons, error);
    if (live == NULL)
        return false;
    add_live(g, live, reasons);
    return true;
}

// From memory -----------------------------------------------------------------------------------

static VsInventoryDisk *
add_remembered_disk(VsInventory *inventory, VsInventoryInstance *instance, const VsKnownDisk *known,
                    const char *reason)
{
    VsInventoryDisk *disk = vs_inventory_add_disk(inventory, instance, known->id);
    disk->target = g_strdup(known->target);
    disk->source = g_strdup(known->source);
    disk->format = g_strdup(known->format);
    disk->virtual_size_bytes = known->virtual_size_bytes;
    disk->in_use = (instance != NULL && !is_stopped(instance->status)) || is_written(known->source);
    disk->reason = g_strdup(reason);
    return disk;
}

// But for disks that another instance was seen to have now; an instance that had no others is not
// one any more.
static void
add_remembered(Gathering *g, const VsKnownDisk *of, const char *status, const char *reason)
{
    VsInventoryInstance *instance = NULL;
    for (guint i = 0; i < g->known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(g->known, i);
        if (g_strcmp0(disk->instance_id, of->instance_id) != 0 ||
            vs_inventory_has_disk(g->inventory, disk->id))
            continue;
        if (instance == NULL) {
            instance = vs_inventory_add_instance(g->inventory, of->instance_id, of->instance_name,
                                                 of->instance_kind, status);
            instance->reason = g_strdup(reason);
        }
        add_remembered_disk(g->inventory, instance, disk, reason);
    }
}

static const VsKnownDisk *
find_of_instance(const GPtrArray *known, const char *instance_id)
{
    for (guint i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (g_strcmp0(disk->instance_id, instance_id) == 0)
            return disk;
    }
    return NULL;
}

// Bare QEMUs ------------------------------------------------------------------------------------

// An instance whose monitor another client holds runs all the same.
static void
add_unreachable(Gathering *g, const VsKnownDisk *of, const GError *cause)
{
    bool gone = g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_CONNECT) ||
                g_error_matches(cause, VS_ERROR, VS_ERROR_NO_SUCH_INSTANCE);
    bool runs = g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN) ||
                g_error_matches(cause, VS_ERROR, VS_ERROR_BUSY) ||
                g_error_matches(cause, VS_ERROR, VS_ERROR_INSTANCE_STATUS);
    if (!gone)
        vs_warn(g->context->invocation, cause->message);
    add_remembered(g, of, runs ? "running" : "stopped", gone ? NOT_RUNNING : cause->message);
}

static void
add_known_qmp(Gathering *g)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < g->known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(g->known, i);
        g_autoptr(GError) cause = NULL;
        if (disk->instance_id == NULL || g_strcmp0(disk->instance_kind, "qmp") != 0 ||
            !g_hash_table_add(seen, disk->instance_id))
            continue;
        if (vs_catalogue_is_instance_busy(g->context->catalogue, disk->instance_id))
            add_remembered(g, disk, "running", IN_PROGRESS);
        else if (!describe_live(g, disk->instance_name, &cause))
            add_unreachable(g, disk, cause);
    }
}

// Domains ---------------------------------------------------------------------------------------

// With what libvirt tells, and what was known of the disks' sizes. reason: why no more is known;
// NULL: nobody asked.
static void
add_glance(Gathering *g, const VsDomainGlance *glance, const char *reason)
{
    const VsInstance *domain = glance->instance;
    VsInventoryInstance *instance = vs_inventory_add_instance(
        g->inventory, domain->id, domain->name, domain->kind, domain->status);
    instance->reason = g_strdup(reason);
    for (guint i = 0; i < domain->disks->len; i++) {
        const VsDisk *found = g_ptr_array_index(domain->disks, i);
        const VsKnownDisk *before = vs_known_disk_find(g->known, found->id);
        VsInventoryDisk *disk = vs_inventory_add_disk(g->inventory, instance, found->id);
        fill_live_disk(disk, found, reason);
        disk->is_next_known = disk->incremental = false;
        disk->virtual_size_bytes = before != NULL ? before->virtual_size_bytes : 0;
        disk->in_use = !is_stopped(domain->status) || is_written(found->source);
        if (reason == NULL)
            vs_sightings_add(g->sightings, g->known, domain, found);
    }
}

// By what is remembered, in the status that libvirt tells; at a glance where nothing is.
static void
add_domain_unasked(Gathering *g, const VsDomainGlance *glance, const char *reason, bool is_enough)
{
    const VsKnownDisk *of = find_of_instance(g->known, glance->instance->id);
    bool by_memory = of != NULL && (glance->fault != NULL || !is_enough);
    if (by_memory)
        add_remembered(g, of, glance->instance->status, reason);
    else
        add_glance(g, glance, reason);
}

static void
add_domain(Gathering *g, VsDomainGlance *glance, const char *host)
{
    bool is_enough = vs_domain_glance_identify(glance, g->known, host);
    g_autoptr(GError) cause = NULL;
    if (glance->fault != NULL) {
        vs_warn(g->context->invocation, glance->fault);
        add_domain_unasked(g, glance, glance->fault, is_enough);
    } else if (vs_catalogue_is_instance_busy(g->context->catalogue, glance->instance->id)) {
        add_domain_unasked(g, glance, IN_PROGRESS, is_enough);
    } else if (!g->detailed && is_enough) {
        add_glance(g, glance, NULL);
    } else if (!describe_live(g, glance->uuid, &cause)) {
        vs_warn(g->context->invocation, cause->message);
        add_domain_unasked(g, glance, cause->message, is_enough);
    }
}

static bool
is_libvirt_wanted(const VsInvocation *invocation)
{
    const char *uri = g_getenv("LIBVIRT_DEFAULT_URI");
    return invocation->connect != NULL || (uri != NULL && *uri != '\0');
}

// Where libvirt can't be reached, that is worth a word only to who uses it. Whether a domain runs
// is then seen by its images.
static void
add_unreached_domains(Gathering *g, const GError *cause)
{
    g_autoptr(GHashTable) running = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GPtrArray) firsts = g_ptr_array_new();
    for (guint i = 0; i < g->known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(g->known, i);
        if (disk->instance_id == NULL || g_strcmp0(disk->instance_kind, "libvirt") != 0)
            continue;
        if (find_of_instance(g->known, disk->instance_id) == disk)
            g_ptr_array_add(firsts, (gpointer)disk);
        if (is_written(disk->source))
            g_hash_table_add(running, disk->instance_id);
    }
    if (is_libvirt_wanted(g->context->invocation) || firsts->len > 0)
        vs_warn(g->context->invocation, cause->message);
    for (guint i = 0; i < firsts->len; i++) {
        const VsKnownDisk *of = g_ptr_array_index(firsts, i);
        const char *status =
            g_hash_table_contains(running, of->instance_id) ? "running" : "stopped";
        add_remembered(g, of, status, cause->message);
    }
}

static void
add_domains(Gathering *g)
{
    g_autoptr(GError) cause = NULL;
    g_autoptr(GPtrArray) glances = vs_domains_glance(g->context->invocation->connect, &cause);
    g_autofree char *host = vs_host_key();
    for (guint i = 0; glances != NULL && i < glances->len; i++)
        add_domain(g, g_ptr_array_index(glances, i), host);
    if (glances == NULL)
        add_unreached_domains(g, cause);
}

// Unattached disks ------------------------------------------------------------------------------

// The image is asked; what it is called is remembered. False: its reason is not known yet.
static bool
describe_unattached(Gathering *g, VsInventoryDisk *disk, GError **error)
{
    g_autofree char *name = g_strconcat("file:", disk->source, NULL);
    g_autoptr(GPtrArray) reasons = NULL;
    g_autoptr(VsInstance) live = describe(g, name, &reasons, error);
    if (live == NULL)
        return false;
    const VsDisk *found = g_ptr_array_index(live->disks, 0);
    g_autofree char *target = g_steal_pointer(&disk->target);
    g_clear_pointer(&disk->source, g_free);
    g_clear_pointer(&disk->format, g_free);
    g_clear_pointer(&disk->reason, g_free);
    fill_live_disk(disk, found, g_ptr_array_index(reasons, 0));
    if (g_strcmp0(found->id, disk->id) != 0) {
        disk->is_next_known = disk->incremental = false;
        g_free(disk->reason);
        disk->reason = g_strdup_printf("its image is that of disk %s now", found->id);
    }
    if (target != NULL) {
        g_free(disk->target);
        disk->target = g_steal_pointer(&target);
    }
    return true;
}

static void
add_unattached(Gathering *g, const VsKnownDisk *known)
{
    VsInventoryDisk *disk = add_remembered_disk(g->inventory, NULL, known, UNATTACHED);
    if (!g->detailed || known->source == NULL || !g_path_is_absolute(known->source))
        return;
    const char *reason = NULL;
    g_autoptr(GError) cause = NULL;
    if (!g_file_test(known->source, G_FILE_TEST_EXISTS))
        reason = NOT_THERE;
    else if (vs_catalogue_is_instance_busy(g->context->catalogue, known->id))
        reason = IN_PROGRESS;
    else if (!describe_unattached(g, disk, &cause))
        reason = cause->message;
    if (cause != NULL)
        vs_warn(g->context->invocation, cause->message);
    if (reason != NULL) {
        g_free(disk->reason);
        disk->reason = g_strdup(reason);
    }
}

static void
gather_all(Gathering *g)
{
    add_domains(g);
    add_known_qmp(g);
    // What is left was detached, or its instance has gone.
    for (guint i = 0; i < g->known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(g->known, i);
        if (!vs_inventory_has_disk(g->inventory, disk->id))
            add_unattached(g, disk);
    }
}

// One -------------------------------------------------------------------------------------------

static void
attach(VsInventoryDisk *disk, const char *instance_id, const char *instance_name)
{
    g_free(disk->instance_id);
    g_free(disk->instance_name);
    disk->instance_id = g_strdup(instance_id);
    disk->instance_name = g_strdup(instance_name);
}

// Which instance has the disk: a domain by its definition, a bare QEMU by its hold on the image.
static void
find_owner(const Gathering *g, VsInventoryDisk *disk)
{
    const VsKnownDisk *known = vs_known_disk_find(g->known, disk->id);
    if (known != NULL && g_strcmp0(known->instance_kind, "qmp") == 0 && disk->in_use)
        attach(disk, known->instance_id, known->instance_name);
    g_autoptr(GPtrArray) glances = vs_domains_glance(g->context->invocation->connect, NULL);
    for (guint i = 0; glances != NULL && i < glances->len; i++) {
        const VsInstance *domain = ((VsDomainGlance *)g_ptr_array_index(glances, i))->instance;
        for (guint j = 0; j < domain->disks->len; j++) {
            const VsDisk *found = g_ptr_array_index(domain->disks, j);
            if (g_strcmp0(found->source, disk->source) != 0)
                continue;
            attach(disk, domain->id, domain->name);
            g_free(disk->target);
            disk->target = g_strdup(found->target);
            disk->in_use = disk->in_use || !is_stopped(domain->status);
            return;
        }
    }
}

static bool
gather_image(Gathering *g, const VsReach *reach, GError **error)
{
    g_autofree char *host = vs_host_key();
    g_autoptr(GPtrArray) chain = g_ptr_array_new();
    g_ptr_array_add(chain, reach->path);
    g_autofree char *id = vs_disk_identify(g->known, host, NULL, "image", chain);
    const VsKnownDisk *known = vs_known_disk_find(g->known, id);
    VsInventoryDisk *disk;
    if (known != NULL) {
        disk = add_remembered_disk(g->inventory, NULL, known, IN_PROGRESS);
    } else {
        disk = vs_inventory_add_disk(g->inventory, NULL, id);
        disk->source = g_strdup(reach->path);
        disk->in_use = is_written(reach->path);
    }
    if ((known == NULL || !vs_catalogue_is_instance_busy(g->context->catalogue, id)) &&
        !describe_unattached(g, disk, error))
        return false;
    find_owner(g, disk);
    return true;
}

static bool
gather_domain(Gathering *g, const VsReach *reach, const char *name, GError **error)
{
    if (!vs_catalogue_is_instance_busy(g->context->catalogue, reach->instance_id))
        return describe_live(g, name, error);
    g_autoptr(GPtrArray) glances = vs_domains_glance(reach->connect_uri, error);
    g_autofree char *host = vs_host_key();
    for (guint i = 0; glances != NULL && i < glances->len; i++) {
        VsDomainGlance *glance = g_ptr_array_index(glances, i);
        if (g_strcmp0(glance->instance->id, reach->instance_id) == 0)
            add_domain(g, glance, host);
    }
    return glances != NULL;
}

static bool
gather_one(Gathering *g, const char *name, GError **error)
{
    g_auto(VsReach) reach = {0};
    if (!vs_reach_find(&reach, g->context->invocation->connect, name, error))
        return false;
    if (reach.kind == VS_REACH_IMAGE)
        return gather_image(g, &reach, error);
    if (reach.kind == VS_REACH_DOMAIN)
        return gather_domain(g, &reach, name, error);
    const VsKnownDisk *of = find_of_instance(g->known, reach.instance_id);
    if (of == NULL || !vs_catalogue_is_instance_busy(g->context->catalogue, reach.instance_id))
        return describe_live(g, name, error);
    add_remembered(g, of, "running", IN_PROGRESS);
    return true;
}

// Snapshots are listed oldest first, so that the last one met is the newest.
static void
add_snapshots(VsInventoryDisk *disk, const GPtrArray *snapshots)
{
    for (guint i = 0; i < snapshots->len; i++) {
        const VsSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        if (g_strcmp0(snapshot->manifest->disk_id, disk->id) != 0 ||
            snapshot->status == VS_STATUS_FAILED)
            continue;
        disk->snapshots++;
        if (snapshot->status == VS_STATUS_ACCOMPLISHED) {
            g_free(disk->newest);
            disk->newest = g_strdup(snapshot->manifest->id);
        }
    }
}

VsInventory *
vs_inventory_gather(VsContext *context, const char *instance, bool detailed, GError **error)
{
    g_auto(Gathering) g = {.context = context, .detailed = detailed};
    g.known = vs_catalogue_known_disks(context->catalogue, error);
    if (g.known == NULL)
        return NULL;
    g.sightings = g_ptr_array_new_with_free_func((GDestroyNotify)vs_known_disk_free);
    g.inventory = vs_inventory_new();
    if (instance == NULL)
        gather_all(&g);
    else if (!gather_one(&g, instance, error))
        return NULL;
    g_autoptr(GPtrArray) snapshots = vs_catalogue_list(context->catalogue, NULL, error);
    if (snapshots == NULL)
        return NULL;
    for (guint i = 0; i < g.inventory->disks->len; i++)
        add_snapshots(g_ptr_array_index(g.inventory->disks, i), snapshots);
    vs_sightings_remember(g.sightings, g.known, context->catalogue);
    return g_steal_pointer(&g.inventory);
}
