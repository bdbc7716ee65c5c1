// SPDX-License-Identifier: LGPL-2.1-or-later
// How an object (chunk or node) is coded in a pack: as it is, or compressed with zstd.
//
// Pure. One VsCodec context per thread (it owns zstd's state and is reused). What does not shrink
// by at least 1/16 is stored as it is; the decision to try is cheap for data that will not
// compress.
#pragma once

#include "nbd-export/store/digest.h"

#include <sys/uio.h>

G_BEGIN_DECLS

#define VS_CODEC_ERROR (vs_codec_error_quark())
GQuark vs_codec_error_quark(void);

typedef enum {
    VS_CODEC_ERROR_CORRUPT, // can't be decoded, or its digest is not the expected one
} VsCodecError;

typedef enum {
    VS_CODING_PLAIN = 0,
    VS_CODING_ZSTD = 1,
} VsCoding;

// Default level, measured in tests/bench.
#define VS_CODEC_ZSTD_LEVEL 1

typedef struct _VsCodec VsCodec;
VsCodec *vs_codec_new(int zstd_level);
void vs_codec_free(VsCodec *codec);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsCodec, vs_codec_free)

// A buffer of the codec of at least length bytes, for the stored form of what is to be decoded
// next. Valid until the codec's next call but decode.
void *vs_codec_scratch(VsCodec *codec, size_t length);

// Codes raw; *stored points to raw itself or to a buffer of the codec, valid until its next call.
VsCoding vs_codec_encode(VsCodec *codec, const void *raw, size_t raw_length, const void **stored,
                         size_t *stored_length);

// Decodes stored, which is only read, into raw (which may be stored itself if the coding is plain).
// What comes out must fill raw exactly and have the digest expected (VS_CODEC_ERROR_CORRUPT
// otherwise).
bool vs_codec_decode(VsCodec *codec, VsCoding coding, struct iovec stored, struct iovec raw,
                     const VsDigest *expected, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
