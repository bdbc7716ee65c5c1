// SPDX-License-Identifier: LGPL-2.1-or-later
// Builds the "arguments" object of a QMP command.
#pragma once

#include <glib.h>
#include <json-c/json.h>

G_BEGIN_DECLS

// Pairs of a key and a json_object (consumed), then NULL. A pair whose value is NULL is left out.
// The caller owns the result and usually hands it to a VsQmpCommand.
struct json_object *vs_qmp_args(const char *first_key, ...) G_GNUC_NULL_TERMINATED;

// Values for vs_qmp_args(). The string is copied; NULL leaves the pair out. It must be UTF-8: the
// client refuses to send anything else.
#define vs_qmp_str(s) ((s) ? json_object_new_string(s) : NULL)
#define vs_qmp_int(n) json_object_new_int64(n)
#define vs_qmp_size(n) json_object_new_uint64(n)
#define vs_qmp_bool(b) json_object_new_boolean(b)

G_END_DECLS
