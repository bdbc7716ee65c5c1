// SPDX-License-Identifier: LGPL-2.1-or-later
// What a QMP peer may send: through the framer in one piece and in small ones, which must give the
// same messages, and from there into everything that reads messages.
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "qmp/block.h"
#include "qmp/framing.h"
#include "qmp/greeting.h"
#include "qmp/schema.h"
#include "tests/fuzz/fuzz.h"

// More than an input has, so that the bound plays no part where results are compared.
#define LARGE_BYTES (1u << 20)
#define SMALL_BYTES 48u

static void
check(bool good)
{
    if (!good)
        abort();
}

static void
read_message(struct json_object *message)
{
    struct json_object *reply = NULL;
    unsigned version = 0;
    g_autoptr(GError) error = NULL;

    check(vs_qmp_greeting_parse(message, &version, &error) == (error == NULL));
    (void)json_object_object_get_ex(message, "return", &reply);

    g_autoptr(GError) devices_error = NULL;
    g_autoptr(GPtrArray) devices = vs_qmp_parse_devices(reply, &devices_error);
    check((devices == NULL) == (devices_error != NULL));

    g_autoptr(GError) nodes_error = NULL;
    g_autoptr(GPtrArray) nodes = vs_qmp_parse_nodes(reply, &nodes_error);
    check((nodes == NULL) == (nodes_error != NULL));

    g_autoptr(GError) schema_error = NULL;
    g_autoptr(VsQmpSchema) schema = vs_qmp_schema_parse(reply, &schema_error);
    check((schema == NULL) == (schema_error != NULL));
    if (schema != NULL)
        (void)vs_qmp_schema_has_argument(schema, "blockdev-add", "[cbw].file.[file].filename");
}

// Adds each message's text to texts, and "!" for an error. Returns false after an error.
static bool
drain(VsQmpFramer *framer, GString *texts)
{
    for (;;) {
        struct json_object *message = NULL;
        g_autoptr(GError) error = NULL;
        if (!vs_qmp_framer_next(framer, &message, &error)) {
            check(message == NULL && error != NULL);
            g_string_append_c(texts, '!');
            return false;
        }
        if (message == NULL)
            return true;
        check(json_object_is_type(message, json_type_object));
        g_string_append(texts, json_object_to_json_string(message));
        g_string_append_c(texts, '\n');
        read_message(message);
        json_object_put(message);
    }
}

static GString *
frame(const uint8_t *data, size_t size, size_t piece_bytes, size_t max_bytes)
{
    g_autoptr(VsQmpFramer) framer = vs_qmp_framer_new(max_bytes);
    GString *texts = g_string_new(NULL);

    for (size_t offset = 0; offset < size; offset += piece_bytes) {
        g_autoptr(GError) error = NULL;
        size_t length = MIN(piece_bytes, size - offset);
        if (!vs_qmp_framer_push(framer, data + offset, length, &error)) {
            check(error != NULL);
            g_string_append_c(texts, '!');
            break;
        }
        if (!drain(framer, texts))
            break;
    }
    return texts;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t piece_bytes = size > 0 ? 1 + data[0] % 16 : 1;
    g_autoptr(GString) whole = frame(data, size, MAX(size, 1), LARGE_BYTES);
    g_autoptr(GString) pieces = frame(data, size, piece_bytes, LARGE_BYTES);
    g_autoptr(GString) bounded = frame(data, size, piece_bytes, SMALL_BYTES);

    check(g_string_equal(whole, pieces));
    // A smaller bound may end the stream earlier, but never changes a message.
    size_t common = bounded->len - (bounded->len > 0 && bounded->str[bounded->len - 1] == '!');
    check(common <= whole->len && memcmp(bounded->str, whole->str, common) == 0);
    return 0;
}
