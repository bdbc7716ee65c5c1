// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/snapshot/recover.h"

#include <unistd.h>

#include "plugin/error.h"
#include "plugin/snapshot/session.h"
#include "qmp/client.h"

void
vs_recovered_free(VsRecovered *recovered)
{
    if (!recovered)
        return;
    g_free(recovered->instance);
    g_free(recovered->error);
    g_free(recovered);
}

static void
close_lock(gpointer element)
{
    close(*(int *)element);
}

// The locks of the disks that nobody works on; newest: VsDisk * → bitmap of its newest snapshot,
// which bases own.
static bool
lock_disks(const VsEngine *engine, const VsInstance *instance, GArray *locks, GPtrArray *bases,
           GHashTable *newest, GError **error)
{
    for (unsigned i = 0; i < instance->disks->len; i++) {
        VsDisk *disk = g_ptr_array_index(instance->disks, i);
        g_autoptr(GError) busy = NULL;
        int fd = vs_catalogue_lock_instance(engine->catalogue, disk->id, &busy);
        if (fd < 0)
            continue;
        g_array_append_val(locks, fd);
        g_auto(VsBase) base = {0};
        if (!vs_session_load_base(engine, disk, &base, error))
            return false;
        VsManifest *manifest = g_steal_pointer(&base.manifest);
        if (manifest)
            g_ptr_array_add(bases, manifest);
        g_hash_table_insert(newest, disk, manifest ? manifest->bitmap : NULL);
    }
    return true;
}

static bool
clear_notes(int instance_lock, const GArray *disk_locks, GError **error)
{
    if (instance_lock >= 0 && !vs_catalogue_note_work(instance_lock, NULL, NULL, error))
        return false;
    for (unsigned i = 0; i < disk_locks->len; i++)
        if (!vs_catalogue_note_work(g_array_index(disk_locks, int, i), NULL, NULL, error))
            return false;
    return true;
}

static bool
recover_instance(const VsEngine *engine, const char *name, GError **error)
{
    g_auto(VsSession) session = {.lock = -1};
    g_autoptr(GArray) locks = g_array_new(FALSE, FALSE, sizeof(int));
    g_array_set_clear_func(locks, close_lock);
    g_autoptr(GPtrArray) bases = g_ptr_array_new_with_free_func((GDestroyNotify)vs_manifest_free);
    g_autoptr(GHashTable) newest = g_hash_table_new(NULL, NULL);
    return vs_session_open(&session, engine, name, true, error) &&
           lock_disks(engine, session.instance, locks, bases, newest, error) &&
           vs_session_tidy(&session, engine, newest, error) &&
           clear_notes(session.lock, locks, error);
}

// A machine or an image that is not there has nothing of ours, but bitmaps in images, which go when
// it is back.
static bool
is_gone(const GError *error)
{
    return g_error_matches(error, VS_ERROR, VS_ERROR_NO_SUCH_INSTANCE) ||
           g_error_matches(error, VS_ERROR, VS_ERROR_NO_SUCH_DISK) ||
           g_error_matches(error, VS_QMP_ERROR, VS_QMP_ERROR_CONNECT);
}

static bool
forget(const VsEngine *engine, const VsAbandoned *abandoned, GError **error)
{
    int lock = vs_catalogue_lock_instance(engine->catalogue, abandoned->id, error);
    bool ok = lock >= 0 && vs_catalogue_note_work(lock, NULL, NULL, error);
    if (lock >= 0)
        close(lock);
    return ok;
}

static void
add(GPtrArray *recovered, const char *instance, const GError *error)
{
    VsRecovered *entry = g_new(VsRecovered, 1);
    *entry = (VsRecovered){g_strdup(instance), error ? g_strdup(error->message) : NULL};
    g_ptr_array_add(recovered, entry);
}

static bool
is_cancelled(const VsEngine *engine, GError **error)
{
    return g_cancellable_set_error_if_cancelled(engine->cancellable, error);
}

static bool
recover_abandoned(const VsEngine *engine, GPtrArray *recovered, GHashTable *seen, GError **error)
{
    g_autoptr(GPtrArray) all = vs_catalogue_list_abandoned(engine->catalogue, error);
    if (!all)
        return false;
    for (unsigned i = 0; i < all->len; i++) {
        const VsAbandoned *abandoned = g_ptr_array_index(all, i);
        VsEngine there = *engine;
        there.connect_uri = abandoned->connect_uri;
        GError *failure = NULL;
        if (is_cancelled(engine, error))
            return false;
        g_hash_table_add(seen, g_strdup(abandoned->instance));
        if (!recover_instance(&there, abandoned->instance, &failure) && is_gone(failure)) {
            g_clear_error(&failure);
            if (!forget(engine, abandoned, &failure))
                g_debug("forgetting %s: %s", abandoned->instance, failure->message);
        }
        add(recovered, abandoned->instance, failure);
        g_clear_error(&failure);
    }
    return true;
}

// Nothing is known against them: those that are busy, stopped or gone are left alone.
static bool
recover_known(const VsEngine *engine, GPtrArray *recovered, GHashTable *seen, GError **error)
{
    g_autoptr(GPtrArray) known = vs_catalogue_known_disks(engine->catalogue, error);
    if (!known)
        return false;
    for (unsigned i = 0; i < known->len; i++) {
        const VsKnownDisk *disk = g_ptr_array_index(known, i);
        g_autoptr(GError) failure = NULL;
        if (is_cancelled(engine, error))
            return false;
        if (!disk->instance_name || !g_hash_table_add(seen, g_strdup(disk->instance_name)))
            continue;
        if (recover_instance(engine, disk->instance_name, &failure))
            add(recovered, disk->instance_name, NULL);
        else if (!is_gone(failure) && !g_error_matches(failure, VS_ERROR, VS_ERROR_BUSY))
            add(recovered, disk->instance_name, failure);
    }
    return true;
}

GPtrArray *
vs_engine_recover(const VsEngine *engine, VsRecoverScope scope, GError **error)
{
    g_autoptr(GPtrArray) recovered =
        g_ptr_array_new_with_free_func((GDestroyNotify)vs_recovered_free);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if (!recover_abandoned(engine, recovered, seen, error) ||
        (scope == VS_RECOVER_ALL && !recover_known(engine, recovered, seen, error)))
        return NULL;
    return g_steal_pointer(&recovered);
}
