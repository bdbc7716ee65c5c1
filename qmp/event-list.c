// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/event-list.h"

typedef struct {
    unsigned handle;
    VsQmpEventFunc func;
    gpointer user_data;
} Subscriber;

void
vs_qmp_event_list_init(VsQmpEventList *list)
{
    list->subscribers = g_array_new(FALSE, FALSE, sizeof(Subscriber));
    list->last_handle = 0;
}

void
vs_qmp_event_list_clear(VsQmpEventList *list)
{
    g_clear_pointer(&list->subscribers, g_array_unref);
}

unsigned
vs_qmp_event_list_add(VsQmpEventList *list, VsQmpEventFunc func, gpointer user_data)
{
    const Subscriber subscriber = {++list->last_handle, func, user_data};

    g_array_append_val(list->subscribers, subscriber);
    return subscriber.handle;
}

// Its place, or the list's length.
static guint
find(const VsQmpEventList *list, unsigned handle)
{
    guint i = 0;

    while (i < list->subscribers->len &&
           g_array_index(list->subscribers, Subscriber, i).handle != handle)
        i++;
    return i;
}

void
vs_qmp_event_list_remove(VsQmpEventList *list, unsigned handle)
{
    guint place = find(list, handle);

    if (place < list->subscribers->len)
        g_array_remove_index(list->subscribers, place);
}

void
vs_qmp_event_list_remove_all(VsQmpEventList *list)
{
    g_array_set_size(list->subscribers, 0);
}

void
vs_qmp_event_list_emit(VsQmpEventList *list, const char *name, struct json_object *data)
{
    g_autoptr(GArray) now = g_array_copy(list->subscribers);

    for (guint i = 0; i < now->len; i++) {
        const Subscriber *subscriber = &g_array_index(now, Subscriber, i);
        if (find(list, subscriber->handle) < list->subscribers->len)
            subscriber->func(name, data, subscriber->user_data);
    }
}
