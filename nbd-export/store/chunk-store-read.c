// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/chunk-store-internal.h"

#include <string.h>

// How long a listing of uncovered packs is good for. They come from crashed writers and damaged
// segments, not from work under way.
#define STRAY_LISTING_US G_USEC_PER_SEC
// Entries of uncovered packs that are kept in memory; the tables of packs beyond are read at each
// miss.
#define STRAY_ENTRIES VS_CHUNK_STORE_SEGMENT_ENTRIES

// Packs that no segment covers -----------------------------------------------------------------

void
vs_stray_packs_init(VsStrayPacks *stray)
{
    pthread_mutex_init(&stray->mutex, NULL);
    stray->packs = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    stray->loaded = vs_pack_id_set_new();
    stray->table = vs_entry_table_new();
}

void
vs_stray_packs_clear(VsStrayPacks *stray)
{
    vs_entry_table_free(stray->table);
    g_hash_table_unref(stray->loaded);
    g_array_unref(stray->packs);
    pthread_mutex_destroy(&stray->mutex);
}

static bool
list_strays(VsChunkStore *store, GError **error)
{
    VsStrayPacks *stray = &store->stray;
    gint64 now = g_get_monotonic_time();
    if (stray->listed_at_us != 0 && now - stray->listed_at_us < STRAY_LISTING_US) {
        return true;
    }
    g_autoptr(GArray) packs = vs_pack_list(store->objects, error);
    if (packs == NULL) {
        return false;
    }
    g_autoptr(GHashTable) covered = vs_chunk_store_covered_packs(store);
    g_array_set_size(stray->packs, 0);
    for (guint i = 0; i < packs->len; i++) {
        const VsPackId *id = &g_array_index(packs, VsPackId, i);
        if (!g_hash_table_contains(covered, id)) {
            g_array_append_val(stray->packs, *id);
        }
    }
    stray->listed_at_us = g_get_monotonic_time();
    return true;
}

// Looks through one pack's table; its entries are kept where there is room.
static bool
find_in_stray(VsChunkStore *store, const VsPackId *id, const VsDigest *digest, VsIndexEntry *found)
{
    VsStrayPacks *stray = &store->stray;
    g_auto(VsPackTable) table = {0};
    if (!vs_pack_table_read(store->objects, id, &table, NULL)) {
        return false; // as if it were not there
    }
    gpointer key = NULL;
    if (vs_entry_table_length(stray->table) + table.entries->len <= STRAY_ENTRIES) {
        vs_pack_id_set_add(stray->loaded, id);
        g_hash_table_lookup_extended(stray->loaded, id, &key, NULL);
    }
    bool is_found = false;
    for (guint i = 0; i < table.entries->len; i++) {
        const VsPackEntry *entry = &g_array_index(table.entries, VsPackEntry, i);
        if (!is_found && vs_digest_equal(&entry->digest, digest)) {
            *found = (VsIndexEntry){.entry = *entry, .pack = *id};
            is_found = true;
        }
        if (key != NULL && vs_entry_table_find(stray->table, &entry->digest) == NULL) {
            vs_entry_table_add(stray->table, entry, key);
        }
    }
    return is_found;
}

// Where an object is in a pack that no segment covers. False without error: nowhere.
static bool
find_stray(VsChunkStore *store, const VsDigest *digest, VsIndexEntry *found, GError **error)
{
    VsStrayPacks *stray = &store->stray;
    pthread_mutex_lock(&stray->mutex);
    bool listed = list_strays(store, error);
    const VsEntrySlot *slot = listed ? vs_entry_table_find(stray->table, digest) : NULL;
    bool is_found = slot != NULL;
    if (is_found) {
        *found = (VsIndexEntry){.entry = slot->entry, .pack = *(const VsPackId *)slot->pack};
    }
    for (guint i = 0; listed && !is_found && i < stray->packs->len; i++) {
        const VsPackId *id = &g_array_index(stray->packs, VsPackId, i);
        is_found =
            !g_hash_table_contains(stray->loaded, id) && find_in_stray(store, id, digest, found);
    }
    pthread_mutex_unlock(&stray->mutex);
    return is_found;
}

// Reading an object ------------------------------------------------------------------------------

bool
vs_chunk_store_decode(VsCodec *codec, const VsPackEntry *entry, const void *stored, void *raw,
                      GError **error)
{
    return vs_codec_decode(codec, entry->coding,
                           (struct iovec){(void *)stored, entry->stored_length},
                           (struct iovec){raw, entry->raw_length}, &entry->digest, error);
}

