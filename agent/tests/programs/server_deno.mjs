// Deno.serve, which offers HTTP/2. In the variable CONFIG: {"certificate", "key", "log", "clear", "tls"}, the last two
// ports; the log as in server.py.
const config = JSON.parse(Deno.env.get("CONFIG"));
const [cert, key] = [config.certificate, config.key].map((path) => Deno.readTextFileSync(path));

const serve = (port, more) =>
  Deno.serve({ hostname: "127.0.0.1", port, ...more, onListen() {} }, (request, { remoteAddr }) => {
    const path = new URL(request.url).pathname;
    const fact = {
      path, status: 200, method: request.method, pid: Deno.pid, tls: "",
      remote: remoteAddr.hostname, remote_port: remoteAddr.port, local: "127.0.0.1", local_port: port,
    };
    Deno.writeTextFileSync(config.log, JSON.stringify(fact) + "\n", { append: true });
    return new Response("ok\n");
  });

serve(config.clear, {});
serve(config.tls, { cert, key });
