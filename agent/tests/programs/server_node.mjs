// A server of node's http and http2 modules. Standard input, output and log as in server.py; the listener "h2" speaks
// HTTP/2 and HTTP/1.1.
import { appendFileSync, readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const config = JSON.parse((await lines.next()).value);
const [cert, key] = [readFileSync(config.certificate), readFileSync(config.key)];

const handle = (request, answer) => {
  const path = request.url.split("?")[0];
  const status = Number(/\/status\/([0-9]{3})$/.exec(path)?.[1] ?? 200);
  const socket = request.stream?.session?.socket ?? request.socket;
  const fact = {
    path, status, method: request.method, pid: process.pid, tls: socket.getProtocol?.() ?? "",
    remote: socket.remoteAddress, remote_port: socket.remotePort,
    local: socket.localAddress, local_port: socket.localPort,
  };
  answer.statusCode = status;
  answer.end(status === 204 ? undefined : "ok\n");
  appendFileSync(config.log, JSON.stringify(fact) + "\n");
};

const only = (version) => ({ cert, key, minVersion: version, maxVersion: version });
const servers = {
  http: http.createServer(handle),
  tls12: https.createServer(only("TLSv1.2"), handle),
  tls13: https.createServer(only("TLSv1.3"), handle),
  h2: http2.createSecureServer({ cert, key, allowHTTP1: true }, handle),
};
const ports = {};
for (const [name, server] of Object.entries(servers)) {
  server.keepAliveTimeout = 900_000;
  await new Promise((listens) => server.listen(0, "127.0.0.1", listens));
  ports[name] = server.address().port;
}
console.log(JSON.stringify(ports));
await lines.next();
process.exit(0);
