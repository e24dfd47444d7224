// A Go client (net/http over crypto/tls). Standard input: {"url", "method", "headers", "body", "ca"}; output: the status.
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

type plan struct {
	URL, Method, Body, CA string
	Headers               [][2]string
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
	request, err := http.NewRequest(p.Method, p.URL, strings.NewReader(p.Body))
	must(err)
	for _, header := range p.Headers {
		request.Header.Set(header[0], header[1])
	}
	answer, err := client.Do(request)
	must(err)
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	fmt.Println(answer.StatusCode)
}
