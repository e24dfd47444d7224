// An HTTPS server that tells when the first byte of each connection came, near by and as if it were far away.
//
// Arguments: certificate, key, the file that gets its two ports (near, far), and the far one's round trip in
// milliseconds. For each request a line on standard output: its path, and when its connection's first byte came, in
// nanoseconds since the epoch.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A connection of a client that remembers when it said something first.
type client struct {
	net.Conn
	hello *atomic.Int64
}

func (c client) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.hello.CompareAndSwap(0, time.Now().UnixNano())
	}
	return n, err
}

// What is read from one end is written to the other one later: the first of it by `first`, the rest by `each`.
func pass(from, to net.Conn, first, each time.Duration) {
	type chunk struct {
		bytes []byte
		due   time.Time
	}
	queue := make(chan chunk, 256)
	go func() {
		for one := range queue {
			time.Sleep(time.Until(one.due))
			if _, err := to.Write(one.bytes); err != nil {
				break
			}
		}
		_ = to.Close()
		for range queue {
			// The reader must not wait for one who has gone.
		}
	}()
	for delay := first; ; delay = each {
		bytes := make([]byte, 32768)
		n, err := from.Read(bytes)
		if n > 0 {
			queue <- chunk{bytes[:n], time.Now().Add(delay)}
		}
		if err != nil {
			close(queue)
			return
		}
	}
}

// A listener's connections with their time, and their bytes on the way for half a round trip. The kernel answers a
// client's connect at once: the round trip that this would take is added to the way of the first bytes.
type listener struct {
	net.Listener
	roundTrip time.Duration
}

func (l listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	near := client{raw, new(atomic.Int64)}
	if l.roundTrip == 0 {
		return near, nil
	}
	way, here := net.Pipe()
	go pass(near, way, l.roundTrip+l.roundTrip/2, l.roundTrip/2)
	go pass(way, near, l.roundTrip/2, l.roundTrip/2)
	return client{here, near.hello}, nil
}

type helloKey struct{}

func main() {
	certificate, err := tls.LoadX509KeyPair(os.Args[1], os.Args[2])
	must(err)
	milliseconds, err := strconv.Atoi(os.Args[4])
	must(err)
	server := http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hello, _ := r.Context().Value(helloKey{}).(*atomic.Int64)
			fmt.Println(r.URL.Path, hello.Load())
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{\"ok\":true}\n")
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, helloKey{}, c.(*tls.Conn).NetConn().(client).hello)
		},
		// Clients may go when they like.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	config := tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}
	ports := ""
	ended := make(chan error)
	for _, roundTrip := range []time.Duration{0, time.Duration(milliseconds) * time.Millisecond} {
		socket, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		ports += fmt.Sprintln(socket.Addr().(*net.TCPAddr).Port)
		go func() { ended <- server.Serve(tls.NewListener(listener{socket, roundTrip}, &config)) }()
	}
	must(os.WriteFile(os.Args[3], []byte(ports), 0o644))
	must(<-ended)
}
