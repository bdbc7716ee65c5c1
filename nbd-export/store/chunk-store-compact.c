// SPDX-License-Identifier: LGPL-2.1-or-later
// Removes what is dead and rewrites what is mostly dead.
//
// Packs without anything wanted go first: that needs no space, so that it works on a full disk, and
// index entries of packs that are gone count for nothing. Then the order makes it safe to be
// killed: new packs are durable, then segments that cover them, then one segment in which only
// remaining packs occur, then the old segments go, then the old packs.
#include "nbd-export/store/chunk-store-internal.h"

#include <string.h>

// Packs smaller than this come from small snapshots. Many of them are put together, few are left
// alone: rewriting them each time would cost more.
#define SMALL_PACK_BYTES (VS_PACK_TARGET_BYTES / 4)
#define SMALL_PACKS_TOLERATED 16u

typedef enum {
    PACK_STAYS,
    PACK_REWRITTEN,
    PACK_REMOVED,
} PackFate;

typedef struct {
    VsPackId id;
    uint64_t size_bytes;
    uint64_t object_bytes; // of all its records
    uint64_t live_bytes;   // of those to keep
    PackFate fate;
} PackPlan;

typedef struct {
    VsChunkStore *store;
    VsKeepFunc keep;
    gpointer user_data;
    VsCodec *codec;
    uint8_t *raw;        // VS_PACK_MAX_RAW_BYTES
    GArray *plans;       // of PackPlan
    GHashTable *listed;  // set of VsPackId
    GHashTable *staying; // set of VsPackId: of the plans
    unsigned damaged;    // packs that stay because something wanted in them can't be read
    char *damage;        // the first one's
} Compact;

static void
compact_clear(Compact *compact)
{
    g_clear_pointer(&compact->damage, g_free);
    g_clear_pointer(&compact->raw, g_free);
    g_clear_pointer(&compact->codec, vs_codec_free);
    g_clear_pointer(&compact->plans, g_array_unref);
    g_clear_pointer(&compact->listed, g_hash_table_unref);
    g_clear_pointer(&compact->staying, g_hash_table_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Compact, compact_clear)

static void
note_damage(Compact *compact, PackPlan *plan, const char *what)
{
    plan->fate = PACK_STAYS;
    compact->damaged++;
    if (compact->damage == NULL) {
        char name[VS_PACK_NAME_BYTES];
        vs_pack_id_to_name(&plan->id, name);
        compact->damage = g_strdup_printf("pack %s: %s", name, what);
    }
}

// Whether another pack's copy of the object is the one to keep: that in the pack with the least id,
// if it can be read.
static bool
is_kept_elsewhere(Compact *compact, const VsPackId *pack, const VsDigest *digest)
{
    VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES];
    g_autoptr(VsIndexSet) set = vs_chunk_store_index_set(compact->store);
    unsigned count = vs_chunk_store_find(compact->store, set, digest, found);
    for (unsigned i = 0; i < count; i++) {
        if (memcmp(&found[i].pack, pack, sizeof *pack) < 0 &&
            g_hash_table_contains(compact->listed, &found[i].pack) &&
            vs_chunk_store_read_at(compact->store, compact->codec, &found[i], compact->raw, NULL)) {
            return true;
        }
    }
    return false;
}

static bool
is_live(Compact *compact, const VsPackId *pack, const VsPackEntry *entry)
{
    return compact->keep(&entry->digest, compact->user_data) &&
           !is_kept_elsewhere(compact, pack, &entry->digest);
}

// Planning ------------------------------------------------------------------------------------

static void
plan_pack(Compact *compact, const VsPackId *id)
{
    PackPlan plan = {.id = *id, .fate = PACK_STAYS};
    g_auto(VsPackTable) table = {0};
    g_autoptr(GError) cause = NULL;
    if (!vs_pack_table_read(compact->store->objects, id, &table, &cause)) {
        note_damage(compact, &plan, cause->message);
        g_array_append_val(compact->plans, plan);
        return;
    }
    plan.size_bytes = table.size_bytes;
    for (guint i = 0; i < table.entries->len; i++) {
        const VsPackEntry *entry = &g_array_index(table.entries, VsPackEntry, i);
        uint64_t bytes = (uint64_t)VS_PACK_RECORD_BYTES + entry->stored_length;
        plan.object_bytes += bytes;
        plan.live_bytes += is_live(compact, id, entry) ? bytes : 0;
    }
    if (table.lost) {
        // What the scan did not reach may be wanted, and no one can tell.
        note_damage(compact, &plan, table.damage);
    } else if (plan.live_bytes == 0) {
        plan.fate = PACK_REMOVED;
    } else if (plan.live_bytes < plan.object_bytes / 4 * 3 || table.damage != NULL) {
        plan.fate = PACK_REWRITTEN;
    }
    g_array_append_val(compact->plans, plan);
}

