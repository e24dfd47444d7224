// Operating system threads that are born and end without pause, while requests are made on connections of their own.
// Standard input: one JSON value {"URLs", "Credentials", "CA", "Threads"}; a request for each URL. Standard output: a
// status for each, then `threads N`.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"sync"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	var plan struct {
		URLs, Credentials []string
		CA                string
		Threads           int
	}
	must(json.NewDecoder(os.Stdin).Decode(&plan))
	pem, err := os.ReadFile(plan.CA)
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	var born sync.WaitGroup
	born.Add(1)
	go func() {
		defer born.Done()
		for left := plan.Threads; left > 0; {
			var lap sync.WaitGroup
			for i := 0; i < 10 && left > 0; i++ {
				left--
				lap.Add(1)
				go func() {
					defer lap.Done()
					// Without unlocking: the thread ends with its goroutine.
					runtime.LockOSThread()
				}()
			}
			lap.Wait()
		}
	}()
	for i, url := range plan.URLs {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
		request, err := http.NewRequest("GET", url, nil)
		must(err)
		request.Header.Set("Authorization", "Bearer "+plan.Credentials[i])
		answer, err := (&http.Client{Transport: transport}).Do(request)
		must(err)
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		fmt.Println(answer.StatusCode)
	}
	born.Wait()
	fmt.Println("threads", plan.Threads)
}
