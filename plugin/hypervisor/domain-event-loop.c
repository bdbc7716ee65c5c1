// SPDX-License-Identifier: LGPL-2.1-or-later
// The loop that libvirt's connections live in: one thread for the whole process, with a context of
// its own. libvirt's default loop is no choice: it may run in the default context (which is its
// private matter), and that is the caller's.
//
// The thread is never waited for and never ends, as libvirt wants it: connections still have
// something to take away after they have been closed. It does nothing but to wait, and to run the
// callbacks of this layer.
#include <glib-unix.h>
#include <pthread.h>
#include <signal.h>

#include "plugin/hypervisor/domain-private.h"

// What libvirt waits for, and the source that waits; without one it is suspended.
typedef struct {
    int number;
    int fd; // -1: a timer
    virEventHandleCallback on_ready;
    virEventTimeoutCallback on_timeout;
    void *opaque;
    virFreeCallback free;
    GSource *source;
} Waiter;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards what follows, and the sources
static GHashTable *waiters;                              // number → Waiter
static int last_number;
static GMainContext *context; // set once

static void
waiter_release(gpointer data)
{
    g_atomic_rc_box_release(data);
}

static gboolean
on_ready(gint fd, GIOCondition condition, gpointer user_data)
{
    const Waiter *waiter = user_data;
    int events = (condition & G_IO_IN ? VIR_EVENT_HANDLE_READABLE : 0) |
                 (condition & G_IO_OUT ? VIR_EVENT_HANDLE_WRITABLE : 0) |
                 (condition & (G_IO_ERR | G_IO_NVAL) ? VIR_EVENT_HANDLE_ERROR : 0) |
                 (condition & G_IO_HUP ? VIR_EVENT_HANDLE_HANGUP : 0);
    waiter->on_ready(waiter->number, fd, events, waiter->opaque);
    return G_SOURCE_CONTINUE;
}

static gboolean
on_timeout(gpointer user_data)
{
    const Waiter *waiter = user_data;
    waiter->on_timeout(waiter->number, waiter->opaque);
    return G_SOURCE_CONTINUE;
}

// In the loop's thread, so that no callback of the waiter is running.
static gboolean
on_removed(gpointer user_data)
{
    const Waiter *waiter = user_data;
    if (waiter->free)
        waiter->free(waiter->opaque);
    return G_SOURCE_REMOVE;
}

static void
attach(Waiter *waiter, GSource *source, GSourceFunc callback)
{
    g_source_set_callback(source, callback, g_atomic_rc_box_acquire(waiter), waiter_release);
    g_source_attach(source, context);
}

// Both with the lock held.
static void
suspend(Waiter *waiter)
{
    if (waiter->source)
        g_source_destroy(waiter->source);
    g_clear_pointer(&waiter->source, g_source_unref);
}

// what: events of a descriptor; milliseconds of a timer, less than 0: none.
static void
wait_for(Waiter *waiter, int what)
{
    suspend(waiter);
    if (waiter->fd < 0 && what >= 0) {
        waiter->source = g_timeout_source_new((guint)what);
        attach(waiter, waiter->source, on_timeout);
    } else if (waiter->fd >= 0 && what != 0) {
        GIOCondition condition = (what & VIR_EVENT_HANDLE_READABLE ? G_IO_IN : 0) |
                                 (what & VIR_EVENT_HANDLE_WRITABLE ? G_IO_OUT : 0) |
                                 (what & VIR_EVENT_HANDLE_ERROR ? G_IO_ERR : 0) |
                                 (what & VIR_EVENT_HANDLE_HANGUP ? G_IO_HUP : 0);
        waiter->source = g_unix_fd_source_new(waiter->fd, condition);
        attach(waiter, waiter->source, G_SOURCE_FUNC(on_ready));
    }
}

static int
add(Waiter wanted, int what)
{
    Waiter *waiter = g_atomic_rc_box_new0(Waiter);
    *waiter = wanted;
    pthread_mutex_lock(&lock);
    waiter->number = ++last_number;
    g_hash_table_insert(waiters, GINT_TO_POINTER(waiter->number), waiter);
    wait_for(waiter, what);
    pthread_mutex_unlock(&lock);
    return waiter->number;
}

static int
add_handle(int fd, int events, virEventHandleCallback callback, void *opaque, virFreeCallback free)
{
    return add((Waiter){.fd = fd, .on_ready = callback, .opaque = opaque, .free = free}, events);
}

static int
add_timeout(int milliseconds, virEventTimeoutCallback callback, void *opaque, virFreeCallback free)
{
    return add((Waiter){.fd = -1, .on_timeout = callback, .opaque = opaque, .free = free},
               milliseconds);
}

static void
update(int number, int what)
{
    pthread_mutex_lock(&lock);
    Waiter *waiter = g_hash_table_lookup(waiters, GINT_TO_POINTER(number));
    if (waiter)
        wait_for(waiter, what);
    pthread_mutex_unlock(&lock);
}

static int
take_away(int number)
{
    pthread_mutex_lock(&lock);
    Waiter *waiter = g_hash_table_lookup(waiters, GINT_TO_POINTER(number));
    if (waiter) {
        suspend(waiter);
        // Not from here: libvirt may hold locks that freeing takes.
        g_autoptr(GSource) removed = g_idle_source_new();
        g_source_set_priority(removed, G_PRIORITY_DEFAULT);
        attach(waiter, removed, on_removed);
        g_hash_table_remove(waiters, GINT_TO_POINTER(number));
    }
    pthread_mutex_unlock(&lock);
    return waiter ? 0 : -1;
}

static void *
run(void *unused)
{
    for (;;)
        g_main_context_iteration(context, TRUE);
    return NULL;
}

bool
vs_domain_start_thread(void *(*main)(void *), void *user_data, pthread_t *thread)
{
    sigset_t all, before;
    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0)
        return false;
    bool ok = pthread_create(thread, NULL, main, user_data) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}

static void
start(void)
{
    waiters = g_hash_table_new_full(NULL, NULL, NULL, waiter_release);
    context = g_main_context_new();
    // Without the thread libvirt must not count on a loop: it does without events then.
    pthread_t thread;
    if (vs_domain_start_thread(run, NULL, &thread) && pthread_detach(thread) == 0)
        virEventRegisterImpl(add_handle, update, take_away, add_timeout, update, take_away);
}

void
vs_domain_start_event_loop(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, start);
}
