// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/snapshot/session.h"

#include <errno.h>
#include <unistd.h>

#include "nbd-export/store/snapshot-reader.h"
#include "plugin/error.h"
#include "plugin/hypervisor/chain-identity.h"
#include "plugin/snapshot/plan.h"

static bool
is_taken(const VsInstance *instance, unsigned before, const char *id)
{
    for (unsigned i = 0; i < before; i++)
        if (g_str_equal(((VsDisk *)g_ptr_array_index(instance->disks, i))->id, id))
            return true;
    return false;
}

static bool
identify_disks(const VsEngine *engine, VsInstance *instance, GError **error)
{
    g_autoptr(GPtrArray) known = vs_catalogue_known_disks(engine->catalogue, error);
    if (!known)
        return false;
    g_autofree char *host = vs_host_key();
    for (unsigned i = 0; i < instance->disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(instance->disks, i);
        g_autofree char *id =
            vs_disk_identify(known, host, instance->id, disk->target, disk->chain);
        if (is_taken(instance, i, id)) {
            // Two disks with a claim to one history (an overlay on another one's image): this one
            // begins its own.
            g_autofree char *key = g_strdup_printf("%s:%s:%s", host, disk->source, disk->target);
            g_free(id);
            id = vs_id_from_key("d-", key);
        }
        g_free(disk->id);
        disk->id = g_steal_pointer(&id);
        disk->chain_identity = vs_chain_identity(disk->chain, vs_instance_is_running(instance));
    }
    return true;
}

static bool
is_busy(const char *instance_id, gpointer user_data)
{
    return vs_catalogue_is_instance_busy(user_data, instance_id);
}

// The disk with the format that the image was remembered with, NULL: it is not known. "raw"
// outranks others: what was raw once may hold whatever header its guest has written.
static VsDisk *
remembered_disk(const GPtrArray *known, const char *path)
{
    const char *format = NULL;
    for (unsigned i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        if (g_strcmp0(disk->source, path) == 0 && disk->format && g_strcmp0(format, "raw") != 0)
            format = disk->format;
    }
    if (!format)
        return NULL;
    VsDisk *disk = vs_disk_new();
    disk->source = g_strdup(path);
    disk->format = g_strdup(format);
    return disk;
}

// An unattached image is known by the definition that has it, or else from the time when an
// instance had it, with the format that it had then: looking at the image for either would be to
// believe its guest.
static bool
know_image(const VsEngine *engine, VsReach *reach, GError **error)
{
    if (reach->kind != VS_REACH_IMAGE)
        return true;
    g_autoptr(GPtrArray) known = vs_catalogue_known_disks(engine->catalogue, error);
    if (!known)
        return false;
    reach->defined = vs_reach_find_definition(engine->connect_uri, reach->path);
    if (!reach->defined)
        reach->defined = remembered_disk(known, reach->path);
    if (reach->defined)
        return true;
    if (access(reach->path, F_OK) < 0) {
        g_set_error(error, VS_ERROR, VS_ERROR_NO_SUCH_DISK, "opening image '%s': %s", reach->path,
                    g_strerror(errno));
        return false;
    }
    g_set_error(error, VS_ERROR, VS_ERROR_NEVER_ATTACHED,
                "image '%s' has not been seen attached to an instance; `virtsnap disks INSTANCE` "
                "makes an instance's disks known",
                reach->path);
    return false;
}

static bool
open_reach(VsSession *session, const VsEngine *engine, bool exclusive, GError **error)
{
    const VsReach *reach = &session->reach;
    // An image alone has no lock but its disk's.
    if (exclusive && reach->instance_id) {
        session->lock = vs_catalogue_lock_instance(engine->catalogue, reach->instance_id, error);
        if (session->lock < 0) {
            g_prefix_error(error, "%s: ", reach->name);
            return false;
        }
    }
    session->driver =
        vs_reach_open(reach, vs_repository_id(engine->repository), engine->cancellable, error);
    if (!session->driver)
        return false;
    const VsDriverOps *ops = session->driver->ops;
    VsOwnerCheck check = {is_busy, engine->catalogue};
    if (exclusive && !ops->recover(session->driver, &check, engine->cancellable, error))
        return false;
    session->instance = ops->describe(session->driver, engine->cancellable, error);
    return session->instance != NULL;
}

bool
vs_session_open(VsSession *session, const VsEngine *engine, const char *instance, bool exclusive,
                GError **error)
{
    session->lock = -1;
    if (!vs_reach_find(&session->reach, engine->connect_uri, instance, error) ||
        !know_image(engine, &session->reach, error) ||
        !open_reach(session, engine, exclusive, error))
        return false;
    session->instance->id = g_strdup(session->reach.instance_id);
    return identify_disks(engine, session->instance, error);
}

void
vs_session_clear(VsSession *session)
{
    vs_driver_free(session->driver);
    vs_instance_free(session->instance);
    vs_reach_clear(&session->reach);
    if (session->lock >= 0)
        close(session->lock);
    *session = (VsSession){.lock = -1};
}

