// SPDX-License-Identifier: LGPL-2.1-or-later
// The name of a piece of content: SHA-256 of its bytes.
//
// All 32 bytes zero is no digest of anything we will meet; it is the constant for a chunk of zeroes
// and for a subtree that holds nothing else, which are never stored.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

#define VS_DIGEST_BYTES 32
#define VS_DIGEST_HEX_BYTES (2 * VS_DIGEST_BYTES + 1) // with the terminating NUL

typedef struct {
    uint8_t bytes[VS_DIGEST_BYTES];
} VsDigest;

extern const VsDigest VS_DIGEST_ZERO;

// Any thread.
void vs_digest_compute(const void *data, size_t length, VsDigest *digest);
bool vs_digest_equal(const VsDigest *a, const VsDigest *b);
bool vs_digest_is_zero(const VsDigest *digest);
int vs_digest_compare(const VsDigest *a, const VsDigest *b);

// The digest of bytes that come in pieces. One thread at a time.
typedef struct _VsDigestStream VsDigestStream;
VsDigestStream *vs_digest_stream_new(void);
void vs_digest_stream_free(VsDigestStream *stream);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsDigestStream, vs_digest_stream_free)
void vs_digest_stream_add(VsDigestStream *stream, const void *data, size_t length);
void vs_digest_stream_finish(VsDigestStream *stream, VsDigest *digest); // once

void vs_digest_to_hex(const VsDigest *digest, char hex[VS_DIGEST_HEX_BYTES]);
bool vs_digest_from_hex(const char *hex, VsDigest *digest); // exactly 64 lower-case hex digits

G_END_DECLS
