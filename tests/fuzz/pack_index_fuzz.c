// SPDX-License-Identifier: LGPL-2.1-or-later
// A whole index segment, opened and asked as the chunk store does, from an object store that holds
// nothing else.
#include <stdlib.h>
#include <string.h>

#include "nbd-export/store/pack-index-layout.h"
#include "tests/fuzz/fuzz.h"

typedef struct {
    VsObjectStore base;
    const uint8_t *data;
    size_t size;
} OneObject;

static bool
get_range(VsObjectStore *store, const char *name, uint64_t offset, void *buffer, size_t length,
          GError **error)
{
    const OneObject *object = (const OneObject *)store;
    if (offset > object->size || length > object->size - offset) {
        abort(); // the segment's size was told: nothing beyond it may be asked for
    }
    if (length > 0) {
        memcpy(buffer, object->data + offset, length);
    }
    return true;
}

static bool
get_size(VsObjectStore *store, const char *name, uint64_t *size_bytes, GError **error)
{
    *size_bytes = ((const OneObject *)store)->size;
    return true;
}

static const VsObjectStoreOps ops = {.get_range = get_range, .get_size = get_size};

static void
ask(VsPackIndex *index, const VsDigest *digest)
{
    VsIndexEntry found[VS_PACK_INDEX_MAX_MATCHES];
    unsigned count = 0;
    g_autoptr(GError) error = NULL;
    bool done = vs_pack_index_find(index, digest, found, &count, &error);
    if (done != (error == NULL) || count > VS_PACK_INDEX_MAX_MATCHES) {
        abort();
    }
    for (unsigned i = 0; i < count; i++) {
        if (!vs_digest_equal(&found[i].entry.digest, digest)) {
            abort();
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    OneObject object = {.base = {.ops = &ops}, .data = data, .size = size};
    VsIndexEntry entry;
    if (size >= VS_PACK_INDEX_ENTRY_BYTES) {
        (void)!vs_index_entry_decode(data, &entry);
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(VsPackIndex) index = vs_pack_index_open(&object.base, "segment", &error);
    if (index == NULL) {
        return 0;
    }
    g_autoptr(GArray) packs = g_array_new(FALSE, FALSE, sizeof(VsPackId));
    (void)!vs_pack_index_read_packs(index, packs, NULL);
    (void)!vs_pack_index_verify(index, NULL);
    for (size_t at = 0; at + VS_DIGEST_BYTES <= size; at += 32) {
        VsDigest digest;
        memcpy(digest.bytes, data + at, sizeof digest.bytes);
        ask(index, &digest);
    }
    return 0;
}
