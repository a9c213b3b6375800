package keys

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/memory"
	"strongroom/secret"
)

// The walk goes through every sequence of calls, up to a length, that a caller with all roles can make on a small
// world: a key "kek" that receives wrapped keys, an ordinary key "x", and whatever comes of them. The caller also holds
// what a transfer blob is made of, as whoever carried it here does. Wherever the walk comes, it uses every version in
// every way with everything that it holds. No answer may have the bytes of a key in it: that of the wrapped keys, of the
// AES key between, of a key imported in the clear, or of one made inside (Clulow 2003: whoever can decrypt what another
// key was wrapped with reads that key).

// walkEngine is an engine that is quick in making RSA keys, because it has a few made already, and that tells which
// bytes the oct keys have that it makes.
type walkEngine struct {
	engine.Engine
	pool []engine.Ref
	rand *recorder
	made *[][]byte

	mu   sync.Mutex
	next int
}

// recorder remembers the first read since it was asked to.
type recorder struct {
	mu   sync.Mutex
	on   bool
	took []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := rand.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on {
		r.took, r.on = bytes.Clone(p), false
	}
	return n, err
}

func (w *walkEngine) Generate(ctx context.Context, spec engine.Spec, binding []byte) (engine.Made, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if spec.Type == engine.RSA {
		ref := w.pool[w.next]
		if w.next++; w.next == len(w.pool) {
			w.next = 2 // the keys of the beginning stay the only ones with their material
		}
		sealed, err := w.Rebind(ctx, ref, binding)
		return engine.Made{Public: walkPublic[string(ref.Binding)], Sealed: sealed}, err
	}
	if spec.Type == engine.Oct {
		w.rand.mu.Lock()
		w.rand.on = true
		w.rand.mu.Unlock()
	}
	made, err := w.Engine.Generate(ctx, spec, binding)
	if spec.Type == engine.Oct && err == nil {
		*w.made = append(*w.made, w.rand.took)
	}
	return made, err
}

var walkPublic = map[string]engine.Public{}

// walkVersion is what is known of a version on the way.
type walkVersion struct {
	id, ops   string
	enabled   bool
	typ       engine.Type
	bits      int
	at, whose string // the key's name, and how the version came to be
}

// walkNode is a state of the world, and how the walk came there.
type walkNode struct {
	records map[string]string
	way     []string
}

type walk struct {
	t        *testing.T
	b        *bench
	canaries map[string][]byte
	made     [][]byte          // bytes of oct keys made inside
	known    [][]byte          // what the caller holds
	role     map[string]string // of each version, once it had one: "import" or "other"
	used     map[string]bool   // versions that were used, with their state
	answers  int
	kek      Key
	blobs    map[engine.Type][]byte
	backups  map[string][]byte
	origin   map[string]string // of the versions of the beginning
}

// leaks fails if an answer holds key bytes.
func (w *walk) leaks(way []string, call string, answer ...[]byte) {
	w.t.Helper()
	w.answers++
	all := bytes.Join(answer, []byte{0})
	check := func(what string, canary []byte) {
		for _, form := range [][]byte{canary, []byte(hex.EncodeToString(canary)), []byte(base64.RawURLEncoding.EncodeToString(canary)), []byte(base64.RawStdEncoding.EncodeToString(canary))} {
			if bytes.Contains(all, form) {
				w.t.Fatalf("after %s: %s answers with the bytes of %s", strings.Join(way, ", "), call, what)
			}
		}
	}
	for what, canary := range w.canaries {
		check(what, canary)
	}
	for _, made := range w.made {
		check("an oct key made inside", made)
	}
}

func keyBytes(k Key) []byte {
	text := fmt.Sprintf("%s %s %v %v %v", k.Name, k.Version, k.Ops, k.Tags, k.Attributes)
	for _, n := range []*big.Int{k.Public.N, k.Public.X, k.Public.Y} {
		if n != nil {
			text += string(n.Bytes())
		}
	}
	return []byte(text)
}

