// fetch, in node (undici) and in bun. Standard input: {"url", "method", "headers", "body", "ca"}; output: the status.
import { readFileSync } from "node:fs";

const plan = JSON.parse(readFileSync(0, "utf8"));
const options = { method: plan.method, headers: Object.fromEntries(plan.headers), body: plan.body || undefined };
if (typeof Bun !== "undefined") options.tls = { ca: readFileSync(plan.ca, "utf8") };
const answer = await fetch(plan.url, options);
await answer.text();
console.log(answer.status);
process.exit(0);
