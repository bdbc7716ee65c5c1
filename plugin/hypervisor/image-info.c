// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/image-info.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <unistd.h>

#include "qmp/block.h"

#define RUN_TIMEOUT_MS 30000u

void
vs_image_info_free(VsImageInfo *info)
{
    if (!info)
        return;
    g_free(info->filename);
    g_free(info->format);
    g_free(info->compat);
    g_ptr_array_unref(info->bitmaps);
    g_free(info);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsImageInfo, vs_image_info_free)

// Parsing ---------------------------------------------------------------------------------------

// The member if it is there and of that type.
static struct json_object *
member(struct json_object *object, const char *key, enum json_type type)
{
    struct json_object *value = NULL;
    return json_object_is_type(object, json_type_object) &&
                   json_object_object_get_ex(object, key, &value) &&
                   json_object_is_type(value, type)
               ? value
               : NULL;
}

// A copy, NULL where there is none, or what is there is not text.
static char *
string_member(struct json_object *object, const char *key)
{
    const char *text = json_object_get_string(member(object, key, json_type_string));
    return text && g_utf8_validate(text, -1, NULL) ? g_strdup(text) : NULL;
}

// Negative where there is none.
static int64_t
number_member(struct json_object *object, const char *key)
{
    struct json_object *value = member(object, key, json_type_int);
    return value ? json_object_get_int64(value) : -1;
}

static bool
has_flag(struct json_object *flags, const char *wanted)
{
    for (size_t i = 0; flags && i < json_object_array_length(flags); i++)
        if (g_strcmp0(json_object_get_string(json_object_array_get_idx(flags, i)), wanted) == 0)
            return true;
    return false;
}

static VsQmpBitmap *
parse_bitmap(struct json_object *object)
{
    g_autofree char *name = string_member(object, "name");
    struct json_object *flags = member(object, "flags", json_type_array);
    int64_t granularity = number_member(object, "granularity");
    if (!name || !flags || granularity <= 0)
        return NULL;
    VsQmpBitmap *bitmap = g_new0(VsQmpBitmap, 1);
    bitmap->name = g_steal_pointer(&name);
    bitmap->recording = has_flag(flags, "auto");
    bitmap->inconsistent = has_flag(flags, "in-use");
    bitmap->persistent = true;
    bitmap->granularity_bytes = (uint64_t)granularity;
    return bitmap;
}

static bool
parse_bitmaps(VsImageInfo *info, struct json_object *array)
{
    for (size_t i = 0; array && i < json_object_array_length(array); i++) {
        VsQmpBitmap *bitmap = parse_bitmap(json_object_array_get_idx(array, i));
        if (!bitmap)
            return false;
        g_ptr_array_add(info->bitmaps, bitmap);
    }
    return true;
}

static VsImageInfo *
parse_image(struct json_object *object)
{
    g_autoptr(VsImageInfo) info = g_new0(VsImageInfo, 1);
    info->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_bitmap_free);
    info->filename = string_member(object, "filename");
    info->format = string_member(object, "format");
    int64_t size = number_member(object, "virtual-size");
    if (!info->filename || !info->format || size < 0)
        return NULL;
    info->virtual_size_bytes = (uint64_t)size;
    struct json_object *encrypted = member(object, "encrypted", json_type_boolean);
    info->is_encrypted = encrypted && json_object_get_boolean(encrypted);
    struct json_object *specific = member(object, "format-specific", json_type_object);
    struct json_object *data = specific ? member(specific, "data", json_type_object) : NULL;
    info->compat = data ? string_member(data, "compat") : NULL;
    if (data && !parse_bitmaps(info, member(data, "bitmaps", json_type_array)))
        return NULL;
    return g_steal_pointer(&info);
}

static bool
add_image(GPtrArray *chain, struct json_object *object)
{
    VsImageInfo *info = parse_image(object);
    if (info)
        g_ptr_array_add(chain, info);
    return info != NULL;
}

static GPtrArray *
parse_chain(struct json_object *root)
{
    g_autoptr(GPtrArray) chain = g_ptr_array_new_with_free_func((GDestroyNotify)vs_image_info_free);
    if (json_object_is_type(root, json_type_object))
        return add_image(chain, root) ? g_steal_pointer(&chain) : NULL;
    if (!json_object_is_type(root, json_type_array))
        return NULL;
    for (size_t i = 0; i < json_object_array_length(root); i++)
        if (!add_image(chain, json_object_array_get_idx(root, i)))
            return NULL;
    return chain->len > 0 ? g_steal_pointer(&chain) : NULL;
}

GPtrArray *
vs_image_info_parse(const char *text, GError **error)
{
    struct json_object *root = json_tokener_parse(text);
    GPtrArray *chain = parse_chain(root);
    json_object_put(root);
    if (!chain)
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "qemu-img describes an image in an unknown way");
    return chain;
}

