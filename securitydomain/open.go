package securitydomain

import (
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"strongroom/secret"
	"strongroom/shamir"
)

// Key is a custodian's private key.
type Key struct {
	Name        string            // file or label; used in reports only
	Decrypter   crypto.Decrypter  // RSA; OAEP with SHA-256
	Certificate *x509.Certificate // optional: finds the share by its thumbprint
}

// Opened is an opened SD file.
type Opened struct {
	Items []Item // the caller wipes them
	// DomainID is computed from the opened item TagSigningKey. Without one it is what a validly signed extension
	// says, and empty if there is none.
	DomainID string
	// HSMName and Created are what the extension says. They deserve trust only if Signature is SignatureValid.
	HSMName    string
	Created    time.Time
	Signature  string
	Used       []ShareReport // shares that agree on the master key
	PassedOver []ShareReport // keys and shares that were of no use, with the reason
	Warnings   []Warning
}

// Open decrypts an SD file with the keys of a quorum or more.
//
// A key finds its share by its public key where the file has that, by the thumbprint of its certificate where one
// is given, and else by trying; a key whose certificate was renewed is as good as before. A key counts once, however
// many shares it opens. Damaged and foreign shares are passed over, named and with the reason, as long as a quorum
// is left: with a surplus of shares and nothing to tell good from bad, quorums are tried until one opens the items
// (at most 252). All items must open; what is returned has passed their authentication tags.
//
// If the file has an extension and an item TagSigningKey, that key must be the one that the extension names as the
// domain's. An invalid signature by itself is a warning, because one flipped bit in a share that is not needed
// would cause it.
//
// The error is an *[Error] of kind NotACustodian, TooFewShares, ShareDamaged, UnsupportedAlgorithm,
// SharesDoNotMatch or ItemDamaged, or InvalidParameter for keys that cannot be used at all.
func Open(f *File, keys []Key) (*Opened, error) {
	if f == nil {
		return nil, fail(InvalidParameter, "there is no SD file to open")
	}
	if len(keys) > MaxKeys {
		return nil, fail(InvalidParameter, "%d keys were given; %d are the most", len(keys), MaxKeys)
	}
	o := &opening{file: f, slots: f.slots()}
	defer o.wipe()
	for i, key := range keys {
		if key.Decrypter == nil {
			return nil, fail(InvalidParameter, "key %d %q cannot decrypt", i+1, printable(key.Name))
		}
		o.unlock(key)
	}
	if o.good < f.required {
		return nil, o.tooFew()
	}
	master, used, err := o.combine()
	if err != nil {
		return nil, err
	}
	defer master.Wipe()
	items, err := o.openItems(master)
	if err != nil {
		return nil, err
	}
	opened := &Opened{Items: items, Signature: f.signature()}
	if err := o.identify(opened); err != nil {
		for _, item := range items {
			item.Value.Wipe()
		}
		return nil, err
	}
	o.judge(opened, master, used)
	return opened, nil
}

// opening is the state of one Open.
type opening struct {
	file  *File
	slots []slot
	seen  map[string]string // public key ID → name of the key that has it
	good  int               // custodians with an intact share

	shares      []openShare   // opened and intact in themselves
	damaged     []ShareReport // shares of given keys that are not
	unsupported int           // how many of damaged are so for want of an algorithm
	useless     []ShareReport // keys that open nothing
	warnings    []Warning
	tokenFault  string // what the key in hand last said that is not about a share
}

// slot is the shares of one custodian, as far as the file tells: one in version 2; in version 1 all halves under one
// thumbprint.
type slot struct {
	shares []int // positions in File.shares, from 0
	taken  bool  // a key opens it, so no other key can
}

// openShare is a decrypted share, or half of a version 1 pair.
type openShare struct {
	at      int    // position in File.shares, from 0
	key     string // name of the key that opened it
	by      int    // number of that key, since names may be equal
	value   secret.Bytes
	checked bool // it has a check value and fits it
	suspect bool // it has a check value and does not fit it
}

