package keys

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/go-cmp/cmp"

	"strongroom/internal/access"
	"strongroom/internal/engine"
	"strongroom/internal/engine/software"
	"strongroom/internal/failure"
	"strongroom/internal/store"
	"strongroom/internal/store/bolt"
	"strongroom/internal/store/memory"
)

// Several callers at once do random things to few keys, through two servers over one store. Every call and every
// answer is written down with the order in which calls began and ended, and porcupine looks for one order of all
// calls on a key that explains all answers: an order that agrees with the order in time of calls that did not
// overlap, and in which a plain model (linearKey, which does one thing after the other) gives the same answers. If
// there is none, something was lost, seen twice, seen late, or used after it was disabled or deleted.
//
// What is called and with what follows from the seed alone, but for the version, which is one of those that were
// seen. How the calls interleave is the scheduler's, so a seed that failed may have to be tried more than once.

// linearVersion is what the model knows of a version.
type linearVersion struct {
	ID      string
	Enabled bool
	Expires int64 // Unix seconds; 0 is never
	Tag     string
}

// linearKey is the state of one name. Names are compared in lower case; Name is as first written, "" where there is no
// such key.
type linearKey struct {
	Name     string
	Deleted  bool
	Policy   string // expiryTime
	Versions []linearVersion
}

func (k linearKey) live() bool            { return k.Name != "" && !k.Deleted }
func (k linearKey) latest() linearVersion { return k.Versions[len(k.Versions)-1] }

// find returns the place of a version, "" being the latest, or -1.
func (k linearKey) find(version string) int {
	switch {
	case !k.live():
		return -1
	case version == "":
		return len(k.Versions) - 1
	}
	return slices.IndexFunc(k.Versions, func(v linearVersion) bool { return v.ID == version })
}

// linearCall is what a caller asks. Which fields count depends on the operation.
type linearCall struct {
	Op      string
	Server  int
	Name    string // as the caller writes it
	Version string // "" is the latest; of a list of versions, the one before the first
	Max     int    // of a page
	Policy  string
	Enabled *bool
	Expires *int64
	Tag     *string
	Saved   linearKey // what is in the backup that is restored
}

// linearAnswer is what a caller is told.
type linearAnswer struct {
	Kind     failure.Kind // "" where it was done
	Name     string
	Policy   string
	Versions []linearVersion
	Signer   string // the version that signed
	More     bool   // a page that is not the last
}

