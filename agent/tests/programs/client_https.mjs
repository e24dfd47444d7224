// node's http and https modules. Standard input: {"url", "method", "headers", "body", "ca"}; output: the status.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";

const plan = JSON.parse(readFileSync(0, "utf8"));
const options = { method: plan.method, headers: Object.fromEntries(plan.headers), ca: readFileSync(plan.ca) };
const request = (plan.url.startsWith("https:") ? https : http).request(plan.url, options, (answer) => {
  answer.resume();
  answer.on("end", () => console.log(answer.statusCode));
});
request.end(plan.body || undefined);
