// A Go client (net/http over crypto/tls). Standard input and output as in client_requests.py.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

type headers [][2]string

type plan struct {
	URL, Method, Body, CA string
	Headers               headers
	More                  []further
}

// As JSON, an array of both.
type further struct {
	url     string
	headers headers
}

func (f *further) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[]any{&f.url, &f.headers})
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	var p plan
	must(json.NewDecoder(os.Stdin).Decode(&p))
	pem, err := os.ReadFile(p.CA)
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for _, one := range append([]further{{p.URL, p.Headers}}, p.More...) {
		request, err := http.NewRequest(p.Method, one.url, strings.NewReader(p.Body))
		must(err)
		for _, header := range one.headers {
			request.Header.Set(header[0], header[1])
		}
		answer, err := client.Do(request)
		must(err)
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		fmt.Println(answer.StatusCode)
	}
}
