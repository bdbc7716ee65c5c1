// SPDX-License-Identifier: LGPL-2.1-or-later
// SIGINT, SIGTERM and SIGHUP as a GCancellable, so that what was begun is undone. Further signals
// change nothing.
//
// The signals are ours from the creation till the end; one at a time.
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _VsInterrupt VsInterrupt;

// For work that iterates the default main context.
VsInterrupt *vs_interrupt_new(void);
// For work that does not: a thread of its own waits for the signals.
VsInterrupt *vs_interrupt_new_for_blocking(void);
void vs_interrupt_free(VsInterrupt *interrupt);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsInterrupt, vs_interrupt_free)

// Borrowed.
GCancellable *vs_interrupt_cancellable(VsInterrupt *interrupt);

G_END_DECLS
