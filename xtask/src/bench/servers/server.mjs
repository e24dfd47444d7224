// An HTTPS server of node's own. Arguments: certificate, key, the file that gets its port.
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";

const [certificate, key, told] = process.argv.slice(2);
const options = { cert: readFileSync(certificate), key: readFileSync(key), minVersion: "TLSv1.3" };
const server = createServer(options, (_request, answer) => {
  answer.setHeader("content-type", "application/json");
  answer.end('{"ok":true}\n');
});
server.keepAliveTimeout = 3_600_000;
server.listen(0, "127.0.0.1", () => writeFileSync(told, `${server.address().port}\n`));
