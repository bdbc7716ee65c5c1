// SPDX-License-Identifier: LGPL-2.1-or-later
// Bytes as a manifest, as they are and with a right digest line behind them (or no mutation would
// get past it); and as a commit. What is taken comes back the same from its own coding.
#include "nbd-export/store/repository-internal.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static void
check(bool good)
{
    if (!good)
        abort();
}

static void
try_manifest(GBytes *bytes)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(VsManifest) manifest = vs_manifest_decode(bytes, &error);

    check((manifest == NULL) == (error != NULL));
    if (manifest == NULL)
        return;
    g_autoptr(GBytes) once = vs_manifest_encode(manifest);
    g_autoptr(VsManifest) again = vs_manifest_decode(once, NULL);
    check(again != NULL);
    g_autoptr(GBytes) twice = vs_manifest_encode(again);
    check(g_bytes_equal(once, twice));
}

static GBytes *
seal(const uint8_t *data, size_t size)
{
    GByteArray *sealed = g_byte_array_new();
    g_autofree char *line = NULL;
    char hex[VS_DIGEST_HEX_BYTES];
    VsDigest digest;

    vs_digest_compute(data, size, &digest);
    vs_digest_to_hex(&digest, hex);
    line = g_strdup_printf("sha256:%s\n", hex);
    g_byte_array_append(sealed, data, (unsigned)size);
    g_byte_array_append(sealed, (const uint8_t *)line, (unsigned)strlen(line));
    return g_byte_array_free_to_bytes(sealed);
}

static void
try_commit(const uint8_t *data, size_t size)
{
    GByteArray *array = g_byte_array_new();
    VsDigest digest;

    vs_digest_compute(data, size, &digest);
    g_byte_array_append(array, data, (unsigned)size);
    g_byte_array_append(array, digest.bytes, VS_DIGEST_BYTES);
    g_autoptr(GBytes) bytes = g_byte_array_free_to_bytes(array);
    g_autoptr(GError) error = NULL;
    g_autoptr(VsCommit) commit = vs_commit_decode("c-", bytes, &error);
    check((commit == NULL) == (error != NULL));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GBytes) plain = g_bytes_new(data, size);
    g_autoptr(GBytes) sealed = seal(data, size);

    try_manifest(plain);
    try_manifest(sealed);
    try_commit(data, size);
    return 0;
}
