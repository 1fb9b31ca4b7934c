"""Read a file as a process with another root directory sees it, whatever that root holds.

What lies below /proc/<pid>/root was put there by the container. An absolute symbolic link there means a path of the
container, where open(2) would follow it into the host; a FIFO or a device would hang the reader; a file may be huge.
So the path is walked component by component from an open descriptor of the root, links are followed inside it alone,
and only regular files are read, up to a limit. See path_resolution(7), symlink(7), openat(2).
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["LIMIT_BYTES", "read_rooted"]

#: A resolv.conf or hosts file is far smaller, even where someone blocks all advertisers in it.
LIMIT_BYTES = 4 << 20
MAX_LINKS = 40  # MAXSYMLINKS
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_rooted(root: str, path: str, limit: int = LIMIT_BYTES) -> str:
    """Return the text of the regular file at `path` below `root`, cut at the last line within `limit` bytes.

    Raises OSError."""
    folders = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        left = [part for part in path.split("/") if part]
        links = 0
        while left:
            part = left.pop(0)
            if part == ".":
                continue
            if part == "..":
                if len(folders) > 1:  # the root's parent is the root
                    os.close(folders.pop())
                continue
            here = os.stat(part, dir_fd=folders[-1], follow_symlinks=False)
            if stat.S_ISLNK(here.st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(part, dir_fd=folders[-1])
                if target.startswith("/"):
                    while len(folders) > 1:
                        os.close(folders.pop())
                left[:0] = [each for each in target.split("/") if each]
            elif left:
                folders.append(os.open(part, _FOLDER, dir_fd=folders[-1]))
            else:
                return _read(part, folders[-1], limit)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    finally:
        for folder in folders:
            os.close(folder)


def _read(name: str, folder: int, limit: int) -> str:
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
    fd = os.open(name, _FILE, dir_fd=folder)
    try:
        # It may have been replaced meanwhile; O_NONBLOCK kept a FIFO from holding us.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        parts, room = [], limit
        while room > 0 and (part := os.read(fd, min(room, 1 << 16))):
            parts.append(part)
            room -= len(part)
    finally:
        os.close(fd)
    text = b"".join(parts).decode(errors="replace")
    return text if room > 0 else text[: text.rfind("\n") + 1]
