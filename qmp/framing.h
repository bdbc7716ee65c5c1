// SPDX-License-Identifier: LGPL-2.1-or-later
// Turns the byte stream of a QMP monitor into messages. Pure: bytes in, JSON objects out.
//
// A message is one JSON object on one line. Lines arrive in pieces and several at once. What is not
// a JSON object, nests deeper than VS_QMP_MESSAGE_MAX_DEPTH, or is longer than the bound is an
// error (VS_QMP_ERROR_PROTOCOL), after which the framer stays in error: the stream can't be trusted
// any more. Memory is bounded by the bound.
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

G_BEGIN_DECLS

// query-qmp-schema is about 300 KiB; a VM with hundreds of nodes stays far below this too.
#define VS_QMP_MESSAGE_MAX_BYTES (16u << 20)
#define VS_QMP_MESSAGE_MAX_DEPTH 64

typedef struct _VsQmpFramer VsQmpFramer;

VsQmpFramer *vs_qmp_framer_new(size_t max_bytes);
void vs_qmp_framer_free(VsQmpFramer *framer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsQmpFramer, vs_qmp_framer_free)

// Adds length bytes as they came from the socket.
bool vs_qmp_framer_push(VsQmpFramer *framer, const void *data, size_t length,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Takes the next complete message into *message (new reference), NULL where none is complete yet.
bool vs_qmp_framer_next(VsQmpFramer *framer, struct json_object **message,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
