// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/agent-channel.h"

#include <string.h>

#include "qmp/args.h"
#include "qmp/block.h"
#include "qmp/reply.h"

#define PORT_NAME "org.qemu.guest_agent.0"
#define PORT_TYPE "child<virtserialport>"

// Names of the children of type below a QOM path.
static GPtrArray *
list_children(VsQmpClient *client, const char *path, const char *type, GCancellable *cancellable,
              GError **error)
{
    VsQmpReader reader = {.command = "qom-list"};
    struct json_object *arguments = vs_qmp_args("path", vs_qmp_str(path), NULL);
    struct json_object *reply =
        vs_qmp_client_call(client, reader.command, arguments, cancellable, error);
    if (reply == NULL)
        return NULL;

    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    size_t length = vs_qmp_reader_array_length(&reader, reply);
    for (size_t i = 0; i < length; i++) {
        struct json_object *element = vs_qmp_reader_element(&reader, reply, i);
        g_autofree char *name = vs_qmp_reader_string(&reader, element, "name");
        g_autofree char *child_type = vs_qmp_reader_string(&reader, element, "type");
        if (name != NULL && child_type != NULL && g_str_equal(child_type, type))
            g_ptr_array_add(names, g_steal_pointer(&name));
    }
    json_object_put(reply);
    return vs_qmp_reader_finish(&reader, error) ? g_steal_pointer(&names) : NULL;
}

// Looks for the agent's port below a QOM container: *chardev is the label of its character device,
// NULL where the container has no such port.
static bool
find_port(VsQmpClient *client, const char *container, char **chardev, GCancellable *cancellable,
          GError **error)
{
    g_autoptr(GPtrArray) ports = list_children(client, container, PORT_TYPE, cancellable, error);

    *chardev = NULL;
    if (ports == NULL)
        return false;
    for (guint i = 0; i < ports->len; i++) {
        g_autofree char *path =
            g_strdup_printf("%s/%s", container, (const char *)g_ptr_array_index(ports, i));
        g_autofree char *name = vs_qmp_qom_get_string(client, path, "name", cancellable, error);
        if (name == NULL)
            return false;
        if (g_str_equal(name, PORT_NAME)) {
            *chardev = vs_qmp_qom_get_string(client, path, "chardev", cancellable, error);
            return *chardev != NULL;
        }
    }
    return true;
}

// The label of the character device behind the agent's port.
static char *
find_chardev(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    // QEMU makes a container when the first device goes into it.
    g_autoptr(GPtrArray) containers =
        list_children(client, "/machine", "child<container>", cancellable, error);
    if (containers == NULL)
        return NULL;

    for (guint i = 0; i < containers->len; i++) {
        const char *name = g_ptr_array_index(containers, i);
        g_autofree char *path = g_strdup_printf("/machine/%s", name);
        char *chardev = NULL;
        if (!g_str_equal(name, "peripheral") && !g_str_equal(name, "peripheral-anon"))
            continue;
        if (!find_port(client, path, &chardev, cancellable, error))
            return NULL;
        if (chardev != NULL)
            return chardev;
    }
    g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_CONNECT,
                        "the VM has no guest agent channel (a virtserialport named " PORT_NAME ")");
    return NULL;
}

// As query-chardev tells, of one character device.
typedef struct {
    char *filename; // NULL: there is no such device
    bool frontend_open;
} Chardev;

static bool
query_chardev(VsQmpClient *client, const char *label, Chardev *chardev, GCancellable *cancellable,
              GError **error)
{
    VsQmpReader reader = {.command = "query-chardev"};
    struct json_object *reply =
        vs_qmp_client_call(client, reader.command, NULL, cancellable, error);
    if (reply == NULL)
        return false;

    size_t length = vs_qmp_reader_array_length(&reader, reply);
    for (size_t i = 0; i < length && chardev->filename == NULL; i++) {
        struct json_object *element = vs_qmp_reader_element(&reader, reply, i);
        g_autofree char *found = vs_qmp_reader_string(&reader, element, "label");
        if (found == NULL || !g_str_equal(found, label))
            continue;
        chardev->filename = vs_qmp_reader_string(&reader, element, "filename");
        chardev->frontend_open = vs_qmp_reader_bool(&reader, element, "frontend-open");
    }
    json_object_put(reply);
    return vs_qmp_reader_finish(&reader, error);
}

// The path in "unix:PATH,server=on", with "disconnected:" before it while no client is connected
// (chardev/char-socket.c of QEMU; ",server" before 6.0). NULL for anything else, also for an
// abstract socket.
static char *
parse_filename(const char *filename, bool *connected)
{
    static const char disconnected[] = "disconnected:";
    static const char unix_socket[] = "unix:";

    *connected = !g_str_has_prefix(filename, disconnected);
    if (!*connected)
        filename += strlen(disconnected);
    if (!g_str_has_prefix(filename, unix_socket))
        return NULL;
    filename += strlen(unix_socket);

    size_t length = strlen(filename);
    if (g_str_has_suffix(filename, ",server=on"))
        length -= strlen(",server=on");
    else if (g_str_has_suffix(filename, ",server"))
        length -= strlen(",server");
    else
        return NULL;
    g_autofree char *path = g_strndup(filename, length);
    if (path[0] == '\0' || strstr(path, ",abstract=on") != NULL)
        return NULL;
    return g_steal_pointer(&path);
}

// A relative path is relative to QEMU's working directory.
static char *
make_absolute(VsQmpClient *client, char *path)
{
    pid_t pid = vs_qmp_client_peer_pid(client);
    g_autofree char *own = path;

    if (g_path_is_absolute(own) || pid <= 0)
        return g_steal_pointer(&own);
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)pid);
    g_autofree char *directory = g_file_read_link(link, NULL);
    return directory != NULL ? g_build_filename(directory, own, NULL) : g_steal_pointer(&own);
}

// Whether the guest can be spoken to, and by us.
static char *
judge(VsQmpClient *client, const char *label, const Chardev *chardev, GError **error)
{
    bool connected = false;
    const char *filename = chardev->filename != NULL ? chardev->filename : "";
    g_autofree char *path = parse_filename(filename, &connected);

    if (path == NULL)
        g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_CONNECT,
                    "the VM's guest agent channel is not behind a listening unix socket, but "
                    "character device '%s' (%s)",
                    label, filename);
    else if (!chardev->frontend_open)
        g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_CONNECT,
                            "no guest agent runs in the guest (nothing there has opened its "
                            "channel)");
    else if (connected)
        g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_TAKEN,
                    "another client is connected to the guest agent's socket '%s'", path);
    else
        return make_absolute(client, g_steal_pointer(&path));
    return NULL;
}

char *
vs_qmp_find_agent_socket(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    Chardev chardev = {NULL, false};
    g_autofree char *label = find_chardev(client, cancellable, error);
    if (label == NULL)
        return NULL;

    char *path = query_chardev(client, label, &chardev, cancellable, error)
                     ? judge(client, label, &chardev, error)
                     : NULL;
    g_free(chardev.filename);
    return path;
}