bool
vs_chunk_store_read_at(VsChunkStore *store, VsCodec *codec, const VsIndexEntry *place, void *raw,
                       GError **error)
{
    const VsPackEntry *entry = &place->entry;
    g_autofree char *object = vs_pack_object_name(&place->pack);
    // What is stored as it is goes straight where it is wanted.
    void *stored =
        entry->coding == VS_CODING_PLAIN ? raw : vs_codec_scratch(codec, entry->stored_length);
    if (!vs_object_store_get_range(store->objects, object, entry->offset, stored,
                                   entry->stored_length, error)) {
        return false;
    }
    if (!vs_chunk_store_decode(codec, entry, stored, raw, error)) {
        g_prefix_error(error, "pack %s at %" G_GUINT64_FORMAT ": ", object, entry->offset);
        return false;
    }
    return true;
}

typedef struct {
    VsChunkAccess *access;
    const VsDigest *digest;
    void *raw;
    size_t min_length;
    size_t max_length;
    size_t raw_length; // of what was read
    GError *damage;    // why a place that should have held it did not give it
} Read;

static void
read_clear(Read *read)
{
    g_clear_error(&read->damage);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Read, read_clear)

static bool
try_place(Read *read, const VsIndexEntry *place)
{
    g_autoptr(GError) cause = NULL;
    const VsPackEntry *entry = &place->entry;
    if (entry->raw_length < read->min_length || entry->raw_length > read->max_length) {
        g_set_error(&cause, VS_CODEC_ERROR, VS_CODEC_ERROR_CORRUPT,
                    "it has %u bytes instead of %zu", entry->raw_length, read->max_length);
    } else if (vs_chunk_store_read_at(read->access->store, read->access->codec, place, read->raw,
                                      &cause)) {
        read->raw_length = entry->raw_length;
        return true;
    }
    // A pack that is gone says nothing of the object: prune may have moved it.
    if (!g_error_matches(cause, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND) &&
        read->damage == NULL) {
        read->damage = g_steal_pointer(&cause);
    }
    return false;
}

// Whether two entries of one digest say the same. Members, since there is padding between them.
static bool
is_same_entry(const VsPackEntry *a, const VsPackEntry *b)
{
    return a->offset == b->offset && a->stored_length == b->stored_length &&
           a->raw_length == b->raw_length && a->type == b->type && a->coding == b->coding;
}

// The index may be wrong about the place within a pack; the pack's own table knows.
static bool
try_by_table(Read *read, const VsIndexEntry *place)
{
    g_auto(VsPackTable) table = {0};
    if (!vs_pack_table_read(read->access->store->objects, &place->pack, &table, NULL)) {
        return false;
    }
    for (guint i = 0; i < table.entries->len; i++) {
        VsIndexEntry other = {.entry = g_array_index(table.entries, VsPackEntry, i),
                              .pack = place->pack};
        if (vs_digest_equal(&other.entry.digest, read->digest) &&
            !is_same_entry(&other.entry, &place->entry) && try_place(read, &other)) {
            return true;
        }
    }
    return false;
}

static bool
try_index(Read *read)
{
    VsChunkStore *store = read->access->store;
    g_autoptr(VsIndexSet) set = vs_chunk_store_index_set(store);
    VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES];
    unsigned count = vs_chunk_store_find(store, set, read->digest, found);
    for (unsigned i = 0; i < count; i++) {
        if (try_place(read, &found[i])) {
            return true;
        }
    }
    for (unsigned i = 0; i < count; i++) {
        if (try_by_table(read, &found[i])) {
            return true;
        }
    }
    return false;
}

// The slot of an object of this session once it has a place; NULL: it is none. Under the mutex.
static const VsEntrySlot *
session_slot_locked(VsChunkStore *store, const VsDigest *digest)
{
    for (;;) {
        const VsEntrySlot *slot = vs_entry_table_find(store->session, digest);
        if (slot == NULL) {
            return store->frozen == NULL ? NULL : vs_entry_table_find(store->frozen, digest);
        }
        if (slot->pack != NULL || store->failure != NULL) {
            return slot->pack == NULL ? NULL : slot;
        }
        // Another thread is compressing it. It tells nobody when it is done, a flush apart, so that
        // the hot path need not.
        pthread_mutex_unlock(&store->mutex);
        g_thread_yield();
        pthread_mutex_lock(&store->mutex);
    }
}

// Whether the object is of this session: *place is set, and *stored to a copy of its coded bytes
// where its pack is still in memory.
static bool
find_in_session(VsChunkStore *store, VsCodec *codec, const VsDigest *digest, VsIndexEntry *place,
                const void **stored)
{
    pthread_mutex_lock(&store->mutex);
    const VsEntrySlot *slot = session_slot_locked(store, digest);
    if (slot != NULL) {
        const VsSessionPack *pack = slot->pack;
        *place = (VsIndexEntry){.entry = slot->entry, .pack = pack->id};
        if (pack->builder != NULL && codec != NULL) {
            void *copy = vs_codec_scratch(codec, slot->entry.stored_length);
            memcpy(copy, vs_pack_builder_stored(pack->builder, &slot->entry),
                   slot->entry.stored_length);
            *stored = copy;
        }
    }
    pthread_mutex_unlock(&store->mutex);
    return slot != NULL;
}

