package securitydomain

import (
	"fmt"

	"strongroom/internal/strictjson"
)

// Names in the files. They are matched exactly.
const (
	kdfName        = "sp108_kdf"
	algorithmShare = "shamir_share" // version 2
	algorithmXOR   = "xor_split"    // version 1

	nameExtension = "strongroom"
	nameSignature = "signature"
)

// File is a parsed SD file. It is immutable. Nothing in it has been verified but its form and, for what that is
// worth, the signature (see [File.Inspect]).
//
// Version 2, what Azure and Strongroom write:
//
//	{"EncData":{"data":[{"compact_jwe":JWE,"tag":T}…],"kdf":"sp108_kdf"},
//	 "SharedKeys":{"enc_shares":[{"enc_key":JWE,"x5t_256":THUMBPRINT}…],"key_algorithm":"shamir_share","required":M},
//	 "version":2,
//	 "strongroom":{…}}
//
// Version 1, of early Azure, has instead of SharedKeys one object for each pair of custodians, whose two keys XOR
// to the master key:
//
//	"SplitKeys":{"key_algorithm":"xor_split","keys":[{"key1":{"enc_key":JWE,"x5t_256":THUMBPRINT},"key2":{…}}…]}
type File struct {
	version   int
	noVersion bool // the text does not say; the key object did
	algorithm string
	required  int
	shares    []sealedShare
	pairs     [][2]int // version 1: positions in shares of two that belong together
	items     []sealedItem
	ext       *extension
	extDamage string // why there is an extension that cannot be used
	unknown   []string
}

// sealedShare is one share, or one half of a version 1 pair. A damaged one does not make the file useless, so its
// faults are kept instead of reported.
type sealedShare struct {
	position int       // from 1
	x5t      string    // "" if it is not a thumbprint
	jwe      *envelope // nil if damaged
	damage   *Error
	hint     *extensionShare // what the extension says about it, if anything
}

// custodian is how messages call the owner of a share.
func (s *sealedShare) custodian() string {
	switch {
	case s.hint != nil && s.hint.label != "":
		return fmt.Sprintf("custodian %d %q", s.position, s.hint.label)
	case s.x5t != "":
		return fmt.Sprintf("custodian %d (%s…)", s.position, s.x5t[:8])
	}
	return fmt.Sprintf("custodian %d", s.position)
}

func (s *sealedShare) report(key, reason string) ShareReport {
	return ShareReport{Custodian: s.custodian(), Position: s.position, X5T256: s.x5t, Key: key, Reason: reason}
}

type sealedItem struct {
	tag string
	jwe *envelope
}

// Parse reads an SD file of version 1 or 2. It uses no key. A text that is not strict JSON, a repeated name, a
// number or size out of bounds, an unknown version, KDF or sharing algorithm, a missing or repeated tag and an item
// that is not a JWE of the one supported form are refused, with the kind that says which. A damaged share or
// extension is not: it is shown by Inspect and passed over by Open.
//
// A file without a version is read as the version whose key object it has. Unknown names are kept for the
// signature's sake, listed by Inspect, and mean nothing.
func Parse(data []byte) (*File, error) {
	root, err := parseRoot(data, "SD file")
	if err != nil {
		return nil, err
	}
	f := &File{}
	if err := f.parseVersion(root); err != nil {
		return nil, err
	}
	if f.items, err = parseItems(root.Get("EncData"), &f.unknown, plainValue); err != nil {
		return nil, err
	}
	if f.version == 1 {
		err = f.parseSplitKeys(root.Get("SplitKeys"))
	} else {
		err = f.parseSharedKeys(root.Get("SharedKeys"))
	}
	if err != nil {
		return nil, err
	}
	f.noteUnknown(root, "", "EncData", "SharedKeys", "SplitKeys", "version", nameExtension)
	if err := f.parseExtension(root); err != nil {
		return nil, err
	}
	return f, nil
}

