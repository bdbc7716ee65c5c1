// SPDX-License-Identifier: LGPL-2.1-or-later
// Unix sockets by their path.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/un.h>

G_BEGIN_DECLS

// False with errno where the path is too long for an address.
bool vs_unix_address_init(struct sockaddr_un *address, const char *path);

// A connection to QEMU's NBD server, with close-on-exec; the caller's. -1 with a G_IO_ERROR.
int vs_unix_connect_nbd(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
