// SPDX-License-Identifier: LGPL-2.1-or-later
// The scratch space of a running domain's point in time, watched: QEMU's write thresholds, by
// libvirt's events. While these don't come (libvirtd is being restarted, or has no name for the
// image) the files' sizes are looked at instead.
#include <pthread.h>

#include "plugin/hypervisor/libvirt-driver-private.h"

// How often the events are asked for again where they could not be had.
#define RETRY_US (1000 * 1000)

typedef struct {
    char *image; // libvirt's name of it, NULL: it has none
    VsScratch *scratch;
} Watched;

// Shared with the thread of the events, which may come a last time after the end: then there is
// nothing watched any more.
struct _VsLibvirtWatch {
    pthread_mutex_t lock;  // guards what follows, and the scratches; never held in a libvirt call
    Watched *entries;      // as many as captures
    unsigned count;        // 0: it has ended
    GError *lost;          // there is no more room
    GMainContext *context; // of the snapshot's maker, woken when it is lost
};

static void
watch_clear(gpointer data)
{
    VsLibvirtWatch *watch = data;
    for (unsigned i = 0; i < watch->count; i++)
        g_free(watch->entries[i].image);
    g_free(watch->entries);
    g_clear_error(&watch->lost);
    g_main_context_unref(watch->context);
    pthread_mutex_destroy(&watch->lock);
}

static void
watch_release(gpointer data)
{
    g_atomic_rc_box_release_full(data, watch_clear);
}

static VsLibvirtWatch *
watch_new(unsigned count)
{
    VsLibvirtWatch *watch = g_atomic_rc_box_new0(VsLibvirtWatch);
    pthread_mutex_init(&watch->lock, NULL);
    watch->entries = g_new0(Watched, count);
    watch->count = count;
    watch->context = g_main_context_ref_thread_default();
    return watch;
}

// The thread of the events ----------------------------------------------------------------------

// The threshold to set next, 0: none.
static uint64_t
keep_up(VsLibvirtWatch *watch, VsScratch *scratch, uint64_t passed_bytes)
{
    if (watch->lost)
        return 0;
    // QEMU tells before it writes, so the file need not be so large yet. An event of before the
    // reservation grew tells nothing new.
    bool is_near = passed_bytes >= vs_scratch_threshold(scratch);
    if ((is_near && !vs_scratch_grow(scratch, &watch->lost)) ||
        !vs_scratch_keep_up(scratch, &watch->lost))
        return 0;
    return vs_scratch_threshold(scratch);
}

static uint64_t
on_threshold(const char *image, uint64_t passed_bytes, gpointer user_data)
{
    VsLibvirtWatch *watch = user_data;
    uint64_t next = 0;
    pthread_mutex_lock(&watch->lock);
    for (unsigned i = 0; i < watch->count; i++) {
        const Watched *entry = &watch->entries[i];
        if (entry->scratch && g_strcmp0(entry->image, image) == 0)
            next = keep_up(watch, entry->scratch, passed_bytes);
    }
    bool is_lost = watch->lost != NULL;
    pthread_mutex_unlock(&watch->lock);
    if (is_lost)
        g_main_context_wakeup(watch->context);
    return next;
}

// The maker's thread ----------------------------------------------------------------------------

static const VsBackupDisk *
find_disk(const VsBackupXml *backup, const char *target)
{
    for (unsigned i = 0; i < backup->disks->len; i++) {
        const VsBackupDisk *disk = g_ptr_array_index(backup->disks, i);
        if (g_str_equal(disk->target, target))
            return disk;
    }
    return NULL;
}

// The threshold to set, 0: none.
static uint64_t
find_threshold(VsLibvirtWatch *watch, const Watched *entry)
{
    uint64_t threshold = 0;
    pthread_mutex_lock(&watch->lock);
    if (entry->scratch)
        threshold = keep_up(watch, entry->scratch, 0);
    pthread_mutex_unlock(&watch->lock);
    return threshold;
}

