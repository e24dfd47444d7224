"""Programs that a test steers: one scenario per run, on plain sockets and Python's ssl, standard library only.

Standard input: one JSON line {"scenario", "targets", "requests", "ca", ...}, later one line per step to go on.
Standard output: JSON lines: {"step": name} waits for a line; {"cell", "pid", "local", "peer", "status"} is one exchange
as this process knows it.
A target is {"host", "port", "tls": bool, "unix": path}; a request is {"cell", "path", "credential"} and more.
"""
import array
import ctypes
import fcntl
import json
import os
import socket
import sys
import tempfile
import termios
import threading

CONFIG = json.loads(sys.stdin.readline())
LOCK = threading.Lock()


def say(**fact):
    with LOCK:
        sys.stdout.write(json.dumps(fact) + "\n")
        sys.stdout.flush()


def step(name, **more):
    say(step=name, **more)
    if not sys.stdin.readline():
        sys.exit("the test is gone")


def target(name="main"):
    return CONFIG["targets"][name]


def requests(name="requests"):
    return CONFIG[name]


def connect(where):
    if where.get("unix"):
        made = socket.socket(socket.AF_UNIX)
        made.connect(where["unix"])
        return made
    made = socket.create_connection((where["host"], where["port"]))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return secure(made) if where.get("tls") else made


def context():
    import ssl
    made = ssl.create_default_context(cafile=CONFIG["ca"])
    made.keylog_filename = CONFIG.get("keylog") or made.keylog_filename
    return made


def secure(plain, with_context=None, reuse=None):
    return (with_context or context()).wrap_socket(plain, server_hostname="localhost", session=reuse)


def head(request, method="GET", extra=()):
    lines = [f"{request.get('method', method)} {request['path']} {request.get('version', 'HTTP/1.1')}", "Host: localhost"]
    if request.get("credential"):
        lines.append(f"Authorization: Bearer {request['credential']}")
    return ("\r\n".join([*lines, *extra, "", ""])).encode()


class Reader:
    """Reads answers off one connection, keeping what is read too far."""

    def __init__(self, connection, receive=None):
        self.receive = receive or (lambda: connection.recv(65536))
        self.kept = b""

    def more(self):
        data = self.receive()
        if not data:
            raise EOFError("the peer closed the connection")
        self.kept += data

    def take(self, count):
        while len(self.kept) < count:
            self.more()
        taken, self.kept = self.kept[:count], self.kept[count:]
        return taken

    def line(self):
        while b"\r\n" not in self.kept:
            self.more()
        line, self.kept = self.kept.split(b"\r\n", 1)
        return line

    def answer(self, method="GET"):
        status = int(self.line().split(b" ")[1])
        fields = {}
        while field := self.line():
            name, value = field.split(b":", 1)
            fields[name.strip().lower()] = value.strip()
        if method == "HEAD" or status in (204, 304) or 100 <= status < 200:
            pass
        elif fields.get(b"transfer-encoding") == b"chunked":
            while size := int(self.line(), 16):
                self.take(size + 2)
            self.line()
        else:
            self.take(int(fields.get(b"content-length", 0)))
        return status


def report(connection, request, status):
    local, peer = connection.getsockname(), connection.getpeername()
    inet = connection.family != socket.AF_UNIX
    say(cell=request["cell"], pid=os.getpid(), status=status,
        local=list(local[:2]) if inet else None, peer=list(peer[:2]) if inet else None)


def exchange(connection, request, reader=None, method="GET"):
    connection.sendall(head(request, method))
    report(connection, request, (reader or Reader(connection)).answer(request.get("method", method)))


def keep_alive():
    """Every request on one connection, one after the other."""
    connection = connect(target())
    reader = Reader(connection)
    for request in requests():
        exchange(connection, request, reader)


