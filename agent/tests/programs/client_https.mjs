// node's http and https modules. Standard input and output as in client_requests.py.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";

const plan = JSON.parse(readFileSync(0, "utf8"));
const scheme = plan.url.startsWith("https:") ? https : http;
const agent = new scheme.Agent({ keepAlive: true, maxSockets: 1 });
const options = { method: plan.method, ca: readFileSync(plan.ca), agent };
for (const [url, headers] of [[plan.url, plan.headers], ...(plan.more ?? [])]) {
  await new Promise((done, failed) => {
    const request = scheme.request(url, { ...options, headers: Object.fromEntries(headers) }, (answer) => {
      answer.resume();
      answer.on("end", () => done(console.log(answer.statusCode)));
    });
    request.on("error", failed);
    request.end(plan.body || undefined);
  });
}
agent.destroy();