// parseRoot reads the text of a file as one strict JSON object.
func parseRoot(data []byte, what string) (strictjson.Value, error) {
	if len(data) > MaxFile {
		return strictjson.Value{}, malformed("the %s is larger than %d bytes, the most that is read", what, MaxFile)
	}
	root, err := strictjson.Parse(data, fileLimits)
	if err != nil {
		return root, &Error{Kind: Malformed, Message: fmt.Sprintf("the %s cannot be read: %v", what, err), Err: err}
	}
	if root.Kind() != strictjson.Object {
		return root, malformed("the %s is not a JSON object; is it the right file?", what)
	}
	return root, nil
}

func (f *File) parseVersion(root strictjson.Value) error {
	shared, split := root.Get("SharedKeys").Kind() != strictjson.None, root.Get("SplitKeys").Kind() != strictjson.None
	if shared && split {
		return malformed("the SD file has both SharedKeys and SplitKeys; only one of them can be meant")
	}
	if !shared && !split {
		return malformed("the SD file has neither SharedKeys nor SplitKeys; is it a transfer file, or not an SD file at all?")
	}
	f.version = 2
	if split {
		f.version = 1
	}
	switch said := root.Get("version"); said.Kind() {
	case strictjson.None:
		f.noVersion = true
	default:
		n, ok := said.Int()
		switch {
		case !ok:
			return malformed("the SD file's version is not an integer")
		case n != 1 && n != 2:
			return fail(UnsupportedVersion, "the SD file is of version %d; versions 1 and 2 are supported. A newer strongroom may read it", n)
		case int(n) != f.version:
			return malformed("the SD file says version %d and has the key object of version %d", n, f.version)
		}
	}
	return nil
}

func (f *File) parseSharedKeys(keys strictjson.Value) error {
	if err := f.parseKeyAlgorithm(keys, "SharedKeys", algorithmShare); err != nil {
		return err
	}
	required, ok := keys.Get("required").Int()
	if !ok {
		return malformed("the SD file does not say how many custodians are required")
	}
	list, ok := keys.Get("enc_shares").Elements()
	switch {
	case !ok:
		return malformed("the SD file has no list of shares")
	case required < MinRequired || required > MaxRequired:
		return fail(BadQuorum, "the SD file requires %d custodians; a quorum is %d to %d", required, MinRequired, MaxRequired)
	case len(list) > MaxCustodians:
		return fail(BadQuorum, "the SD file has %d shares; %d are the most that a file has", len(list), MaxCustodians)
	case int(required) > len(list):
		return fail(BadQuorum, "the SD file requires %d custodians and has shares of %d; it can never be opened", required, len(list))
	}
	if total := keys.Get("total"); total.Kind() != strictjson.None {
		if n, ok := total.Int(); !ok || n != int64(len(list)) {
			return fail(BadQuorum, "the SD file has %d shares and says another number", len(list))
		}
	}
	f.required = int(required)
	for i, v := range list {
		f.addShare(v, fmt.Sprintf("SharedKeys.enc_shares[%d].", i))
	}
	f.noteUnknown(keys, "SharedKeys.", "key_algorithm", "required", "enc_shares", "total")
	return nil
}

func (f *File) parseSplitKeys(keys strictjson.Value) error {
	if err := f.parseKeyAlgorithm(keys, "SplitKeys", algorithmXOR); err != nil {
		return err
	}
	list, ok := keys.Get("keys").Elements()
	switch {
	case !ok || len(list) == 0:
		return malformed("the SD file has no list of key pairs")
	case len(list) > maxPairs:
		return fail(BadQuorum, "the SD file has %d key pairs; %d are the most that are read", len(list), maxPairs)
	}
	f.required = 2
	for i, v := range list {
		at := fmt.Sprintf("SplitKeys.keys[%d].", i)
		first := len(f.shares)
		f.addShare(v.Get("key1"), at+"key1.")
		f.addShare(v.Get("key2"), at+"key2.")
		f.pairs = append(f.pairs, [2]int{first, first + 1})
		f.noteUnknown(v, at, "key1", "key2")
	}
	f.noteUnknown(keys, "SplitKeys.", "key_algorithm", "keys")
	return nil
}

