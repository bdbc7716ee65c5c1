// SPDX-License-Identifier: LGPL-2.1-or-later
// A JSON document with a digest line, the form of a repository's small files (manifests,
// configuration):
//
//   {                          a JSON object in UTF-8, pretty printed for the reader of a broken
//   repository
//     "format": 1,             always the first member
//     …
//   }
//   sha256:<64 hex digits>     of all bytes before this line, with its newline at the end of the
//   file
//
// The digest finds damage, it does not authenticate. Pure, any thread.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

struct json_object;

GBytes *vs_sealed_json_encode(struct json_object *object);
// The document's object, owned by the caller; NULL with *cause (a static text) where the file is
// damaged.
struct json_object *vs_sealed_json_decode(GBytes *bytes, const char **cause);

// Members of such a document. False where the member has another type or bounds; an absent one
// counts as null.
bool vs_sealed_json_get_uint(struct json_object *object, const char *name, uint64_t *value);
// NULL for null.
bool vs_sealed_json_get_text(struct json_object *object, const char *name, const char **value);

// As JSON can hold only UTF-8, a text that is none is kept with each byte that belongs to no
// character, and each '%', as "%XX". Valid texts stay as they are.
char *vs_sealed_json_escape(const char *text);

G_END_DECLS