void
vs_base_clear(VsBase *base)
{
    g_clear_pointer(&base->manifest, vs_manifest_free);
    g_clear_pointer(&base->fault, g_free);
}

// Reads the content's first and last bytes, so that a root that is lost is noticed before anything
// is built on it.
static bool
is_readable(const VsEngine *engine, const VsManifest *manifest, GError **error)
{
    uint64_t size = manifest->virtual_size_bytes;
    if (size == 0)
        return true;
    VsTree tree = {manifest->root, vs_repository_chunk_count(engine->repository, size)};
    g_autoptr(VsSnapshotReader) reader = vs_snapshot_reader_new(engine->repository, &tree, size);
    uint8_t byte;
    return vs_snapshot_reader_read(reader, 0, &byte, 1, error) &&
           vs_snapshot_reader_read(reader, size - 1, &byte, 1, error);
}

// Damage in one snapshot must not be the end of its disk's snapshots.
static bool
is_damage(const GError *error)
{
    return g_error_matches(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT) ||
           g_error_matches(error, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_NOT_FOUND) ||
           error->domain == VS_CHUNK_STORE_ERROR || error->domain == VS_CODEC_ERROR ||
           error->domain == VS_TREE_ERROR;
}

// Asks the manifests themselves, all of them, which is the newest.
static void
distrust_catalogue(const VsEngine *engine, const VsDisk *disk, VsBase *base)
{
    g_autoptr(GError) ignored = NULL;
    g_autoptr(VsManifest) newest =
        vs_repository_newest(engine->repository, disk->id, NULL, &ignored);
    if (!newest || newest->generation < base->generation)
        return;
    vs_manifest_free(base->manifest);
    base->generation = newest->generation;
    base->manifest = g_steal_pointer(&newest);
}

bool
vs_session_load_base(const VsEngine *engine, const VsDisk *disk, VsBase *base, GError **error)
{
    GError *failure = NULL;
    g_autofree char *id =
        vs_catalogue_newest(engine->catalogue, disk->id, &base->generation, &failure);
    bool hidden;
    if (id)
        base->manifest = vs_repository_load_base(engine->repository, id, &hidden, &failure);
    // A bitmap is kept for the newest snapshot only: noise in the catalogue's file that SQLite does
    // not notice would cost it.
    if (!failure &&
        vs_plan_has_other_bitmap(disk, vs_repository_id(engine->repository), base->manifest))
        distrust_catalogue(engine, disk, base);
    if (!failure && base->manifest)
        is_readable(engine, base->manifest, &failure);
    if (!failure)
        return true;
    g_clear_pointer(&base->manifest, vs_manifest_free);
    if (!is_damage(failure)) {
        g_propagate_error(error, failure);
        return false;
    }
    base->fault = g_strdup_printf("the snapshot before, %s, is damaged: %s", id, failure->message);
    g_error_free(failure);
    return true;
}

static void
clear_kept(gpointer element)
{
    g_free((char *)((VsKeptBitmap *)element)->bitmap);
}

static bool
find_newest(const VsEngine *engine, const VsDisk *disk, char **bitmap, GError **error)
{
    g_auto(VsBase) base = {0};
    if (!vs_session_load_base(engine, disk, &base, error))
        return false;
    *bitmap = base.manifest ? g_strdup(base.manifest->bitmap) : NULL;
    return true;
}

bool
vs_session_tidy(const VsSession *session, const VsEngine *engine, GHashTable *newest,
                GError **error)
{
    const GPtrArray *disks = session->instance->disks;
    g_autoptr(GArray) kept = g_array_new(FALSE, FALSE, sizeof(VsKeptBitmap));
    g_array_set_clear_func(kept, clear_kept);
    for (unsigned i = 0; i < disks->len; i++) {
        const VsDisk *disk = g_ptr_array_index(disks, i);
        char *bitmap = NULL;
        gpointer known;
        bool is_locked = g_hash_table_lookup_extended(newest, disk, NULL, &known);
        if (is_locked)
            bitmap = g_strdup(known);
        else if (!find_newest(engine, disk, &bitmap, error))
            return false;
        VsKeptBitmap entry = {disk, bitmap, is_locked};
        g_array_append_val(kept, entry);
    }
    return session->driver->ops->tidy(session->driver, (VsKeptBitmap *)kept->data, kept->len,
                                      error);
}

VsInstance *
vs_engine_describe(const VsEngine *engine, const char *instance, GPtrArray **reasons,
                   GError **error)
{
    g_auto(VsSession) session = {.lock = -1};
    if (!vs_session_open(&session, engine, instance, false, error))
        return NULL;
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < session.instance->disks->len; i++) {
        const VsDisk *disk = g_ptr_array_index(session.instance->disks, i);
        g_auto(VsBase) base = {0};
        if (!vs_session_load_base(engine, disk, &base, error))
            return NULL;
        g_ptr_array_add(found, disk->unavailable ? g_strdup(disk->unavailable)
                                                 : vs_plan_full_reason(disk, &base));
    }
    if (reasons)
        *reasons = g_steal_pointer(&found);
    return g_steal_pointer(&session.instance);
}
