// An HTTPS server of Go's own. Arguments: certificate, key, the file that gets its port.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	server := http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{\"ok\":true}\n")
		}),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13},
	}
	port := listener.Addr().(*net.TCPAddr).Port
	must(os.WriteFile(os.Args[3], fmt.Appendln(nil, port), 0o644))
	must(server.ServeTLS(listener, os.Args[1], os.Args[2]))
}
