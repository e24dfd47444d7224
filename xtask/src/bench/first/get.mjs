// A client for HTTPS, in node, bun and deno. Arguments: certificate that is trusted, URL, credential.
import { readFileSync } from "node:fs";
import process from "node:process";

const [trusted, url, credential] = process.argv.slice(2);
const options = { headers: { Authorization: `Bearer ${credential}` } };
if (typeof Bun !== "undefined") options.tls = { ca: readFileSync(trusted, "utf8") };
const answer = await fetch(url, options);
await answer.text();
process.exit(answer.status === 200 ? 0 : 1);
