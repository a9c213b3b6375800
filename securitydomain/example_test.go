package securitydomain_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"strongroom/secret"
	"strongroom/securitydomain"
)

// person makes a key pair and a self-signed certificate.
func person(name string) securitydomain.Key {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return securitydomain.Key{Name: name + ".key", Decrypter: key, Certificate: cert}
}

// A domain is sealed for three custodians; one loses their key; the other two move the domain to another HSM.
func Example() {
	anna, ben, carla := person("Anna"), person("Ben"), person("Carla")
	signer, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		panic(err)
	}
	file, err := securitydomain.Seal(securitydomain.SealParams{
		Certificates: []*x509.Certificate{anna.Certificate, ben.Certificate, carla.Certificate},
		Required:     2,
		Items:        []securitydomain.Item{{Tag: "wrapping-key", Value: secret.New([]byte("thirty-two bytes of a secret key"))}},
		HSMName:      "alpha",
		Created:      time.Date(2026, 11, 23, 16, 0, 0, 0, time.UTC),
		Signer:       signer,
		Rand:         rand.Reader,
	})
	if err != nil {
		panic(err)
	}

	parsed, err := securitydomain.Parse(file)
	if err != nil {
		panic(err)
	}
	in := parsed.Inspect()
	fmt.Println("version", in.Version, "from", in.Origin, "takes", in.Required, "of", in.Total, "custodians, signature", in.Signature)

	_, err = securitydomain.Open(parsed, []securitydomain.Key{anna})
	fmt.Println(errors.Is(err, securitydomain.TooFewShares), err)

	opened, err := securitydomain.Open(parsed, []securitydomain.Key{anna, carla})
	if err != nil {
		panic(err)
	}
	exchange := person("exchange key of beta")
	transfer, err := securitydomain.MakeTransfer(rand.Reader, opened.Items, exchange.Certificate)
	if err != nil {
		panic(err)
	}
	items, err := securitydomain.OpenTransfer(transfer, exchange.Certificate, exchange.Decrypter)
	if err != nil {
		panic(err)
	}
	fmt.Println(items[0].Tag, items[0].Value, items[0].Value.Len(), "bytes")
	// Output:
	// version 2 from strongroom takes 2 of 3 custodians, signature valid
	// true the SD file takes the shares of 2 custodians, and the keys given open 1; bring the keys of other custodians of this file
	// wrapping-key [redacted] 32 bytes
}

// With a share more than needed, a key that is of no use is passed over and named.
func ExampleOpen() {
	anna, ben, carla := person("Anna"), person("Ben"), person("Carla")
	signer, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		panic(err)
	}
	file, err := securitydomain.Seal(securitydomain.SealParams{
		Certificates: []*x509.Certificate{anna.Certificate, ben.Certificate, carla.Certificate},
		Required:     2,
		Items:        []securitydomain.Item{{Tag: "wrapping-key", Value: secret.New([]byte("thirty-two bytes of a secret key"))}},
		Created:      time.Date(2026, 11, 23, 16, 0, 0, 0, time.UTC),
		Signer:       signer,
		Rand:         rand.Reader,
	})
	if err != nil {
		panic(err)
	}
	parsed, err := securitydomain.Parse(file)
	if err != nil {
		panic(err)
	}
	opened, err := securitydomain.Open(parsed, []securitydomain.Key{anna, person("Mallory"), ben})
	if err != nil {
		panic(err)
	}
	for _, share := range opened.Used {
		fmt.Println("used", share.Custodian)
	}
	for _, share := range opened.PassedOver {
		fmt.Println("passed over", share)
	}
	// Output:
	// used custodian 1 "Anna"
	// used custodian 2 "Ben"
	// passed over key Mallory.key: it opens no share of this file
}
