// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/digest.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

const VsDigest VS_DIGEST_ZERO = {{0}};

static EVP_MD *sha256;
static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;

// Fetched once: OpenSSL 3 otherwise searches its providers, under a lock, for every digest.
static void
fetch_sha256(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

// Without its digest nothing may be stored or believed: it is like running out of memory.
static void
require(bool done)
{
    if (!done) {
        g_error("SHA-256 is not available from libcrypto");
    }
}

void
vs_digest_compute(const void *data, size_t length, VsDigest *digest)
{
    pthread_once(&sha256_once, fetch_sha256);
    require(sha256 != NULL && EVP_Digest(data, length, digest->bytes, NULL, sha256, NULL) == 1);
}

struct _VsDigestStream {
    EVP_MD_CTX *context;
};

VsDigestStream *
vs_digest_stream_new(void)
{
    pthread_once(&sha256_once, fetch_sha256);
    VsDigestStream *stream = g_new0(VsDigestStream, 1);
    stream->context = EVP_MD_CTX_new();
    require(sha256 != NULL && stream->context != NULL &&
            EVP_DigestInit_ex2(stream->context, sha256, NULL) == 1);
    return stream;
}

void
vs_digest_stream_free(VsDigestStream *stream)
{
    if (stream != NULL) {
        EVP_MD_CTX_free(stream->context);
        g_free(stream);
    }
}

void
vs_digest_stream_add(VsDigestStream *stream, const void *data, size_t length)
{
    require(EVP_DigestUpdate(stream->context, data, length) == 1);
}

void
vs_digest_stream_finish(VsDigestStream *stream, VsDigest *digest)
{
    require(EVP_DigestFinal_ex(stream->context, digest->bytes, NULL) == 1);
}

bool
vs_digest_equal(const VsDigest *a, const VsDigest *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

bool
vs_digest_is_zero(const VsDigest *digest)
{
    return vs_digest_equal(digest, &VS_DIGEST_ZERO);
}

int
vs_digest_compare(const VsDigest *a, const VsDigest *b)
{
    return memcmp(a, b, sizeof *a);
}

void
vs_digest_to_hex(const VsDigest *digest, char hex[VS_DIGEST_HEX_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < VS_DIGEST_BYTES; i++) {
        hex[2 * i] = digits[digest->bytes[i] >> 4];
        hex[2 * i + 1] = digits[digest->bytes[i] & 15];
    }
    hex[2 * VS_DIGEST_BYTES] = '\0';
}

// Upper case is refused: a digest has one spelling.
static int
hex_value(char c)
{
    return (c >= 'A' && c <= 'F') ? -1 : g_ascii_xdigit_value(c);
}

bool
vs_digest_from_hex(const char *hex, VsDigest *digest)
{
    if (strnlen(hex, VS_DIGEST_HEX_BYTES) != 2 * VS_DIGEST_BYTES) {
        return false;
    }
    VsDigest parsed;
    for (unsigned i = 0; i < VS_DIGEST_BYTES; i++) {
        int high = hex_value(hex[2 * i]);
        int low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        parsed.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *digest = parsed;
    return true;
}
