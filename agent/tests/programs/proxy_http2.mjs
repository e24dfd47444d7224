// A proxy for CONNECT over HTTP/2 and TLS, of node's http2 module. Standard input: one JSON line {"certificate", "key"}.
// Standard output: its port, then JSON lines {"path", "method", "status", "pid", "tls", and both ends} as in server.py:
// the path is what was asked for.
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import net from "node:net";
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const config = JSON.parse((await lines.next()).value);
const server = http2.createSecureServer({
  cert: readFileSync(config.certificate),
  key: readFileSync(config.key),
});
server.on("stream", (stream, headers) => {
  if (headers[":method"] !== "CONNECT") return stream.respond({ ":status": 405 }, { endStream: true });
  const target = new URL(`tcp://${headers[":authority"]}`);
  const { remoteAddress, remotePort, localAddress, localPort } = stream.session.socket;
  const onward = net.connect(target.port, target.hostname, () => {
    console.log(JSON.stringify({
      path: headers[":authority"], method: "CONNECT", status: 200, pid: process.pid, tls: "TLSv1.3",
      remote: remoteAddress, remote_port: remotePort, local: localAddress, local_port: localPort,
    }));
    stream.respond({ ":status": 200 });
    onward.pipe(stream);
    stream.pipe(onward);
  });
  onward.on("error", () => stream.close(http2.constants.NGHTTP2_CONNECT_ERROR));
  stream.on("error", () => onward.destroy());
});
server.on("sessionError", () => {});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
await lines.next();
process.exit(0);
