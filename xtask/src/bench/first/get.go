// A client for HTTPS. Arguments: certificate that is trusted, URL, credential.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
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
	pem, err := os.ReadFile(os.Args[1])
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	request, err := http.NewRequest("GET", os.Args[2], nil)
	must(err)
	request.Header.Set("Authorization", "Bearer "+os.Args[3])
	answer, err := client.Do(request)
	must(err)
	_, err = io.Copy(io.Discard, answer.Body)
	must(err)
	if answer.StatusCode != 200 {
		must(fmt.Errorf("%s", answer.Status))
	}
}