// wrapAround is a transfer blob around target whose AES key the test knows, and its two parts.
func wrapAround(t testing.TB, kek Key, between, target []byte) (blob, first, second []byte) {
	t.Helper()
	first, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &rsa.PublicKey{N: kek.Public.N, E: kek.Public.E}, between, nil)
	if err != nil {
		t.Fatal(err)
	}
	wrapper, err := subtle.NewKWP(between)
	if err != nil {
		t.Fatal(err)
	}
	if second, err = wrapper.Wrap(target); err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"schema_version":"1.0.0","header":{"kid":"https://h/keys/%s/%s","alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},"ciphertext":%q}`,
		kek.Name, kek.Version, base64.RawURLEncoding.EncodeToString(append(bytes.Clone(first), second...))), first, second
}

func newWalk(t *testing.T) *walk {
	w := &walk{t: t, canaries: map[string][]byte{}, role: map[string]string{}, used: map[string]bool{}, blobs: map[engine.Type][]byte{}, backups: map[string][]byte{}, origin: map[string]string{}}
	w.b = newBench(t, memory.New(), alphaID, ownDomain)
	random := &recorder{}
	inner, err := software.New(secret.Take(bytes.Repeat([]byte{1}, 32)), secret.Take(bytes.Repeat([]byte{2}, 32)), random, software.AllowRSA15())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inner.Close)
	eng := &walkEngine{Engine: inner, rand: random, made: &w.made}
	for i := range 4 {
		binding := fmt.Sprint("pool ", i)
		made, err := inner.Generate(t.Context(), engine.Spec{Type: engine.RSA, Bits: 2048}, []byte(binding))
		if err != nil {
			t.Fatal(err)
		}
		eng.pool = append(eng.pool, engine.Ref{Type: engine.RSA, Bits: 2048, Sealed: made.Sealed, Binding: []byte(binding)})
		walkPublic[binding] = made.Public
	}
	w.b.engine = eng
	w.b.Keys.cfg.Engine = func() (engine.Engine, error) { return eng, nil }
	fill := func(n int) []byte {
		p := make([]byte, n)
		if _, err := io.ReadFull(rand.Reader, p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	w.kek = w.b.create(t, "kek", CreateParams{Type: "RSA", Ops: []string{"import"}})
	x := w.b.create(t, "x", CreateParams{Type: "RSA"})
	w.origin[w.kek.Version], w.origin[x.Version] = "kek", "x"
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	w.canaries["the wrapped oct key"], w.canaries["the wrapped EC key"] = fill(32), d
	w.canaries["the AES key around the oct key"], w.canaries["the AES key around the EC key"] = fill(32), fill(32)
	w.canaries["the key imported in the clear"] = fill(24)
	var first, second []byte
	w.blobs[engine.Oct], first, second = wrapAround(t, w.kek, w.canaries["the AES key around the oct key"], w.canaries["the wrapped oct key"])
	w.known = append(w.known, first, second)
	w.blobs[engine.EC], first, second = wrapAround(t, w.kek, w.canaries["the AES key around the EC key"], pkcs8)
	w.known = append(w.known, first, second)
	for _, name := range []string{"kek", "x"} {
		if _, err := w.b.SetRotationPolicy(t.Context(), alice, name, RotationPolicy{ExpiryTime: "P90D"}); err != nil {
			t.Fatal(err)
		}
		if w.backups[name], err = w.b.Backup(t.Context(), alice, name); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// look reads all versions there are, in use or deleted, with the keys' names.
func (w *walk) look() (list []walkVersion, deleted map[string]bool) {
	w.t.Helper()
	deleted = map[string]bool{}
	b := w.b
	err := b.cfg.Store.View(w.t.Context(), func(r store.Reader) error {
		for _, name := range []string{"kek", "x"} {
			rec, err := b.loadKey(w.t.Context(), b.engine, r, name)
			if err == nil && rec == nil {
				if rec, err = b.loadDeleted(w.t.Context(), b.engine, r, name); rec != nil {
					deleted[name] = true
				}
			}
			if err != nil {
				return err
			}
			if rec == nil {
				continue
			}
			for i := range rec.Versions {
				v, err := b.loadVersion(w.t.Context(), b.engine, r, name, rec, i)
				if err != nil {
					return err
				}
				ops := slices.Clone(v.Ops)
				slices.Sort(ops)
				whose := w.origin[v.ID]
				if whose == "" {
					whose = map[bool]string{true: "imported", false: "made"}[v.Imported]
				}
				list = append(list, walkVersion{v.ID, strings.Join(ops, " "), v.Enabled, v.Type, v.Bits, name, whose})
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return list, deleted
}

// String is the same for versions that differ only in what was drawn at random: what one does, the other does. The key
// imported in the clear has another size than the wrapped one.
func (v walkVersion) String() string {
	return fmt.Sprintf("%s %s %s%d [%s] %t", v.at, v.whose, v.typ, v.bits, v.ops, v.enabled)
}

// name describes a state so that two that differ only in what was drawn at random are one.
func (w *walk) name(list []walkVersion, deleted map[string]bool) string {
	text := fmt.Sprint(deleted)
	for _, v := range list {
		text += "; " + v.String()
	}
	return text
}

// roles checks that no version that was for import ever is for anything else, and the other way round (K3).
func (w *walk) roles(way []string, list []walkVersion) {
	w.t.Helper()
	for _, v := range list {
		is := ""
		switch v.ops {
		case "":
			continue
		case "import":
			is = "import"
		default:
			is = "other"
			if strings.Contains(v.ops, "import") {
				w.t.Fatalf("after %s: a version of %s has the operations %s", strings.Join(way, ", "), v.at, v.ops)
			}
		}
		if was := w.role[v.id]; was != "" && was != is {
			w.t.Fatalf("after %s: a version of %s turned from %s to %s", strings.Join(way, ", "), v.at, was, is)
		}
		w.role[v.id] = is
	}
}

// use does everything with every version that was not used in its state yet, with all that the caller holds, and then
// with all that came out of that.
func (w *walk) use(way []string, list []walkVersion, deleted map[string]bool) {
	ctx, b := w.t.Context(), w.b
	for _, v := range list {
		state := fmt.Sprint(v, deleted[v.at])
		if w.used[state] {
			continue
		}
		w.used[state] = true
		if k, err := b.Get(ctx, alice, v.at, v.id); err == nil {
			w.leaks(way, "get", keyBytes(k))
		}
		if k, a, err := b.Attest(ctx, alice, v.at, v.id, func(n, v string) string { return n + v }); err == nil {
			w.leaks(way, "attest", keyBytes(k), a.Private, a.Public, a.Certificate)
		}
		ciphers, signatures := []string{engine.RSAOAEP, engine.RSAOAEP256, engine.RSA15}, []string{"RS256", "PS256"}
		switch v.typ {
		case engine.EC:
			ciphers, signatures = nil, []string{"ES256"}
		case engine.Oct:
			ciphers, signatures = []string{engine.AESKeyWrap, engine.AESKeyWrapPad}, []string{"HS256"}
			for _, mode := range []string{"GCM", "CBC", "CBCPAD", "KW"} {
				ciphers = append(ciphers, fmt.Sprintf("A%d%s", v.bits, mode))
			}
		}
		tell := func(call string, err error, answer ...[]byte) {
			if err != nil {
				f, ours := errors.AsType[*failure.Error](err)
				if !ours || f.Kind == failure.Internal || f.Kind == failure.Tampered {
					w.t.Fatalf("after %s: %s: %v", strings.Join(way, ", "), call, err)
				}
				answer = append(answer, []byte(err.Error()))
			}
			w.leaks(way, call, answer...)
		}
		held := slices.Clone(w.known)
		for round := range 2 {
			var out [][]byte
			for _, value := range held {
				for _, alg := range signatures {
					r, err := b.Sign(ctx, alice, v.at, v.id, alg, value[:min(32, len(value))])
					tell("sign", err, r.Signature)
				}
				for _, alg := range ciphers {
					for _, x := range []Extras{{}, {IV: make([]byte, 16)}, {IV: make([]byte, 12), Tag: value[len(value)-min(16, len(value)):]}} {
						if (len(x.IV) == 16) != strings.Contains(alg, "CBC") || (len(x.IV) == 12) != strings.HasSuffix(alg, "GCM") && len(x.IV) != 0 {
							continue
						}
						for _, open := range []func(context.Context, string, []byte) (DecryptResult, error){
							func(ctx context.Context, alg string, c []byte) (DecryptResult, error) {
								return b.Decrypt(ctx, alice, v.at, v.id, alg, c, x)
							},
							func(ctx context.Context, alg string, c []byte) (DecryptResult, error) {
								return b.UnwrapKey(ctx, alice, v.at, v.id, alg, c, x)
							},
						} {
							r, err := open(ctx, alg, value)
							if err == nil {
								out = append(out, bytes.Clone(r.Plaintext.Reveal()))
								tell("decrypt with "+alg, nil, r.Plaintext.Reveal())
							} else {
								tell("decrypt with "+alg, err)
							}
						}
						x.Tag = nil
						if strings.HasSuffix(alg, "GCM") {
							x.IV = nil
						}
						for _, seal := range []func(context.Context, string, secret.Bytes) (EncryptResult, error){
							func(ctx context.Context, alg string, p secret.Bytes) (EncryptResult, error) {
								return b.Encrypt(ctx, alice, v.at, v.id, alg, p, x)
							},
							func(ctx context.Context, alg string, p secret.Bytes) (EncryptResult, error) {
								return b.WrapKey(ctx, alice, v.at, v.id, alg, p, x)
							},
						} {
							r, err := seal(ctx, alg, secret.New(value))
							if err == nil {
								out = append(out, r.Value)
							}
							tell("encrypt with "+alg, err, r.Value, r.IV, r.Tag)
						}
					}
				}
			}
			if round == 0 { // the second time with what came out of the first, as far as it is not too much
				held = out[:min(len(out), 6)]
				held = slices.DeleteFunc(held, func(p []byte) bool { return len(p) == 0 })
			}
		}
	}
}

// walkCall is one thing that a caller can do to change the world.
type walkCall struct {
	name string
	do   func(ctx context.Context) ([]byte, error)
}

// calls are all that may follow a state.
func (w *walk) calls(list []walkVersion) (calls []walkCall) {
	b := w.b
	add := func(do func(ctx context.Context) ([]byte, error), name string, args ...any) {
		calls = append(calls, walkCall{fmt.Sprintf(name, args...), do})
	}
	key := func(k Key, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return keyBytes(k), nil
	}
	operations := [][]string{{"import"}, {"decrypt"}, {"unwrapKey"}, {}, {"import", "decrypt"}, {"wrapKey", "decrypt", "encrypt", "unwrapKey", "sign", "verify"}}
	count := map[string]int{}
	for _, v := range list {
		count[v.at]++
		for _, ops := range operations {
			add(func(ctx context.Context) ([]byte, error) {
				return key(b.Update(ctx, alice, v.at, v.id, UpdateParams{Ops: ops}))
			}, "%s of %s may %v", v.whose, v.at, ops)
		}
		add(func(ctx context.Context) ([]byte, error) {
			return key(b.Update(ctx, alice, v.at, v.id, UpdateParams{Enabled: ptr(!v.enabled)}))
		}, "%s of %s enabled: %t", v.whose, v.at, !v.enabled)
	}
	for _, name := range []string{"kek", "x"} {
		add(func(ctx context.Context) ([]byte, error) {
			k, err := b.Delete(ctx, alice, name)
			return key(k.Key, err)
		}, "delete %s", name)
		add(func(ctx context.Context) ([]byte, error) { return key(b.Recover(ctx, alice, name)) }, "recover %s", name)
		add(func(ctx context.Context) ([]byte, error) { return nil, b.Purge(ctx, alice, name) }, "purge %s", name)
		add(func(ctx context.Context) ([]byte, error) { return key(b.Restore(ctx, alice, w.backups[name])) }, "restore the first %s", name)
		add(func(ctx context.Context) ([]byte, error) { // moved through a backup of what it is now
			blob, err := b.Backup(ctx, alice, name)
			if err != nil {
				return nil, err
			}
			if _, err := b.Delete(ctx, alice, name); err != nil {
				return blob, err
			}
			if err := b.Purge(ctx, alice, name); err != nil {
				return blob, err
			}
			_, err = b.Restore(ctx, alice, blob)
			return blob, err
		}, "back up, purge and restore %s", name)
		if count[name] >= 2 { // a third version shows nothing that a second does not
			continue
		}
		add(func(ctx context.Context) ([]byte, error) { return key(b.Rotate(ctx, alice, name)) }, "rotate %s", name)
		for _, p := range []CreateParams{{Type: "RSA"}, {Type: "RSA", Ops: []string{"import"}}, {Type: "RSA", Ops: []string{"import", "decrypt"}}, {Type: "oct"},
			{Type: "RSA", Ops: []string{"import"}, Exportable: true, ReleasePolicy: anyPolicy()}} {
			add(func(ctx context.Context) ([]byte, error) { return key(b.Create(ctx, alice, name, p)) }, "create %s %s %v", name, p.Type, p.Ops)
		}
		for typ, blob := range w.blobs {
			for _, as := range []engine.Type{typ, engine.Oct, engine.RSA} {
				for _, ops := range [][]string{nil, {"import"}} {
					p := CreateParams{Type: string(as), Ops: ops}
					if as == engine.EC {
						p.Curve = engine.P256
					}
					add(func(ctx context.Context) ([]byte, error) {
						return key(b.Import(ctx, alice, name, ImportParams{CreateParams: p, Blob: blob}))
					}, "import the wrapped %s into %s as %s %v", typ, name, as, ops)
				}
			}
		}
		add(func(ctx context.Context) ([]byte, error) {
			return key(b.Import(ctx, alice, name, ImportParams{CreateParams: CreateParams{Type: "oct"}, Material: engine.Material{K: secret.New(w.canaries["the key imported in the clear"])}}))
		}, "import in the clear into %s", name)
	}
	return calls
}

// Covers K3: the walk, to the end of every sequence of three calls.
func TestWalkFindsNoKey(t *testing.T) {
	w := newWalk(t)
	const length = 3
	begin := walkNode{records: dump(t, w.b.store)}
	list, deleted := w.look()
	seen := map[string]bool{w.name(list, deleted): true}
	w.roles([]string{"nothing"}, list)
	w.use([]string{"nothing"}, list, deleted)
	level, states, calls, done := []walkNode{begin}, 1, 0, map[bool]int{}
	for depth := range length {
		var next []walkNode
		for _, node := range level {
			w.visit(node)
			list, _ := w.look()
			for _, call := range w.calls(list) {
				w.visit(node)
				calls++
				way := append(slices.Clone(node.way), call.name)
				answer, err := call.do(t.Context())
				done[err == nil]++
				if err != nil {
					if kind := failure.KindOf(err); kind == failure.Internal || kind == failure.Tampered {
						t.Fatalf("after %s: %v", strings.Join(way, ", "), err)
					}
					answer = append(answer, err.Error()...)
				}
				w.leaks(node.way, call.name, answer)
				if err != nil && maps.Equal(dump(t, w.b.store), node.records) {
					continue
				}
				after, deleted := w.look()
				name := w.name(after, deleted)
				w.roles(way, after)
				if seen[name] {
					continue
				}
				seen[name] = true
				states++
				w.use(way, after, deleted)
				if depth+1 < length {
					next = append(next, walkNode{dump(t, w.b.store), way})
				}
			}
		}
		level = next
	}
	if done[true] == 0 || done[false] == 0 || len(w.made) == 0 || states < 100 {
		t.Errorf("the walk does not go anywhere: %d states", states)
	}
	t.Logf("%d states, %d calls that change something (%d done, %d refused), %d answers searched", states, calls, done[true], done[false], w.answers)
}

// visit puts the world into the state of a node.
func (w *walk) visit(node walkNode) {
	w.t.Helper()
	s := memory.New()
	err := s.Update(w.t.Context(), func(writer store.Writer) error {
		for path, value := range maps.All(node.records) {
			writer.Put(path, []byte(value))
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := w.b.Keys.cfg
	cfg.Store = s
	w.b.Keys.Close()
	w.b.store, w.b.Keys = s, New(cfg)
}
