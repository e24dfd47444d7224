"""A crowd's Python client (http.client over ssl, a thread for each lane). Standard input and output as in crowd.go."""
import http.client
import itertools
import json
import os
import secrets
import ssl
import sys
import threading
import time

PLAN = json.loads(sys.stdin.readline())
TARGETS = PLAN["targets"]
CONTEXT = ssl.create_default_context(cafile=PLAN["ca"])
SLOT = PLAN["slot_ms"] / 1000
NUMBERS = itertools.count(PLAN["first"])
LAST = PLAN["first"] + PLAN["count"]
LOCK = threading.Lock()


def connect(target):
    if target["tls"]:
        return http.client.HTTPSConnection(target["host"], target["port"], context=CONTEXT)
    return http.client.HTTPConnection(target["host"], target["port"])


def one(number, kept):
    place = number % len(TARGETS)
    fresh = number % PLAN["fresh"] == 0
    connection = connect(TARGETS[place]) if fresh else kept[place]
    status = PLAN["statuses"][number % len(PLAN["statuses"])]
    credential = secrets.token_hex(20)
    began = time.time_ns() // 1000
    connection.request("GET", f"/cell/crowd-{number}/status/{status}", headers={"Authorization": f"Bearer {credential}"})
    local, peer = connection.sock.getsockname(), connection.sock.getpeername()
    answer = connection.getresponse()
    answer.read()
    said = json.dumps({
        "number": number, "credential": credential, "status": answer.status, "pid": os.getpid(),
        "local": local[:2], "peer": peer[:2], "began": began, "ended": time.time_ns() // 1000,
    })
    with LOCK:
        sys.stdout.write(said + "\n")
    if fresh:
        connection.close()


def lane():
    kept = [connect(target) for target in TARGETS]
    while True:
        time.sleep(SLOT - time.time() % SLOT)
        with LOCK:
            number = next(NUMBERS)
        if number >= LAST:
            return
        try:
            one(number, kept)
        except Exception as error:
            print(f"exchange {number}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)


lanes = [threading.Thread(target=lane) for _ in range(PLAN["lanes"])]
for thread in lanes:
    thread.start()
for thread in lanes:
    thread.join()