// step is the model: whether key can give this answer to this call, and what the key is then.
func (k linearKey) step(c linearCall, a linearAnswer) (bool, linearKey) {
	if a.Kind == failure.Unavailable { // the disk was full: nothing was done
		return true, k
	}
	refused := func(kind failure.Kind) (bool, linearKey) { return a.Kind == kind, k }
	answers := func(next linearKey, versions ...linearVersion) (bool, linearKey) {
		return a.Kind == "" && a.Name == next.Name && slices.Equal(a.Versions, versions), next
	}
	// changed is k with other versions, which share no memory with those of k.
	changed := func(change func(next *linearKey)) linearKey {
		next := k
		next.Versions = slices.Clone(k.Versions)
		change(&next)
		return next
	}
	at := k.find(c.Version)
	switch c.Op {
	case "create":
		if k.Deleted {
			return refused(failure.Conflict)
		}
		if a.Kind != "" || len(a.Versions) != 1 {
			return false, k
		}
		made := linearVersion{ID: a.Versions[0].ID, Enabled: *c.Enabled, Tag: *c.Tag} // the server chooses the ID
		if k.find(made.ID) >= 0 {
			return false, k
		}
		return answers(changed(func(next *linearKey) {
			if next.Name == "" {
				next.Name = c.Name
			}
			next.Versions = append(next.Versions, made)
		}), made)
	case "rotate":
		switch {
		case !k.live():
			return refused(failure.NotFound)
		case k.Policy == "":
			return refused(failure.BadParameter)
		case !k.latest().Enabled:
			return refused(failure.Disabled)
		case a.Kind != "" || len(a.Versions) != 1 || k.find(a.Versions[0].ID) >= 0:
			return false, k
		}
		seconds, err := parseDuration("expiryTime", k.Policy)
		if err != nil {
			return false, k
		}
		made := linearVersion{ID: a.Versions[0].ID, Enabled: true, Tag: k.latest().Tag, Expires: noon.Unix() + seconds}
		return answers(changed(func(next *linearKey) { next.Versions = append(next.Versions, made) }), made)
	case "get", "update":
		if at < 0 {
			return refused(failure.NotFound)
		}
		next := changed(func(next *linearKey) {
			v := &next.Versions[at]
			if c.Enabled != nil {
				v.Enabled = *c.Enabled
			}
			if c.Expires != nil {
				v.Expires = *c.Expires
			}
			if c.Tag != nil {
				v.Tag = *c.Tag
			}
		})
		return answers(next, next.Versions[at])
	case "sign", "verify":
		switch {
		case at < 0:
			return refused(failure.NotFound)
		case !k.Versions[at].Enabled:
			return refused(failure.Disabled)
		case c.Op == "sign" && k.Versions[at].Expires != 0 && k.Versions[at].Expires <= noon.Unix():
			return refused(failure.Disabled)
		}
		return a.Kind == "" && (c.Op == "verify" || a.Name == k.Name && a.Signer == k.Versions[at].ID), k
	case "versions":
		if !k.live() {
			return refused(failure.NotFound)
		}
		start := 0
		if c.Version != "" {
			if at < 0 {
				return refused(failure.BadParameter)
			}
			start = at + 1
		}
		end := min(start+c.Max, len(k.Versions))
		ok, next := answers(k, k.Versions[start:end]...)
		if start == end { // no line that names the key
			ok = a.Kind == "" && len(a.Versions) == 0
		}
		return ok && a.More == (end < len(k.Versions)), next
	case "policy", "set policy":
		if !k.live() {
			return refused(failure.NotFound)
		}
		next := k
		if c.Op == "set policy" {
			next.Policy = c.Policy
		}
		return a.Kind == "" && a.Policy == next.Policy, next
	case "backup":
		if !k.live() {
			return refused(failure.NotFound)
		}
		return answers(k, k.Versions...)
	case "restore":
		if k.Name != "" {
			return refused(failure.Conflict)
		}
		next := linearKey{Name: c.Saved.Name, Versions: c.Saved.Versions}
		return answers(next, next.latest())
	case "delete":
		if !k.live() {
			return refused(failure.NotFound)
		}
		return answers(linearKey{Name: k.Name, Deleted: true, Policy: k.Policy, Versions: k.Versions}, k.latest())
	case "deleted", "recover", "purge":
		switch {
		case !k.Deleted:
			return refused(failure.NotFound)
		case c.Op == "deleted":
			return answers(k, k.latest())
		case c.Op == "recover":
			return answers(linearKey{Name: k.Name, Policy: k.Policy, Versions: k.Versions}, k.latest())
		}
		return a.Kind == "", linearKey{}
	}
	return false, k // an operation that the model does not know
}

func (k linearKey) equal(other linearKey) bool {
	return k.Name == other.Name && k.Deleted == other.Deleted && k.Policy == other.Policy && slices.Equal(k.Versions, other.Versions)
}

// linearModel is the model of one name. Names are checked apart.
var linearModel = porcupine.Model{
	Init: func() any { return linearKey{} },
	Step: func(state, input, output any) (bool, any) {
		return state.(linearKey).step(input.(linearCall), output.(linearAnswer))
	},
	Equal: func(a, b any) bool { return a.(linearKey).equal(b.(linearKey)) },
}

// jostled is a store in which others get their turn around every transaction, so that what a method does in two steps
// is interrupted between them.
type jostled struct{ store.Store }

func (j jostled) View(ctx context.Context, fn func(store.Reader) error) error {
	others()
	defer others()
	return j.Store.View(ctx, fn)
}

