package keys

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/engine/enginetest"
	"strongroom/internal/failure"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// pair is a way to encrypt and the way back.
type pair struct {
	encryptOp, decryptOp string
	encrypt              func(k *Keys, ctx context.Context, caller access.Caller, name, version, alg string, plaintext secret.Bytes, x Extras) (EncryptResult, error)
	decrypt              func(k *Keys, ctx context.Context, caller access.Caller, name, version, alg string, ciphertext []byte, x Extras) (DecryptResult, error)
}

var pairs = []pair{
	{"encrypt", "decrypt", (*Keys).Encrypt, (*Keys).Decrypt},
	{"wrapKey", "unwrapKey", (*Keys).WrapKey, (*Keys).UnwrapKey},
}

func contentKey() secret.Bytes { return secret.Take(bytes.Repeat([]byte{0xc0}, 32)) }

// A content key is encrypted under one version of a key, a newer version comes, and the content key comes back
// from the older one, whose name and ID both answers give.
func TestEncryptAndDecrypt(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	first := b.create(t, "Tenant-Key", CreateParams{Type: "RSA"})
	for _, p := range pairs {
		for _, alg := range []string{engine.RSAOAEP, engine.RSAOAEP256} {
			plain := contentKey()
			sealed, err := p.encrypt(b.Keys, t.Context(), alice, "tenant-KEY", "", alg, plain, Extras{})
			if err != nil || sealed.Name != "Tenant-Key" || sealed.Version != first.Version || len(sealed.Value) != 256 {
				t.Fatalf("%s %s: %+v, %v", p.encryptOp, alg, sealed, err)
			}
			if !plain.Equal(contentKey()) {
				t.Errorf("%s %s changed the caller's plaintext", p.encryptOp, alg)
			}
			for _, version := range []string{"", strings.ToUpper(first.Version)} {
				got, err := p.decrypt(b.Keys, t.Context(), alice, "Tenant-Key", version, alg, sealed.Value, Extras{})
				if err != nil || got.Name != "Tenant-Key" || got.Version != first.Version || !got.Plaintext.Equal(plain) {
					t.Errorf("%s %s: %+v, %v", p.decryptOp, alg, got, err)
				}
			}
		}
	}
	sealed, err := b.WrapKey(t.Context(), alice, "Tenant-Key", "", engine.RSAOAEP256, contentKey(), Extras{})
	if err != nil {
		t.Fatal(err)
	}
	b.create(t, "Tenant-Key", CreateParams{Type: "RSA"})
	got, err := b.UnwrapKey(t.Context(), alice, "Tenant-Key", sealed.Version, engine.RSAOAEP256, sealed.Value, Extras{})
	if err != nil || !got.Plaintext.Equal(contentKey()) {
		t.Errorf("with the older version: %v", err)
	}
	_, err = b.UnwrapKey(t.Context(), alice, "Tenant-Key", "", engine.RSAOAEP256, sealed.Value, Extras{})
	wantKind(t, err, failure.BadParameter)
}

