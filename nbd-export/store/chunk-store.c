// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/chunk-store.h"

#include "nbd-export/store/chunk-store-internal.h"

GQuark
vs_chunk_store_error_quark(void)
{
    return g_quark_from_static_string("vs-chunk-store-error-quark");
}

VsChunkStore *
vs_chunk_store_open(VsObjectStore *objects, GError **error)
{
    g_autoptr(VsChunkStore) store = g_new0(VsChunkStore, 1);
    store->objects = objects;
    pthread_mutex_init(&store->mutex, NULL);
    pthread_cond_init(&store->changed, NULL);
    store->session = vs_entry_table_new();
    store->session_packs = g_ptr_array_new_with_free_func(vs_session_pack_free);
    store->index = vs_index_set_new();
    store->bad_segments = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    store->known_packs = vs_pack_id_set_new();
    store->unsound_packs = vs_pack_id_set_new();
    store->located_packs = vs_pack_id_set_new();
    vs_stray_packs_init(&store->stray);
    if (!vs_chunk_store_reload_index(store, error)) {
        return NULL;
    }
    store->index_doubtful |= store->index->segments->len == 0;
    return g_steal_pointer(&store);
}

void
vs_chunk_store_free(VsChunkStore *store)
{
    if (store == NULL) {
        return;
    }
    vs_chunk_store_stop_writer(store);
    vs_entry_table_free(store->session);
    vs_entry_table_free(store->frozen);
    g_ptr_array_unref(store->session_packs);
    vs_pack_builder_free(store->spare);
    vs_index_set_unref(store->index);
    g_hash_table_unref(store->bad_segments);
    g_hash_table_unref(store->known_packs);
    g_hash_table_unref(store->unsound_packs);
    g_hash_table_unref(store->located_packs);
    vs_stray_packs_clear(&store->stray);
    g_clear_error(&store->failure);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->mutex);
    g_free(store);
}

// Put -----------------------------------------------------------------------------------------

static bool
is_in_session_locked(VsChunkStore *store, const VsDigest *digest)
{
    return vs_entry_table_find(store->session, digest) != NULL ||
           (store->frozen != NULL && vs_entry_table_find(store->frozen, digest) != NULL);
}

// New content relies on a pack only if it is there and ends with a table that is whole, which it
// does not where it was cut short. Damage within shows only when it is read
// (vs_chunk_store_verify()).
static bool
is_pack_sound(VsChunkStore *store, const VsPackId *id)
{
    pthread_mutex_lock(&store->mutex);
    bool is_sound = g_hash_table_contains(store->known_packs, id);
    bool is_known = is_sound || g_hash_table_contains(store->unsound_packs, id);
    pthread_mutex_unlock(&store->mutex);
    if (is_known) {
        return is_sound;
    }
    g_auto(VsPackTable) table = {0};
    is_sound = vs_pack_table_read(store->objects, id, &table, NULL) && table.damage == NULL;
    pthread_mutex_lock(&store->mutex);
    vs_pack_id_set_add(is_sound ? store->known_packs : store->unsound_packs, id);
    pthread_mutex_unlock(&store->mutex);
    return is_sound;
}

// An entry counts only if it can be what it says: the pack is sound, the length is right.
static bool
is_in_index(VsChunkStore *store, VsIndexSet *set, const VsDigest *digest, size_t raw_length)
{
    VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES];
    unsigned count = vs_chunk_store_find(store, set, digest, found);
    for (unsigned i = 0; i < count; i++) {
        if (found[i].entry.raw_length == raw_length && is_pack_sound(store, &found[i].pack)) {
            return true;
        }
    }
    return false;
}

// Before an object is written: where the index may lack something (a segment was damaged, or
// there is none at all), it is made good, so that what is there is not stored again. If that can't
// be, storing again is all that happens.
static void
mend_index(VsChunkStore *store)
{
    pthread_mutex_lock(&store->mutex);
    while (store->indexing) {
        pthread_cond_wait(&store->changed, &store->mutex);
    }
    bool doubtful = store->index_doubtful;
    store->index_doubtful = false;
    store->indexing = doubtful;
    pthread_mutex_unlock(&store->mutex);
    if (!doubtful) {
        return;
    }
    g_autoptr(GError) ignored = NULL;
    if (!vs_chunk_store_reindex(store, &ignored)) {
        g_debug("index packs: %s", ignored->message);
    }
    pthread_mutex_lock(&store->mutex);
    store->indexing = false;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->mutex);
}

