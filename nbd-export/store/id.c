// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/id.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "nbd-export/store/digest.h"

static const char DIGITS[] = "0123456789abcdefghijklmnopqrstuvwxyz";
#define BASE 36u
#define UNBIASED_BYTES (256u / BASE * BASE) // bytes from here on would favour the first digits

static uint8_t
random_byte(void)
{
    uint8_t byte;
    ssize_t got;

    do
        got = getrandom(&byte, 1, 0);
    while (got < 0 && errno == EINTR);
    if (got != 1)
        g_error("the kernel gives no random numbers: %s", g_strerror(errno));
    return byte;
}

char *
vs_id_new(const char *prefix)
{
    char text[VS_ID_RANDOM_CHARS + 1] = "";

    for (unsigned i = 0; i < VS_ID_RANDOM_CHARS;) {
        uint8_t byte = random_byte();
        if (byte < UNBIASED_BYTES)
            text[i++] = DIGITS[byte % BASE];
    }
    return g_strconcat(prefix, text, NULL);
}

bool
vs_id_is_valid(const char *id, const char *prefix)
{
    if (id == NULL || !g_str_has_prefix(id, prefix))
        return false;
    id += strlen(prefix);
    return strlen(id) == VS_ID_RANDOM_CHARS && strspn(id, DIGITS) == VS_ID_RANDOM_CHARS;
}

char *
vs_id_from_key(const char *prefix, const char *key)
{
    g_autofree char *whole = g_strconcat(prefix, key, NULL);
    char text[VS_ID_RANDOM_CHARS + 1] = "";
    VsDigest number;

    vs_digest_compute(whole, strlen(whole), &number);
    for (unsigned i = 0; i < VS_ID_RANDOM_CHARS; i++) {
        unsigned remainder = 0;
        for (unsigned byte = 0; byte < VS_DIGEST_BYTES; byte++) {
            unsigned value = remainder << 8 | number.bytes[byte];
            number.bytes[byte] = (uint8_t)(value / BASE);
            remainder = value % BASE;
        }
        text[i] = DIGITS[remainder];
    }
    return g_strconcat(prefix, text, NULL);
}
