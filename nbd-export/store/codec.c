// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/codec.h"

#include <string.h>
#include <zstd.h>

struct _VsCodec {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
    int level;
    void *scratch;
    size_t scratch_length;
};

GQuark
vs_codec_error_quark(void)
{
    return g_quark_from_static_string("vs-codec-error-quark");
}

VsCodec *
vs_codec_new(int zstd_level)
{
    VsCodec *codec = g_new0(VsCodec, 1);
    codec->level = zstd_level;
    return codec;
}

void
vs_codec_free(VsCodec *codec)
{
    if (codec == NULL) {
        return;
    }
    ZSTD_freeCCtx(codec->compressor);
    ZSTD_freeDCtx(codec->decompressor);
    g_free(codec->scratch);
    g_free(codec);
}

void *
vs_codec_scratch(VsCodec *codec, size_t length)
{
    if (codec->scratch_length < length) {
        g_free(codec->scratch);
        codec->scratch = g_malloc(length);
        codec->scratch_length = length;
    }
    return codec->scratch;
}

// The contexts are made when first needed: a reader never compresses. What zstd calls a parameter
// is kept over calls.
static ZSTD_CCtx *
compressor(VsCodec *codec)
{
    if (codec->compressor == NULL) {
        codec->compressor = ZSTD_createCCtx();
        g_assert(codec->compressor != NULL);
        ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_compressionLevel, codec->level);
        ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_contentSizeFlag, 1);
        ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_checksumFlag, 0); // the digest is one
        ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_dictIDFlag, 0);
    }
    return codec->compressor;
}

VsCoding
vs_codec_encode(VsCodec *codec, const void *raw, size_t raw_length, const void **stored,
                size_t *stored_length)
{
    // A buffer of just what is worth storing makes zstd itself give up on the rest. There is no
    // test beforehand whether the data will compress: over random bytes zstd's level 1 goes at 4
    // GB/s, where SHA-256 goes at 1.5 GB/s.
    size_t worthwhile = raw_length - raw_length / 16;
    void *buffer = vs_codec_scratch(codec, MAX(worthwhile, 1));
    size_t compressed = ZSTD_compress2(compressor(codec), buffer, worthwhile, raw, raw_length);
    if (ZSTD_isError(compressed) || compressed >= raw_length) {
        *stored = raw;
        *stored_length = raw_length;
        return VS_CODING_PLAIN;
    }
    *stored = buffer;
    *stored_length = compressed;
    return VS_CODING_ZSTD;
}

static bool
decompress(VsCodec *codec, struct iovec stored, struct iovec raw, GError **error)
{
    if (codec->decompressor == NULL) {
        codec->decompressor = ZSTD_createDCtx();
        g_assert(codec->decompressor != NULL);
    }
    unsigned long long declared = ZSTD_getFrameContentSize(stored.iov_base, stored.iov_len);
    if (declared == ZSTD_CONTENTSIZE_ERROR ||
        (declared != ZSTD_CONTENTSIZE_UNKNOWN && declared != raw.iov_len)) {
        g_set_error(error, VS_CODEC_ERROR, VS_CODEC_ERROR_CORRUPT,
                    "decode object: the zstd frame is not one of %zu bytes", raw.iov_len);
        return false;
    }
    size_t length = ZSTD_decompressDCtx(codec->decompressor, raw.iov_base, raw.iov_len,
                                        stored.iov_base, stored.iov_len);
    if (ZSTD_isError(length) || length != raw.iov_len) {
        g_set_error(error, VS_CODEC_ERROR, VS_CODEC_ERROR_CORRUPT, "decode object: zstd: %s",
                    ZSTD_isError(length) ? ZSTD_getErrorName(length) : "it ends early");
        return false;
    }
    return true;
}

bool
vs_codec_decode(VsCodec *codec, VsCoding coding, struct iovec stored, struct iovec raw,
                const VsDigest *expected, GError **error)
{
    if (coding == VS_CODING_ZSTD) {
        if (!decompress(codec, stored, raw, error)) {
            return false;
        }
    } else if (coding == VS_CODING_PLAIN && stored.iov_len == raw.iov_len) {
        if (stored.iov_base != raw.iov_base) {
            memcpy(raw.iov_base, stored.iov_base, raw.iov_len);
        }
    } else {
        g_set_error(error, VS_CODEC_ERROR, VS_CODEC_ERROR_CORRUPT,
                    "decode object: coding %d of %zu bytes to %zu is none", (int)coding,
                    stored.iov_len, raw.iov_len);
        return false;
    }
    VsDigest digest;
    vs_digest_compute(raw.iov_base, raw.iov_len, &digest);
    if (!vs_digest_equal(&digest, expected)) {
        char hex[VS_DIGEST_HEX_BYTES];
        vs_digest_to_hex(expected, hex);
        g_set_error(error, VS_CODEC_ERROR, VS_CODEC_ERROR_CORRUPT,
                    "decode object: the content is not that of digest %s", hex);
        return false;
    }
    return true;
}
