// An HTTP server in cleartext of a program that has Go's TLS. Arguments: two that are ignored, and the file that gets
// its port.
package main

import (
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
	port := listener.Addr().(*net.TCPAddr).Port
	must(os.WriteFile(os.Args[3], fmt.Appendln(nil, port), 0o644))
	must(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{\"ok\":true}\n")
	})))
}