func (f *File) slots() []slot {
	var slots []slot
	byThumbprint := map[string]int{}
	for i, s := range f.shares {
		if at, known := byThumbprint[s.x5t]; known && f.version == 1 {
			slots[at].shares = append(slots[at].shares, i)
			continue
		}
		if s.x5t != "" {
			byThumbprint[s.x5t] = len(slots)
		}
		slots = append(slots, slot{shares: []int{i}})
	}
	return slots
}

func (o *opening) wipe() {
	for _, s := range o.shares {
		s.value.Wipe()
	}
}

// unlock decrypts what a key can decrypt: the shares of one slot.
func (o *opening) unlock(key Key) {
	name := printable(key.Name)
	id, thumbprint, reason := o.identifyKey(key, name)
	if reason != "" {
		o.useless = append(o.useless, ShareReport{Key: name, Reason: reason})
		return
	}
	// First the slots that the file gives to this key, by public key or thumbprint; then, because a certificate may
	// have been renewed and a hint may be damaged, every slot that nobody has opened.
	var own, others []int
	for i, slot := range o.slots {
		s := o.file.shares[slot.shares[0]]
		switch {
		case s.hint != nil && s.hint.spki == id, thumbprint != "" && s.x5t == thumbprint:
			own = append(own, i)
		case !slot.taken:
			others = append(others, i)
		}
	}
	var faults []ShareReport
	o.tokenFault = ""
	for n, i := range append(own, others...) {
		opened, slotFaults := o.try(o.slots[i], key, name, n < len(own))
		if opened {
			o.slots[i].taken = true
			o.good++
			if o.file.version == 1 { // a damaged half is a fault of its pair, not of its custodian
				o.damaged = append(o.damaged, slotFaults...)
			}
			return // what went wrong in other slots was a wrong guess
		}
		faults = append(faults, slotFaults...)
	}
	if len(faults) > 0 {
		o.damaged = append(o.damaged, faults...)
		return
	}
	reason = "it opens no share of this file"
	if o.tokenFault != "" {
		reason = o.tokenFault
	}
	if unreadable := o.unreadable(); unreadable != "" {
		reason += ", unless it is one of those that are damaged: " + unreadable
	}
	o.useless = append(o.useless, ShareReport{Key: name, Reason: reason})
}

// identifyKey returns a key's public key ID and the thumbprint of its certificate, if it has one. A reason says why
// the key is of no use.
func (o *opening) identifyKey(key Key, name string) (id, thumbprint, reason string) {
	pub, ok := key.Decrypter.Public().(*rsa.PublicKey)
	if !ok {
		return "", "", "it is not an RSA key, and every custodian's key is one"
	}
	id, err := publicKeyID(pub)
	if err != nil {
		return "", "", "its public key cannot be encoded"
	}
	if first, twice := o.seen[id]; twice {
		return "", "", fmt.Sprintf("it is the same key as %q, and a custodian counts once", first)
	}
	if o.seen == nil {
		o.seen = map[string]string{}
	}
	o.seen[id] = name
	if key.Certificate != nil {
		if pub.Equal(key.Certificate.PublicKey) {
			return id, Thumbprint(key.Certificate), ""
		}
		o.warnings = append(o.warnings, Warning{WarnKeyCertificate, fmt.Sprintf("the certificate given with key %q belongs to another key and was ignored", name)})
	}
	return id, "", ""
}

// try decrypts the shares of a slot. It reports whether one of them is intact, and what is wrong with those that are
// known to be the key's and are not; own says that the file gives all of them to the key.
func (o *opening) try(slot slot, key Key, name string, own bool) (opened bool, faults []ShareReport) {
	pub, _ := key.Decrypter.Public().(*rsa.PublicKey)
	for _, at := range slot.shares {
		s := &o.file.shares[at]
		if s.jwe == nil {
			if own {
				if s.damage.Kind == UnsupportedAlgorithm {
					o.unsupported++
				}
				faults = append(faults, s.report(name, "the share "+s.damage.Message))
			}
			continue
		}
		if s.jwe.wrapped != pub.Size() && !own {
			continue
		}
		value, err := s.jwe.openKey(key.Decrypter)
		switch {
		case errors.Is(err, errOtherKey):
			if own {
				faults = append(faults, s.report(name, "the share is damaged: the key does not open it"))
			}
			continue
		case errors.Is(err, errContent):
			faults = append(faults, s.report(name, "the share is damaged: its authentication tag does not fit"))
			continue
		case err != nil: // from a token, which may mean the share or itself
			o.tokenFault = "the key could not be used: " + printable(err.Error())
			if own {
				faults = append(faults, s.report(name, o.tokenFault))
			}
			continue
		}
		if reason := o.file.faultOf(value); reason != "" {
			value.Wipe()
			faults = append(faults, s.report(name, reason))
			continue
		}
		open := openShare{at: at, key: name, by: len(o.seen), value: value}
		if s.hint != nil {
			open.checked = s.hint.fits(value)
			open.suspect = !open.checked
		}
		o.shares = append(o.shares, open)
		opened = true
	}
	return opened, faults
}

