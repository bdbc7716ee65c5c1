// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/framing.h"

#include <string.h>

#include "qmp/client.h"

struct _VsQmpFramer {
    GByteArray *buffer;
    size_t start;      // of the first line that vs_qmp_framer_next() has not taken
    size_t scanned;    // no newline between start and here
    size_t tail_bytes; // after the last newline in buffer
    size_t max_bytes;  // of a line
    bool failed;
};

VsQmpFramer *
vs_qmp_framer_new(size_t max_bytes)
{
    VsQmpFramer *framer = g_new0(VsQmpFramer, 1);

    framer->buffer = g_byte_array_new();
    framer->max_bytes = max_bytes;
    return framer;
}

void
vs_qmp_framer_free(VsQmpFramer *framer)
{
    if (framer == NULL)
        return;
    g_byte_array_unref(framer->buffer);
    g_free(framer);
}

// Enters the error state and gives the buffer back: it is of no use any more.
static bool
fail(VsQmpFramer *framer, GError **error, const char *cause)
{
    framer->failed = true;
    framer->start = framer->scanned = framer->tail_bytes = 0;
    g_byte_array_set_size(framer->buffer, 0);
    g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL, "the peer does not speak QMP: %s",
                cause);
    return false;
}

static bool
fail_too_long(VsQmpFramer *framer, GError **error)
{
    g_autofree char *cause = g_strdup_printf("a line of more than %zu bytes", framer->max_bytes);
    return fail(framer, error, cause);
}

// Moves what is left to the front once it is the smaller part, so that each byte is moved at most
// once.
static void
compact(VsQmpFramer *framer)
{
    if (framer->start == 0 || framer->start < framer->buffer->len / 2)
        return;
    framer->scanned -= framer->start;
    g_byte_array_remove_range(framer->buffer, 0, (guint)framer->start);
    framer->start = 0;
}

bool
vs_qmp_framer_push(VsQmpFramer *framer, const void *data, size_t length, GError **error)
{
    if (framer->failed)
        return fail(framer, error, "the stream was already broken");
    if (length == 0)
        return true;

    const char *newline = memrchr(data, '\n', length);
    framer->tail_bytes = newline != NULL ? length - (size_t)(newline + 1 - (const char *)data)
                                         : framer->tail_bytes + length;
    if (framer->tail_bytes > framer->max_bytes || length > G_MAXUINT - framer->buffer->len)
        return fail_too_long(framer, error);
    compact(framer);
    g_byte_array_append(framer->buffer, data, (guint)length);
    return true;
}

// Parses one line, without its newline, as exactly one JSON object.
static struct json_object *
parse_line(const char *line, size_t length, const char **cause)
{
    if (memchr(line, '\0', length) != NULL) {
        *cause = "a NUL byte";
        return NULL;
    }

    struct json_tokener *tokener = json_tokener_new_ex(VS_QMP_MESSAGE_MAX_DEPTH);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *message = json_tokener_parse_ex(tokener, line, (int)length);
    enum json_tokener_error status = json_tokener_get_error(tokener);
    json_tokener_free(tokener);

    if (status != json_tokener_success)
        *cause = status == json_tokener_continue ? "an incomplete line"
                                                 : json_tokener_error_desc(status);
    else if (!json_object_is_type(message, json_type_object))
        *cause = "a line that is not a JSON object";
    else
        return message;
    json_object_put(message);
    return NULL;
}

bool
vs_qmp_framer_next(VsQmpFramer *framer, struct json_object **message, GError **error)
{
    *message = NULL;
    if (framer->failed)
        return fail(framer, error, "the stream was already broken");

    const char *bytes = (const char *)framer->buffer->data;
    size_t end = framer->buffer->len;
    const char *newline =
        end > framer->scanned ? memchr(bytes + framer->scanned, '\n', end - framer->scanned) : NULL;
    if (newline == NULL) {
        framer->scanned = end;
        return true;
    }

    const char *line = bytes + framer->start;
    size_t length = (size_t)(newline - line);
    if (length > framer->max_bytes)
        return fail_too_long(framer, error);
    if (length > 0 && line[length - 1] == '\r')
        length--;

    const char *cause = NULL;
    *message = parse_line(line, length, &cause);
    if (*message == NULL)
        return fail(framer, error, cause);
    framer->start = framer->scanned = (size_t)(newline + 1 - bytes);
    return true;
}
