// node's http2 module, steered like scenario.py: every request is a stream of one connection. Standard input: one JSON
// line {"scenario", "targets", "requests", "ca"}; a request may have a "form": "large" sends a body of 300,000 bytes,
// "websocket" makes the stream one (RFC 8441), says something and closes it.
// Scenarios: "sequential"; "concurrent"; "warm" is that after a second of rest behind the first request.
// Standard output: JSON lines {"cell", "pid", "local", "peer", "status"}.
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const config = JSON.parse((await lines.next()).value);
const { host, port, tls } = config.targets.main;
const connection = http2.connect(`${tls ? "https" : "http"}://localhost:${port}`, {
  ca: readFileSync(config.ca),
  lookup: (_name, _options, found) => found(null, [{ address: host, family: 4 }]),
  maxVersion: config.max_version,
});

const one = (request) =>
  new Promise((done, failed) => {
    const large = request.form === "large";
    const websocket = request.form === "websocket";
    const stream = connection.request({
      ...(websocket && { ":protocol": "websocket", "sec-websocket-version": "13" }),
      ":method": websocket ? "CONNECT" : large ? "POST" : "GET",
      ":path": request.path,
      authorization: `Bearer ${request.credential}`,
    });
    let status, local, peer;
    stream.on("response", (headers) => {
      status = headers[":status"];
      const { localAddress, localPort, remoteAddress, remotePort } = connection.socket;
      [local, peer] = [[localAddress, localPort], [remoteAddress, remotePort]];
      // A masked text of two bytes, and a close frame (RFC 6455 section 5).
      if (websocket) stream.end(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69, 0x88, 0x80, 0, 0, 0, 0]));
    });
    stream.on("error", failed);
    stream.resume();
    stream.on("end", () => {
      console.log(JSON.stringify({ cell: request.cell, pid: process.pid, status, local, peer }));
      done();
    });
    if (!websocket) stream.end(large ? Buffer.alloc(300000, "x") : undefined);
  });

connection.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
// Whether it takes an extended CONNECT is in the server's settings.
await new Promise((settled) => connection.once("remoteSettings", settled));
if (config.scenario === "sequential") {
  for (const request of config.requests) await one(request);
} else {
  let requests = config.requests;
  if (config.scenario === "warm") {
    await one(requests[0]);
    await new Promise((rested) => setTimeout(rested, 1000));
    requests = requests.slice(1);
  }
  await Promise.all(requests.map(one));
}
connection.close();