// Covers K2, K3: key_ops, enabled and the window of time, for each of the four. What was encrypted inside the
// window is read outside it; a key that receives other keys reads nothing.
func TestEncryptionIsPermitted(t *testing.T) {
	const all = "encrypt decrypt wrapKey unwrapKey"
	rsa := func(p CreateParams) CreateParams {
		p.Type = "RSA"
		return p
	}
	for name, row := range map[string]struct {
		params CreateParams
		at     time.Time
		can    string
	}{
		"plain":               {CreateParams{}, noon, all},
		"disabled":            {CreateParams{Enabled: ptr(false)}, noon, ""},
		"no operations":       {CreateParams{Ops: []string{}}, noon, ""},
		"signs only":          {CreateParams{Ops: []string{"sign", "verify"}}, noon, ""},
		"encrypt only":        {CreateParams{Ops: []string{"encrypt"}}, noon, "encrypt"},
		"decrypt only":        {CreateParams{Ops: []string{"decrypt"}}, noon, "decrypt"},
		"wrapKey only":        {CreateParams{Ops: []string{"wrapKey"}}, noon, "wrapKey"},
		"unwrapKey only":      {CreateParams{Ops: []string{"unwrapKey"}}, noon, "unwrapKey"},
		"import only":         {CreateParams{Ops: []string{"import"}}, noon, ""},
		"before nbf":          {CreateParams{NotBefore: &noon}, noon.Add(-1), "decrypt unwrapKey"},
		"at nbf":              {CreateParams{NotBefore: &noon}, noon, all},
		"at exp":              {CreateParams{Expires: &noon}, noon, "decrypt unwrapKey"},
		"a blink before exp":  {CreateParams{Expires: &noon}, noon.Add(-1), all},
		"expired, disabled":   {CreateParams{Expires: &noon, Enabled: ptr(false)}, noon, ""},
		"expired, wraps only": {CreateParams{Expires: &noon, Ops: []string{"wrapKey"}}, noon, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, memory.New(), alphaID, ownDomain)
			key := b.create(t, "k", rsa(row.params))
			b.at(row.at)
			// Made by hand, because not every row lets the HSM make one.
			_, v, err := b.find(t.Context(), b.engine, "k", "")
			if err != nil {
				t.Fatal(err)
			}
			ciphertext, err := b.engine.Encrypt(t.Context(), v.ref(alphaID, "k"), engine.RSAOAEP, contentKey())
			if err != nil {
				t.Fatal(err)
			}
			check := func(op string, size int, err error) {
				t.Helper()
				if may := slices.Contains(strings.Fields(row.can), op); may != (err == nil) || may != (size > 0) {
					t.Errorf("%s: %d bytes, %v; want allowed: %t", op, size, err, may)
				}
				if err != nil {
					wantKind(t, err, failure.Disabled)
				}
			}
			for _, version := range []string{"", key.Version} {
				for _, p := range pairs {
					sealed, err := p.encrypt(b.Keys, t.Context(), alice, "k", version, engine.RSAOAEP, contentKey(), Extras{})
					check(p.encryptOp, len(sealed.Value), err)
					opened, err := p.decrypt(b.Keys, t.Context(), alice, "k", version, engine.RSAOAEP, ciphertext, Extras{})
					check(p.decryptOp, opened.Plaintext.Len(), err)
				}
			}
		})
	}
}

// Covers K6: kind, code, message and cause are the same whatever is wrong with the ciphertext, for each key,
// algorithm and way back.
func TestDamagedCiphertextsAnswerAlike(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	key := b.create(t, "k", CreateParams{Type: "RSA"})
	want := map[string]string{}
	for _, alg := range []string{engine.RSAOAEP, engine.RSAOAEP256} {
		table := enginetest.Damaged(t, key.Public, alg)
		if len(table) < 20 {
			t.Fatalf("%d damaged ciphertexts", len(table))
		}
		for _, p := range pairs {
			for name, ciphertext := range table {
				got, err := p.decrypt(b.Keys, t.Context(), alice, "k", "", alg, ciphertext, Extras{})
				f := wantKind(t, err, failure.BadParameter)
				if !got.Plaintext.IsZero() {
					t.Errorf("%s %s, %s: a plaintext came with the error", p.decryptOp, alg, name)
				}
				text := fmt.Sprintf("%s|%s|%s|%v", f.Kind, f.Code, f.Message, f.Cause)
				if want[alg] == "" {
					want[alg] = text
				}
				if text != want[alg] {
					t.Errorf("%s %s, %s: got %s, others get %s", p.decryptOp, alg, name, text, want[alg])
				}
			}
		}
	}
	if want[engine.RSAOAEP] != want[engine.RSAOAEP256] {
		t.Error("the two algorithms answer differently")
	}
}

