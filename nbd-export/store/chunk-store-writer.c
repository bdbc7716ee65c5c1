// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/chunk-store-internal.h"

void
vs_session_pack_free(gpointer data)
{
    VsSessionPack *pack = data;
    vs_pack_builder_free(pack->builder);
    g_free(pack);
}

void
vs_chunk_store_fail_locked(VsChunkStore *store, GError *error)
{
    if (store->failure == NULL) {
        store->failure = error;
    } else {
        g_error_free(error);
    }
    pthread_cond_broadcast(&store->changed);
}

bool
vs_chunk_store_check_locked(VsChunkStore *store, GError **error)
{
    if (store->failure != NULL && error != NULL) {
        *error = g_error_copy(store->failure);
    }
    return store->failure == NULL;
}

// Packs out -----------------------------------------------------------------------------------

// Makes the pack durable. Its builder is not touched by anyone but readers meanwhile.
static void
write_pack(VsChunkStore *store, VsSessionPack *pack)
{
    g_autoptr(GBytes) bytes = vs_pack_builder_finish(pack->builder);
    g_autofree char *object = vs_pack_object_name(&pack->id);
    g_autoptr(GError) cause = NULL;
    struct iovec part;
    part.iov_base = (void *)g_bytes_get_data(bytes, &part.iov_len);
    bool written = vs_object_store_put(store->objects, object, &part, 1, &cause);

    pthread_mutex_lock(&store->mutex);
    if (written) {
        vs_pack_id_set_add(store->known_packs, &pack->id);
        VsPackBuilder *builder = g_steal_pointer(&pack->builder);
        if (store->spare == NULL) {
            store->spare = g_steal_pointer(&builder);
        }
        vs_pack_builder_free(builder);
    } else {
        vs_chunk_store_fail_locked(store, g_steal_pointer(&cause));
    }
    pthread_mutex_unlock(&store->mutex);
}

// A full current pack moves on to the writer as soon as that has room. Under the mutex.
static void
hand_over_locked(VsChunkStore *store)
{
    if (store->waiting == NULL && store->current != NULL &&
        vs_pack_builder_is_full(store->current->builder)) {
        store->waiting = g_steal_pointer(&store->current);
        pthread_cond_broadcast(&store->changed);
    }
}

static void *
writer_main(void *data)
{
    VsChunkStore *store = data;
    pthread_mutex_lock(&store->mutex);
    while (!store->stop && store->failure == NULL) {
        if (store->waiting == NULL) {
            pthread_cond_wait(&store->changed, &store->mutex);
            continue;
        }
        VsSessionPack *pack = g_steal_pointer(&store->waiting);
        store->writing = true;
        hand_over_locked(store);
        pthread_cond_broadcast(&store->changed);
        pthread_mutex_unlock(&store->mutex);
        write_pack(store, pack);
        pthread_mutex_lock(&store->mutex);
        store->writing = false;
        pthread_cond_broadcast(&store->changed);
    }
    pthread_mutex_unlock(&store->mutex);
    return NULL;
}

static void
start_writer_locked(VsChunkStore *store)
{
    if (store->has_thread) {
        return;
    }
    int cause = pthread_create(&store->thread, NULL, writer_main, store);
    if (cause != 0) {
        vs_chunk_store_fail_locked(
            store, g_error_new(VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_FAILED,
                               "start the pack writer's thread: %s", g_strerror(cause)));
        return;
    }
    store->has_thread = true;
}

void
vs_chunk_store_stop_writer(VsChunkStore *store)
{
    pthread_mutex_lock(&store->mutex);
    store->stop = true;
    pthread_cond_broadcast(&store->changed);
    bool has_thread = store->has_thread;
    pthread_mutex_unlock(&store->mutex);
    if (has_thread) {
        pthread_join(store->thread, NULL);
    }
}

