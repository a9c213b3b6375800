package securitydomain

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"io"
	"slices"
	"sync"
	"testing"

	"strongroom/internal/strictjson"
)

// memo remembers what a private key answered, so that ten thousand variations of a file cost a few RSA operations.
type memo struct {
	crypto.Decrypter
	mu      sync.Mutex
	answers map[string]answer
}

type answer struct {
	plain []byte
	err   error
}

func (m *memo) Decrypt(r io.Reader, ciphertext []byte, o crypto.DecrypterOpts) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, known := m.answers[string(ciphertext)]
	if !known {
		a.plain, a.err = m.Decrypter.Decrypt(r, ciphertext, o)
		m.answers[string(ciphertext)] = a
	}
	return bytes.Clone(a.plain), a.err
}

func memoised(keys []Key) []Key {
	keys = slices.Clone(keys)
	for i := range keys {
		keys[i].Decrypter = &memo{Decrypter: keys[i].Decrypter, answers: map[string]answer{}}
	}
	return keys
}

// tampered yields, for every byte of a text, the text with a bit of that byte flipped, with the byte dropped and with
// it doubled.
func tampered(text []byte, yield func(how string, at int, changed []byte)) {
	for i := range text {
		flipped := slices.Clone(text)
		flipped[i] ^= 1 << []int{0, 5}[i%2] // another letter, or the other case
		yield("flipped", i, flipped)
		yield("dropped", i, slices.Delete(slices.Clone(text), i, i+1))
		yield("doubled", i, slices.Insert(slices.Clone(text), i, text[i]))
	}
}

// canonical is what a text means, or nil.
func canonical(text []byte) []byte {
	root, err := strictjson.Parse(text, fileLimits)
	if err != nil {
		return nil
	}
	out, _ := strictjson.Canonical(root)
	return out
}

// Covers S7, S8, S9, S10: tampering with any single byte is refused with a kind, or has no effect on what is
// recovered; and what Strongroom signed counts as validly signed only if it means the same as before. Each variation
// is opened with exactly a quorum and with one key more; with one more, damage inside one share must not stop it.
func TestEveryByteOfAnSDFile(t *testing.T) {
	g := goldens(t)[0]
	d, own := newDomain(t), custodians()[:3]
	opened, err := open(g.sd, g.keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []struct {
		name  string
		text  []byte
		keys  []Key
		items []Item
	}{
		{"azure", g.sd, memoised(g.keys), opened.Items},
		{"strongroom", d.seal(t, own, 2), memoised(own), d.items},
	} {
		t.Run(file.name, func(t *testing.T) {
			t.Parallel()
			before := canonical(file.text)
			shares := bytes.Index(file.text, []byte(`"enc_shares"`)) + len(`"enc_shares": [`)
			end := shares + bytes.Index(file.text[shares:], []byte(`]`))
			structure := "{}[]\",:\\ "
			refused, same := map[Kind]int{}, 0
			tampered(file.text, func(how string, at int, changed []byte) {
				f, err := Parse(changed)
				if err != nil {
					refused[checkKind(t, how, at, err)]++
					return
				}
				if f.signature() == SignatureValid && !bytes.Equal(canonical(changed), before) {
					t.Errorf("byte %d %s: the file means something else and counts as validly signed", at, how)
				}
				for _, keys := range [][]Key{file.keys[:2], file.keys} {
					opened, err := Open(f, keys)
					if err == nil {
						if !sameItems(opened.Items, file.items) {
							t.Errorf("byte %d %s: opened to other items", at, how)
						}
						same++
						continue
					}
					refused[checkKind(t, how, at, err)]++
					inShare := at > shares && at < end && !bytes.ContainsAny(file.text[at:at+1], structure) && !bytes.ContainsAny(changed[at:at+1], structure)
					if inShare && len(keys) == len(file.keys) {
						t.Errorf("byte %d %s, in a share that is not needed: %v", at, how, err)
					}
				}
			})
			if same == 0 || len(refused) < 4 {
				t.Errorf("%d without effect, refused %v: the test did not do what it says", same, refused)
			}
			t.Logf("%d bytes: %d openings without effect, refused %v", len(file.text), same, refused)
		})
	}
}

// checkKind returns the kind of an error that a changed byte may cause.
func checkKind(t *testing.T, how string, at int, err error) Kind {
	t.Helper()
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("byte %d %s: error %#v", at, how, err)
	}
	if e.Kind == "" || e.Kind == Internal || e.Kind == InvalidParameter || e.Message == "" {
		t.Errorf("byte %d %s: error %#v", at, how, err)
	}
	return e.Kind
}

// Covers S7, S8, S11 for transfer files. Whatever is behind the public form fails alike.
func TestEveryByteOfATransferFile(t *testing.T) {
	g := goldens(t)[0]
	d, exchange := newDomain(t), newCustodian("exchange", 2048)
	text, err := MakeTransfer(rng, d.items, exchange.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := open(g.sd, g.keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []struct {
		name     string
		text     []byte
		exchange Key
		items    []Item
	}{{"azure", g.blob, g.exchange, opened.Items}, {"strongroom", text, exchange, d.items}} {
		t.Run(file.name, func(t *testing.T) {
			t.Parallel()
			key := transferMemo{&memo{Decrypter: file.exchange.Decrypter, answers: map[string]answer{}}}
			refused, same, unopenable := map[Kind]int{}, 0, map[string]bool{}
			tampered(file.text, func(how string, at int, changed []byte) {
				items, err := OpenTransfer(changed, file.exchange.Certificate, key)
				if err != nil {
					kind := checkKind(t, how, at, err)
					if refused[kind]++; kind == TransferUnopenable {
						unopenable[err.Error()] = true
					}
					return
				}
				if !sameItems(items, file.items) {
					t.Errorf("byte %d %s: opened to other items", at, how)
				}
				same++
			})
			if len(unopenable) != 1 {
				t.Errorf("%d different messages for a file that does not open, want one: %v", len(unopenable), unopenable)
			}
			t.Logf("%d bytes: %d variations without effect, refused %v", len(file.text), same, refused)
		})
	}
}

type transferMemo struct{ *memo }

func (m transferMemo) Public() crypto.PublicKey { return m.Decrypter.Public().(*rsa.PublicKey) }
