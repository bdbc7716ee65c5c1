// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/digest-set.h"

#include <string.h>

#define FIRST_CAPACITY 1024u // a power of two

struct _VsDigestSet {
    VsDigest *slots; // VS_DIGEST_ZERO: free
    uint64_t capacity;
    uint64_t size;
};

VsDigestSet *
vs_digest_set_new(void)
{
    VsDigestSet *set = g_new0(VsDigestSet, 1);

    set->capacity = FIRST_CAPACITY;
    set->slots = g_new0(VsDigest, set->capacity);
    return set;
}

void
vs_digest_set_free(VsDigestSet *set)
{
    if (set == NULL)
        return;
    g_free(set->slots);
    g_free(set);
}

// The slot that holds the digest, or the free one where it belongs.
static VsDigest *
find(const VsDigestSet *set, const VsDigest *digest)
{
    uint64_t slot;

    memcpy(&slot, digest->bytes, sizeof slot);
    for (slot &= set->capacity - 1;; slot = (slot + 1) & (set->capacity - 1)) {
        VsDigest *found = &set->slots[slot];
        if (vs_digest_is_zero(found) || vs_digest_equal(found, digest))
            return found;
    }
}

static void
grow(VsDigestSet *set)
{
    VsDigestSet larger = {g_new0(VsDigest, 2 * set->capacity), 2 * set->capacity, set->size};

    for (uint64_t slot = 0; slot < set->capacity; slot++) {
        if (!vs_digest_is_zero(&set->slots[slot]))
            *find(&larger, &set->slots[slot]) = set->slots[slot];
    }
    g_free(set->slots);
    *set = larger;
}

bool
vs_digest_set_add(VsDigestSet *set, const VsDigest *digest)
{
    g_assert(!vs_digest_is_zero(digest));
    VsDigest *slot = find(set, digest);
    if (!vs_digest_is_zero(slot))
        return false;
    *slot = *digest;
    set->size++;
    if (set->size > set->capacity / 4 * 3)
        grow(set);
    return true;
}

bool
vs_digest_set_contains(const VsDigestSet *set, const VsDigest *digest)
{
    return !vs_digest_is_zero(digest) && !vs_digest_is_zero(find(set, digest));
}

uint64_t
vs_digest_set_size(const VsDigestSet *set)
{
    return set->size;
}

const VsDigest *
vs_digest_set_next(const VsDigestSet *set, uint64_t *position)
{
    while (*position < set->capacity) {
        const VsDigest *digest = &set->slots[(*position)++];
        if (!vs_digest_is_zero(digest))
            return digest;
    }
    return NULL;
}
