// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/interrupt.h"

#include <glib-unix.h>
#include <signal.h>

static const int SIGNALS[] = {SIGINT, SIGTERM, SIGHUP};

struct _VsInterrupt {
    GCancellable *cancellable;
    GSource *sources[G_N_ELEMENTS(SIGNALS)];
    // Of vs_interrupt_new_for_blocking() only.
    GMainContext *context;
    GMainLoop *loop;
    GThread *thread;
};

static gboolean
on_signal(gpointer user_data)
{
    VsInterrupt *interrupt = user_data;
    g_cancellable_cancel(interrupt->cancellable);
    return G_SOURCE_CONTINUE;
}

static VsInterrupt *
interrupt_new(GMainContext *context)
{
    VsInterrupt *interrupt = g_new0(VsInterrupt, 1);
    interrupt->cancellable = g_cancellable_new();
    interrupt->context = context;
    for (size_t i = 0; i < G_N_ELEMENTS(SIGNALS); i++) {
        interrupt->sources[i] = g_unix_signal_source_new(SIGNALS[i]);
        g_source_set_callback(interrupt->sources[i], on_signal, interrupt, NULL);
        g_source_attach(interrupt->sources[i], context);
    }
    return interrupt;
}

VsInterrupt *
vs_interrupt_new(void)
{
    return interrupt_new(NULL);
}

static gpointer
wait_for_signals(gpointer user_data)
{
    g_main_loop_run(user_data);
    return NULL;
}

VsInterrupt *
vs_interrupt_new_for_blocking(void)
{
    VsInterrupt *interrupt = interrupt_new(g_main_context_new());
    interrupt->loop = g_main_loop_new(interrupt->context, FALSE);
    interrupt->thread = g_thread_new("signals", wait_for_signals, interrupt->loop);
    return interrupt;
}

static gboolean
on_quit(gpointer user_data)
{
    g_main_loop_quit(user_data);
    return G_SOURCE_REMOVE;
}

void
vs_interrupt_free(VsInterrupt *interrupt)
{
    if (interrupt == NULL)
        return;
    if (interrupt->thread != NULL) {
        // From within the loop: quitting before the thread has entered it would be forgotten.
        g_autoptr(GSource) quit = g_idle_source_new();
        g_source_set_callback(quit, on_quit, interrupt->loop, NULL);
        g_source_attach(quit, interrupt->context);
        g_thread_join(interrupt->thread);
        g_main_loop_unref(interrupt->loop);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(SIGNALS); i++) {
        g_source_destroy(interrupt->sources[i]);
        g_source_unref(interrupt->sources[i]);
    }
    g_clear_pointer(&interrupt->context, g_main_context_unref);
    g_object_unref(interrupt->cancellable);
    g_free(interrupt);
}

GCancellable *
vs_interrupt_cancellable(VsInterrupt *interrupt)
{
    return interrupt->cancellable;
}
