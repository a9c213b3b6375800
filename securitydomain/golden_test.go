package securitydomain

import (
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/secret"
)

// quorums yields every subset of keys of at least m.
func quorums(keys []Key, m int) [][]Key {
	var sets [][]Key
	for set := range uint(1) << len(keys) {
		if bits.OnesCount(set) < m {
			continue
		}
		var quorum []Key
		for i, k := range keys {
			if set>>i&1 == 1 {
				quorum = append(quorum, k)
			}
		}
		sets = append(sets, quorum)
	}
	return sets
}

// Files of the stock client open with every quorum and with more keys than it takes, with certificates and without.
func TestGoldenOpensWithEveryQuorum(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			f, err := Parse(g.sd)
			if err != nil {
				t.Fatal(err)
			}
			for _, quorum := range quorums(g.keys, g.Required) {
				for name, keys := range map[string][]Key{"with certificates": quorum, "without": withoutCertificates(quorum)} {
					opened, err := Open(f, keys)
					if err != nil {
						t.Fatalf("%d keys %s: %v", len(keys), name, err)
					}
					g.checkItems(t, opened.Items)
					if len(opened.Used) != len(keys) || len(opened.PassedOver) != 0 || len(opened.Warnings) != 0 || opened.DomainID != "" || opened.Signature != SignatureAbsent {
						t.Errorf("%d keys %s: used %v, passed over %v, warnings %v, domain %q, signature %q", len(keys), name, opened.Used, opened.PassedOver, opened.Warnings, opened.DomainID, opened.Signature)
					}
					for i, r := range opened.Used {
						if r.Key == "" || r.X5T256 != Thumbprint(quorum[i].Certificate) {
							t.Errorf("share %d is reported as %+v", i, r)
						}
					}
				}
			}
			for _, few := range quorums(g.keys, g.Required-1) {
				if len(few) == g.Required-1 {
					_, err := Open(f, few)
					e := wantKind(t, err, TooFewShares)
					if e.Good != len(few) || e.Required != g.Required {
						t.Errorf("the error counts %d of %d, want %d of %d", e.Good, e.Required, len(few), g.Required)
					}
				}
			}
		})
	}
}

// The file that azure-cli makes for an upload opens, also in the spelling of one of its old releases.
func TestGoldenTransferOpens(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			cert := g.exchange.Certificate
			items, err := OpenTransfer(g.blob, cert, g.exchange.Decrypter)
			if err != nil {
				t.Fatal(err)
			}
			g.checkItems(t, items)

			historic := edit(t, g.blob, func(root object) {
				for i := range g.Items {
					item(root, i)["compact_jwe"] = encode64([]byte(item(root, i)["compact_jwe"].(string)))
				}
				wrapped := root["WrappedKey"].(object)
				wrapped["enc_key"] = encode64([]byte(wrapped["enc_key"].(string)))
				wrapped["x5t_256"] = encode64([]byte(wrapped["x5t_256"].(string)))
			})
			if items, err = OpenTransfer(historic, cert, g.exchange.Decrypter); err != nil {
				t.Fatalf("encoded once more: %v", err)
			}
			g.checkItems(t, items)
			if transfer, err := ParseTransfer(historic); err != nil || transfer.X5T256 != Thumbprint(cert) || len(transfer.Tags) != len(g.Items) {
				t.Errorf("transfer %+v, %v", transfer, err)
			}
			// In an SD file nobody ever wrote that form.
			_, err = Parse(edit(t, g.sd, func(root object) {
				item(root, 0)["compact_jwe"] = encode64([]byte(item(root, 0)["compact_jwe"].(string)))
			}))
			wantKind(t, err, ItemDamaged)
		})
	}
}