func (j jostled) Update(ctx context.Context, fn func(store.Writer) error) error {
	others()
	defer others()
	return j.Store.Update(ctx, fn)
}

// Watch lets others go on between a commit that they can see and the news of it.
func (j jostled) Watch(fn func(keys []string)) (cancel func()) {
	return j.Store.Watch(func(keys []string) {
		others()
		fn(keys)
	})
}

func others() {
	for range rand.IntN(4) {
		runtime.Gosched()
	}
}

// linearRun is one history while it is made.
type linearRun struct {
	t       *testing.T
	servers []*bench
	full    func(*rand.Rand) // lets the next commit find the disk full; nil for a store that cannot
	step    atomic.Int64     // numbers the beginnings and ends of calls

	mu      sync.Mutex // the fields below
	history []porcupine.Operation
	seen    []string                 // IDs of versions, of any key
	public  map[string]engine.Public // of each of them
	saved   map[string][]savedKey    // by name in lower case
	signed  []SignResult             // to be verified in the end
}

type savedKey struct {
	blob []byte
	key  linearKey
}

// linearNames are two spellings of a few names.
var linearNames = []string{"a", "A", "key-b", "KEY-b"}

// linearWeights says how often each operation comes. There are more recoveries than deletions, so that names are in
// use for most of the time.
var linearWeights = []struct {
	op     string
	weight int
}{
	{"create", 4}, {"rotate", 3}, {"get", 4}, {"versions", 3}, {"update", 6}, {"sign", 8}, {"verify", 2}, {"policy", 1}, {"set policy", 2},
	{"backup", 2}, {"restore", 5}, {"delete", 3}, {"deleted", 1}, {"recover", 5}, {"purge", 3},
}

func (l *linearRun) draw(r *rand.Rand) linearCall {
	total := 0
	for _, w := range linearWeights {
		total += w.weight
	}
	c, n := linearCall{Server: r.IntN(len(l.servers)), Name: linearNames[r.IntN(len(linearNames))], Max: 1 + r.IntN(4)}, r.IntN(total)
	for _, w := range linearWeights {
		if n -= w.weight; n < 0 {
			c.Op = w.op
			break
		}
	}
	enabled, tag := r.IntN(3) != 0, fmt.Sprint(r.IntN(10))
	expires := noon.AddDate(r.IntN(2)*2-1, 0, 0).Unix() // a year ago, or in a year
	which, policy := r.IntN(1<<30), []string{"", "P90D", "P1Y"}[r.IntN(3)]
	given := [3]bool{r.IntN(2) == 0, r.IntN(4) == 0, r.IntN(2) == 0}
	switch c.Op {
	case "create":
		c.Enabled, c.Tag = &enabled, &tag
	case "update":
		if given[0] {
			c.Enabled = &enabled
		}
		if given[1] {
			c.Expires = &expires
		}
		if given[2] {
			c.Tag = &tag
		}
	case "set policy":
		c.Policy = policy
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) > 0 && given[2] {
		c.Version = l.seen[len(l.seen)-1-which%min(len(l.seen), 6)]
	}
	return c
}

func linearVersionOf(id string, a Attributes, tags map[string]string) linearVersion {
	v := linearVersion{ID: id, Enabled: a.Enabled, Tag: tags["t"]}
	if a.Expires != nil {
		v.Expires = a.Expires.Unix()
	}
	return v
}