// What is written before QEMU knows the threshold may be beyond that already.
static bool
arm(VsLibvirtDriver *driver, unsigned index, const char *image, GError **error)
{
    VsLibvirtWatch *watch = driver->watch;
    Watched *entry = &watch->entries[index];
    pthread_mutex_lock(&watch->lock);
    g_free(entry->image);
    entry->image = g_strdup(image);
    pthread_mutex_unlock(&watch->lock);
    uint64_t set = 0, next = find_threshold(watch, entry);
    while (next > 0 && next != set) {
        if (!vs_domain_set_threshold(driver->domain, image, next, error))
            return false;
        set = next;
        next = find_threshold(watch, entry);
    }
    return true;
}

static bool
arm_all(VsLibvirtDriver *driver, GError **error)
{
    g_autofree char *xml = vs_domain_backup_xml(driver->domain, error);
    g_autoptr(VsBackupXml) backup = xml ? vs_backup_xml_parse(xml, error) : NULL;
    if (!backup)
        return false;
    for (unsigned i = 0; i < driver->capture_count; i++) {
        const VsBackupDisk *disk = find_disk(backup, driver->captures[i].disk->disk->target);
        if (!disk || !disk->image || !arm(driver, i, disk->image, error))
            return false;
    }
    return true;
}

static void
ask_for_events(VsLibvirtDriver *driver)
{
    g_autoptr(GError) error = NULL;
    driver->asked_us = g_get_monotonic_time();
    driver->is_watched =
        vs_domain_watch(driver->domain, on_threshold, g_atomic_rc_box_acquire(driver->watch),
                        watch_release, &error) &&
        arm_all(driver, &error);
    if (!driver->is_watched)
        g_debug("looking at scratch files instead: %s", error ? error->message : "no names");
}

void
vs_libvirt_watch_scratch(VsLibvirtDriver *driver)
{
    driver->watch = watch_new(driver->capture_count);
    for (unsigned i = 0; i < driver->capture_count; i++)
        driver->watch->entries[i].scratch = driver->captures[i].scratch;
    ask_for_events(driver);
}

void
vs_libvirt_look_at_scratch(VsLibvirtDriver *driver, GError **error)
{
    VsLibvirtWatch *watch = driver->watch;
    if (!watch)
        return;
    driver->is_watched = driver->is_watched && vs_domain_is_watched(driver->domain);
    // Nothing that waits for libvirt while it is away: the files must be looked at.
    bool is_time = g_get_monotonic_time() - driver->asked_us >= RETRY_US;
    if (!driver->is_watched && !driver->is_away && is_time)
        ask_for_events(driver);
    pthread_mutex_lock(&watch->lock);
    for (unsigned i = 0; i < watch->count && !driver->is_watched && !watch->lost; i++)
        if (watch->entries[i].scratch &&
            !vs_scratch_keep_up(watch->entries[i].scratch, &watch->lost))
            break;
    if (watch->lost)
        g_propagate_error(error, g_error_copy(watch->lost));
    pthread_mutex_unlock(&watch->lock);
}

void
vs_libvirt_drop_scratch(VsLibvirtDriver *driver, VsLibvirtCapture *capture)
{
    VsLibvirtWatch *watch = driver->watch;
    if (watch) {
        pthread_mutex_lock(&watch->lock);
        watch->entries[capture - driver->captures].scratch = NULL;
        pthread_mutex_unlock(&watch->lock);
    }
    g_clear_pointer(&capture->scratch, vs_scratch_free);
}

void
vs_libvirt_end_watch(VsLibvirtDriver *driver)
{
    vs_domain_unwatch(driver->domain);
    for (unsigned i = 0; i < driver->capture_count; i++)
        vs_libvirt_drop_scratch(driver, &driver->captures[i]);
    g_clear_pointer(&driver->watch, watch_release);
}
