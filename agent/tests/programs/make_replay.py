"""Makes agent/tests/replay/example.ndjson: python3 make_replay.py >../replay/example.ndjson

Two made-up conversations: one in cleartext, seen from both ends, and one over TLS 1.3 between two memory BIOs of this
process, with a certificate and a credential that are generated here and thrown away. No socket is opened.
"""

import base64
import json
import os
import secrets
import ssl
import subprocess
import sys
import tempfile


def say(record, **fields):
    print(json.dumps({"record": record, **fields}))


def tls(request, response):
    """(direction as the client sees it, bytes) in order, and the key log's lines."""
    folder = tempfile.mkdtemp()
    key, certificate, log = (os.path.join(folder, name) for name in ("key", "certificate", "log"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
        + ["-subj", "/CN=api.example", "-keyout", key, "-out", certificate],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate, key)
    theirs.num_tickets = 0
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_verify_locations(certificate)
    ours.keylog_filename = log
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_client, to_server, server_hostname="api.example")
    server = theirs.wrap_bio(to_server, to_client, server_side=True)
    passed = []

    def moved(direction, bio):
        # A BIO is read to see what is in it, and filled again.
        data = bio.read()
        bio.write(data)
        if data:
            passed.append((direction, data))

    def step(call):
        try:
            call()
            return True
        except ssl.SSLWantReadError:
            return False

    done = {"client": False, "server": False}
    while not all(done.values()):
        done["client"] = done["client"] or step(client.do_handshake)
        moved("sent", to_server)
        done["server"] = done["server"] or step(server.do_handshake)
        moved("received", to_client)
    client.write(request)
    moved("sent", to_server)
    assert server.read(65536) == request
    server.write(response)
    moved("received", to_client)
    assert client.read(65536) == response
    with open(log) as lines:
        kept = [line.split() for line in lines if not line.startswith("#")]
    for name in (key, certificate, log):
        os.unlink(name)
    os.rmdir(folder)
    return passed, kept


def main():
    personal = "replay-" + secrets.token_urlsafe(24)
    service = "replay-" + secrets.token_urlsafe(24)
    print("# An example for `tokentrail-agent replay`, made by agent/tests/programs/make_replay.py. Its credentials and")
    print("# secrets were generated for it and are of no use anywhere.")
    say("format", version=1)
    print("\n# One request in cleartext, seen from both ends: two events with one exchange id.")
    say("process", process=1, time=0, pid=1001, name="curl", uid=1000, file="/usr/bin/curl",
        arguments=["curl", "-H", f"Authorization: Bearer {personal}", "http://198.51.100.2:8080/v1/items"])
    say("process", process=2, time=0, pid=2002, name="nginx", uid=33, file="/usr/sbin/nginx")
    ends = {"a": "192.0.2.7:40001", "b": "198.51.100.2:8080"}
    say("connection", connection=1, process=1, local=ends["a"], peer=ends["b"], sequence={"sent": 1000, "received": 9000})
    say("connection", connection=2, process=2, local=ends["b"], peer=ends["a"], sequence={"sent": 9000, "received": 1000})
    request = f"GET /v1/items?page=2 HTTP/1.1\r\nHost: api.example:8080\r\nAuthorization: Bearer {personal}\r\n\r\n"
    response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    say("chunk", connection=1, direction="sent", time=1000, text=request)
    say("chunk", connection=2, direction="received", time=1200, text=request)
    say("chunk", connection=2, direction="sent", time=2000, text=response)
    say("chunk", connection=1, direction="received", time=2100, text=response)
    say("closed", connection=1, time=3000)
    say("closed", connection=2, time=3100)
    print("\n# One request over TLS 1.3: the records as they were on the wire, and what the library's key log got.")
    say("process", process=3, time=10000, pid=1003, name="python3", uid=1000, file="/usr/bin/python3.11", library="openssl")
    say("connection", connection=3, process=3, local="192.0.2.7:40003", peer="198.51.100.2:443")
    passed, kept = tls(
        f"POST /v1/jobs HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: {service}\r\nContent-Length: 2\r\n\r\n{{}}".encode(),
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    )
    time = 11000
    for number, (direction, data) in enumerate(passed):
        say("chunk", connection=3, direction=direction, time=time, base64=base64.b64encode(data).decode())
        time += 100
        # After the server's first flight.
        if number == 1:
            for label, _, secret in kept:
                say("secret", process=3, time=time, label=label, base64=base64.b64encode(bytes.fromhex(secret)).decode())
    say("closed", connection=3, time=time)
    print("\n# Bytes that nobody can read: a coverage event.")
    say("connection", connection=4, process=3, local="192.0.2.7:40004", peer="198.51.100.2:22")
    say("chunk", connection=4, direction="sent", time=20000, text="SSH-2.0-OpenSSH_9.6\r\n")
    say("chunk", connection=4, direction="received", time=20100, text="SSH-2.0-OpenSSH_9.6\r\n")
    say("closed", connection=4, time=20200)
    say("exit", process=3, time=30000)


if __name__ == "__main__":
    sys.exit(main())
