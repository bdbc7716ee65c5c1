// SPDX-License-Identifier: LGPL-2.1-or-later
// A set of digests in memory: what prune and check have seen.
//
// Open addressing over a plain array: 43 to 86 bytes a digest, 1.5 times that while it grows.
// Digests are uniform, so their first bytes are the hash. One thread at a time.
#pragma once

#include "nbd-export/store/digest.h"

G_BEGIN_DECLS

typedef struct _VsDigestSet VsDigestSet;

VsDigestSet *vs_digest_set_new(void);
void vs_digest_set_free(VsDigestSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsDigestSet, vs_digest_set_free)

// True where it was not in the set yet. VS_DIGEST_ZERO can't be added.
bool vs_digest_set_add(VsDigestSet *set, const VsDigest *digest);
bool vs_digest_set_contains(const VsDigestSet *set, const VsDigest *digest);
uint64_t vs_digest_set_size(const VsDigestSet *set);
// The digests in no order: start with *position 0; NULL at the end. No add in between.
const VsDigest *vs_digest_set_next(const VsDigestSet *set, uint64_t *position);

G_END_DECLS