// Header bytes of what we write are those of the golden files, so readers that compare texts are content.
func TestHeadersAreByteExact(t *testing.T) {
	for _, g := range goldens(t) {
		var want struct {
			EncData    encDataJSON
			SharedKeys sharedKeysJSON
		}
		if err := json.Unmarshal(g.sd, &want); err != nil {
			t.Fatal(err)
		}
		first := func(compact string) string { segment, _, _ := strings.Cut(compact, "."); return segment }
		for _, item := range want.EncData.Data {
			got, err := sealItem(secret.New(make([]byte, masterBytes)), Item{item.Tag, secret.New([]byte("x"))})
			if err != nil || first(got) != first(item.CompactJWE) {
				t.Errorf("header of item %q: %v", item.Tag, err)
			}
		}
		got, err := sealKey(secret.New([]byte("x")), g.keys[0].Certificate.PublicKey.(*rsa.PublicKey))
		if err != nil || first(got) != first(want.SharedKeys.EncShares[0].EncKey) {
			t.Errorf("header of a share: %v", err)
		}
	}
}

// A file of extension format 1 as it was first released opens for ever, and its signature holds: nobody may change
// what is signed, how a share is checked or how a signing key is spelt without a new format.
func TestGoldenStrongroomFile(t *testing.T) {
	const dir = "../testdata/securitydomain/strongroom-1"
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var want struct {
		golden
		DomainID string    `json:"domain_id"`
		HSM      string    `json:"hsm"`
		Created  time.Time `json:"created"`
		Signed   string    `json:"signed_bytes_sha384_hex"`
	}
	if err := json.Unmarshal(read("expected.json"), &want); err != nil {
		t.Fatal(err)
	}
	people, text := goldens(t)[0], read("security-domain.json") // sealed to the custodians of n3-m2
	for _, quorum := range quorums(people.keys, want.Required) {
		opened, err := open(text, quorum)
		if err != nil {
			t.Fatal(err)
		}
		want.checkItems(t, opened.Items)
		if opened.Signature != SignatureValid || opened.DomainID != want.DomainID || opened.HSMName != want.HSM || !opened.Created.Equal(want.Created) || len(opened.Warnings) != 0 {
			t.Errorf("opened as %+v", opened)
		}
	}
	f, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range want.Shares {
		if share := secret.New(hexBytes(t, s.Share)); !f.shares[i].hint.fits(share) {
			t.Errorf("check value %d does not fit its share", i+1)
		}
	}
	root, err := parseRoot(text, "SD file")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signedBytes(root, root.Get(nameExtension))
	if digest := sha512.Sum384(signed); err != nil || hex.EncodeToString(digest[:]) != want.Signed {
		t.Errorf("what is signed has another digest: %x, %v", digest, err)
	}
	items, err := OpenTransfer(read("restore-blob.json"), people.exchange.Certificate, people.exchange.Decrypter)
	if err != nil {
		t.Fatal(err)
	}
	want.checkItems(t, items)
}

// Each share is the one that the golden file says, so the JWE layer is tested by itself.
func TestGoldenShares(t *testing.T) {
	for _, g := range goldens(t) {
		f, err := Parse(g.sd)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range g.Shares {
			plain, err := f.shares[i].jwe.openKey(g.keys[i].Decrypter)
			if err != nil || hex.EncodeToString(plain.Reveal()) != want.Share || f.shares[i].x5t != want.X5T {
				t.Errorf("%s: share %d: %v", g.name, i+1, err)
			}
			if _, err := f.shares[i].jwe.openKey(g.exchange.Decrypter); err != errOtherKey {
				t.Errorf("%s: share %d with a foreign key: %v, want errOtherKey", g.name, i+1, err)
			}
		}
	}
}

// A custodian whose certificate was renewed has a thumbprint that the file does not know, and the same key.
func TestRenewedCertificate(t *testing.T) {
	g := goldens(t)[0]
	renewed := slices.Clone(g.keys)
	for i, k := range renewed {
		renewed[i].Certificate = certify("renewed", k.Decrypter.(*rsa.PrivateKey), time.Now(), time.Now().AddDate(1, 0, 0))
	}
	opened, err := open(g.sd, renewed[:2])
	if err != nil {
		t.Fatal(err)
	}
	g.checkItems(t, opened.Items)
}

