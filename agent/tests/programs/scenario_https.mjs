// node's https module, steered like scenario.py: the first request, the step "opened", and the others on the same
// connection, which is kept alive. Standard input: one JSON line {"targets", "requests", "ca"}, later one line to go on.
// Standard output: JSON lines {"cell", "pid", "local", "peer", "status"} and {"step"}.
import { readFileSync } from "node:fs";
import https from "node:https";
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const config = JSON.parse((await lines.next()).value);
const { host, port } = config.targets.main;
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca: readFileSync(config.ca), servername: "localhost" });

const one = (request) =>
  new Promise((done, failed) => {
    const headers = { host: "localhost", authorization: `Bearer ${request.credential}` };
    const asked = https.get({ host, port, path: request.path, headers, agent }, (answer) => {
      const { localAddress, localPort, remoteAddress, remotePort } = answer.socket;
      answer.resume();
      answer.on("end", () => {
        const [local, peer] = [[localAddress, localPort], [remoteAddress, remotePort]];
        console.log(JSON.stringify({ cell: request.cell, pid: process.pid, status: answer.statusCode, local, peer }));
        done();
      });
    });
    asked.on("error", failed);
  });

const [first, ...rest] = config.requests;
await one(first);
console.log(JSON.stringify({ step: "opened" }));
await lines.next();
for (const request of rest) await one(request);
agent.destroy();
process.exit(0);
