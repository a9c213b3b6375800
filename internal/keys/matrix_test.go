package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/internal/engine"
	"strongroom/internal/engine/enginetest"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// counting is an engine that counts what it is asked to do with keys.
type counting struct {
	engine.Engine
	uses atomic.Int64
}

func (c *counting) Sign(ctx context.Context, ref engine.Ref, alg string, digest []byte) ([]byte, error) {
	c.uses.Add(1)
	return c.Engine.Sign(ctx, ref, alg, digest)
}

func (c *counting) Verify(ctx context.Context, ref engine.Ref, alg string, digest, signature []byte) (bool, error) {
	c.uses.Add(1)
	return c.Engine.Verify(ctx, ref, alg, digest, signature)
}

func (c *counting) Encrypt(ctx context.Context, ref engine.Ref, alg string, plaintext secret.Bytes) ([]byte, error) {
	c.uses.Add(1)
	return c.Engine.Encrypt(ctx, ref, alg, plaintext)
}

func (c *counting) Decrypt(ctx context.Context, ref engine.Ref, alg string, ciphertext []byte) (secret.Bytes, error) {
	c.uses.Add(1)
	return c.Engine.Decrypt(ctx, ref, alg, ciphertext)
}

func (c *counting) EncryptAES(ctx context.Context, ref engine.Ref, alg string, plaintext secret.Bytes, iv, aad []byte) (engine.Ciphertext, error) {
	c.uses.Add(1)
	return c.Engine.EncryptAES(ctx, ref, alg, plaintext, iv, aad)
}

func (c *counting) DecryptAES(ctx context.Context, ref engine.Ref, alg string, ciphertext engine.Ciphertext, aad []byte) (secret.Bytes, error) {
	c.uses.Add(1)
	return c.Engine.DecryptAES(ctx, ref, alg, ciphertext, aad)
}

func (c *counting) ImportWrapped(ctx context.Context, kek engine.Ref, blob []byte, spec engine.Spec, bind func(engine.Spec) []byte) (engine.Made, error) {
	c.uses.Add(1)
	return c.Engine.ImportWrapped(ctx, kek, blob, spec, bind)
}

// matrixBench is a bench whose engine counts, and allows RSA1_5 if rsa15 is set.
func matrixBench(t testing.TB, rsa15 bool) (*bench, *counting) {
	t.Helper()
	b := newBench(t, memory.New(), alphaID, ownDomain)
	if rsa15 {
		eng, err := software.New(secret.Take(bytes.Repeat([]byte{1}, 32)), secret.Take(bytes.Repeat([]byte{2}, 32)), b.Keys.cfg.Rand, software.AllowRSA15())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(eng.Close)
		b.engine = eng
	}
	c := &counting{Engine: b.engine}
	b.Keys.cfg.Engine = func() (engine.Engine, error) { return c, nil }
	return b, c
}

// specName is a key name for a kind of key.
func specName(s engine.Spec) string {
	return strings.ToLower(strings.TrimSuffix(string(s.Type), "-HSM")) + "-" + strings.TrimPrefix(s.Curve+fmt.Sprint(s.Bits), "0")
}

func (b *bench) createSpec(t testing.TB, s engine.Spec, p CreateParams) Key {
	t.Helper()
	p.Type, p.Bits, p.Curve = string(s.Type), s.Bits, s.Curve
	return b.create(t, specName(s), p)
}

// attempt does one operation with a key and plausible values: what decryption and verification get comes from
// encryption and signing with the same key, where that works, so that a refusal is one of the algorithm.
func (b *bench) attempt(ctx context.Context, name, version, operation string, a enginetest.Algorithm) error {
	input := bytes.Repeat([]byte{0xa5}, a.Input)
	var x Extras
	if a.IV {
		x.IV = bytes.Repeat([]byte{1}, engine.CBCIVSize)
	}
	switch operation {
	case "sign":
		r, err := b.Sign(ctx, alice, name, version, a.Name, input)
		if err == nil && len(r.Signature) == 0 {
			return errors.New("an empty signature")
		}
		return err
	case "verify":
		signature := make([]byte, 64)
		if r, err := b.Sign(ctx, alice, name, version, a.Name, input); err == nil {
			signature = r.Signature
		}
		ok, err := b.Verify(ctx, alice, name, version, a.Name, input, signature)
		if err == nil && !ok {
			return errors.New("its own signature does not hold")
		}
		return err
	case "encrypt", "wrapKey":
		use := b.Encrypt
		if operation == "wrapKey" {
			use = b.WrapKey
		}
		r, err := use(ctx, alice, name, version, a.Name, secret.New(input), x)
		if err == nil && (len(r.Value) < a.Input || bytes.Contains(r.Value, input)) {
			return errors.New("the value is not encrypted")
		}
		return err
	}
	seal, open := b.Encrypt, b.Decrypt
	if operation == "unwrapKey" {
		seal, open = b.WrapKey, b.UnwrapKey
	}
	ciphertext, back := make([]byte, 32), x
	if r, err := seal(ctx, alice, name, version, a.Name, secret.New(input), x); err == nil {
		ciphertext, back = r.Value, Extras{IV: r.IV, Tag: r.Tag}
	}
	r, err := open(ctx, alice, name, version, a.Name, ciphertext, back)
	if err == nil && !bytes.Equal(r.Plaintext.Reveal(), input) {
		return errors.New("another plaintext came back")
	}
	return err
}

