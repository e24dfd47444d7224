"""swap.py PROGRAM VICTIM OPENS: runs a program that ends at once, and puts a symbolic link to the victim in its place as
soon as it has been opened so many times: between an agent's look at the file and what it does by the path.

Prints how many times it was opened.
"""
import ctypes
import os
import struct
import sys
import time

IN_NONBLOCK, IN_OPEN = 0o4000, 0x20
program, victim, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(IN_NONBLOCK)
if watch < 0 or libc.inotify_add_watch(watch, program.encode(), IN_OPEN) < 0:
    sys.exit(f"inotify: {os.strerror(ctypes.get_errno())}")
link = program + ".link"
os.symlink(victim, link)
child = os.posix_spawn(program, [program], {})
os.waitpid(child, 0)
opened, end = 0, time.monotonic() + 3
while opened < wanted and time.monotonic() < end:
    try:
        events = os.read(watch, 4096)
    except BlockingIOError:
        time.sleep(0.0002)
        continue
    while events:
        _, _, _, name = struct.unpack_from("iIII", events)
        events = events[16 + name:]
        opened += 1
# Also where nobody opened it: what is done later by the path is done to the victim.
os.rename(link, program)
print(opened)
