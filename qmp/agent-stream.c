// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/agent-stream.h"

#include <string.h>

#include "qmp/framing.h"

struct _VsQmpAgentStream {
    VsQmpFramer *framer; // of what follows the newest sentinel; NULL: none has come yet
};

VsQmpAgentStream *
vs_qmp_agent_stream_new(void)
{
    return g_new0(VsQmpAgentStream, 1);
}

void
vs_qmp_agent_stream_free(VsQmpAgentStream *stream)
{
    if (stream == NULL)
        return;
    vs_qmp_framer_free(stream->framer);
    g_free(stream);
}

void
vs_qmp_agent_stream_realign(VsQmpAgentStream *stream)
{
    g_clear_pointer(&stream->framer, vs_qmp_framer_free);
}

bool
vs_qmp_agent_stream_push(VsQmpAgentStream *stream, const void *data, size_t length, GError **error)
{
    const char *bytes = data;
    const char *end = bytes + length;
    const char *sentinel = memrchr(bytes, VS_QMP_AGENT_SENTINEL, length);

    if (sentinel != NULL) {
        vs_qmp_agent_stream_realign(stream);
        stream->framer = vs_qmp_framer_new(VS_QMP_AGENT_MESSAGE_MAX_BYTES);
        bytes = sentinel + 1;
    }
    if (stream->framer == NULL)
        return true;
    return vs_qmp_framer_push(stream->framer, bytes, (size_t)(end - bytes), error);
}

bool
vs_qmp_agent_stream_next(VsQmpAgentStream *stream, struct json_object **message, GError **error)
{
    *message = NULL;
    if (stream->framer == NULL)
        return true;
    return vs_qmp_framer_next(stream->framer, message, error);
}
