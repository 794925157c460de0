// A go-spiffe program: serves or calls over mutual TLS with an SVID, and knows nothing of custody.
//
//	gospiffe serve FOLDER PEER-ID              prints its port; answers "hello PEER-ID path"
//	gospiffe call FOLDER PEER-ID PORT SNI PATH prints status and body
//
// FOLDER holds svid.pem, key.pem and bundle.pem.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func main() {
	folder, peer := os.Args[2], spiffeid.RequireFromString(os.Args[3])
	svid, err := x509svid.Load(filepath.Join(folder, "svid.pem"), filepath.Join(folder, "key.pem"))
	check(err)
	bundle, err := x509bundle.Load(svid.ID.TrustDomain(), filepath.Join(folder, "bundle.pem"))
	check(err)
	authorize := tlsconfig.AuthorizeID(peer)
	if os.Args[1] == "serve" {
		serve(tlsconfig.MTLSServerConfig(svid, bundle, authorize))
	} else {
		call(tlsconfig.MTLSClientConfig(svid, bundle, authorize), os.Args[4], os.Args[5], os.Args[6])
	}
}

func serve(config *tls.Config) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{TLSConfig: config, Handler: http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		peer := in.TLS.PeerCertificates[0].URIs[0]
		for name := range in.Header {
			out.Header().Add("X-Seen", name)
		}
		body, _ := io.ReadAll(in.Body)
		fmt.Fprintf(out, "hello %s %s %s %s", peer, in.Proto, in.URL.Path, body)
	})}
	check(server.ServeTLS(listener, "", ""))
}

func call(config *tls.Config, port, sni, path string) {
	config.ServerName = sni
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	response, err := client.Post("https://127.0.0.1:"+port+path, "application/json", http.NoBody)
	check(err)
	body, err := io.ReadAll(response.Body)
	check(err)
	fmt.Println(response.StatusCode, response.Proto)
	fmt.Print(string(body))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
