// floor is the least that a signing server can be: TLS, net/http, encoding/json and the cryptography, with keys in
// memory and no routing, token, role or store. The benchmarks measure it beside the real server, so that their
// figures are ratios and say the same on every machine. It is built by the benchmarks only.
package main

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"strongroom/internal/pki"
)

type request struct {
	Alg   string `json:"alg"`
	Value string `json:"value"` // base64url
}

type response struct {
	Kid   string `json:"kid"`
	Value string `json:"value"`
	Alg   string `json:"alg,omitempty"`
	IV    string `json:"iv,omitempty"`
	Tag   string `json:"tag,omitempty"`
}

var b64 = base64.RawURLEncoding

// floor DIR serves on a free port of loopback, with a certificate of the real server's kind made in DIR.
func main() {
	check(os.MkdirAll(os.Args[1], 0o700))
	dev, err := pki.EnsureDev(filepath.Join(os.Args[1], "tls"), []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}, time.Now, rand.Reader)
	check(err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	heavyKey, err := rsa.GenerateKey(rand.Reader, 4096)
	check(err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	block, err := aes.NewCipher(key)
	check(err)
	gcm, err := cipher.NewGCM(block)
	check(err)

	handler := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		check(err)
		var req request
		check(json.Unmarshal(body, &req))
		value, err := b64.DecodeString(req.Value)
		check(err)
		resp := response{Kid: "https://127.0.0.1/keys/key", Alg: req.Alg}
		switch req.Alg {
		case "RS256":
			signature, err := rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, value)
			check(err)
			resp.Value = b64.EncodeToString(signature)
		case "RS512": // the heavy one
			signature, err := rsa.SignPKCS1v15(nil, heavyKey, crypto.SHA512, value)
			check(err)
			resp.Value = b64.EncodeToString(signature)
		case "ES256":
			r, s, err := ecdsa.Sign(rand.Reader, ecKey, value)
			check(err)
			signature := make([]byte, 64)
			r.FillBytes(signature[:32])
			s.FillBytes(signature[32:])
			resp.Value = b64.EncodeToString(signature)
		case "A256GCM":
			iv := make([]byte, gcm.NonceSize())
			_, _ = rand.Read(iv)
			sealed := gcm.Seal(nil, iv, value, nil)
			n := len(sealed) - gcm.Overhead()
			resp.Value, resp.Tag, resp.IV = b64.EncodeToString(sealed[:n]), b64.EncodeToString(sealed[n:]), b64.EncodeToString(iv)
		}
		out, err := json.Marshal(resp)
		check(err)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println("ready https://" + listener.Addr().String())
	server := &http.Server{Handler: http.HandlerFunc(handler), TLSConfig: pki.ServerConfig(dev.Source)}
	log.Fatal(server.ServeTLS(listener, "", ""))
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}
