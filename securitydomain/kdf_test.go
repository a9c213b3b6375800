package securitydomain

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"hash"
	"os"
	"strconv"
	"strings"
	"testing"

	"strongroom/secret"
)

// NIST's vectors give the whole fixed input: they test the PRF and the counter.
func TestKDFAgainstNIST(t *testing.T) {
	text, err := os.ReadFile("../testdata/sp800-108/nist-KDFCTR-hmac-before32.rsp")
	if err != nil {
		t.Fatal(err)
	}
	hashes := map[string]func() hash.Hash{"[PRF=HMAC_SHA256]": sha256.New, "[PRF=HMAC_SHA384]": sha512.New384, "[PRF=HMAC_SHA512]": sha512.New}
	var prf func() hash.Hash
	fields := map[string]string{}
	count := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[PRF=") {
			if prf = hashes[line]; prf == nil {
				t.Fatalf("unknown section %s", line)
			}
		}
		name, value, ok := strings.Cut(line, " = ")
		if !ok {
			name, value, _ = strings.Cut(line, "=")
		}
		fields[name] = value
		if name != "KO" || strings.HasPrefix(line, "#") {
			continue
		}
		bits, err := strconv.Atoi(fields["L"])
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(counterKDF(prf, hexBytes(t, fields["KI"]), hexBytes(t, fields["FixedInputData"]), bits/8)); got != value {
			t.Errorf("vector %d of %d bits: got %s, want %s", count, bits, got, value)
		}
		count++
	}
	if count != 120 {
		t.Errorf("%d vectors were tried, want 120", count)
	}
}

// The project's own vectors test how the fixed input is built.
func TestKDFAsTheSecurityDomainUsesIt(t *testing.T) {
	var file struct {
		Vectors []struct {
			KI      string `json:"ki_hex"`
			Label   string `json:"label"`
			Context string `json:"context"`
			Bits    int    `json:"l_bits"`
			KO      string `json:"ko_hex"`
		} `json:"vectors"`
	}
	text, err := os.ReadFile("../testdata/sp800-108/hmac-sha512-counter.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) != 11 {
		t.Fatalf("%d vectors, want 11", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		got := counterKDF(sha512.New, hexBytes(t, v.KI), fixedInput([]byte(v.Label), []byte(v.Context), v.Bits), v.Bits/8)
		if hex.EncodeToString(got) != v.KO {
			t.Errorf("label %q, context %q, %d bits: got %x, want %s", v.Label, v.Context, v.Bits, got, v.KO)
		}
		if v.Context == "" && v.Bits == 512 {
			if key := itemKey(secret.New(hexBytes(t, v.KI)), v.Label); hex.EncodeToString(key.Reveal()) != v.KO {
				t.Errorf("itemKey of label %q differs", v.Label)
			}
		}
	}
}

func TestItemKeysOfGoldenFiles(t *testing.T) {
	for _, g := range goldens(t) {
		for _, item := range g.Items {
			if key := itemKey(secret.New(hexBytes(t, g.MasterHex)), item.Tag); hex.EncodeToString(key.Reveal()) != item.KeyHex {
				t.Errorf("%s: derived key of %q differs", g.name, item.Tag)
			}
		}
	}
}
