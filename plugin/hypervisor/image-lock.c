// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/image-lock.h"

#include <fcntl.h>
#include <unistd.h>

#define LOCK_PERM_BASE 100
#define PERM_READ 0   // log2(BLK_PERM_CONSISTENT_READ)
#define PERM_WRITE 1  // log2(BLK_PERM_WRITE)
#define PERM_RESIZE 3 // log2(BLK_PERM_RESIZE)

int
vs_image_lock_open(const char *path)
{
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

// Asking for an exclusive lock finds shared ones too; only setting it would need a descriptor that
// may write.
static bool
is_locked(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool
vs_image_lock_is_written(int fd)
{
    return is_locked(fd, LOCK_PERM_BASE + PERM_WRITE) ||
           is_locked(fd, LOCK_PERM_BASE + PERM_RESIZE);
}

bool
vs_image_lock_is_held(int fd)
{
    return is_locked(fd, LOCK_PERM_BASE + PERM_READ) || vs_image_lock_is_written(fd);
}

bool
vs_image_lock_is_path_written(const char *path)
{
    int fd = vs_image_lock_open(path);
    if (fd < 0)
        return false;
    bool is_written = vs_image_lock_is_written(fd);
    close(fd);
    return is_written;
}
