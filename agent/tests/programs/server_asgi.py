"""An ASGI application that answers 200 to everything, WebSockets over HTTP/2 included, for the server whose command line names it. The file that the
environment variable FACTS names gets a line of JSON of each request, as in server.py, without the TLS version."""
import json
import os

LOG = open(os.environ["FACTS"], "a", buffering=1)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    websocket = scope["type"] == "websocket"
    while (await receive()).get("more_body"):
        pass
    remote, local = scope["client"], scope["server"]
    LOG.write(json.dumps({
        "path": scope["path"], "method": "CONNECT" if websocket else scope["method"], "status": 200, "pid": os.getpid(), "tls": "",
        "remote": remote[0], "remote_port": remote[1], "local": local[0], "local_port": local[1],
    }) + "\n")
    if websocket:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "heard"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok\n"})
