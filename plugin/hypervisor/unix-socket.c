// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/unix-socket.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool
vs_unix_address_init(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (g_strlcpy(address->sun_path, path, sizeof address->sun_path) < sizeof address->sun_path)
        return true;
    errno = ENAMETOOLONG;
    return false;
}

int
vs_unix_connect_nbd(const char *path, GError **error)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && vs_unix_address_init(&address, path) &&
        connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    int code = errno;
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code), "connecting to the NBD socket: %s",
                g_strerror(code));
    if (fd >= 0)
        close(fd);
    return -1;
}
