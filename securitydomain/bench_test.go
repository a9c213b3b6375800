package securitydomain

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"
)

// tenLargeCustodians are made once: finding twenty primes of 2048 bits takes a while.
var tenLargeCustodians = sync.OnceValue(func() []Key {
	keys := make([]Key, 10)
	for i := range keys {
		keys[i] = newCustodian(fmt.Sprintf("Large %02d", i+1), 4096)
	}
	return keys
})

// BenchmarkSealAndOpen seals for ten RSA-4096 custodians and opens with ten, and reports how that compares with the
// ten encryptions and ten decryptions that it contains, measured in turn in the same run. Public-key operations are so
// much cheaper than private ones that the signature, made and verified, shows in seal-ratio; ratio is the whole.
func BenchmarkSealAndOpen(b *testing.B) {
	keys := tenLargeCustodians()
	d := newDomain(b)
	params := d.params(keys, 10)
	contentKey := make([]byte, contentBytes)
	wrapped := make([][]byte, len(keys))

	var bareEncrypt, bareDecrypt, seal, open time.Duration
	timed := func(total *time.Duration, f func() error) {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		*total += time.Since(start)
	}
	for b.Loop() {
		timed(&bareEncrypt, func() (err error) {
			for i, k := range keys {
				if wrapped[i], err = rsa.EncryptOAEP(sha256.New(), rand.Reader, parsePublic(b, k), contentKey, nil); err != nil {
					return err
				}
			}
			return nil
		})
		timed(&bareDecrypt, func() error {
			for i, k := range keys {
				if _, err := k.Decrypter.Decrypt(nil, wrapped[i], &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil {
					return err
				}
			}
			return nil
		})
		var text []byte
		timed(&seal, func() (err error) { text, err = Seal(params); return err })
		timed(&open, func() error {
			f, err := Parse(text)
			if err != nil {
				return err
			}
			_, err = Open(f, keys)
			return err
		})
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
	b.ReportMetric(ms(seal), "seal-ms")
	b.ReportMetric(ms(bareEncrypt), "bare-encrypt-ms")
	b.ReportMetric(ms(open), "open-ms")
	b.ReportMetric(ms(bareDecrypt), "bare-decrypt-ms")
	b.ReportMetric(float64(seal+open)/float64(bareEncrypt+bareDecrypt), "ratio")
	b.ReportMetric(float64(seal)/float64(bareEncrypt), "seal-ratio")
	b.ReportMetric(float64(open)/float64(bareDecrypt), "open-ratio")
}

// BenchmarkOpenWorst opens a file of ten shares, five of them forged and no check values, so that quorums are tried.
func BenchmarkOpenWorst(b *testing.B) {
	keys := memoised(custodians())
	d := newDomain(b)
	text := edit(b, d.seal(b, keys, 5), func(root object) {
		delete(root, "strongroom")
		for i := range 5 {
			reseal(b, root, i, keys, foreignShare(b, i+1, 10, 5))
		}
	})
	for b.Loop() {
		if _, err := open(text, keys); err != nil {
			b.Fatal(err)
		}
	}
}