typedef enum {
    PUT_KNOWN,    // nothing to do
    PUT_RESERVED, // the caller is the one to store it
    PUT_FAILED,
} PutOutcome;

// Reserves a slot for the digest unless it is known. The index is asked without the mutex held;
// where it has changed meanwhile, the object may have got into it, and it is asked again.
static PutOutcome
reserve(VsChunkStore *store, const VsPackEntry *entry, GError **error)
{
    g_autoptr(VsIndexSet) asked = NULL;
    for (;;) {
        pthread_mutex_lock(&store->mutex);
        while (store->draining > 0 && store->failure == NULL) {
            pthread_cond_wait(&store->changed, &store->mutex);
        }
        bool sound = vs_chunk_store_check_locked(store, error);
        bool known = sound && is_in_session_locked(store, &entry->digest);
        bool doubtful = sound && !known && store->index_doubtful;
        bool mine = sound && !known && !doubtful && asked == store->index;
        if (mine) {
            vs_entry_table_add(store->session, entry, NULL);
            store->reserved++;
        }
        g_clear_pointer(&asked, vs_index_set_unref);
        asked = vs_index_set_ref(store->index);
        pthread_mutex_unlock(&store->mutex);
        if (!sound || known || mine) {
            return !sound ? PUT_FAILED : known ? PUT_KNOWN : PUT_RESERVED;
        }
        if (doubtful) {
            mend_index(store);
        } else if (is_in_index(store, asked, &entry->digest, entry->raw_length)) {
            return PUT_KNOWN;
        }
    }
}

bool
vs_chunk_store_put(VsChunkAccess *access, VsObjectType type, const void *raw, size_t raw_length,
                   VsDigest *digest, GError **error)
{
    VsChunkStore *store = access->store;
    if (raw_length == 0 || raw_length > VS_PACK_MAX_RAW_BYTES) {
        g_set_error(error, VS_CHUNK_STORE_ERROR, VS_CHUNK_STORE_ERROR_CORRUPT,
                    "store object: %zu bytes are not within 1 to %u", raw_length,
                    VS_PACK_MAX_RAW_BYTES);
        return false;
    }
    vs_digest_compute(raw, raw_length, digest);
    VsPackEntry entry = {
        .digest = *digest, .raw_length = (uint32_t)raw_length, .type = (uint8_t)type};
    PutOutcome outcome = reserve(store, &entry, error);
    if (outcome != PUT_RESERVED) {
        return outcome == PUT_KNOWN;
    }
    const void *stored = NULL;
    size_t stored_length = 0;
    entry.coding =
        (uint8_t)vs_codec_encode(access->codec, raw, raw_length, &stored, &stored_length);
    entry.stored_length = (uint32_t)stored_length;

    pthread_mutex_lock(&store->mutex);
    bool added = vs_chunk_store_add_locked(store, &entry, stored) ||
                 vs_chunk_store_check_locked(store, error);
    bool is_much =
        vs_entry_table_length(store->session) >= VS_CHUNK_STORE_SEGMENT_ENTRIES && !store->indexing;
    pthread_mutex_unlock(&store->mutex);
    if (!added) {
        return false;
    }
    access->added_bytes += VS_PACK_RECORD_BYTES + VS_PACK_TABLE_ENTRY_BYTES + stored_length;
    return !is_much || vs_chunk_store_index_durable(store, error);
}

bool
vs_chunk_store_flush(VsChunkStore *store, GError **error)
{
    return vs_chunk_store_write_out(store, error) && vs_chunk_store_index_durable(store, error);
}

// A tree's nodes -------------------------------------------------------------------------------

static bool
load_node(gpointer self, const VsDigest *digest, unsigned level, VsTreeNode *node, GError **error)
{
    uint8_t bytes[VS_TREE_NODE_MAX_BYTES];
    size_t length = sizeof bytes;
    return vs_chunk_store_get_upto(self, VS_OBJECT_NODE, digest, bytes, &length, error) &&
           vs_tree_node_decode(bytes, length, level, node, error);
}

static bool
store_node(gpointer self, const void *bytes, size_t length, VsDigest *digest, GError **error)
{
    return vs_chunk_store_put(self, VS_OBJECT_NODE, bytes, length, digest, error);
}

VsTreeIo
vs_chunk_access_tree_io(VsChunkAccess *access)
{
    return (VsTreeIo){load_node, store_node, access};
}
