// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/chunk-store-internal.h"

#include <string.h>

// The set -------------------------------------------------------------------------------------

static void
unref_segment(gpointer segment)
{
    vs_pack_index_unref(segment);
}

VsIndexSet *
vs_index_set_new(void)
{
    VsIndexSet *set = g_new0(VsIndexSet, 1);
    set->references = 1;
    set->segments = g_ptr_array_new_with_free_func(unref_segment);
    return set;
}

VsIndexSet *
vs_index_set_ref(VsIndexSet *set)
{
    g_atomic_int_inc(&set->references);
    return set;
}

void
vs_index_set_unref(VsIndexSet *set)
{
    if (set != NULL && g_atomic_int_dec_and_test(&set->references)) {
        g_ptr_array_unref(set->segments);
        g_free(set);
    }
}

VsIndexSet *
vs_chunk_store_index_set(VsChunkStore *store)
{
    pthread_mutex_lock(&store->mutex);
    VsIndexSet *set = vs_index_set_ref(store->index);
    pthread_mutex_unlock(&store->mutex);
    return set;
}

static VsPackIndex *
segment_named(GPtrArray *segments, const char *name)
{
    for (guint i = 0; segments != NULL && i < segments->len; i++) {
        VsPackIndex *segment = g_ptr_array_index(segments, i);
        if (strcmp(vs_pack_index_name(segment), name) == 0) {
            return segment;
        }
    }
    return NULL;
}

static void
add_unless_named(VsIndexSet *set, GPtrArray *from, GPtrArray *except)
{
    for (guint i = 0; from != NULL && i < from->len; i++) {
        VsPackIndex *segment = g_ptr_array_index(from, i);
        const char *name = vs_pack_index_name(segment);
        if (segment_named(except, name) == NULL && segment_named(set->segments, name) == NULL) {
            g_ptr_array_add(set->segments, vs_pack_index_ref(segment));
        }
    }
}

void
vs_chunk_store_exchange(VsChunkStore *store, GPtrArray *out, GPtrArray *in)
{
    VsIndexSet *set = vs_index_set_new();
    pthread_mutex_lock(&store->mutex);
    VsIndexSet *old = store->index;
    add_unless_named(set, old->segments, out);
    add_unless_named(set, in, NULL);
    store->index = set;
    pthread_mutex_unlock(&store->mutex);
    vs_index_set_unref(old);
}

// Takes one out of use that could not be read. One that is just gone was merged into another by
// another process.
static void
drop_segment(VsChunkStore *store, VsPackIndex *segment, const GError *cause)
{
    bool gone = g_error_matches(cause, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND);
    g_autoptr(GPtrArray) out = g_ptr_array_new();
    g_ptr_array_add(out, segment);
    if (!gone) {
        pthread_mutex_lock(&store->mutex);
        g_hash_table_add(store->bad_segments, g_strdup(vs_pack_index_name(segment)));
        store->index_doubtful = true;
        pthread_mutex_unlock(&store->mutex);
    }
    vs_chunk_store_exchange(store, out, NULL);
    if (gone) {
        g_autoptr(GError) ignored = NULL; // then fewer objects are known, and reads look further
        if (!vs_chunk_store_reload_index(store, &ignored)) {
            g_debug("reload index: %s", ignored->message);
        }
    }
}

static bool
is_bad(VsChunkStore *store, const char *name)
{
    pthread_mutex_lock(&store->mutex);
    bool bad = g_hash_table_contains(store->bad_segments, name);
    pthread_mutex_unlock(&store->mutex);
    return bad;
}

// Opens the segment and adds it to in, unless it can't be.
static void
open_segment(VsChunkStore *store, const char *name, GPtrArray *in)
{
    g_autoptr(GError) cause = NULL;
    VsPackIndex *segment = vs_pack_index_open(store->objects, name, &cause);
    if (segment != NULL) {
        g_ptr_array_add(in, segment);
    } else if (!g_error_matches(cause, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND)) {
        pthread_mutex_lock(&store->mutex);
        g_hash_table_add(store->bad_segments, g_strdup(name));
        store->index_doubtful = true;
        pthread_mutex_unlock(&store->mutex);
    }
}

bool
vs_chunk_store_reload_index(VsChunkStore *store, GError **error)
{
    g_autoptr(VsIndexSet) before = vs_chunk_store_index_set(store);
    g_autoptr(GPtrArray) names = vs_object_store_list(store->objects, "index", error);
    if (names == NULL) {
        return false;
    }
    g_autoptr(GPtrArray) in = g_ptr_array_new_with_free_func(unref_segment);
    g_autoptr(GPtrArray) out = g_ptr_array_new();
    g_autoptr(GHashTable) listed = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i);
        VsPackId id;
        g_hash_table_add(listed, (gpointer)name);
        if (vs_pack_id_from_name(name, &id) && segment_named(before->segments, name) == NULL &&
            !is_bad(store, name)) {
            open_segment(store, name, in);
        }
    }
    for (guint i = 0; i < before->segments->len; i++) {
        VsPackIndex *segment = g_ptr_array_index(before->segments, i);
        if (!g_hash_table_contains(listed, vs_pack_index_name(segment))) {
            g_ptr_array_add(out, segment);
        }
    }
    if (in->len > 0 || out->len > 0) {
        vs_chunk_store_exchange(store, out, in);
    }
    return true;
}