// unreadable names the shares that no key can be tried on.
func (o *opening) unreadable() string {
	var names []string
	for _, s := range o.file.shares {
		if s.jwe == nil {
			names = append(names, s.custodian())
		}
	}
	return strings.Join(names, ", ")
}

// faultOf says what is wrong with the plaintext of a share by itself, or "".
func (f *File) faultOf(value secret.Bytes) string {
	want := 2 * masterBytes
	if f.version == 1 {
		want = masterBytes
	}
	if value.Len() != want {
		return fmt.Sprintf("the share is damaged: it has %d bytes, not %d", value.Len(), want)
	}
	if f.version == 2 {
		if _, err := shamir.Index(value); err != nil {
			return "the share is damaged: " + strings.TrimPrefix(err.Error(), "shamir: ")
		}
	}
	return ""
}

// tooFew is the error for fewer intact shares than the quorum. It says how many there are, how many it takes, and
// what is wrong with each of the others.
func (o *opening) tooFew() error {
	e := &Error{Kind: TooFewShares, Good: o.good, Required: o.file.required, Shares: append(slices.Clone(o.damaged), o.useless...)}
	switch {
	case len(o.damaged) > 0 && o.good+len(o.damaged) >= o.file.required:
		// With these shares intact the file would have opened.
		e.Kind, e.Custodian = ShareDamaged, o.damaged[0].Custodian
		if o.unsupported == len(o.damaged) {
			e.Kind = UnsupportedAlgorithm
		}
	case o.good == 0 && len(o.damaged) == 0 && len(o.useless) > 0:
		e.Kind = NotACustodian
	}
	b := &strings.Builder{}
	fmt.Fprintf(b, "the SD file takes the shares of %d custodians, and the keys given open %d", o.file.required, o.good)
	writeReports(b, e.Shares)
	b.WriteString("; bring the keys of other custodians of this file")
	e.Message = b.String()
	return e
}

func writeReports(b *strings.Builder, reports []ShareReport) {
	for i, r := range reports {
		b.WriteString([]string{" (", "; "}[min(i, 1)])
		b.WriteString(r.String())
	}
	if len(reports) > 0 {
		b.WriteString(")")
	}
}

// combine finds the master key: the first combination of shares under which an item opens. It returns the positions
// in o.shares of those combined.
func (o *opening) combine() (secret.Bytes, []int, error) {
	// Shares that fit their check value come first and those that contradict it last: check values are hints.
	slices.SortStableFunc(o.shares, func(a, b openShare) int { return cmp.Compare(a.rank(), b.rank()) })
	tried := 0
	for used := range o.combinations() {
		tried++
		master, err := o.join(used)
		if err != nil {
			continue
		}
		if o.opensAny(master) {
			return master, used, nil
		}
		master.Wipe()
	}
	if tried == 0 { // version 1: two custodians, and no pair of theirs that is whole
		return secret.Bytes{}, nil, o.noPair()
	}
	return secret.Bytes{}, nil, o.mismatch()
}

func (s openShare) rank() int {
	switch {
	case s.checked:
		return 0
	case s.suspect:
		return 2
	}
	return 1
}

// combinations yields the sets of shares that make a quorum, as positions in o.shares.
func (o *opening) combinations() iter.Seq[[]int] {
	if o.file.version == 1 {
		return o.openPairs
	}
	return func(yield func([]int) bool) { choose(len(o.shares), o.file.required, yield) }
}

