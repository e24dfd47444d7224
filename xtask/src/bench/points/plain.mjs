// An HTTP server in cleartext, in node. Arguments: two that are ignored, and the file that gets its port.
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";

const [, , told] = process.argv.slice(2);
const server = createServer((_request, answer) => {
  answer.setHeader("content-type", "application/json");
  answer.end('{"ok":true}\n');
});
server.keepAliveTimeout = 3_600_000;
server.listen(0, "127.0.0.1", () => writeFileSync(told, `${server.address().port}\n`));
