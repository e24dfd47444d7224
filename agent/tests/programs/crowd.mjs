// A crowd's node client (https and http2, every lane in one loop). Standard input and output as in crowd.go.
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";
import { setTimeout as sleep } from "node:timers/promises";

const plan = JSON.parse(readFileSync(0, "utf8"));
const ca = readFileSync(plan.ca);
const agents = (keepAlive) => ({
  http: new http.Agent({ keepAlive }),
  https: new https.Agent({ keepAlive, ca }),
});
const [kept, fresh] = [agents(true), agents(false)];
const connect = ({ host, port, tls }) => http2.connect(`${tls ? "https" : "http"}://${host}:${port}`, { ca });
const sessions = plan.targets.map(() => undefined);

const ends = ({ localAddress, localPort, remoteAddress, remotePort }) => ({
  local: [localAddress, localPort],
  peer: [remoteAddress, remotePort],
});

const old = (target, path, headers, own) =>
  new Promise((done, failed) => {
    const by = target.tls ? https : http;
    const agent = (own ? fresh : kept)[target.tls ? "https" : "http"];
    const request = by.get({ host: target.host, port: target.port, path, headers, agent }, (answer) => {
      const of = ends(answer.socket);
      answer.resume();
      answer.on("end", () => done({ status: answer.statusCode, ...of }));
    });
    request.on("error", failed);
  });

const stream = (place, path, headers, own) =>
  new Promise((done, failed) => {
    const session = own ? connect(plan.targets[place]) : (sessions[place] ??= connect(plan.targets[place]));
    session.on("error", failed);
    const asked = session.request({ ":path": path, ...headers });
    let said;
    asked.on("response", (answer) => {
      said = { status: answer[":status"], ...ends(session.socket) };
    });
    asked.on("error", failed);
    asked.resume();
    asked.on("end", () => {
      session.off("error", failed);
      if (own) session.close();
      done(said);
    });
    asked.end();
  });

async function one(number) {
  const place = number % plan.targets.length;
  const target = plan.targets[place];
  const own = number % plan.fresh === 0;
  const credential = randomBytes(20).toString("hex");
  const path = `/cell/crowd-${number}/status/${plan.statuses[number % plan.statuses.length]}`;
  const headers = { authorization: `Bearer ${credential}` };
  const began = Date.now() * 1000;
  const said = await (target.http === 2 ? stream(place, path, headers, own) : old(target, path, headers, own));
  const ended = Date.now() * 1000;
  console.log(JSON.stringify({ number, credential, pid: process.pid, began, ended, ...said }));
}

let next = plan.first;
const last = plan.first + plan.count;
async function lane() {
  for (;;) {
    await sleep(plan.slot_ms - (Date.now() % plan.slot_ms));
    const number = next++;
    if (number >= last) return;
    await one(number);
  }
}

try {
  await Promise.all(Array.from({ length: plan.lanes }, lane));
} catch (error) {
  console.error(error);
  process.exit(1);
}
for (const session of sessions) session?.close();
for (const agent of Object.values(kept)) agent.destroy();
