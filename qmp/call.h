// SPDX-License-Identifier: LGPL-2.1-or-later
// One command in flight: its bytes until they are handed over, its deadline, its cancellation.
//
// Internal to qmp/, owned by the VsQmpClient that sent it.
#pragma once

#include <gio/gunixfdlist.h>

#include "qmp/client.h"

G_BEGIN_DECLS

typedef struct _VsQmpCall VsQmpCall;

struct _VsQmpCall {
    int64_t id;
    char *name;
    unsigned timeout_ms;
    VsQmpReplyFunc func;
    gpointer user_data;
    GBytes *bytes;    // the message; NULL once handed over, or where it can't be sent
    GUnixFDList *fds; // duplicates, NULL without any
    // The end without an answer: deadline, cancellation, or refused before it was sent. Called from
    // the main loop, once.
    void (*given_up)(VsQmpCall *call, const GError *cause);
    VsQmpClient *client;
    GError *refused;
    GSource *timer;
    GSource *cancelled;
};

// Copies what it needs from request and consumes its arguments. A request that can't be sent
// (cancelled already, arguments that are not UTF-8, too many descriptors) has refused set.
VsQmpCall *vs_qmp_call_new(int64_t id, const VsQmpCommand *request, GCancellable *cancellable);

// Starts the deadline, or for a refused call the call back, on context.
void vs_qmp_call_watch(VsQmpCall *call, GMainContext *context, GCancellable *cancellable);

// From now on given_up is not called.
void vs_qmp_call_unwatch(VsQmpCall *call);

void vs_qmp_call_free(VsQmpCall *call);

G_END_DECLS
