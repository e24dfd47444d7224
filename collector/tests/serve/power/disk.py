"""A file system in memory that loses at a power loss what was not forced to the disk.

disk.py MOUNT IMAGE SEED: what is in the folder IMAGE is on the disk; it is served at MOUNT until SIGTERM, which is the
loss of power; then IMAGE holds what is on the disk. Strict where file systems differ: fsync of a file forces its bytes
and not its name, fsync of a folder forces the names in it. What was not forced is on the disk in part, by chance:
of a file's writes none, the first ones, or any of their pages; of a folder's changes the first ones.
"""

import errno
import os
import random
import stat
import sys
import time

import mfusepy

PAGE = 4096


class File:
    mode, folder = stat.S_IFREG | 0o644, False

    def __init__(self, data=b""):
        self.live, self.disk, self.pending = bytearray(data), bytes(data), []

    def write(self, at, data):
        if at > len(self.live):
            self.live.extend(bytes(at - len(self.live)))
        self.live[at : at + len(data)] = data
        while data:
            size = PAGE - at % PAGE
            self.pending.append((at, data[:size]))
            at, data = at + size, data[size:]

    def truncate(self, size):
        self.live[size:] = b""
        self.live.extend(bytes(size - len(self.live)))
        self.pending.append((size, None))

    def force(self):
        self.disk, self.pending = bytes(self.live), []

    def lose(self, chance):
        kind, data = chance.randrange(3), bytearray(self.disk)
        first = self.pending[: chance.randrange(len(self.pending) + 1)] if kind else []
        kept = first if kind == 1 else [piece for piece in self.pending if kind and chance.random() < 0.5]
        for at, piece in kept:
            if piece is None:
                data[at:] = b""
            data.extend(bytes(max(0, at - len(data))))
            if piece:
                data[at : at + len(piece)] = piece
        return bytes(data)


class Folder:
    mode, folder = stat.S_IFDIR | 0o755, True

    def __init__(self):
        self.live, self.disk, self.pending = {}, {}, []

    def change(self, changes):
        """All of them, or none, are on the disk."""
        self.pending.append(changes)
        apply(self.live, changes)

    def force(self):
        self.disk, self.pending = dict(self.live), []

    def lose(self, chance):
        names = dict(self.disk)
        for changes in self.pending[: chance.randrange(len(self.pending) + 1)]:
            apply(names, changes)
        return names


def apply(names, changes):
    for name, node in changes:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def read(path):
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            node = File(file.read())
    else:
        node = Folder()
        node.live = {name: read(os.path.join(path, name)) for name in os.listdir(path)}
        node.force()
    node.mode = os.stat(path).st_mode
    return node


def write(path, node, chance):
    if node.folder:
        os.mkdir(path)
        for name, child in node.lose(chance).items():
            write(os.path.join(path, name), child, chance)
    else:
        with open(path, "wb") as file:
            file.write(node.lose(chance))
    os.chmod(path, stat.S_IMODE(node.mode))


def fail(number):
    raise mfusepy.FuseOSError(number)


class Disk(mfusepy.Operations):
    use_ns = True

    def __init__(self, root):
        self.root, self.opened, self.last, self.forced = root, {}, 0, 0

    def node(self, path, handle=None):
        if handle in self.opened:
            return self.opened[handle]
        node = self.root
        for name in filter(None, path.split("/")):
            if not node.folder or name not in node.live:
                fail(errno.ENOENT)
            node = node.live[name]
        return node

    def above(self, path):
        folder, name = os.path.split(path)
        return self.node(folder), name

    def open_node(self, node):
        self.last += 1
        self.opened[self.last] = node
        return self.last

    def getattr(self, path, fh=None):
        node, now = self.node(path, fh), time.time_ns()
        size = 0 if node.folder else len(node.live)
        return {"st_mode": node.mode, "st_nlink": 1, "st_size": size, "st_uid": os.getuid(), "st_gid": os.getgid(),
                "st_blocks": (size + 511) // 512, "st_mtime": now, "st_atime": now, "st_ctime": now}

    def mkdir(self, path, mode):
        folder, name = self.above(path)
        if name in folder.live:
            fail(errno.EEXIST)
        made = Folder()
        made.mode = stat.S_IFDIR | mode
        folder.change([(name, made)])
        return 0

    def create(self, path, mode, fi=None):
        folder, name = self.above(path)
        made = File()
        made.mode = stat.S_IFREG | stat.S_IMODE(mode)
        folder.change([(name, made)])
        return self.open_node(made)

    def unlink(self, path):
        folder, name = self.above(path)
        if name not in folder.live:
            fail(errno.ENOENT)
        folder.change([(name, None)])
        return 0

    def rmdir(self, path):
        if self.node(path).live:
            fail(errno.ENOTEMPTY)
        return self.unlink(path)

    def rename(self, old, new):
        (source, before), (target, after) = self.above(old), self.above(new)
        node = self.node(old)
        if source is target:
            source.change([(before, None), (after, node)])
        else:
            target.change([(after, node)])
            source.change([(before, None)])
        return 0

    def link(self, target, source):
        folder, name = self.above(target)
        if name in folder.live:
            fail(errno.EEXIST)
        folder.change([(name, self.node(source))])
        return 0

    def open(self, path, flags):
        return self.open_node(self.node(path))

    def opendir(self, path):
        return self.open_node(self.node(path))

    def release(self, path, fh):
        self.opened.pop(fh, None)
        return 0

    releasedir = release

    def readdir(self, path, fh):
        return [".", "..", *self.node(path, fh).live]

    def read(self, path, size, offset, fh):
        return bytes(self.node(path, fh).live[offset : offset + size])

    def write(self, path, data, offset, fh):
        self.node(path, fh).write(offset, bytes(data))
        return len(data)

    def truncate(self, path, length, fh=None):
        self.node(path, fh).truncate(length)
        return 0

    def fsync(self, path, datasync, fh):
        self.forced += 1
        self.node(path, fh).force()
        return 0

    fsyncdir = fsync

    def chmod(self, path, mode):
        node = self.node(path)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        return 0

    def chown(self, path, uid, gid):
        return 0

    def utimens(self, path, times=None):
        return 0

    def statfs(self, path):
        return {"f_bsize": PAGE, "f_frsize": PAGE, "f_blocks": 1 << 20, "f_bfree": 1 << 19, "f_bavail": 1 << 19}


def main():
    mount, image, seed = sys.argv[1:]
    disk = Disk(read(image))
    try:
        mfusepy.FUSE(disk, mount, foreground=True, nothreads=True, hard_remove=True)
    except RuntimeError as ended:
        # libfuse says so when it was ended by a signal.
        if ended.args[0] != 8:
            raise
    chance = random.Random(int(seed))
    os.rename(image, image + ".before")
    write(image, disk.root, chance)
    print(f"forced {disk.forced} times", flush=True)


main()