// The pack that gets the next object; one is begun where there is none. Under the mutex.
static VsSessionPack *
current_pack_locked(VsChunkStore *store)
{
    if (store->current == NULL) {
        VsSessionPack *pack = g_new0(VsSessionPack, 1);
        vs_pack_id_random(&pack->id);
        pack->builder = g_steal_pointer(&store->spare);
        if (pack->builder == NULL) {
            pack->builder = vs_pack_builder_new(&pack->id);
        } else {
            vs_pack_builder_reset(pack->builder, &pack->id);
        }
        g_ptr_array_add(store->session_packs, pack);
        store->current = pack;
    }
    return store->current;
}

bool
vs_chunk_store_add_locked(VsChunkStore *store, VsPackEntry *entry, const void *stored)
{
    // Back-pressure: one pack being written, one waiting, one full: that is all the memory there
    // is.
    while (store->failure == NULL && store->current != NULL &&
           vs_pack_builder_is_full(store->current->builder)) {
        pthread_cond_wait(&store->changed, &store->mutex);
    }
    if (store->failure != NULL) {
        return false;
    }
    VsSessionPack *pack = current_pack_locked(store);
    vs_pack_builder_add(pack->builder, entry, stored);
    VsEntrySlot *slot = vs_entry_table_find(store->session, &entry->digest);
    slot->entry = *entry;
    slot->pack = pack;
    store->reserved--;
    if (store->draining > 0 && store->reserved == 0) {
        pthread_cond_broadcast(&store->changed);
    }
    if (vs_pack_builder_is_full(pack->builder)) {
        start_writer_locked(store);
        hand_over_locked(store);
    }
    return true;
}

bool
vs_chunk_store_write_out(VsChunkStore *store, GError **error)
{
    pthread_mutex_lock(&store->mutex);
    store->draining++;
    while (store->reserved > 0 && store->failure == NULL) {
        pthread_cond_wait(&store->changed, &store->mutex);
    }
    VsSessionPack *last = store->failure == NULL ? g_steal_pointer(&store->current) : NULL;
    store->draining--;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->mutex);

    if (last != NULL) {
        write_pack(store, last); // here, beside what the thread writes
    }
    pthread_mutex_lock(&store->mutex);
    while ((store->waiting != NULL || store->writing) && store->failure == NULL) {
        pthread_cond_wait(&store->changed, &store->mutex);
    }
    bool sound = vs_chunk_store_check_locked(store, error);
    pthread_mutex_unlock(&store->mutex);
    return sound;
}

// Segments out --------------------------------------------------------------------------------

static bool
is_durable(const VsEntrySlot *slot)
{
    const VsSessionPack *pack = slot->pack;
    return pack != NULL && pack->builder == NULL;
}

static bool
has_durable_pack_locked(VsChunkStore *store)
{
    for (guint i = 0; i < store->session_packs->len; i++) {
        const VsSessionPack *pack = g_ptr_array_index(store->session_packs, i);
        if (pack->builder == NULL) {
            return true;
        }
    }
    return false;
}

// Moves the durable entries of session to frozen. False: there are none. Under the mutex.
static bool
freeze_locked(VsChunkStore *store)
{
    if (!has_durable_pack_locked(store)) {
        return false;
    }
    guint length = vs_entry_table_length(store->session);
    VsEntryTable *frozen = vs_entry_table_new();
    VsEntryTable *rest = vs_entry_table_new();
    for (guint i = 0; i < length; i++) {
        const VsEntrySlot *slot = vs_entry_table_slot(store->session, i);
        vs_entry_table_add(is_durable(slot) ? frozen : rest, &slot->entry, slot->pack);
    }
    vs_entry_table_free(store->session);
    store->session = rest;
    store->frozen = frozen;
    return true;
}

// VsIndexSourceFunc over the frozen entries, in the order of their digests.
typedef struct {
    VsEntryTable *table;
    GArray *order; // of guint, slots
    guint next;
} FrozenSource;

static gint
compare_slots(gconstpointer a, gconstpointer b, gpointer table)
{
    return vs_digest_compare(&vs_entry_table_slot(table, *(const guint *)a)->entry.digest,
                             &vs_entry_table_slot(table, *(const guint *)b)->entry.digest);
}