def concurrent():
    """Every request on its own connection, all at once."""
    start = threading.Barrier(len(requests()))

    def one(request):
        connection = connect(target())
        start.wait()
        exchange(connection, request)

    threads = [threading.Thread(target=one, args=(request,)) for request in requests()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def pipelined():
    """All requests in one write, then all answers."""
    connection = connect(target())
    connection.sendall(b"".join(head(request) for request in requests()))
    reader = Reader(connection)
    for request in requests():
        report(connection, request, reader.answer())


def late():
    """The first request before the step, the others after it, on one connection."""
    connection = connect(target())
    reader = Reader(connection)
    first, *rest = requests()
    exchange(connection, first, reader)
    step("opened")
    for request in rest:
        exchange(connection, request, reader)


def bridged():
    """The first request, and a step. Then the others on the same connection, or, of the form "new", each on one of its
    own; then the first connection is closed, and a step. "way" is "requests" or nothing."""
    made = sessions() if CONFIG.get("way") == "requests" else sockets()
    ask, close = made()
    first, *rest = requests()
    ask(first)
    step("opened")
    for request in rest:
        if request.get("form") == "new":
            ask_anew, close_anew = made()
            ask_anew(request)
            close_anew()
        else:
            ask(request)
    close()
    step("closed")


def lanes():
    """A connection for each lane, with its first request; and a step. Then a thread for each, all at once."""
    waiting = {}
    for request in requests():
        waiting.setdefault(request["lane"], []).append(request)
    open_ones = []
    for first, *rest in waiting.values():
        connection = connect(target())
        reader = Reader(connection)
        exchange(connection, first, reader)
        open_ones.append((connection, reader, rest))
    step("opened")

    def run(connection, reader, rest):
        for request in rest:
            exchange(connection, request, reader)
        connection.close()

    threads = [threading.Thread(target=run, args=one) for one in open_ones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def sockets():
    def make():
        connection = connect(target())
        reader = Reader(connection)
        return lambda request: exchange(connection, request, reader), connection.close
    return make


def sessions():
    import requests as library

    def make():
        session = library.Session()
        session.verify = CONFIG["ca"]

        def ask(request):
            answer = session.get(f"https://localhost:{target()['port']}{request['path']}",
                                 headers={"Authorization": f"Bearer {request['credential']}"})
            say(cell=request["cell"], pid=os.getpid(), status=answer.status_code, local=None, peer=None)
        return ask, session.close
    return make


def stepped():
    """One connection; a step before each request."""
    connection = connect(target())
    reader = Reader(connection)
    for request in requests():
        step(request["cell"])
        exchange(connection, request, reader)


def anew():
    """A step before each request, each on a new connection."""
    for request in requests():
        step(request["cell"])
        connection = connect(target())
        exchange(connection, request)
        connection.close()


def fork_after_connect():
    """The parent connects and asks first; its child asks next on the inherited socket; then the parent again.

    With TLS nothing comes after the child: its copy of the library's state has moved on, the parent's has not.
    """
    connection = connect(target())
    reader = Reader(connection)
    first, second, *rest = requests()
    exchange(connection, first, reader)
    child = os.fork()
    if child == 0:
        exchange(connection, second, reader)
        os._exit(0)
    os.waitpid(child, 0)
    for request in rest:
        exchange(connection, request, reader)


def pass_descriptor():
    """A child connects and hands the descriptor over by SCM_RIGHTS; the parent, which never connected, asks."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        made = connect(target())
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))])
        os._exit(0)
    _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    descriptor = array.array("i", ancillary[0][2])[0]
    os.waitpid(child, 0)
    connection = socket.socket(fileno=descriptor)
    reader = Reader(connection)
    for request in requests():
        exchange(connection, request, reader)


def split(data, size):
    return [data[at:at + size] for at in range(0, len(data), size)]


def socket_calls():
    """One connection; each request by another way of sending and receiving, named by the request's `way`."""
    connection = connect(target())
    number = connection.fileno()

    def into(count=65536):
        buffers = [bytearray(7), bytearray(count)]
        got = connection.recvmsg_into(buffers)[0]
        return b"".join(buffers)[:got]

    def readv():
        buffers = [bytearray(3), bytearray(11), bytearray(65536)]
        got = os.readv(number, buffers)
        return b"".join(buffers)[:got]

    def peek():
        seen = connection.recv(65536, socket.MSG_PEEK)
        again = connection.recv(20, socket.MSG_PEEK)
        assert seen.startswith(again)
        return connection.recv(65536)

    def wait_all():
        connection.recv(1, socket.MSG_PEEK)
        waiting = array.array("i", [0])
        fcntl.ioctl(connection, termios.FIONREAD, waiting)
        return connection.recv(waiting[0], socket.MSG_WAITALL)

    def one_by_one(data):
        for byte in split(data, 1):
            connection.send(byte)

    def more(data):
        for part in split(data, 30)[:-1]:
            connection.send(part, socket.MSG_MORE)
        connection.send(split(data, 30)[-1])

    plain = lambda: connection.recv(65536)
    ways = {
        "send": (connection.sendall, plain),
        "write_read": (lambda data: os.write(number, data), lambda: os.read(number, 65536)),
        "writev_readv": (lambda data: os.writev(number, split(data, 9)), readv),
        "sendmsg_recvmsg": (lambda data: connection.sendmsg(split(data, 13)), lambda: connection.recvmsg(65536)[0]),
        "recvmsg_into": (lambda data: connection.sendmsg([b"", data[:1], b"", data[1:]]), into),
        "peek": (connection.sendall, peek),
        "wait_all": (connection.sendall, wait_all),
        "short": (one_by_one, lambda: connection.recv(1)),
        "more": (more, lambda: connection.recv(5)),
    }
    for request in requests():
        send, receive = ways[request["way"]]
        send(head(request))
        report(connection, request, Reader(connection, receive).answer())


def spliced():
    """A request's body by sendfile, one by splice, an answer taken away by splice; two more requests."""
    connection = connect(target())
    reader = Reader(connection)
    by_sendfile, by_splice, taken_away, after, again = requests()
    body = b"b" * 200_000
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        connection.sendall(head(by_sendfile, "POST", [f"Content-Length: {len(body)}"]))
        at = 0
        while at < len(body):
            at += os.sendfile(connection.fileno(), file.fileno(), at, len(body) - at)
        report(connection, by_sendfile, reader.answer())
        connection.sendall(head(by_splice, "POST", [f"Content-Length: {len(body)}"]))
        out, into = os.pipe()
        at = 0
        while at < len(body):
            moved = os.splice(file.fileno(), into, min(32768, len(body) - at), offset_src=at)
            at += moved
            while moved:
                moved -= os.splice(out, connection.fileno(), moved)
        report(connection, by_splice, reader.answer())
    connection.sendall(head(taken_away))
    left = b""
    while b"ok\n" not in left:
        moved = os.splice(connection.fileno(), into, 65536)
        left += os.read(out, moved)
    report(connection, taken_away, int(left.split(b" ")[1]))
    exchange(connection, after, reader)
    exchange(connection, again, reader)


def bodies():
    """Uploads and answers of each form on one connection, named by the request's `form`."""
    connection = connect(target())
    reader = Reader(connection)
    for request in requests():
        form = request["form"]
        if form == "large":
            body = b"l" * 1_500_000
            connection.sendall(head(request, "POST", [f"Content-Length: {len(body)}"]) + body)
        elif form == "chunked":
            connection.sendall(head(request, "POST", ["Transfer-Encoding: chunked"]))
            for part in (b"first", b"x" * 30_000, b"last"):
                connection.sendall(b"%x;extension=1\r\n%s\r\n" % (len(part), part))
            connection.sendall(b"0\r\nTrailer: none\r\n\r\n")
        elif form == "continue":
            connection.sendall(head(request, "POST", ["Expect: 100-continue", "Content-Length: 20000"]))
            assert reader.answer() == 100
            connection.sendall(b"c" * 20_000)
        elif form == "fields":
            body = request["fields"].encode()
            connection.sendall(head(request, "POST", [
                "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}"]) + body)
        elif form == "long_head":
            filler = [f"X-Filler-{number}: {'f' * 900}" for number in range(request["filler"])]
            whole = head(request, "GET", filler)
            for part in split(whole, 1000):
                connection.sendall(part)
        else:
            connection.sendall(head(request, form))
        method = {"HEAD": "HEAD"}.get(form, "GET")
        report(connection, request, reader.answer(method))


def proxy_protocol():
    """PROXY protocol v1, then v2, each before a request on its own connection, with and without TLS."""
    for request in requests():
        where = target(request["target"])
        plain = socket.create_connection((where["host"], where["port"]))
        if request["proxy_version"] == 1:
            plain.sendall(b"PROXY TCP4 198.51.100.7 203.0.113.9 4711 443\r\n")
        else:
            addresses = socket.inet_aton("198.51.100.7") + socket.inet_aton("203.0.113.9") + b"\x12\x67\x01\xbb"
            plain.sendall(b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + len(addresses).to_bytes(2, "big") + addresses)
        exchange(secure(plain) if where["tls"] else plain, request)


def resumption():
    """The first connection makes a session, the others resume it, one after the other."""
    shared, known = context(), None
    for request in requests():
        where = target()
        connection = secure(socket.create_connection((where["host"], where["port"])), shared, known)
        exchange(connection, request)
        assert known is None or connection.session_reused, "not resumed"
        known = connection.session
        connection.unwrap()
        connection.close()


def late_library():
    """TLS is imported only after the step: the library is mapped into a running process. Then one connection each."""
    assert not any("libssl" in line for line in open("/proc/self/maps"))
    step("without")
    import ssl
    mapped = {line.split()[-1] for line in open("/proc/self/maps") if "libssl" in line}
    say(mapped=sorted(mapped), version=ssl.OPENSSL_VERSION)
    for request in requests():
        connection = connect(target())
        exchange(connection, request)
        connection.close()
        step(request["cell"])


def hostile():
    """Bad input of every kind on each target; nothing that comes back matters."""
    credential = requests()[0]["credential"]
    random = os.urandom(20_000)
    client_hello = bytes.fromhex("160301") + (512).to_bytes(2, "big") + b"\x01\0\x01\xfc\x03\x03" + os.urandom(506)
    line = f"Authorization: Bearer {credential}\r\n".encode()
    inputs = [
        random, b"\0" * 5000, b"GET", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n" + line,
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"G\xffT / HTTP/1.1\r\nHost: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"a" * 300_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: v\r\n" % number for number in range(20_000)) + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: " + b"Basic " + b"=" * 5000 + b"\r\n\r\n",
        b"PROXY TCP4 999.1.1.1 1 2 3\r\n\r\n\0\r\nQUIT\n\x2f\xff\xff\xff", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + random,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 500,
        client_hello, client_hello[:100], client_hello + random, b"\x16\x03\x01\xff\xff" + random,
        b"\x17\x03\x03\0\0" * 2000, b"\x16\x03\x03\0\1\0" * 500, b"\x80\x2e\x01\0\x02" + random[:100],
    ]
    for where in CONFIG["targets"].values():
        for data in inputs:
            try:
                made = socket.create_connection((where["host"], where["port"]))
                made.settimeout(0.3)
                for part in split(data, 4096):
                    made.sendall(part)
                made.recv(65536)
            except OSError:
                pass
            finally:
                made.close()
    say(sent=len(inputs) * len(CONFIG["targets"]))


def half_handshakes():
    """A true ClientHello cut at many places, and handshakes whose client goes away after the answer."""
    import ssl
    where = target()
    for cut in (1, 4, 5, 6, 40, 100, 200, None):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        made = socket.create_connection((where["host"], where["port"]))
        made.settimeout(0.3)
        made.sendall(outgoing.read()[:cut])
        try:
            made.recv(65536)
        except OSError:
            pass
        made.close()
    say(sent=8)


def truncated_library():
    """Cut and damaged TLS libraries, mapped executable as the loader would map them."""
    import mmap
    whole = open(CONFIG["library"], "rb").read()
    kept = []
    for number, data in enumerate((whole[:100], whole[:5000], whole[:len(whole) // 2],
                                   whole[:64] + os.urandom(len(whole) - 64), os.urandom(100_000))):
        path = os.path.join(CONFIG["folder"], f"libssl.so.{number}")
        with open(path, "wb") as file:
            file.write(data)
        with open(path, "rb") as file:
            kept.append(mmap.mmap(file.fileno(), len(data), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC))
        if number % 2:
            os.unlink(path)
    step("mapped")


def dlopen():
    """A TLS library of no program, opened by path, used by nobody."""
    ctypes.CDLL(CONFIG["library"])
    step("opened")


def chatter():
    """Two threads of this process talk lines that are no HTTP, the credential among them."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    request, = requests()
    for number in range(5):
        ours.sendall(f"220 hello {number}; the word is {request['credential']}\r\n".encode())
        theirs.recv(65536)
        theirs.sendall(b"250 fine\r\n")
        ours.recv(65536)
    report(ours, request, 0)


def steady():
    """Laps over all requests, each lap on a connection of its own, until standard input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.is_set():
        connection = connect(target())
        reader = Reader(connection)
        for request in requests():
            connection.sendall(head(request))
            reader.answer()
            if ended.wait(CONFIG["pause"]):
                break
        connection.close()


def idle():
    """Lives until the test ends it."""
    step("idle")


if CONFIG["scenario"] not in globals():
    # They stand on this file, as `__main__`.
    from scenario_lives import *  # noqa: F403
globals()[CONFIG["scenario"]]()