// do makes one call.
func (l *linearRun) do(ctx context.Context, c linearCall, blob []byte) (a linearAnswer, err error) {
	b, tags := l.servers[c.Server], map[string]string(nil)
	if c.Tag != nil {
		tags = map[string]string{"t": *c.Tag}
	}
	var keys []Key
	one := func(k Key, err error) error { keys = []Key{k}; return err }
	switch c.Op {
	case "create":
		err = one(b.Create(ctx, alice, c.Name, CreateParams{Type: "EC", Enabled: c.Enabled, Tags: tags}))
	case "rotate":
		err = one(b.Rotate(ctx, alice, c.Name))
	case "get":
		err = one(b.Get(ctx, alice, c.Name, c.Version))
	case "update":
		p := UpdateParams{Enabled: c.Enabled, Tags: tags}
		if c.Expires != nil {
			p.Expires = ptr(time.Unix(*c.Expires, 0))
		}
		err = one(b.Update(ctx, alice, c.Name, c.Version, p))
	case "restore":
		err = one(b.Restore(ctx, alice, blob))
	case "recover":
		err = one(b.Recover(ctx, alice, c.Name))
	case "delete", "deleted":
		call := b.Delete
		if c.Op == "deleted" {
			call = b.GetDeleted
		}
		var k DeletedKey
		k, err = call(ctx, alice, c.Name)
		keys = []Key{k.Key}
	case "purge":
		err = b.Purge(ctx, alice, c.Name)
	case "sign":
		var r SignResult
		r, err = b.Sign(ctx, alice, c.Name, c.Version, "ES256", digest())
		a.Name, a.Signer = r.Name, r.Version
		if err == nil {
			l.mu.Lock()
			l.signed = append(l.signed, r)
			l.mu.Unlock()
		}
	case "verify":
		var ok bool
		ok, err = b.Verify(ctx, alice, c.Name, c.Version, "ES256", digest(), make([]byte, 64))
		if ok {
			l.t.Error("a signature of zeros is valid")
		}
	case "policy", "set policy":
		var p RotationPolicy
		if c.Op == "policy" {
			p, err = b.GetRotationPolicy(ctx, alice, c.Name)
		} else {
			p, err = b.SetRotationPolicy(ctx, alice, c.Name, RotationPolicy{ExpiryTime: c.Policy})
		}
		a.Policy = p.ExpiryTime
	case "versions":
		var page Page
		page, err = b.ListVersions(ctx, alice, c.Name, c.Version, c.Max)
		for _, item := range page.Items {
			a.Name = item.Name
			a.Versions = append(a.Versions, linearVersionOf(item.Version, item.Attributes, item.Tags))
		}
		a.More = page.Next != ""
	case "backup":
		var saved savedKey
		if saved.blob, err = b.Backup(ctx, alice, c.Name); err == nil {
			if saved.key, err = l.inside(ctx, b, saved.blob); err != nil {
				return a, fmt.Errorf("a backup that does not open: %w", err)
			}
			a.Name, a.Versions = saved.key.Name, saved.key.Versions
			l.mu.Lock()
			lower := strings.ToLower(c.Name)
			l.saved[lower] = append(l.saved[lower], saved)
			l.mu.Unlock()
		}
	}
	if err != nil {
		f := failure.KindOf(err)
		if f == failure.Internal || f == failure.Tampered || f == "" {
			return a, err
		}
		return linearAnswer{Kind: f}, nil
	}
	for _, k := range keys {
		a.Name = k.Name
		a.Versions = append(a.Versions, linearVersionOf(k.Version, k.Attributes, k.Tags))
		l.know(k)
	}
	return a, nil
}

// know remembers a version, whose public key is the same whoever shows it.
func (l *linearRun) know(k Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, known := l.public[k.Version]; !known {
		l.public[k.Version] = k.Public
		l.seen = append(l.seen, k.Version)
	} else if !cmp.Equal(was, k.Public, sameKeys) {
		l.t.Errorf("version %s of %s has two public keys", k.Version, k.Name)
	}
}

// inside reads a backup.
func (l *linearRun) inside(ctx context.Context, b *bench, blob []byte) (linearKey, error) {
	parsed, err := parseBackup(blob)
	if err != nil {
		return linearKey{}, err
	}
	plain, err := b.engine.OpenBackup(ctx, parsed.salt, parsed.header, parsed.sealed)
	if err != nil {
		return linearKey{}, err
	}
	body, _, err := parseBody(plain)
	if err != nil {
		return linearKey{}, err
	}
	k := linearKey{Name: body.Name}
	for i := range body.Versions {
		v := &body.Versions[i]
		k.Versions = append(k.Versions, linearVersionOf(v.ID, b.attributes(v), v.Tags))
	}
	return k, nil
}