// splitKeys turns a golden file into one of version 1: the items stay, the master key is split by XOR for each pair.
func splitKeys(t testing.TB, g *golden) []byte {
	t.Helper()
	master := hexBytes(t, g.MasterHex)
	wrap := func(plain []byte, cert *x509.Certificate) object {
		jwe, err := sealKey(secret.New(plain), cert.PublicKey.(*rsa.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		return object{"enc_key": jwe, "x5t_256": Thumbprint(cert)}
	}
	var pairs []any
	for i := range g.keys {
		for j := range i {
			one := fmt.Appendf(nil, "%032d", 100*i+j)
			two := make([]byte, masterBytes)
			for k := range two {
				two[k] = one[k] ^ master[k]
			}
			pairs = append(pairs, object{"key1": wrap(one, g.keys[j].Certificate), "key2": wrap(two, g.keys[i].Certificate)})
		}
	}
	return edit(t, g.sd, func(root object) {
		delete(root, "SharedKeys")
		root["version"] = 1
		root["SplitKeys"] = object{"key_algorithm": "xor_split", "keys": pairs}
	})
}

func pairAt(i int, half string) func(object) object {
	return func(root object) object {
		return root["SplitKeys"].(object)["keys"].([]any)[i].(object)[half].(object)
	}
}

// Files of version 1 open with any two custodians.
func TestVersion1(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			text := splitKeys(t, g)
			f, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			in := f.Inspect()
			if in.Version != 1 || in.KeyAlgorithm != "xor_split" || in.Required != 2 || in.Total != len(g.keys) || in.Origin != OriginAzure {
				t.Errorf("inspected as %+v", in)
			}
			for _, quorum := range quorums(g.keys, 2) {
				for _, keys := range [][]Key{quorum, withoutCertificates(quorum)} {
					opened, err := Open(f, keys)
					if err != nil {
						t.Fatalf("%d keys: %v", len(keys), err)
					}
					g.checkItems(t, opened.Items)
				}
			}
			_, err = Open(f, g.keys[:1])
			wantKind(t, err, TooFewShares)
			_, err = Open(f, []Key{g.exchange, g.exchange})
			wantKind(t, err, NotACustodian)
			_, err = Open(f, []Key{g.keys[0], g.keys[0]})
			wantKind(t, err, TooFewShares)
		})
	}
}

// Covers S10 for version 1: one damaged half leaves the other pairs.
func TestVersion1Damage(t *testing.T) {
	g := goldens(t)[0] // pairs: (1,2), (1,3), (2,3)
	whole := splitKeys(t, g)
	for name, damage := range map[string]func(object){
		"content":        func(root object) { p := pairAt(0, "key1")(root); p["enc_key"] = flip(p["enc_key"].(string), 3) },
		"content key":    func(root object) { p := pairAt(0, "key2")(root); p["enc_key"] = flip(p["enc_key"].(string), 1) },
		"not a JWE":      set(pairAt(0, "key1"), "enc_key", "garbage"),
		"missing":        set(pairAt(0, "key2"), "enc_key", nil),
		"half is absent": func(root object) { delete(root["SplitKeys"].(object)["keys"].([]any)[0].(object), "key1") },
	} {
		t.Run(name, func(t *testing.T) {
			text := edit(t, whole, damage)
			opened, err := open(text, g.keys)
			if err != nil {
				t.Fatal(err)
			}
			g.checkItems(t, opened.Items)
			_, err = open(text, g.keys[:2])
			if e := wantKind(t, err, ShareDamaged); name != "half is absent" && e.Custodian == "" {
				t.Errorf("no custodian is named: %v", err)
			}
		})
	}
}