// Covers K2: what does not fit the key is a bad parameter that says what would, and nothing foreign is repeated.
func TestEncryptionRefuses(t *testing.T) {
	b := newBench(t, memory.New(), alphaID, ownDomain)
	b.create(t, "ec", CreateParams{})
	b.create(t, "rsa", CreateParams{Type: "RSA"})
	b.create(t, "large", CreateParams{Type: "RSA", Bits: 3072})
	for name, row := range map[string]struct {
		key, version, alg string
		size              int
		kind              failure.Kind
		says              string
	}{
		"EC key":                     {"ec", "", engine.RSAOAEP256, 32, failure.BadParameter, "only sign and verify"},
		"EC key, RSA1_5":             {"ec", "", engine.RSA15, 32, failure.BadParameter, "only sign and verify"},
		"RSA1_5":                     {"rsa", "", "RSA1_5", 32, failure.Unsupported, "RSA1_5"},
		"RSA1_5 and too long":        {"rsa", "", "RSA1_5", 4096, failure.Unsupported, "use RSA-OAEP-256"},
		"an AES algorithm":           {"rsa", "", "A256KW", 32, failure.BadParameter, "use RSA-OAEP-256 or RSA-OAEP"},
		"a signature's":              {"rsa", "", "RS256", 32, failure.BadParameter, "use RSA-OAEP-256"},
		"in lower case":              {"rsa", "", "rsa-oaep", 32, failure.BadParameter, "use RSA-OAEP-256"},
		"unknown":                    {"rsa", "", "<canary>", 32, failure.BadParameter, "use RSA-OAEP-256"},
		"none":                       {"rsa", "", "", 32, failure.BadParameter, "use RSA-OAEP-256"},
		"no such key":                {"gone", "", engine.RSAOAEP, 32, failure.NotFound, "gone"},
		"no such version":            {"rsa", strings.Repeat("0", 32), engine.RSAOAEP, 32, failure.NotFound, "no version"},
		"malformed name":             {"a_b", "", engine.RSAOAEP, 32, failure.BadParameter, "key name"},
		"malformed version":          {"rsa", "<canary>", engine.RSAOAEP, 32, failure.BadParameter, "key version"},
		"215 bytes for 2048 bits":    {"rsa", "", engine.RSAOAEP, 215, failure.BadParameter, "at most 214"},
		"191 bytes for 2048 bits":    {"rsa", "", engine.RSAOAEP256, 191, failure.BadParameter, "at most 190"},
		"319 bytes for 3072 bits":    {"large", "", engine.RSAOAEP256, 319, failure.BadParameter, "3072 bits takes at most 318"},
		"a whole body for 3072 bits": {"large", "", engine.RSAOAEP256, 60_000, failure.BadParameter, "60000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			tooLong := strings.Contains(row.says, "at most") || strings.Contains(row.says, "60000")
			for _, p := range pairs {
				sealed, err := p.encrypt(b.Keys, t.Context(), alice, row.key, row.version, row.alg, secret.Take(make([]byte, row.size)), Extras{})
				errs := []error{err}
				if !tooLong {
					_, err := p.decrypt(b.Keys, t.Context(), alice, row.key, row.version, row.alg, make([]byte, 256), Extras{})
					errs = append(errs, err)
				}
				for _, err := range errs {
					if f := wantKind(t, err, row.kind); !strings.Contains(f.Message, row.says) || strings.Contains(f.Message, "canary") {
						t.Errorf("the message is %q, want one with %q", f.Message, row.says)
					}
				}
				if sealed.Value != nil {
					t.Error("a ciphertext came with the error")
				}
			}
		})
	}
}

// Covers A1: the built-in roles, decided by package access on what keys ask: who uses keys may do all four, who
// encrypts storage wraps and unwraps, who only looks or administers does none.
func TestBuiltInRolesOfEncryption(t *testing.T) {
	s := newStock(t)
	table := calls(t, s)
	b := s.open(t)
	for role, want := range map[string][]string{
		access.RoleCryptoUser:        {"Decrypt", "Encrypt", "UnwrapKey", "WrapKey"},
		access.RoleServiceEncryption: {"UnwrapKey", "WrapKey"},
		access.RoleCryptoOfficer:     nil,
		access.RoleCryptoAuditor:     nil,
		access.RoleAdministrator:     nil,
		access.RoleBackup:            nil,
	} {
		for scope, holds := range map[string]bool{"/": true, "/keys": true, "/keys/MY-rsa": true, "/keys/other": false} {
			assignments := []access.Assignment{{Name: "a", PrincipalID: alice.ObjectID, RoleDefinitionID: role, Scope: scope}}
			b.Keys.cfg.Authorize = func(_ context.Context, c access.Caller, action access.Action, scope string) error {
				if !access.Decide(access.BuiltInRoles(), assignments, c, action, scope).Allowed {
					return failure.New(failure.Forbidden, "no")
				}
				return nil
			}
			var got []string
			for _, method := range []string{"Decrypt", "Encrypt", "UnwrapKey", "WrapKey"} {
				if err := table[method].call(b); err == nil {
					got = append(got, method)
				} else {
					wantKind(t, err, failure.Forbidden)
				}
			}
			allowed := want
			if !holds {
				allowed = nil
			}
			if diff := cmp.Diff(allowed, got); diff != "" {
				t.Errorf("role %s at %s: %s", role, scope, diff)
			}
		}
	}
}

// Covers K1: a result that is printed shows no plaintext.
func TestResultDoesNotPrintPlaintext(t *testing.T) {
	r := DecryptResult{Name: "k", Version: "v", Plaintext: secret.New([]byte("canary"))}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		if out := fmt.Sprintf(verb, r); strings.Contains(out, "canary") || strings.Contains(out, "63616e617279") {
			t.Errorf("%s shows the plaintext", verb)
		}
	}
}