static bool
next_frozen(gpointer user_data, VsIndexEntry *entry, bool *end, GError **error)
{
    FrozenSource *source = user_data;
    *end = source->next == source->order->len;
    if (!*end) {
        guint i = g_array_index(source->order, guint, source->next++);
        const VsEntrySlot *slot = vs_entry_table_slot(source->table, i);
        entry->entry = slot->entry;
        entry->pack = ((const VsSessionPack *)slot->pack)->id;
    }
    return true;
}

static VsPackIndex *
write_frozen(VsChunkStore *store, GArray *packs, GError **error)
{
    guint length = vs_entry_table_length(store->frozen);
    g_autoptr(GArray) order = g_array_sized_new(FALSE, FALSE, sizeof(guint), length);
    for (guint i = 0; i < length; i++) {
        g_array_append_val(order, i);
    }
    g_array_sort_with_data(order, compare_slots, store->frozen);
    FrozenSource source = {.table = store->frozen, .order = order};
    return vs_pack_index_write(store->objects, packs, next_frozen, &source, error);
}

static bool
is_covered(const GArray *packs, const VsPackId *id)
{
    for (guint i = 0; i < packs->len; i++) {
        if (vs_pack_id_equal(&g_array_index(packs, VsPackId, i), id)) {
            return true;
        }
    }
    return false;
}

// The frozen entries are indexed (or, with cause, are not): ends indexing. packs: that the segment
// covers.
static void
thaw(VsChunkStore *store, const GArray *packs, GError *cause)
{
    pthread_mutex_lock(&store->mutex);
    if (cause != NULL) {
        vs_chunk_store_fail_locked(store, cause); // frozen stays, so that it can be read
    } else {
        g_clear_pointer(&store->frozen, vs_entry_table_free);
        for (guint i = store->session_packs->len; i > 0; i--) {
            const VsSessionPack *pack = g_ptr_array_index(store->session_packs, i - 1);
            if (is_covered(packs, &pack->id)) {
                g_ptr_array_remove_index_fast(store->session_packs, i - 1);
            }
        }
    }
    pthread_mutex_unlock(&store->mutex);
}

static void
end_indexing(VsChunkStore *store)
{
    pthread_mutex_lock(&store->mutex);
    store->indexing = false;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->mutex);
}

// Waits for its turn. True: the caller is the one to index what is frozen now, packs (filled) being
// those it lies in.
static bool
begin_indexing(VsChunkStore *store, GArray *packs, bool *sound, GError **error)
{
    pthread_mutex_lock(&store->mutex);
    while (store->indexing && store->failure == NULL) {
        pthread_cond_wait(&store->changed, &store->mutex);
    }
    *sound = vs_chunk_store_check_locked(store, error);
    store->indexing = *sound && vs_entry_table_length(store->session) > 0 && freeze_locked(store);
    bool mine = store->indexing;
    for (guint i = 0; mine && i < store->session_packs->len; i++) {
        const VsSessionPack *pack = g_ptr_array_index(store->session_packs, i);
        if (pack->builder == NULL) {
            g_array_append_val(packs, pack->id);
        }
    }
    pthread_mutex_unlock(&store->mutex);
    return mine;
}

bool
vs_chunk_store_index_durable(VsChunkStore *store, GError **error)
{
    g_autoptr(GArray) packs = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    bool sound = false;
    if (!begin_indexing(store, packs, &sound, error)) {
        return sound;
    }
    g_autoptr(GError) cause = NULL;
    VsPackIndex *segment = write_frozen(store, packs, &cause);
    if (segment != NULL) {
        g_autoptr(GPtrArray) in = g_ptr_array_new();
        g_ptr_array_add(in, segment);
        vs_chunk_store_exchange(store, NULL, in);
        vs_pack_index_unref(segment);
    } else if (error != NULL) {
        *error = g_error_copy(cause);
    }
    thaw(store, packs, g_steal_pointer(&cause));
    if (segment != NULL) {
        vs_chunk_store_merge_segments(store);
    }
    end_indexing(store);
    return segment != NULL;
}