// client makes calls one after the other and writes them down.
func (l *linearRun) client(id, calls int, r *rand.Rand) {
	for range calls {
		c, full, which := l.draw(r), r.IntN(40) == 0, r.IntN(1<<30)
		var blob []byte
		if c.Op == "restore" {
			l.mu.Lock()
			if list := l.saved[strings.ToLower(c.Name)]; len(list) > 0 {
				s := list[which%len(list)]
				blob, c.Saved = s.blob, s.key
			}
			l.mu.Unlock()
			if blob == nil {
				continue
			}
		}
		if full && l.full != nil {
			l.full(r)
		}
		begun := l.step.Add(1)
		a, err := l.do(l.t.Context(), c, blob)
		ended := l.step.Add(1)
		if err != nil {
			l.t.Errorf("%s: %v", c, err)
			return
		}
		if a.Kind == failure.Unavailable && l.full == nil {
			l.t.Errorf("%s: unavailable, and the disk was not full", c)
		}
		l.mu.Lock()
		l.history = append(l.history, porcupine.Operation{ClientId: id, Input: c, Call: begun, Output: a, Return: ended})
		l.mu.Unlock()
	}
}

// check looks for an order that explains everything.
func (l *linearRun) check(seed uint64) {
	l.t.Helper()
	byName := map[string][]porcupine.Operation{}
	for _, o := range l.history {
		lower := strings.ToLower(o.Input.(linearCall).Name)
		byName[lower] = append(byName[lower], o)
	}
	for name, history := range byName {
		result, info := porcupine.CheckOperationsVerbose(linearModel, history, 0)
		if result == porcupine.Ok {
			continue
		}
		explained := map[int64]bool{}
		for _, partition := range info.PartialLinearizationsOperations() {
			for _, order := range partition {
				if len(order) > len(explained) {
					clear(explained)
					for _, o := range order {
						explained[o.Call] = true
					}
				}
			}
		}
		slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
		var text strings.Builder
		unexplained := 0
		for _, o := range history {
			mark := " "
			if !explained[o.Call] {
				mark = "?"
				unexplained++
			}
			if unexplained <= 20 { // what comes later only follows
				fmt.Fprintf(&text, "%s %4d to %4d  caller %d: %s → %s\n", mark, o.Call, o.Return, o.ClientId, o.Input, o.Output)
			}
		}
		l.t.Errorf("seed %d: no order of the %d calls on %s explains their answers; the longest that does reaches the lines without a question mark:\n%s", seed, len(history), name, text.String())
	}
	for _, s := range l.signed {
		public, known := l.public[s.Version]
		if !known {
			l.t.Errorf("seed %d: version %s signed, and nobody was told of it", seed, s.Version)
			continue
		}
		if ok, err := software.VerifyPublic(public, "ES256", digest(), s.Signature); err != nil || !ok {
			l.t.Errorf("seed %d: the signature of version %s is another key's (%t, %v)", seed, s.Version, ok, err)
		}
	}
}

func short(id string) string { return id[:min(len(id), 6)] }

func (v linearVersion) String() string {
	return fmt.Sprintf("%s(enabled %t, exp %d, tag %q)", short(v.ID), v.Enabled, v.Expires, v.Tag)
}