static void
plan_small_packs(Compact *compact)
{
    unsigned count = 0;
    bool adds_one = false; // what is rewritten may end in a small pack
    for (guint i = 0; i < compact->plans->len; i++) {
        const PackPlan *plan = &g_array_index(compact->plans, PackPlan, i);
        count += plan->fate == PACK_STAYS && plan->size_bytes < SMALL_PACK_BYTES;
        adds_one |= plan->fate == PACK_REWRITTEN;
    }
    if (count + adds_one <= SMALL_PACKS_TOLERATED) {
        return;
    }
    for (guint i = 0; i < compact->plans->len; i++) {
        PackPlan *plan = &g_array_index(compact->plans, PackPlan, i);
        // Nothing live: it is one that is kept for its damage.
        if (plan->fate == PACK_STAYS && plan->size_bytes < SMALL_PACK_BYTES &&
            plan->live_bytes > 0) {
            plan->fate = PACK_REWRITTEN;
        }
    }
}

static void
note_staying(Compact *compact)
{
    compact->staying = vs_pack_id_set_new();
    for (guint i = 0; i < compact->plans->len; i++) {
        const PackPlan *plan = &g_array_index(compact->plans, PackPlan, i);
        if (plan->fate == PACK_STAYS) {
            vs_pack_id_set_add(compact->staying, &plan->id);
        }
    }
}

// Copying -------------------------------------------------------------------------------------

// Whether a pack that is left as it is has the object, too: another copy would only be in the way
// of the next compaction.
static bool
is_in_staying_pack(Compact *compact, const VsDigest *digest)
{
    VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES];
    g_autoptr(VsIndexSet) set = vs_chunk_store_index_set(compact->store);
    unsigned count = vs_chunk_store_find(compact->store, set, digest, found);
    for (unsigned i = 0; i < count; i++) {
        if (g_hash_table_contains(compact->staying, &found[i].pack) &&
            vs_chunk_store_read_at(compact->store, compact->codec, &found[i], compact->raw, NULL)) {
            return true;
        }
    }
    return false;
}

// Verifies the object and puts it, as it is coded, into the current pack.
static bool
copy_object(Compact *compact, const VsPackId *pack, const VsPackEntry *entry, GError **error)
{
    VsChunkStore *store = compact->store;
    g_autofree char *object = vs_pack_object_name(pack);
    g_autofree void *stored = g_malloc(entry->stored_length);
    if (!vs_object_store_get_range(store->objects, object, entry->offset, stored,
                                   entry->stored_length, error) ||
        !vs_chunk_store_decode(compact->codec, entry, stored, compact->raw, error)) {
        return false;
    }
    VsPackEntry copy = *entry;
    pthread_mutex_lock(&store->mutex);
    bool done = true;
    if (vs_entry_table_find(store->session, &entry->digest) == NULL) {
        vs_entry_table_add(store->session, entry, NULL);
        store->reserved++;
        done = vs_chunk_store_add_locked(store, &copy, stored) ||
               vs_chunk_store_check_locked(store, error);
    }
    pthread_mutex_unlock(&store->mutex);
    return done;
}

// False: the store has failed. An object that can't be read makes the pack stay.
static bool
copy_pack(Compact *compact, PackPlan *plan, GError **error)
{
    VsChunkStore *store = compact->store;
    g_auto(VsPackTable) table = {0};
    g_autoptr(GError) cause = NULL;
    if (!vs_pack_table_read(store->objects, &plan->id, &table, &cause)) {
        note_damage(compact, plan, cause->message);
        return true;
    }
    for (guint i = 0; i < table.entries->len; i++) {
        const VsPackEntry *entry = &g_array_index(table.entries, VsPackEntry, i);
        g_autoptr(GError) unread = NULL;
        if (!is_live(compact, &plan->id, entry) || is_in_staying_pack(compact, &entry->digest) ||
            copy_object(compact, &plan->id, entry, &unread)) {
            continue;
        }
        pthread_mutex_lock(&store->mutex);
        bool sound = vs_chunk_store_check_locked(store, error);
        pthread_mutex_unlock(&store->mutex);
        if (!sound) {
            return false;
        }
        note_damage(compact, plan, unread->message);
        break; // it stays as a whole
    }
    bool is_much = vs_entry_table_length(store->session) >= VS_CHUNK_STORE_SEGMENT_ENTRIES;
    return !is_much || vs_chunk_store_index_durable(store, error);
}

// The new index -------------------------------------------------------------------------------

// The packs that there will be.
static GHashTable *
remaining_packs(Compact *compact, GError **error)
{
    g_autoptr(GArray) packs = vs_pack_list(compact->store->objects, error);
    if (packs == NULL) {
        return NULL;
    }
    GHashTable *remaining = vs_pack_id_set_new();
    for (guint i = 0; i < packs->len; i++) {
        vs_pack_id_set_add(remaining, &g_array_index(packs, VsPackId, i));
    }
    for (guint i = 0; i < compact->plans->len; i++) {
        const PackPlan *plan = &g_array_index(compact->plans, PackPlan, i);
        if (plan->fate != PACK_STAYS) {
            g_hash_table_remove(remaining, &plan->id);
        }
    }
    return remaining;
}

static bool
is_subset(GHashTable *set, GHashTable *of)
{
    GHashTableIter iterator;
    gpointer id;
    g_hash_table_iter_init(&iterator, set);
    while (g_hash_table_iter_next(&iterator, &id, NULL)) {
        if (!g_hash_table_contains(of, id)) {
            return false;
        }
    }
    return true;
}

