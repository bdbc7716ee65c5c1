// SPDX-License-Identifier: LGPL-2.1-or-later
// Turns the byte stream of a QEMU guest agent into messages. Pure: bytes in, JSON objects out;
// internal to qmp/.
//
// An agent has no greeting and no ids: what it still has to say to an earlier client, or to a
// request that we have given up, comes first. It puts the byte 0xFF, which no JSON text has, before
// its answer to guest-sync-delimited; so whatever stands before a 0xFF is dropped unread. Memory is
// bounded, since the guest may send anything. Source: docs/interop/qemu-ga-ref of QEMU.
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

G_BEGIN_DECLS

#define VS_QMP_AGENT_SENTINEL 0xFF
// The answers that we ask for are a number or a word, an error is a sentence.
#define VS_QMP_AGENT_MESSAGE_MAX_BYTES (64u << 10)

typedef struct _VsQmpAgentStream VsQmpAgentStream;

// Starts as vs_qmp_agent_stream_realign() leaves it.
VsQmpAgentStream *vs_qmp_agent_stream_new(void);
void vs_qmp_agent_stream_free(VsQmpAgentStream *stream);

// Drops what is there and all that comes until the next sentinel. Also ends an error.
void vs_qmp_agent_stream_realign(VsQmpAgentStream *stream);

// Adds length bytes as they came from the socket.
bool vs_qmp_agent_stream_push(VsQmpAgentStream *stream, const void *data, size_t length,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Takes the next complete message into *message (new reference), NULL where none is complete yet.
bool vs_qmp_agent_stream_next(VsQmpAgentStream *stream, struct json_object **message,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