static bool
try_session(Read *read)
{
    VsIndexEntry place;
    const void *stored = NULL;
    if (!find_in_session(read->access->store, read->access->codec, read->digest, &place, &stored)) {
        return false;
    }
    if (stored == NULL || place.entry.raw_length < read->min_length ||
        place.entry.raw_length > read->max_length) {
        return try_place(read, &place);
    }
    read->raw_length = place.entry.raw_length;
    return vs_chunk_store_decode(read->access->codec, &place.entry, stored, read->raw, NULL);
}

static bool
try_strays(Read *read, GError **error)
{
    VsIndexEntry place;
    return find_stray(read->access->store, read->digest, &place, error) && try_place(read, &place);
}

static bool
set_not_read(Read *read, GError **error)
{
    char hex[VS_DIGEST_HEX_BYTES];
    vs_digest_to_hex(read->digest, hex);
    if (read->damage == NULL) {
        g_set_error(error, VS_CHUNK_STORE_ERROR, VS_CHUNK_STORE_ERROR_MISSING,
                    "read object %s: it is in no pack", hex);
    } else if (read->damage->domain == VS_OBJECT_STORE_ERROR &&
               read->damage->code != VS_OBJECT_STORE_ERROR_SHORT) {
        g_propagate_prefixed_error(error, g_steal_pointer(&read->damage), "read object %s: ", hex);
    } else {
        g_set_error(error, VS_CHUNK_STORE_ERROR, VS_CHUNK_STORE_ERROR_CORRUPT,
                    "read object %s: it is damaged: %s", hex, read->damage->message);
    }
    return false;
}

static bool
read_object(Read *read, GError **error)
{
    VsChunkStore *store = read->access->store;
    if (try_session(read) || try_index(read)) {
        return true;
    }
    GError *cause = NULL;
    if ((vs_chunk_store_reload_index(store, &cause) && try_index(read)) ||
        (cause == NULL && try_strays(read, &cause))) {
        return true;
    }
    // An index that is damaged where no look-up notices hides packs: without it, they are strays.
    if (cause == NULL && vs_chunk_store_distrust_index(store)) {
        pthread_mutex_lock(&store->stray.mutex);
        store->stray.listed_at_us = 0;
        pthread_mutex_unlock(&store->stray.mutex);
        if (try_strays(read, &cause)) {
            return true;
        }
    }
    if (cause != NULL) {
        g_propagate_error(error, cause);
        return false;
    }
    return set_not_read(read, error);
}

bool
vs_chunk_store_get(VsChunkAccess *access, VsObjectType type, const VsDigest *digest, void *raw,
                   size_t raw_length, GError **error)
{
    g_auto(Read) read = {access, digest, raw, .min_length = raw_length, .max_length = raw_length};
    return read_object(&read, error);
}

bool
vs_chunk_store_get_upto(VsChunkAccess *access, VsObjectType type, const VsDigest *digest, void *raw,
                        size_t *length, GError **error)
{
    g_auto(Read) read = {access, digest, raw, .max_length = *length};
    if (!read_object(&read, error)) {
        return false;
    }
    *length = read.raw_length;
    return true;
}

// Where it is ---------------------------------------------------------------------------------

static bool
locate_in_index(VsChunkStore *store, const VsDigest *digest, VsIndexEntry *place)
{
    g_autoptr(VsIndexSet) set = vs_chunk_store_index_set(store);
    VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES];
    unsigned count = vs_chunk_store_find(store, set, digest, found);
    for (unsigned i = 0; i < count; i++) {
        if (vs_chunk_store_has_pack(store, store->located_packs, &found[i].pack)) {
            *place = found[i];
            return true;
        }
    }
    return false;
}

bool
vs_chunk_store_locate(VsChunkStore *store, const VsDigest *digest, VsPackId *pack,
                      VsPackEntry *entry, GError **error)
{
    VsIndexEntry place;
    const void *unused = NULL;
    GError *cause = NULL;
    bool found =
        find_in_session(store, NULL, digest, &place, &unused) ||
        locate_in_index(store, digest, &place) ||
        (vs_chunk_store_reload_index(store, &cause) && locate_in_index(store, digest, &place)) ||
        (cause == NULL && find_stray(store, digest, &place, &cause));
    if (found) {
        *pack = place.pack;
        *entry = place.entry;
        return true;
    }
    if (cause != NULL) {
        g_propagate_error(error, cause);
        return false;
    }
    Read read = {.digest = digest};
    return set_not_read(&read, error);
}