// Makes one segment of all, in which only remaining packs occur. Nothing to do where that is so
// already.
static bool
renew_index(VsChunkStore *store, GHashTable *remaining, GError **error)
{
    g_autoptr(GHashTable) covered = vs_chunk_store_covered_packs(store);
    if (is_subset(covered, remaining)) {
        return true;
    }
    g_autoptr(VsIndexSet) set = vs_chunk_store_index_set(store);
    VsPackIndex *damaged = NULL;
    g_autoptr(VsPackIndex) merged = NULL;
    g_autoptr(GPtrArray) in = g_ptr_array_new();
    if (g_hash_table_size(remaining) > 0) {
        merged = vs_pack_index_merge(store->objects, set->segments, remaining, &damaged, error);
        if (merged == NULL) {
            return false;
        }
        g_ptr_array_add(in, merged);
    }
    vs_chunk_store_exchange(store, set->segments, in);
    for (guint i = 0; i < set->segments->len; i++) {
        g_autofree char *object =
            g_strconcat("index/", vs_pack_index_name(g_ptr_array_index(set->segments, i)), NULL);
        if (!vs_object_store_remove(store->objects, object, error)) {
            return false;
        }
    }
    return true;
}

static bool
remove_packs(Compact *compact, PackFate fate, uint64_t *removed, GError **error)
{
    VsChunkStore *store = compact->store;
    for (guint i = 0; i < compact->plans->len; i++) {
        const PackPlan *plan = &g_array_index(compact->plans, PackPlan, i);
        if (plan->fate != fate) {
            continue;
        }
        pthread_mutex_lock(&store->mutex);
        g_hash_table_remove(store->known_packs, &plan->id);
        g_hash_table_remove(store->located_packs, &plan->id);
        pthread_mutex_unlock(&store->mutex);
        g_autofree char *object = vs_pack_object_name(&plan->id);
        if (!vs_object_store_remove(store->objects, object, error)) {
            return false;
        }
        (*removed)++;
    }
    return true;
}

// All of it -------------------------------------------------------------------------------------

static bool
prepare(Compact *compact, GError **error)
{
    VsChunkStore *store = compact->store;
    if (!vs_chunk_store_flush(store, error) || !vs_chunk_store_reload_index(store, error)) {
        return false;
    }
    // A large segment that is damaged would let the merge fail when it is too late to make it anew.
    vs_chunk_store_distrust_index(store);
    if (!vs_chunk_store_reindex(store, error)) {
        return false;
    }
    g_autoptr(GArray) packs = vs_pack_list(store->objects, error);
    if (packs == NULL) {
        return false;
    }
    compact->codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    compact->raw = g_malloc(VS_PACK_MAX_RAW_BYTES);
    compact->plans = g_array_new(FALSE, FALSE, sizeof(PackPlan));
    compact->listed = vs_pack_id_set_new();
    for (guint i = 0; i < packs->len; i++) {
        vs_pack_id_set_add(compact->listed, &g_array_index(packs, VsPackId, i));
    }
    for (guint i = 0; i < packs->len; i++) {
        plan_pack(compact, &g_array_index(packs, VsPackId, i));
    }
    plan_small_packs(compact);
    note_staying(compact);
    return true;
}

static bool
carry_out(Compact *compact, VsCompactResult *result, GError **error)
{
    if (!remove_packs(compact, PACK_REMOVED, &result->removed_packs, error)) {
        return false;
    }
    for (guint i = 0; i < compact->plans->len; i++) {
        PackPlan *plan = &g_array_index(compact->plans, PackPlan, i);
        if (plan->fate == PACK_REWRITTEN && !copy_pack(compact, plan, error)) {
            return false;
        }
    }
    if (!vs_chunk_store_flush(compact->store, error)) {
        return false;
    }
    g_autoptr(GHashTable) remaining = remaining_packs(compact, error);
    return remaining != NULL && renew_index(compact->store, remaining, error) &&
           remove_packs(compact, PACK_REWRITTEN, &result->rewritten_packs, error);
}

bool
vs_chunk_store_compact(VsChunkStore *store, VsKeepFunc keep, gpointer user_data,
                       VsCompactResult *result, GError **error)
{
    g_auto(Compact) compact = {.store = store, .keep = keep, .user_data = user_data};
    *result = (VsCompactResult){0};
    uint64_t before = 0;
    uint64_t after = 0;
    uint64_t packs = 0;
    if (!prepare(&compact, error) || !vs_chunk_store_size(store, &before, &packs, error) ||
        !carry_out(&compact, result, error) || !vs_chunk_store_size(store, &after, &packs, error)) {
        return false;
    }
    result->freed_bytes = before > after ? before - after : 0;
    if (compact.damaged > 0) {
        g_set_error(error, VS_CHUNK_STORE_ERROR, VS_CHUNK_STORE_ERROR_CORRUPT,
                    "prune: %u damaged packs are left as they are, the rest is done; the first, %s",
                    compact.damaged, compact.damage);
        return false;
    }
    return true;
}
