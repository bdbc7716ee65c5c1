// SPDX-License-Identifier: LGPL-2.1-or-later
// Stored bytes as a damaged pack may hold them. The input: coding, two bytes of raw length, then
// the stored bytes.
#include <stdlib.h>
#include <string.h>

#include "nbd-export/store/codec.h"
#include "tests/fuzz/fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) {
        return 0;
    }
    size_t raw_length = (size_t)data[1] | (size_t)data[2] << 8;
    g_autoptr(VsCodec) codec = vs_codec_new(VS_CODEC_ZSTD_LEVEL);
    g_autofree uint8_t *raw = g_malloc0(raw_length + 1);
    g_autoptr(GError) error = NULL;
    // The digest is that of what a first run decodes to, so that the second one gets through
    // wherever the bytes decode at all.
    VsDigest digest = VS_DIGEST_ZERO;
    raw[raw_length] = 'z';
    struct iovec from = {(void *)(data + 3), size - 3};
    struct iovec to = {raw, raw_length};
    if (vs_codec_decode(codec, data[0], from, to, &digest, &error)) {
        abort(); // nothing has that digest
    }
    vs_digest_compute(raw, raw_length, &digest);
    g_clear_error(&error);
    bool decoded = vs_codec_decode(codec, data[0], from, to, &digest, &error);
    VsDigest again;
    vs_digest_compute(raw, raw_length, &again);
    if (decoded != (error == NULL) || raw[raw_length] != 'z' ||
        (decoded && !vs_digest_equal(&digest, &again))) {
        abort();
    }
    // What the bytes are, they can be stored and come back.
    const void *stored = NULL;
    size_t stored_length = 0;
    VsCoding coding = vs_codec_encode(codec, data, size, &stored, &stored_length);
    g_autofree uint8_t *copy = g_memdup2(stored, stored_length);
    g_autofree uint8_t *back = g_malloc(size);
    vs_digest_compute(data, size, &digest);
    from = (struct iovec){copy, stored_length};
    to = (struct iovec){back, size};
    if (!vs_codec_decode(codec, coding, from, to, &digest, NULL) || memcmp(back, data, size) != 0) {
        abort();
    }
    return 0;
}
