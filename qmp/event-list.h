// SPDX-License-Identifier: LGPL-2.1-or-later
// Who wants to hear of events. Pure; internal to qmp/.
#pragma once

#include "qmp/client.h"

G_BEGIN_DECLS

typedef struct {
    GArray *subscribers;
    unsigned last_handle;
} VsQmpEventList;

void vs_qmp_event_list_init(VsQmpEventList *list);
void vs_qmp_event_list_clear(VsQmpEventList *list);

unsigned vs_qmp_event_list_add(VsQmpEventList *list, VsQmpEventFunc func, gpointer user_data);
void vs_qmp_event_list_remove(VsQmpEventList *list, unsigned handle);
void vs_qmp_event_list_remove_all(VsQmpEventList *list);

// Calls everyone who is subscribed when the event comes and still is when it is his turn; so a
// subscriber may remove himself and others, or add some.
void vs_qmp_event_list_emit(VsQmpEventList *list, const char *name, struct json_object *data);

G_END_DECLS