func (o *opening) openPairs(yield func([]int) bool) {
	position := map[int]int{}
	for i, s := range o.shares {
		position[s.at] = i
	}
	for _, pair := range o.file.pairs {
		first, ok1 := position[pair[0]]
		second, ok2 := position[pair[1]]
		if ok1 && ok2 && o.shares[first].by != o.shares[second].by && !yield([]int{first, second}) {
			return
		}
	}
}

// choose yields all sets of k of 0 … n−1, in lexicographic order.
func choose(n, k int, yield func([]int) bool) {
	set := make([]int, k)
	for i := range set {
		set[i] = i
	}
	for k <= n {
		if !yield(slices.Clone(set)) {
			return
		}
		i := k - 1
		for i >= 0 && set[i] == n-k+i {
			i--
		}
		if i < 0 {
			return
		}
		set[i]++
		for j := i + 1; j < k; j++ {
			set[j] = set[j-1] + 1
		}
	}
}

// join combines shares to a master key.
func (o *opening) join(set []int) (secret.Bytes, error) {
	if o.file.version == 1 {
		master := make([]byte, masterBytes)
		subtle.XORBytes(master, o.shares[set[0]].value.Reveal(), o.shares[set[1]].value.Reveal())
		return secret.Take(master), nil
	}
	values := make([]secret.Bytes, len(set))
	for i, s := range set {
		values[i] = o.shares[s].value
	}
	return shamir.Combine(values, o.file.required)
}

// opensAny reports whether an item opens under a master key. The smallest are tried first, to keep 252 attempts
// cheap.
func (o *opening) opensAny(master secret.Bytes) bool {
	items := slices.Clone(o.file.items)
	slices.SortStableFunc(items, func(a, b sealedItem) int { return cmp.Compare(a.jwe.ciphertext, b.jwe.ciphertext) })
	for _, item := range items {
		if plain, err := item.jwe.openItem(master); err == nil {
			plain.Wipe()
			return true
		}
	}
	return false
}

// noPair is the error for a version 1 file of which no pair of shares is whole, although two custodians are there.
func (o *opening) noPair() error {
	e := &Error{Kind: TooFewShares, Good: o.good, Required: o.file.required, Shares: append(slices.Clone(o.damaged), o.useless...)}
	for _, s := range o.file.shares {
		if s.jwe == nil && s.x5t == "" { // nobody can say whose it was
			e.Shares = append(e.Shares, s.report("", "the share "+s.damage.Message))
			e.Kind, e.Custodian = ShareDamaged, s.custodian()
		}
	}
	if len(o.damaged) > 0 {
		e.Kind, e.Custodian = ShareDamaged, o.damaged[0].Custodian
	}
	b := &strings.Builder{}
	b.WriteString("the SD file of version 1 has no intact pair of shares for the custodians whose keys were given")
	writeReports(b, e.Shares)
	b.WriteString("; bring the keys of other custodians of this file")
	e.Message = b.String()
	return e
}

// mismatch is the error for a quorum of intact shares that opens no item: either the shares are not of this file, or
// all the items are damaged. Which it is shows in the check values, or in more shares that agree than are needed.
func (o *opening) mismatch() error {
	e := &Error{Good: o.good, Required: o.file.required, Shares: append(slices.Clone(o.damaged), o.useless...)}
	var suspects []ShareReport
	checked := 0
	for _, s := range o.shares {
		switch {
		case s.checked:
			checked++
		case s.suspect:
			suspects = append(suspects, o.file.shares[s.at].report(s.key, "the share is damaged or from another file: its check value does not fit"))
		}
	}
	all := make([]int, len(o.shares))
	for i := range all {
		all[i] = i
	}
	agree := false
	if o.file.version == 2 && len(all) > o.file.required {
		master, err := o.join(all)
		master.Wipe()
		agree = err == nil
	}
	b := &strings.Builder{}
	switch {
	case len(suspects) > 0 && checked < o.file.required:
		e.Kind, e.Custodian = ShareDamaged, suspects[0].Custodian
		e.Good = checked
		e.Shares = append(suspects, e.Shares...)
		fmt.Fprintf(b, "the SD file takes the shares of %d custodians, and of those given %d are intact", o.file.required, checked)
		writeReports(b, e.Shares)
		b.WriteString("; bring the keys of other custodians of this file")
	case agree || checked >= o.file.required:
		e.Kind, e.Item = ItemDamaged, o.file.items[0].tag
		fmt.Fprintf(b, "the shares belong together, and none of the %d domain items opens under them, beginning with %q: the items are damaged or from another file; take another copy of the SD file", len(o.file.items), e.Item)
	default:
		e.Kind = SharesDoNotMatch
		fmt.Fprintf(b, "%d shares are intact in themselves and do not open this file together: one of them is from another SD file, or the domain items are damaged; bring the keys of other custodians, or another copy of the SD file", len(o.shares))
		writeReports(b, e.Shares)
	}
	e.Message = b.String()
	return e
}

