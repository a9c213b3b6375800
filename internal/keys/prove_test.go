package keys

import (
	"crypto/rand"
	"strings"
	"testing"

	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/secret"
)

// A version is proven by what it does, not by what is said of it. Each kind of key does it, and one that is another than its public
// key, or does not open, is told.
func TestProve(t *testing.T) {
	draw := func() secret.Bytes {
		s, err := secret.Random(rand.Reader, 32)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	eng, err := software.New(draw(), draw(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	binding := []byte("here")
	for name, spec := range map[string]engine.Spec{
		"RSA":    {Type: engine.RSA, Bits: 2048},
		"P-256":  {Type: engine.EC, Curve: engine.P256},
		"P-256K": {Type: engine.EC, Curve: engine.P256K},
		"P-384":  {Type: engine.EC, Curve: engine.P384},
		"P-521":  {Type: engine.EC, Curve: engine.P521},
		"oct":    {Type: engine.Oct, Bits: 192},
	} {
		t.Run(name, func(t *testing.T) {
			held := func() Held {
				made, err := eng.Generate(t.Context(), spec, binding)
				if err != nil {
					t.Fatal(err)
				}
				v := versionRecord{ID: strings.Repeat("1", 32), Type: spec.Type, Bits: spec.Bits, Curve: spec.Curve}
				v.material(made)
				check, err := v.recorded()
				if err != nil {
					t.Fatal(err)
				}
				ref := engine.Ref{Type: spec.Type, Bits: spec.Bits, Curve: spec.Curve, Sealed: made.Sealed, Binding: binding}
				return Held{Name: "a", CopyVersion: v.copyVersion(check), public: v.public(), ref: ref, eng: eng}
			}
			one, other := held(), held()
			check, wrong, err := one.Prove(t.Context())
			if err != nil || wrong != "" || check == "" || one.Check != "" && check != one.Check {
				t.Fatalf("got %q, %q, %v; recorded is %q", check, wrong, err, one.Check)
			}
			if again, err := one.Recognise(t.Context()); err != nil || again != check {
				t.Errorf("it is recognised by %q and by %q, %v", check, again, err)
			}
			if its, err := other.Recognise(t.Context()); err != nil || its == check {
				t.Errorf("another one is recognised by the same, %v", err)
			}
			if spec.Type != engine.Oct {
				mixed := one
				mixed.public = other.public
				if _, wrong, err := mixed.Prove(t.Context()); err != nil || !strings.HasPrefix(wrong, "signs, and the signature does not hold") {
					t.Errorf("with another public key: %q, %v", wrong, err)
				}
			}
			moved := one
			moved.ref.Binding = []byte("elsewhere")
			if _, wrong, err := moved.Prove(t.Context()); err != nil || wrong != "does not open" {
				t.Errorf("under another binding: %q, %v", wrong, err)
			}
		})
	}
	closed := Held{Name: "a", CopyVersion: CopyVersion{ID: "1", Type: engine.Oct, Bits: 256}, eng: eng}
	eng.Close()
	if _, wrong, err := closed.Prove(t.Context()); err == nil || wrong != "" {
		t.Errorf("an engine that is closed proves nothing of a key: %q, %v", wrong, err)
	}
}

// The check value of an oct key is what docs/formats.md says, so that others can compute it.
func TestCheckOfAnOctKey(t *testing.T) {
	eng, err := software.New(secret.New(make([]byte, 32)), secret.New(make([]byte, 32)), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	made, err := eng.ImportKey(t.Context(), engine.Material{Type: engine.Oct, K: secret.New([]byte("0123456789abcdef"))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// openssl dgst -sha256 -hmac 0123456789abcdef, of the label; 16 bytes of it.
	const want = "lRai0dH8JgRJiYfkmaMhfA"
	if got, err := octCheck(t.Context(), eng, engine.Ref{Type: engine.Oct, Bits: 128, Sealed: made.Sealed}); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}
