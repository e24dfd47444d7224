"""Scenarios of scenario.py in which processes and threads come and go around TLS, or look into themselves."""
import ctypes
import mmap
import os
import struct
import subprocess
import threading
import time

from __main__ import CONFIG, connect, exchange, requests, say, step, target

LIBC = ctypes.CDLL(None, use_errno=True)


def ask(request):
    """On a connection of its own."""
    connection = connect(target())
    exchange(connection, request)
    connection.close()


def in_child(work):
    """Forks, does the work in the child, and gives the child's exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def must(status):
    if status != 0:
        raise SystemExit(f"a child ended with {status}")


def begin():
    """The first request, and a step behind it; gives the others. What it was quicker with than the agent is over then."""
    first, *rest = requests()
    ask(first)
    step("begun")
    return rest


def apart():
    """Every request on a connection of its own; then a step, so that the test can look at this process."""
    step("begun")
    for request in requests():
        ask(request)
    step("done")


def forks():
    """Parent and child, forked without exec, ask in turn; every request on a connection of its own."""
    asked = begin()
    for mine, childs in zip(asked[::2], asked[1::2]):
        must(in_child(lambda: ask(childs)))
        ask(mine)


def daemon():
    """Forks twice as daemons do, and asks when both parents are gone."""
    asked = begin()
    if os.fork():
        os._exit(0)
    os.setsid()
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == parent:
        time.sleep(0.01)
    for request in asked:
        ask(request)


def curl(request):
    where = target()
    return ["/usr/bin/curl", "-q", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--cacert", CONFIG["ca"],
            "-H", f"Authorization: Bearer {request['credential']}",
            f"https://{where['host']}:{where['port']}{request['path']}"]


def spawned():
    """Asks between children that are made by vfork and by posix_spawn, and lets each of these ask."""
    asked = begin()
    for mine, first, second in zip(asked[::3], asked[1::3], asked[2::3]):
        ask(mine)
        child = subprocess.Popen(curl(first), stdout=subprocess.PIPE, close_fds=False)
        status = child.communicate()[0]
        say(child=child.pid, of=first["cell"], status=int(status), exit=child.returncode)
        out, into = os.pipe()
        pid = os.posix_spawn("/usr/bin/curl", curl(second), os.environ, file_actions=[
            (os.POSIX_SPAWN_DUP2, into, 1), (os.POSIX_SPAWN_CLOSE, out)])
        os.close(into)
        status = os.read(out, 100)
        os.close(out)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        say(child=pid, of=second["cell"], status=int(status), exit=ended)


def many_threads():
    """So many threads are there before the step; behind it each request is made by another of them. TLS is there too."""
    import ssl
    ssl.create_default_context()
    asked = requests()
    go, turn = threading.Event(), threading.Semaphore(8)
    failures = []

    def live(number):
        go.wait()
        try:
            if number < len(asked):
                with turn:
                    ask(asked[number])
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=live, args=(number,)) for number in range(CONFIG["threads"])]
    for thread in threads:
        thread.start()
    step("begun")
    go.set()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit("; ".join(failures))


def late_thread():
    """TLS comes in a thread, by dlopen, after the step; its requests are made by that thread and by the first."""
    assert not any("libssl" in line for line in open("/proc/self/maps"))
    step("begun")
    asked = requests()

    def load():
        import ssl
        ssl.create_default_context()
        step("loaded")
        for request in asked[::2]:
            ask(request)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    for request in asked[1::2]:
        ask(request)


def exec_in_thread():
    """A thread that is not the first becomes another program, which asks."""
    import ssl
    say(version=ssl.OPENSSL_VERSION)
    step("begun")
    request, = requests()
    say(becomes=request["cell"])
    words = curl(request)
    thread = threading.Thread(target=lambda: os.execv(words[0], words))
    thread.start()
    thread.join()
    raise SystemExit("it is still the old program")


def forking():
    """Forks without end while the test does what it likes; each request is made by a child, behind a step."""
    import ssl
    ssl.create_default_context()
    ended, counted = threading.Event(), {"forks": 0, "failed": []}

    def fork_on():
        while not ended.is_set():
            try:
                status = in_child(lambda: None)
                if status:
                    counted["failed"].append(f"status {status}")
            except OSError as error:
                counted["failed"].append(repr(error))
            counted["forks"] += 1
            time.sleep(0.002)

    thread = threading.Thread(target=fork_on)
    thread.start()
    try:
        step("begun")
        for request in requests():
            step(request["cell"])
            must(in_child(lambda: ask(request)))
    finally:
        ended.set()
        thread.join()
    say(forks=counted["forks"], failed=counted["failed"][:5])


def code_of(name):
    """Executable mappings of the library of this name: begin and end."""
    lines = [line.split() for line in open("/proc/self/maps")]
    places = [line[0].split("-") for line in lines if "x" in line[1] and name in line[-1]]
    return [(int(start, 16), int(end, 16)) for start, end in places]


def copied_text():
    """Puts a copy of the TLS library's text, in anonymous memory, in the place of the text: as programs do that want it
    in large pages. One request before, the others behind."""
    first, *rest = requests()
    step("begun")
    ask(first)
    step("met")
    LIBC.mmap.restype = LIBC.mremap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    LIBC.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    places = code_of("libssl")
    assert places, "no text of a TLS library"
    for start, end in places:
        copy = LIBC.mmap(None, end - start, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert copy != ctypes.c_void_p(-1).value
        ctypes.memmove(copy, start, end - start)
        assert LIBC.mprotect(copy, end - start, mmap.PROT_READ | mmap.PROT_EXEC) == 0
        moved = LIBC.mremap(copy, end - start, end - start, 3, start)      # MREMAP_MAYMOVE | MREMAP_FIXED
        assert moved == start, os.strerror(ctypes.get_errno())
    assert not code_of("libssl")
    for request in rest:
        ask(request)


CALLS = 200


def call_both():
    """The functions that breakpoints are put on, so many times each."""
    for _ in range(CALLS):
        LIBC.getppid()
        LIBC.getpgid(0)


def address(name):
    return ctypes.cast(getattr(LIBC, name), ctypes.c_void_p).value


def counted_breakpoint(name):
    """perf_event_open(2) of this thread: an instruction breakpoint on a function, which only counts."""
    attributes = bytearray(128)
    struct.pack_into("IIQQQQQIIQQ", attributes, 0, 5, 128, 0, 0, 0, 0, 1 << 5 | 1 << 6, 0, 4, address(name), 8)
    held = (ctypes.c_char * 128).from_buffer(attributes)
    opened = LIBC.syscall(298, held, 0, -1, -1, 8)
    if opened < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return opened


def own_breakpoints():
    """Counts its own calls by two breakpoints of its own, before and after each request."""
    asked = requests()
    step("begun")
    opened = {name: counted_breakpoint(name) for name in ("getppid", "getpgid")}
    for laps, request in enumerate(asked, 1):
        ask(request)
        call_both()
        counts = {name: struct.unpack("Q", os.read(descriptor, 8))[0] for name, descriptor in opened.items()}
        if any(count != CALLS * laps for count in counts.values()):
            raise SystemExit(f"{CALLS * laps} calls of each, counted {counts}")
    say(counted=CALLS * len(asked))


def taken():
    """Takes all four breakpoints of its thread before its TLS library comes; then a step before each request."""
    for _ in range(4):
        counted_breakpoint("getppid")
    for request in requests():
        step(request["cell"])
        ask(request)


TRACEME, CONT, POKEUSER, SETOPTIONS, EXITKILL = 0, 7, 6, 0x4200, 0x100000
DEBUG_REGISTERS = 848                                # offsetof(struct user, u_debugreg)


def traced():
    """A child asks and calls; its parent has put two breakpoints into the child's debug registers, and counts."""
    import signal
    LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    LIBC.ptrace.restype = ctypes.c_long

    def trace(*words):
        if LIBC.ptrace(*words) < 0:
            raise OSError(ctypes.get_errno(), f"ptrace: {os.strerror(ctypes.get_errno())}")

    asked = requests()
    step("begun")
    import ssl
    ssl.create_default_context()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            trace(TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            for request in asked:
                ask(request)
                call_both()
            status = 0
        finally:
            os._exit(status)
    os.waitpid(child, 0)
    trace(SETOPTIONS, child, None, EXITKILL)
    for number, name in enumerate(("getppid", "getpgid")):
        trace(POKEUSER, child, DEBUG_REGISTERS + 8 * number, address(name))
    trace(POKEUSER, child, DEBUG_REGISTERS + 8 * 7, 0b101)
    traps = 0
    pending = 0
    while True:
        trace(CONT, child, None, pending)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            break
        stopped = os.WSTOPSIG(status)
        traps += stopped == signal.SIGTRAP
        pending = 0 if stopped == signal.SIGTRAP else stopped
    must(os.waitstatus_to_exitcode(status))
    if traps != 2 * CALLS * len(asked):
        raise SystemExit(f"{traps} traps instead of {2 * CALLS * len(asked)}")
    say(counted=traps)


def debugged():
    """What a debugger looks at: calls, and writes to a place whose address it is told. One request before the step if the
    test wants the TLS library to be there by then."""
    asked = requests()
    place = ctypes.c_long(0)
    if CONFIG["early"]:
        ask(asked.pop(0))
    step("begun", place=ctypes.addressof(place), ppid=address("getppid"), pgid=address("getpgid"))
    for request in asked:
        ask(request)
    for number in range(10):
        LIBC.getppid()
        LIBC.getpgid(0)
        place.value = number + 1
