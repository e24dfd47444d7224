// A crowd's Go client (net/http over crypto/tls): many lanes of one process, each with an exchange at the begin of every
// slot of the clock, so that those of all processes fall together.
//
// Standard input: {"ca", "first", "count", "lanes", "slot_ms", "fresh", "statuses", "targets": [{"host", "port", "tls",
// "http"}]}; one in "fresh" exchanges is on a connection of its own, the others on kept ones; "http" is 1 or 2.
// Standard output: for each exchange a JSON line of what this process knows: {"number", "credential", "status", "local",
// "peer", "pid", "began", "ended"}, times in microseconds.
package main

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

type target struct {
	Host string
	Port int
	TLS  bool
	HTTP int
}

type plan struct {
	CA                         string
	First, Count, Lanes, Fresh int64
	SlotMs                     int64 `json:"slot_ms"`
	Statuses                   []int
	Targets                    []target
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func end(address net.Addr) []any {
	tcp := address.(*net.TCPAddr)
	return []any{tcp.IP.String(), tcp.Port}
}

func main() {
	var p plan
	must(json.NewDecoder(os.Stdin).Decode(&p))
	pem, err := os.ReadFile(p.CA)
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	resumed := tls.NewLRUClientSessionCache(64)
	transport := func(t target) *http.Transport {
		var spoken http.Protocols
		spoken.SetHTTP1(t.HTTP == 1)
		spoken.SetHTTP2(t.HTTP == 2 && t.TLS)
		spoken.SetUnencryptedHTTP2(t.HTTP == 2 && !t.TLS)
		return &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: roots, ClientSessionCache: resumed},
			Protocols:           &spoken,
			MaxIdleConnsPerHost: int(p.Lanes),
		}
	}
	kept := make([]*http.Transport, len(p.Targets))
	for i, t := range p.Targets {
		kept[i] = transport(t)
	}

	var out sync.Mutex
	write := json.NewEncoder(os.Stdout)
	one := func(number int64) {
		i := number % int64(len(p.Targets))
		t, by := p.Targets[i], kept[i]
		if number%p.Fresh == 0 {
			by = transport(t)
			defer by.CloseIdleConnections()
		}
		secret := make([]byte, 20)
		_, err := rand.Read(secret)
		must(err)
		credential := hex.EncodeToString(secret)
		scheme := "http"
		if t.TLS {
			scheme = "https"
		}
		status := p.Statuses[number%int64(len(p.Statuses))]
		url := fmt.Sprintf("%s://%s:%d/cell/crowd-%d/status/%d", scheme, t.Host, t.Port, number, status)
		request, err := http.NewRequest("GET", url, nil)
		must(err)
		request.Header.Set("Authorization", "Bearer "+credential)
		var conn net.Conn
		trace := httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { conn = got.Conn }}
		began := time.Now().UnixMicro()
		answer, err := by.RoundTrip(request.WithContext(httptrace.WithClientTrace(request.Context(), &trace)))
		must(err)
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		out.Lock()
		defer out.Unlock()
		must(write.Encode(map[string]any{
			"number": number, "credential": credential, "status": answer.StatusCode, "pid": os.Getpid(),
			"local": end(conn.LocalAddr()), "peer": end(conn.RemoteAddr()),
			"began": began, "ended": time.Now().UnixMicro(),
		}))
	}

	var done atomic.Int64
	var lanes sync.WaitGroup
	slot := time.Duration(p.SlotMs) * time.Millisecond
	for range p.Lanes {
		lanes.Add(1)
		go func() {
			defer lanes.Done()
			for {
				now := time.Now()
				time.Sleep(now.Truncate(slot).Add(slot).Sub(now))
				number := done.Add(1) - 1
				if number >= p.Count {
					return
				}
				one(p.First + number)
			}
		}()
	}
	lanes.Wait()
}
