// SPDX-License-Identifier: LGPL-2.1-or-later
// Reads typed members out of QMP replies, for the typed commands of this layer.
//
// Internal to qmp/. The first member that is missing or of the wrong type is kept as a
// VS_QMP_ERROR_PROTOCOL that names the command and the member; from then on every read gives NULL,
// 0 or false, so a parser reads all it wants and asks once, at its end. QEMU's replies are foreign
// bytes: nothing is assumed.
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct {
    const char *command;
    GError *error; // the first one
} VsQmpReader;

// True where all reads went well; otherwise hands over the error.
bool vs_qmp_reader_finish(VsQmpReader *reader, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The whole reply as an array, the elements as objects. Length 0 after an error.
size_t vs_qmp_reader_array_length(VsQmpReader *reader, struct json_object *array);
struct json_object *vs_qmp_reader_element(VsQmpReader *reader, struct json_object *array,
                                          size_t index);

// Required members. Objects and arrays are borrowed, strings are copies for the caller. Integers
// are not negative; up to 2^64-1.
struct json_object *vs_qmp_reader_object(VsQmpReader *reader, struct json_object *object,
                                         const char *key);
struct json_object *vs_qmp_reader_array(VsQmpReader *reader, struct json_object *object,
                                        const char *key);
char *vs_qmp_reader_string(VsQmpReader *reader, struct json_object *object, const char *key);
uint64_t vs_qmp_reader_uint(VsQmpReader *reader, struct json_object *object, const char *key);
bool vs_qmp_reader_bool(VsQmpReader *reader, struct json_object *object, const char *key);

// Whether the object has the member, of whatever type. The optional ones are read after asking.
bool vs_qmp_reader_has(VsQmpReader *reader, struct json_object *object, const char *key);
char *vs_qmp_reader_optional_string(VsQmpReader *reader, struct json_object *object,
                                    const char *key);

G_END_DECLS