// Running ---------------------------------------------------------------------------------------

typedef struct {
    char *out;
    char *complaint;
    GError *error;
    bool ended;
} Run;

static void
on_ended(GObject *source, GAsyncResult *result, gpointer user_data)
{
    Run *run = user_data;
    g_subprocess_communicate_utf8_finish(G_SUBPROCESS(source), result, &run->out, &run->complaint,
                                         &run->error);
    run->ended = true;
}

static gboolean
on_deadline(gpointer cancellable)
{
    g_cancellable_cancel(cancellable);
    return G_SOURCE_REMOVE;
}

static void
on_cancelled(GCancellable *cancellable, gpointer deadline)
{
    g_cancellable_cancel(deadline);
}

// The terminal's Ctrl-C is for the program alone.
static void
leave_terminal(gpointer user_data)
{
    setsid();
}

static void
wait_for_end(GSubprocess *process, Run *run, GCancellable *cancellable)
{
    g_autoptr(GMainContext) context = g_main_context_ref_thread_default();
    g_autoptr(GCancellable) stop = g_cancellable_new();
    g_autoptr(GSource) timer = g_timeout_source_new(RUN_TIMEOUT_MS);
    g_source_set_callback(timer, on_deadline, stop, NULL);
    g_source_attach(timer, context);
    gulong handler = cancellable ? g_cancellable_connect(cancellable, G_CALLBACK(on_cancelled),
                                                         g_object_ref(stop), g_object_unref)
                                 : 0;
    g_subprocess_communicate_utf8_async(process, NULL, stop, on_ended, run);
    while (!run->ended)
        g_main_context_iteration(context, TRUE);
    g_cancellable_disconnect(cancellable, handler);
    g_source_destroy(timer);
    if (!g_error_matches(run->error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
        return;
    g_subprocess_force_exit(process);
    if (g_cancellable_is_cancelled(cancellable))
        return;
    g_clear_error(&run->error);
    g_set_error(&run->error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT, "qemu-img gave no answer in %u s",
                RUN_TIMEOUT_MS / 1000);
}

// The program's own words, in one line, less its name.
static char *
complaint_of(const char *complaint)
{
    const char *said = complaint ? complaint : "";
    if (g_str_has_prefix(said, "qemu-img: "))
        said += strlen("qemu-img: ");
    g_autofree char *text = g_strstrip(g_strdup(said));
    g_strdelimit(text, "\r\n", ' ');
    return text[0] ? g_steal_pointer(&text) : g_strdup("qemu-img failed");
}

static GPtrArray *
finish(Run *run, GSubprocess *process, const char *path, GError **error)
{
    GPtrArray *chain = NULL;
    if (!run->error && g_subprocess_get_if_exited(process) &&
        g_subprocess_get_exit_status(process) == 0)
        chain = vs_image_info_parse(run->out, &run->error);
    else if (!run->error) {
        g_autofree char *said = complaint_of(run->complaint);
        g_set_error_literal(&run->error, G_IO_ERROR, G_IO_ERROR_FAILED, said);
    }
    if (run->error)
        g_propagate_prefixed_error(error, g_steal_pointer(&run->error),
                                   "examining image '%s': ", path);
    return chain;
}

static char **
make_command(const char *path, const char *format, VsImageInfoScope scope)
{
    const char *const words[] = {"qemu-img",
                                 "info",
                                 "-U",
                                 "--output=json",
                                 scope == VS_IMAGE_INFO_CHAIN ? "--backing-chain" : NULL,
                                 format ? "-f" : NULL,
                                 format,
                                 path};
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++)
        if (words[i])
            g_strv_builder_add(builder, words[i]);
    return g_strv_builder_end(builder);
}

GPtrArray *
vs_image_info_run(const char *path, const char *format, VsImageInfoScope scope,
                  GCancellable *cancellable, GError **error)
{
    g_auto(GStrv) command = make_command(path, format, scope);
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_subprocess_launcher_set_child_setup(launcher, leave_terminal, NULL, NULL);
    g_autoptr(GSubprocess) process =
        g_subprocess_launcher_spawnv(launcher, (const char *const *)command, error);
    if (!process)
        return NULL;
    Run run = {0};
    wait_for_end(process, &run, cancellable);
    GPtrArray *chain = finish(&run, process, path, error);
    g_free(run.out);
    g_free(run.complaint);
    return chain;
}

// docs/interop/qcow2.txt of QEMU: magic and version, both big-endian.
bool
vs_image_info_is_old_qcow2(const char *path)
{
    static const uint8_t old[8] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 2};
    uint8_t head[sizeof old];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd >= 0 ? pread(fd, head, sizeof head, 0) : -1;
    if (fd >= 0)
        close(fd);
    return length == (ssize_t)sizeof head && memcmp(head, old, sizeof old) == 0;
}