func (c linearCall) String() string {
	text := fmt.Sprintf("server %d %s %s/%s", c.Server, c.Op, c.Name, short(c.Version))
	for _, part := range []struct {
		name  string
		given bool
		value any
	}{
		{"enabled", c.Enabled != nil, c.Enabled}, {"exp", c.Expires != nil, c.Expires}, {"tag", c.Tag != nil, c.Tag},
		{"policy", c.Op == "set policy", &c.Policy}, {"max", c.Op == "versions", &c.Max}, {"backup", c.Op == "restore", &c.Saved.Versions},
	} {
		if !part.given {
			continue
		}
		switch value := part.value.(type) {
		case *bool:
			text += fmt.Sprintf(" %s=%t", part.name, *value)
		case *int64:
			text += fmt.Sprintf(" %s=%d", part.name, *value)
		case *int:
			text += fmt.Sprintf(" %s=%d", part.name, *value)
		case *string:
			text += fmt.Sprintf(" %s=%q", part.name, *value)
		case *[]linearVersion:
			text += fmt.Sprintf(" %s=%v", part.name, *value)
		}
	}
	return text
}

func (a linearAnswer) String() string {
	if a.Kind != "" {
		return string(a.Kind)
	}
	return strings.TrimSpace(fmt.Sprintf("done %s %v %s%s", a.Name, a.Versions, a.Policy, short(a.Signer)))
}

// linearRounds is how many histories are made: n at the gate, ten for each round of STRONGROOM_SOAK at night (make
// soak).
func linearRounds(n int) int {
	if soak, err := strconv.Atoi(os.Getenv("STRONGROOM_SOAK")); err == nil && soak > 0 {
		return 10 * soak
	}
	return n
}

// Two servers over one store, and several callers of both: what they are told has one order, for each key. To try one
// seed again and again: go test -count 100 -run 'TestRandomHistories/memory/seed_7$'. (The name is for make soak.)
func TestRandomHistories(t *testing.T) {
	for name, row := range map[string]struct {
		rounds int
		open   func(t *testing.T) (s store.Store, full func(*rand.Rand))
	}{
		"memory": {100, func(t *testing.T) (store.Store, func(*rand.Rand)) {
			s := memory.New()
			return s, func(r *rand.Rand) { s.Inject(memory.Fault{At: 1 + r.IntN(2)}) }
		}},
		"bolt": {30, func(t *testing.T) (store.Store, func(*rand.Rand)) {
			s, err := bolt.Open(t.TempDir(), bolt.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			return s, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			rounds, ran, did := linearRounds(row.rounds), 0, map[string]int{} // per operation and outcome
			for seed := range rounds {
				if t.Failed() {
					return
				}
				t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
					s, full := row.open(t)
					for _, o := range linearHistory(t, s, full, uint64(seed)) {
						did[o.Input.(linearCall).Op+": "+string(o.Output.(linearAnswer).Kind)]++
					}
					ran++
				})
			}
			if ran < rounds { // somebody tries one seed
				return
			}
			// Histories in which nothing happens show nothing: every operation was done, and refused.
			for _, w := range linearWeights {
				refused := 0
				for _, kind := range []failure.Kind{failure.NotFound, failure.Conflict, failure.Disabled, failure.BadParameter} {
					refused += did[w.op+": "+string(kind)]
				}
				if did[w.op+": "] == 0 || refused == 0 {
					t.Errorf("%s was done %d times and refused %d times; want both", w.op, did[w.op+": "], refused)
				}
			}
		})
	}
}

// linearHistory makes one history over a store and checks it.
func linearHistory(t *testing.T, s store.Store, full func(*rand.Rand), seed uint64) []porcupine.Operation {
	t.Helper()
	const callers, calls = 6, 40
	l := &linearRun{t: t, full: full, public: map[string]engine.Public{}, saved: map[string][]savedKey{}}
	for range 2 {
		b := newBench(t, memory.New(), alphaID, ownDomain)
		cfg := b.Keys.cfg
		cfg.Store = jostled{s}
		cfg.Authorize = func(context.Context, access.Caller, access.Action, string) error { return nil }
		b.Keys = New(cfg)
		defer b.Keys.Close()
		l.servers = append(l.servers, b)
	}
	var wg sync.WaitGroup
	for id := range callers {
		wg.Go(func() { l.client(id, calls, rand.New(rand.NewPCG(seed, uint64(id)))) })
	}
	wg.Wait()
	l.check(seed)
	return l.history
}