// openItems decrypts all items.
func (o *opening) openItems(master secret.Bytes) ([]Item, error) {
	var items []Item
	var broken []string
	for _, item := range o.file.items {
		plain, err := item.jwe.openItem(master)
		if err != nil {
			broken = append(broken, item.tag)
			continue
		}
		items = append(items, Item{item.tag, plain})
	}
	if len(broken) == 0 {
		return items, nil
	}
	for _, item := range items {
		item.Value.Wipe()
	}
	return nil, &Error{Kind: ItemDamaged, Item: broken[0], Message: fmt.Sprintf("%d of %d domain items are damaged: %s; take another copy of the SD file",
		len(broken), len(o.file.items), strings.Join(broken, ", "))}
}

// identify says whose domain was opened, and refuses an extension that claims another.
func (o *opening) identify(opened *Opened) error {
	ext := o.file.ext
	if ext != nil {
		opened.HSMName, opened.Created = ext.hsm, ext.created
		if ext.valid {
			opened.DomainID = ext.domainID
		}
	}
	for _, item := range opened.Items {
		if item.Tag != TagSigningKey {
			continue
		}
		id, err := signingKeyID(item.Value)
		if ext == nil {
			opened.DomainID = id // not a Strongroom domain if it has another kind of signing key: then empty
			return nil
		}
		if err != nil {
			return &Error{Kind: ItemDamaged, Item: item.Tag, Err: err, Message: fmt.Sprintf("item %q is not a domain's signing key: %v", item.Tag, err)}
		}
		if id != ext.domainID {
			return &Error{Kind: ItemDamaged, Item: item.Tag, Message: fmt.Sprintf(
				"the file says that it holds domain %s, and its signing key is that of domain %s; somebody changed the file. Take another copy, or remove its \"strongroom\" object if %s is the domain that you expect", ext.domainID, id, id)}
		}
		opened.DomainID = id
	}
	return nil
}

// judge fills in which shares agreed with the master key and what was passed over.
func (o *opening) judge(opened *Opened, master secret.Bytes, used []int) {
	opened.Warnings = append(o.file.warnings(), o.warnings...)
	opened.PassedOver = append(o.damaged, o.useless...)
	for i, s := range o.shares {
		if report := o.file.shares[s.at].report(s.key, ""); o.agrees(i, master, used) {
			opened.Used = append(opened.Used, report)
		} else {
			report.Reason = "the share does not belong with the others: it is damaged or from another file"
			opened.PassedOver = append(opened.PassedOver, report)
		}
	}
	byPosition := func(a, b ShareReport) int { return cmp.Compare(a.Position, b.Position) }
	slices.SortStableFunc(opened.Used, byPosition)
	slices.SortStableFunc(opened.PassedOver, byPosition)
	for _, r := range opened.PassedOver {
		opened.Warnings = append(opened.Warnings, Warning{WarnSharePassedOver, r.String()})
	}
}

// agrees reports whether share i leads to the same master key as the shares that were used.
func (o *opening) agrees(i int, master secret.Bytes, used []int) bool {
	if slices.Contains(used, i) {
		return true
	}
	if o.file.version == 1 {
		for pair := range o.combinations() {
			if slices.Contains(pair, i) {
				other, err := o.join(pair)
				same := err == nil && other.Equal(master)
				other.Wipe()
				if same {
					return true
				}
			}
		}
		return false
	}
	other, err := o.join(append(slices.Clone(used), i))
	other.Wipe()
	return err == nil
}