func (f *File) parseKeyAlgorithm(keys strictjson.Value, object, want string) error {
	if keys.Kind() != strictjson.Object {
		return malformed("%s of the SD file is not an object", object)
	}
	name, ok := keys.Get("key_algorithm").Text()
	if !ok {
		return malformed("the SD file does not name its key_algorithm")
	}
	if name != want {
		return fail(UnsupportedAlgorithm, "the SD file shares its key by %q; with %s only %q is supported", printable(name), object, want)
	}
	f.algorithm = name
	return nil
}

// addShare reads one share. Its faults stay with it.
func (f *File) addShare(v strictjson.Value, at string) {
	s := sealedShare{position: len(f.shares) + 1}
	if x5t, _ := v.Get("x5t_256").Text(); isDigest(x5t) {
		s.x5t = x5t
	}
	compact, ok := v.Get("enc_key").Text()
	if !ok {
		s.damage = malformed("has no encrypted share")
	} else {
		s.jwe, s.damage = parseEnvelope(compact, algKey, maxShare)
	}
	f.shares = append(f.shares, s)
	f.noteUnknown(v, at, "enc_key", "x5t_256")
}

func (f *File) noteUnknown(object strictjson.Value, at string, known ...string) {
	noteUnknown(&f.unknown, object, at, known...)
}

// noteUnknown appends the names of an object's members that are not known.
func noteUnknown(list *[]string, object strictjson.Value, at string, known ...string) {
	members, _ := object.Members()
next:
	for _, m := range members {
		for _, k := range known {
			if m.Name == k {
				continue next
			}
		}
		if len(*list) < maxUnknown {
			*list = append(*list, at+printable(m.Name))
		}
	}
}

// plainValue is the decoding of text members in an SD file: none.
func plainValue(s string) string { return s }

// parseItems reads EncData, which SD files and transfer files share. unwrap undoes a historic spelling of
// compact_jwe.
func parseItems(v strictjson.Value, unknown *[]string, unwrap func(string) string) ([]sealedItem, error) {
	if v.Kind() != strictjson.Object {
		return nil, malformed("the file has no EncData object, so no domain items; is it the right file?")
	}
	kdf, ok := v.Get("kdf").Text()
	if !ok {
		return nil, malformed("the file does not name its kdf")
	}
	if kdf != kdfName {
		return nil, fail(UnsupportedKDF, "the file derives its keys by %q; only %q is supported", printable(kdf), kdfName)
	}
	list, ok := v.Get("data").Elements()
	switch {
	case !ok || len(list) == 0:
		return nil, malformed("the file holds no domain items")
	case len(list) > MaxItems:
		return nil, malformed("the file holds %d domain items; %d are the most that are read", len(list), MaxItems)
	}
	items := make([]sealedItem, 0, len(list))
	seen := map[string]bool{}
	for i, entry := range list {
		tag, ok := entry.Get("tag").Text()
		if !ok || !isPlainText(tag, 1, MaxTagBytes) {
			return nil, malformed("item %d of the file has no tag of 1 to %d printable ASCII characters", i+1, MaxTagBytes)
		}
		if seen[tag] {
			return nil, malformed("the file holds item %q twice", printable(tag))
		}
		seen[tag] = true
		compact, ok := entry.Get("compact_jwe").Text()
		if !ok {
			return nil, &Error{Kind: ItemDamaged, Item: tag, Message: fmt.Sprintf("item %q has no content", printable(tag))}
		}
		jwe, err := parseItemEnvelope(unwrap(compact), tag)
		if err != nil {
			kind := err.Kind
			if kind == Malformed {
				kind = ItemDamaged
			}
			return nil, &Error{Kind: kind, Item: tag, Message: fmt.Sprintf("item %q %s", printable(tag), err.Message)}
		}
		items = append(items, sealedItem{tag, jwe})
		noteUnknown(unknown, entry, fmt.Sprintf("EncData.data[%d].", i), "tag", "compact_jwe")
	}
	noteUnknown(unknown, v, "EncData.", "data", "kdf")
	return items, nil
}
