// An HTTPS server of Go's own crypto/tls. Standard input, output and log as in server.py; the listener "h2" speaks
// HTTP/2 and HTTP/1.1.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
)

type config struct{ Certificate, Key, Log string }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	input := bufio.NewReader(os.Stdin)
	line, err := input.ReadString('\n')
	must(err)
	var c config
	must(json.Unmarshal([]byte(line), &c))
	log, err := os.OpenFile(c.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(err)
	certificate, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	must(err)
	type connKey struct{}
	var lock sync.Mutex
	wanted := regexp.MustCompile(`/status/([0-9]{3})$`)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn := r.Context().Value(connKey{}).(net.Conn)
		local, peer := conn.LocalAddr().(*net.TCPAddr), conn.RemoteAddr().(*net.TCPAddr)
		version := ""
		if r.TLS != nil {
			version = map[uint16]string{tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}[r.TLS.Version]
		}
		status := http.StatusOK
		if found := wanted.FindStringSubmatch(r.URL.Path); found != nil {
			status, _ = strconv.Atoi(found[1])
		}
		fact, _ := json.Marshal(map[string]any{
			"path": r.URL.Path, "method": r.Method, "status": status, "pid": os.Getpid(), "tls": version,
			"remote": peer.IP.String(), "remote_port": peer.Port, "local": local.IP.String(), "local_port": local.Port,
		})
		lock.Lock()
		_, _ = log.Write(append(fact, '\n'))
		lock.Unlock()
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "ok\n")
	})
	withConn := func(ctx context.Context, conn net.Conn) context.Context { return context.WithValue(ctx, connKey{}, conn) }
	server := &http.Server{
		Handler:      handler,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ConnContext:  withConn,
	}
	ports := map[string]int{}
	for _, v := range []struct {
		name    string
		version uint16
	}{{"http", 0}, {"tls12", tls.VersionTLS12}, {"tls13", tls.VersionTLS13}} {
		for _, a := range []struct{ suffix, address string }{{"", "127.0.0.1:0"}, {"_v6", "[::1]:0"}} {
			listener, err := net.Listen("tcp", a.address)
			must(err)
			ports[v.name+a.suffix] = listener.Addr().(*net.TCPAddr).Port
			if v.version != 0 {
				listener = tls.NewListener(listener, &tls.Config{
					Certificates: []tls.Certificate{certificate}, MinVersion: v.version, MaxVersion: v.version,
				})
			}
			go func() { _ = server.Serve(listener) }()
		}
	}
	both := &http.Server{
		Handler:     handler,
		ConnContext: withConn,
		TLSConfig:   &tls.Config{Certificates: []tls.Certificate{certificate}},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	ports["h2"] = listener.Addr().(*net.TCPAddr).Port
	go func() { _ = both.ServeTLS(listener, "", "") }()
	line2, _ := json.Marshal(ports)
	fmt.Println(string(line2))
	_, _ = io.ReadAll(input)
}
