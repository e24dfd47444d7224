// fetch, in node (undici), bun and deno. Standard input and output as in client_requests.py.
import { readFileSync } from "node:fs";

const plan = JSON.parse(readFileSync(0, "utf8"));
const options = { method: plan.method, body: plan.body || undefined };
if (typeof Bun !== "undefined") options.tls = { ca: readFileSync(plan.ca, "utf8") };
for (const [url, headers] of [[plan.url, plan.headers], ...(plan.more ?? [])]) {
  const answer = await fetch(url, { ...options, headers });
  await answer.text();
  console.log(answer.status);
}
process.exit(0);
