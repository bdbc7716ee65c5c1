// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/sealed-json.h"

#include <json-c/json.h>
#include <string.h>

#include "nbd-export/store/digest.h"

#define SEAL_PREFIX "sha256:"
#define SEAL_BYTES (strlen(SEAL_PREFIX) + 2 * VS_DIGEST_BYTES + 1)
#define MAX_DEPTH 16

static void
append_seal(GString *text)
{
    VsDigest digest;
    char hex[VS_DIGEST_HEX_BYTES];

    vs_digest_compute(text->str, text->len, &digest);
    vs_digest_to_hex(&digest, hex);
    g_string_append_printf(text, SEAL_PREFIX "%s\n", hex);
}

GBytes *
vs_sealed_json_encode(struct json_object *object)
{
    GString *text = g_string_new(json_object_to_json_string_ext(
        object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));

    g_string_append_c(text, '\n');
    append_seal(text);
    return g_string_free_to_bytes(text);
}

static bool
seal_is_right(const char *text, size_t length)
{
    char hex[VS_DIGEST_HEX_BYTES];
    const char *seal = text + length - SEAL_BYTES;
    VsDigest said, computed;

    if (memcmp(seal, SEAL_PREFIX, strlen(SEAL_PREFIX)) != 0 || text[length - 1] != '\n')
        return false;
    memcpy(hex, seal + strlen(SEAL_PREFIX), sizeof hex - 1);
    hex[sizeof hex - 1] = '\0';
    if (!vs_digest_from_hex(hex, &said))
        return false;
    vs_digest_compute(text, length - SEAL_BYTES, &computed);
    return vs_digest_equal(&said, &computed);
}

struct json_object *
vs_sealed_json_decode(GBytes *bytes, const char **cause)
{
    size_t length;
    const char *text = g_bytes_get_data(bytes, &length);

    if (length < SEAL_BYTES || length > G_MAXINT || !seal_is_right(text, length)) {
        *cause = "its digest is wrong";
        return NULL;
    }
    json_tokener *tokener = json_tokener_new_ex(MAX_DEPTH);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    json_object *object = json_tokener_parse_ex(tokener, text, (int)(length - SEAL_BYTES));
    enum json_tokener_error failure = json_tokener_get_error(tokener);
    json_tokener_free(tokener);
    if (failure == json_tokener_success && json_object_is_type(object, json_type_object))
        return object;
    json_object_put(object);
    *cause = "it is not a JSON object";
    return NULL;
}

bool
vs_sealed_json_get_uint(struct json_object *object, const char *name, uint64_t *value)
{
    json_object *member = json_object_object_get(object, name);

    // json-c saturates on what doesn't fit, which the upper bound then refuses.
    if (!json_object_is_type(member, json_type_int) || json_object_get_int64(member) < 0)
        return false;
    *value = json_object_get_uint64(member);
    return *value <= INT64_MAX;
}

bool
vs_sealed_json_get_text(struct json_object *object, const char *name, const char **value)
{
    json_object *member = json_object_object_get(object, name);

    *value = NULL;
    if (member == NULL)
        return true;
    if (!json_object_is_type(member, json_type_string))
        return false;
    *value = json_object_get_string(member);
    return strlen(*value) == (size_t)json_object_get_string_len(member);
}

char *
vs_sealed_json_escape(const char *text)
{
    if (g_utf8_validate(text, -1, NULL))
        return g_strdup(text);

    GString *escaped = g_string_new(NULL);
    while (*text != '\0') {
        gunichar character = g_utf8_get_char_validated(text, -1);
        if (*text == '%' || character == (gunichar)-1 || character == (gunichar)-2) {
            g_string_append_printf(escaped, "%%%02X", (unsigned char)*text);
            text++;
            continue;
        }
        g_string_append_len(escaped, text, g_utf8_next_char(text) - text);
        text = g_utf8_next_char(text);
    }
    return g_string_free(escaped, FALSE);
}