// Covers K2: every kind of key with every algorithm and every operation. Exactly the cells of the table of algorithms
// work. All others are refused as what they are, and before the key is opened: a key whose sealed material is broken
// shows when it is.
func TestMatrix(t *testing.T) {
	for name, rsa15 := range map[string]bool{"RSA1_5 off": false, "RSA1_5 allowed": true} {
		t.Run(name, func(t *testing.T) {
			b, _ := matrixBench(t, rsa15)
			works, refused := 0, 0
			for _, spec := range enginetest.Keys {
				if rsa15 && spec.Type == engine.RSA && spec.Bits != 2048 {
					continue // the setting does not depend on the size, and large keys take long to find
				}
				key := b.createSpec(t, spec, CreateParams{})
				for _, a := range enginetest.Table() {
					for _, operation := range enginetest.Operations {
						what := fmt.Sprintf("%s with %q on %s", operation, a.Name, key.Name)
						err := b.attempt(t.Context(), key.Name, key.Version, operation, a)
						off := a.Name == engine.RSA15 && !rsa15
						if a.Fits(spec, operation) && !off {
							if works++; err != nil {
								t.Errorf("%s: %v", what, err)
							}
							continue
						}
						refused++
						want := failure.BadParameter
						if off && spec.Type == engine.RSA && a.Fits(spec, operation) {
							want = failure.Unsupported
						}
						if failure.KindOf(err) != want || strings.Contains(err.Error(), "canary") {
							t.Errorf("%s: got %v, want %s", what, err, want)
						}
					}
				}
				b.breakMaterial(t, key)
				for _, a := range enginetest.Table() {
					for _, operation := range enginetest.Operations {
						what := fmt.Sprintf("%s with %q on %s, whose material is broken", operation, a.Name, key.Name)
						err := b.attempt(t.Context(), key.Name, key.Version, operation, a)
						opened := failure.KindOf(err) == failure.Tampered || failure.KindOf(err) == failure.Internal
						if fits := a.Fits(spec, operation) && (a.Name != engine.RSA15 || rsa15); opened && !fits {
							t.Errorf("%s: refused, but the key was opened first: %v", what, err)
						} else if fits && !opened && operation != "decrypt" && operation != "unwrapKey" {
							t.Errorf("%s: got %v; the test does not break the material", what, err)
						}
					}
				}
			}
			t.Logf("%d cells work, %d are refused", works, refused)
			if works == 0 || refused < works {
				t.Error("the table is not what it should be")
			}
		})
	}
}