// Look-up -------------------------------------------------------------------------------------

unsigned
vs_chunk_store_find(VsChunkStore *store, VsIndexSet *set, const VsDigest *digest,
                    VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES])
{
    unsigned count = 0;
    for (guint i = 0; i < set->segments->len; i++) {
        VsPackIndex *segment = g_ptr_array_index(set->segments, i);
        g_autoptr(GError) cause = NULL;
        if (!vs_pack_index_find(segment, digest, found, &count, &cause)) {
            drop_segment(store, segment, cause);
        }
    }
    return count;
}

bool
vs_chunk_store_distrust_index(VsChunkStore *store)
{
    g_autoptr(VsIndexSet) set = vs_chunk_store_index_set(store);
    bool found_one = false;
    for (guint i = 0; i < set->segments->len; i++) {
        VsPackIndex *segment = g_ptr_array_index(set->segments, i);
        g_autoptr(GError) cause = NULL;
        if (!vs_pack_index_verify(segment, &cause)) {
            drop_segment(store, segment, cause);
            found_one = true;
        }
    }
    return found_one;
}

bool
vs_chunk_store_has_pack(VsChunkStore *store, GHashTable *seen, const VsPackId *id)
{
    pthread_mutex_lock(&store->mutex);
    bool known = g_hash_table_contains(seen, id);
    pthread_mutex_unlock(&store->mutex);
    if (known) {
        return true;
    }
    g_autofree char *object = vs_pack_object_name(id);
    uint64_t size_bytes = 0;
    if (!vs_object_store_get_size(store->objects, object, &size_bytes, NULL)) {
        return false;
    }
    pthread_mutex_lock(&store->mutex);
    vs_pack_id_set_add(seen, id);
    pthread_mutex_unlock(&store->mutex);
    return true;
}

GHashTable *
vs_chunk_store_covered_packs(VsChunkStore *store)
{
    GHashTable *covered = vs_pack_id_set_new();
    g_autoptr(VsIndexSet) set = vs_chunk_store_index_set(store);
    for (guint i = 0; i < set->segments->len; i++) {
        VsPackIndex *segment = g_ptr_array_index(set->segments, i);
        g_autoptr(GArray) packs = g_array_new(FALSE, FALSE, sizeof(VsPackId));
        g_autoptr(GError) cause = NULL;
        if (!vs_pack_index_read_packs(segment, packs, &cause)) {
            drop_segment(store, segment, cause);
        }
        for (guint j = 0; j < packs->len; j++) {
            vs_pack_id_set_add(covered, &g_array_index(packs, VsPackId, j));
        }
    }
    return covered;
}

// Merging -------------------------------------------------------------------------------------

static gint
compare_counts(gconstpointer a, gconstpointer b)
{
    uint64_t left = vs_pack_index_count(*(VsPackIndex *const *)a);
    uint64_t right = vs_pack_index_count(*(VsPackIndex *const *)b);
    return left < right ? -1 : left > right;
}

// The smallest segments, on to where the next is more than twice as large as those before it
// together: so an entry is rewritten only each time what it is in has grown by half, and the
// segments' number grows with the logarithm of the entries'.
static GPtrArray *
choose_inputs(VsIndexSet *set)
{
    g_autoptr(GPtrArray) sorted = g_ptr_array_copy(set->segments, NULL, NULL);
    g_ptr_array_set_free_func(sorted, NULL);
    g_ptr_array_sort(sorted, compare_counts);
    GPtrArray *inputs = g_ptr_array_new();
    uint64_t sum = 0;
    for (guint i = 0; i < sorted->len; i++) {
        VsPackIndex *segment = g_ptr_array_index(sorted, i);
        if (i >= 2 && vs_pack_index_count(segment) > 2 * sum) {
            break;
        }
        sum += vs_pack_index_count(segment);
        g_ptr_array_add(inputs, segment);
    }
    return inputs;
}

void
vs_chunk_store_merge_segments(VsChunkStore *store)
{
    g_autoptr(VsIndexSet) set = vs_chunk_store_index_set(store);
    if (set->segments->len <= VS_CHUNK_STORE_MAX_SEGMENTS) {
        return;
    }
    g_autoptr(GPtrArray) inputs = choose_inputs(set);
    g_autoptr(GError) cause = NULL;
    VsPackIndex *damaged = NULL;
    g_autoptr(VsPackIndex) merged =
        vs_pack_index_merge(store->objects, inputs, NULL, &damaged, &cause);
    if (merged == NULL) {
        if (damaged != NULL) {
            drop_segment(store, damaged, cause);
        }
        return;
    }
    g_autoptr(GPtrArray) in = g_ptr_array_new();
    g_ptr_array_add(in, merged);
    vs_chunk_store_exchange(store, inputs, in);
    for (guint i = 0; i < inputs->len; i++) {
        // One that stays is merged again later: it says nothing untrue.
        const char *name = vs_pack_index_name(g_ptr_array_index(inputs, i));
        g_autofree char *object = g_strconcat("index/", name, NULL);
        if (!vs_object_store_remove(store->objects, object, NULL)) {
            g_debug("index segment %s stays", name);
        }
    }
}
