// SPDX-License-Identifier: LGPL-2.1-or-later
// Asking an NBD server what is dirty and what is allocated.
#include "nbd-export/pull/pull-internal.h"

#include <libnbd.h>

// The answer to one block-status request, which both contexts may end short.
typedef struct {
    VsPull *pull;
    GArray *dirty;
    GArray *allocation;
    uint64_t start;
    uint64_t end;
    bool bad;
    bool done;
} Status;

static int
on_extents(void *user_data, const char *context, uint64_t offset, uint32_t *entries, size_t count,
           int *error)
{
    Status *status = user_data;
    GArray *list = NULL;
    if (g_strcmp0(context, status->pull->dirty_context) == 0)
        list = status->dirty;
    else if (g_strcmp0(context, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0)
        list = status->allocation;
    if (list && (offset != status->start ||
                 !vs_extents_append(list, status->start, status->end, entries, count)))
        status->bad = true;
    return 0;
}

static int
on_status_done(void *user_data, int *error)
{
    Status *status = user_data;
    status->done = true;
    vs_pull_end_request(status->pull, *error);
    return 1;
}

static uint64_t
list_end(const GArray *list, uint64_t start)
{
    if (list->len == 0)
        return start;
    const VsExtent *last = &g_array_index(list, VsExtent, list->len - 1);
    return last->offset + last->length;
}

static void
cut_list(GArray *list, uint64_t end)
{
    while (list->len > 0) {
        VsExtent *last = &g_array_index(list, VsExtent, list->len - 1);
        if (last->offset < end) {
            last->length = MIN(last->length, end - last->offset);
            return;
        }
        g_array_set_size(list, list->len - 1);
    }
}

// Asks once for [status->start, status->end); advances start to where all contexts have answered.
static bool
ask_extents(VsPull *pull, Status *status, GError **error)
{
    status->done = false;
    vs_pull_begin_request(pull);
    if (nbd_aio_block_status(
            pull->nbd, status->end - status->start, status->start,
            (nbd_extent_callback){.callback = on_extents, .user_data = status},
            (nbd_completion_callback){.callback = on_status_done, .user_data = status}, 0) == -1) {
        pull->in_flight--;
        vs_pull_set_nbd_error(error, VS_PULL_ERROR_SERVER, "asking for extents over NBD");
        return false;
    }
    while (!status->done)
        if (!vs_pull_poll(pull, VS_PULL_POLL_MS, error))
            return false;
    uint64_t end = status->end;
    if (pull->dirty_context)
        end = MIN(end, list_end(status->dirty, status->start));
    if (pull->has_allocation)
        end = MIN(end, list_end(status->allocation, status->start));
    if (status->bad || end == status->start || pull->server_error) {
        if (!vs_pull_poll(pull, 0, error))
            return false;
        g_set_error(error, VS_PULL_ERROR, VS_PULL_ERROR_SERVER,
                    "asking for extents over NBD: the server's answer makes no sense");
        return false;
    }
    cut_list(status->dirty, end);
    cut_list(status->allocation, end);
    status->start = end;
    return true;
}

bool
vs_pull_get_extents(VsPull *pull, uint64_t start, uint64_t end, GArray *dirty, GArray *allocation,
                    GError **error)
{
    Status status = {pull, dirty, allocation, start, end, false, false};
    while (status.start < end)
        if (!ask_extents(pull, &status, error))
            return false;
    vs_extents_mark(dirty, pull->dirty_mask);
    return true;
}