// breakMaterial puts other bytes in place of a version's sealed material, with a record that is otherwise right.
func (b *bench) breakMaterial(t testing.TB, key Key) {
	t.Helper()
	lower := strings.ToLower(key.Name)
	err := b.store.Update(t.Context(), func(w store.Writer) error {
		rec, v, index, err := b.lookUp(t.Context(), b.engine, w, lower, key.Version)
		if err != nil {
			return err
		}
		v.Sealed = bytes.Repeat([]byte{1}, len(v.Sealed))
		if rec.Versions[index].MAC, err = put(t.Context(), b.engine, w, b.versionPath(lower, index+1), v); err != nil {
			return err
		}
		_, err = put(t.Context(), b.engine, w, b.keyPath(lower), rec)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Covers K2, K11: what the state of a key says about its use, for each operation and each type of key, by the latest
// version and by its name. A refusal does not reach the engine.
func TestStateMatrix(t *testing.T) {
	b, uses := matrixBench(t, false)
	before, after := noon.Add(-time.Second), noon.Add(time.Second)
	finishing := []string{"decrypt", "unwrapKey", "verify"} // what was begun inside the window
	states := []struct {
		name   string
		params CreateParams
		// allowed lists the operations that the state leaves, of those that the type has.
		allowed func(operation string) bool
	}{
		{"plain", CreateParams{}, func(string) bool { return true }},
		{"disabled", CreateParams{Enabled: ptr(false)}, func(string) bool { return false }},
		{"not yet valid", CreateParams{NotBefore: &after}, func(o string) bool { return slices.Contains(finishing, o) }},
		{"valid from now on", CreateParams{NotBefore: &noon}, func(string) bool { return true }},
		{"expired", CreateParams{Expires: &before}, func(o string) bool { return slices.Contains(finishing, o) }},
		{"expires now", CreateParams{Expires: &noon}, func(o string) bool { return slices.Contains(finishing, o) }},
		{"expires later", CreateParams{Expires: &after}, func(string) bool { return true }},
		{"expired and disabled", CreateParams{Expires: &before, Enabled: ptr(false)}, func(string) bool { return false }},
		{"no operation", CreateParams{Ops: []string{}}, func(string) bool { return false }},
	}
	for _, operation := range enginetest.Operations {
		states = append(states, struct {
			name    string
			params  CreateParams
			allowed func(string) bool
		}{"only " + operation, CreateParams{Ops: []string{operation}}, func(o string) bool { return o == operation }})
	}
	fitting := map[engine.Type]map[enginetest.Use]string{
		engine.RSA: {enginetest.Encrypts: engine.RSAOAEP256, enginetest.Signs: "PS256"},
		engine.EC:  {enginetest.Signs: "ES256"},
		engine.Oct: {enginetest.Encrypts: "A256CBC", enginetest.Signs: "HS256"},
	}
	// What comes back to decrypt and verify is made with the plain version, which stays.
	for _, spec := range []engine.Spec{{Type: engine.RSA, Bits: 2048}, {Type: engine.EC, Curve: engine.P256}, {Type: engine.Oct, Bits: 256}} {
		b.createSpec(t, spec, CreateParams{})
		for _, state := range states {
			if slices.ContainsFunc(state.params.Ops, func(op string) bool { return !slices.Contains(opsByType[spec.Type], op) }) {
				continue
			}
			key := b.createSpec(t, spec, state.params)
			for _, operation := range opsByType[spec.Type] {
				use := enginetest.Encrypts
				if operation == "sign" || operation == "verify" {
					use = enginetest.Signs
				}
				for _, version := range []string{"", key.Version} {
					what := fmt.Sprintf("%s, %s, version %q: %s", spec.Type, state.name, version, operation)
					was := uses.uses.Load()
					err := b.plainly(t.Context(), key.Name, version, operation, fitting[spec.Type][use])
					used := uses.uses.Load() != was
					if state.allowed(operation) {
						if err != nil || !used {
							t.Errorf("%s: %v", what, err)
						}
					} else if failure.KindOf(err) != failure.Disabled || used {
						t.Errorf("%s: got %v, want %s; the engine was asked: %t", what, err, failure.Disabled, used)
					}
				}
			}
		}
	}
	// A key that receives keys does nothing else, and outside its time it does not do that either.
	kek := b.create(t, "kek", CreateParams{Type: "RSA", Ops: []string{"import"}})
	for _, operation := range opsByType[engine.RSA] {
		was := uses.uses.Load()
		err := b.plainly(t.Context(), "kek", kek.Version, operation, map[bool]string{true: "PS256", false: engine.RSAOAEP}[operation == "sign" || operation == "verify"])
		if wantKind(t, err, failure.Disabled); uses.uses.Load() != was {
			t.Errorf("%s with an import key reached the engine", operation)
		}
	}
	blob := wrapFor(t, kek, "https://alpha.example/keys/kek/"+kek.Version, bytes.Repeat([]byte{1}, 32))
	for name, change := range map[string]UpdateParams{
		"disabled": {Enabled: ptr(false)},
		"expired":  {Enabled: ptr(true), Expires: &before},
	} {
		if _, err := b.Update(t.Context(), alice, "kek", "", change); err != nil {
			t.Fatal(err)
		}
		was := uses.uses.Load()
		_, err := b.Import(t.Context(), alice, "target", ImportParams{CreateParams: CreateParams{Type: "oct"}, Blob: blob})
		if wantKind(t, err, failure.Disabled); uses.uses.Load() != was {
			t.Errorf("an import key that is %s was opened", name)
		}
	}
}

// plainly makes exactly one call, with values that do as far as the state of a key is concerned.
func (b *bench) plainly(ctx context.Context, name, version, operation, alg string) (err error) {
	var x Extras
	if strings.HasSuffix(alg, "CBC") {
		x.IV = make([]byte, engine.CBCIVSize)
	}
	switch operation {
	case "sign":
		_, err = b.Sign(ctx, alice, name, version, alg, digest())
	case "verify":
		_, err = b.Verify(ctx, alice, name, version, alg, digest(), make([]byte, 32))
	case "encrypt":
		_, err = b.Encrypt(ctx, alice, name, version, alg, contentKey(), x)
	case "wrapKey":
		_, err = b.WrapKey(ctx, alice, name, version, alg, contentKey(), x)
	case "decrypt":
		_, err = b.Decrypt(ctx, alice, name, version, alg, make([]byte, 256), x)
	case "unwrapKey":
		_, err = b.UnwrapKey(ctx, alice, name, version, alg, make([]byte, 256), x)
	}
	// A ciphertext that is none got as far as the engine; that is all that counts here.
	if f, ours := errors.AsType[*failure.Error](err); ours && f.Kind == failure.BadParameter && strings.Contains(f.Message, "does not decrypt") {
		return nil
	}
	return err
}
