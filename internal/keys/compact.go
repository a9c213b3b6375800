package keys

import (
	"encoding/binary"
	"slices"

	"strongroom/internal/engine"
)

// compact is the form in which a version that was verified lies in memory: bytes without pointers, some 260 for a P-256
// key, which are read in well under a microsecond. It is of this process only and never stored. What it holds is what the database
// holds: the material is sealed.
//
//	flags ‖ kty and crv ‖ bits ‖ e ‖ created ‖ updated ‖ nbf ‖ exp ‖ key_ops ‖ name, if it is not in lower case ‖ n ‖ x ‖ y
//	‖ sealed ‖ tags ‖ release policy
//
// Numbers are varints, texts and bytes stand behind their lengths; what the flags say is not there takes no room.

// The flags.
const (
	isEnabled = 1 << iota
	isExportable
	isHSM
	isImported
	isImmutable // the release policy
	hasNotBefore
	hasExpires
	hasDefaultOps
	hasName
	hasTags
	hasRelease
)

var (
	compactTypes = []engine.Type{engine.RSA, engine.EC, engine.Oct}
	compactNames = []string{"", engine.P256, engine.P256K, engine.P384, engine.P521}
	compactOps   = []string{opSign, opVerify, opEncrypt, opDecrypt, opWrap, opUnwrap, opImport, opExport}
)

// compact returns that form of a version of a key, or nil for one that has no place in it; such are read each time.
func (v *versionRecord) compact(name, lower string) []byte {
	kind, curve := slices.Index(compactTypes, v.Type), slices.Index(compactNames, v.Curve)
	if kind < 0 || curve < 0 || v.Ops == nil || v.Tags != nil && len(v.Tags) == 0 || len(v.Ops) > 255 {
		return nil
	}
	b := make([]byte, 0, 96+len(v.N)+len(v.X)+len(v.Y)+len(v.Sealed))
	flags := uint64(0)
	set := func(flag uint64, on bool) {
		if on {
			flags |= flag
		}
	}
	set(isEnabled, v.Enabled)
	set(isExportable, v.Exportable)
	set(isHSM, v.HSM)
	set(isImported, v.Imported)
	set(isImmutable, v.Release != nil && v.Release.Immutable)
	set(hasNotBefore, v.NotBefore != nil)
	set(hasExpires, v.Expires != nil)
	set(hasDefaultOps, slices.Equal(v.Ops, opsByType[v.Type]))
	set(hasName, name != lower)
	set(hasTags, v.Tags != nil)
	set(hasRelease, v.Release != nil)
	b = binary.AppendUvarint(b, flags)
	b = append(b, byte(kind<<4|curve))
	b = binary.AppendVarint(b, int64(v.Bits))
	b = binary.AppendVarint(b, int64(v.E))
	b = binary.AppendVarint(b, v.Created)
	b = binary.AppendVarint(b, v.Updated)
	for _, moment := range []*int64{v.NotBefore, v.Expires} {
		if moment != nil {
			b = binary.AppendVarint(b, *moment)
		}
	}
	if flags&hasDefaultOps == 0 {
		b = append(b, byte(len(v.Ops)))
		for _, op := range v.Ops {
			index := slices.Index(compactOps, op)
			if index < 0 {
				return nil
			}
			b = append(b, byte(index))
		}
	}
	if flags&hasName != 0 {
		b = appendShort(b, name)
	}
	for _, part := range [][]byte{v.N, v.X, v.Y, v.Sealed} {
		if part != nil && len(part) == 0 {
			return nil
		}
		b = appendShort(b, part)
	}
	if flags&hasTags != 0 {
		b = binary.AppendUvarint(b, uint64(len(v.Tags)))
		for tag, value := range v.Tags {
			b = appendShort(appendShort(b, tag), value)
		}
	}
	if flags&hasRelease != 0 {
		if v.Release.Data == nil {
			return nil
		}
		b = appendShort(appendShort(b, v.Release.ContentType), v.Release.Data)
	}
	return b
}

func appendShort[T string | []byte](b []byte, f T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(f))), f...)
}

// unpack is the way back, for a version of a key whose name in lower case and whose ID are known. The record's bytes are
// parts of b.
func unpack(lower, id string, b []byte) (name string, v *versionRecord) {
	r := compactReader{b}
	flags := r.unsigned()
	has := func(flag uint64) bool { return flags&flag != 0 }
	kind := r.bytes(1)[0]
	v = &versionRecord{
		ID: id, Enabled: has(isEnabled), Exportable: has(isExportable), HSM: has(isHSM), Imported: has(isImported),
		Type: compactTypes[kind>>4], Curve: compactNames[kind&15],
		Bits: int(r.signed()), E: int(r.signed()), Created: r.signed(), Updated: r.signed(),
	}
	if has(hasNotBefore) {
		v.NotBefore = new(int64)
		*v.NotBefore = r.signed()
	}
	if has(hasExpires) {
		v.Expires = new(int64)
		*v.Expires = r.signed()
	}
	if has(hasDefaultOps) {
		v.Ops = opsByType[v.Type]
	} else {
		v.Ops = make([]string, r.bytes(1)[0])
		for i, op := range r.bytes(len(v.Ops)) {
			v.Ops[i] = compactOps[op]
		}
	}
	name = lower
	if has(hasName) {
		name = string(r.short())
	}
	v.N, v.X, v.Y, v.Sealed = r.short(), r.short(), r.short(), r.short()
	if has(hasTags) {
		n := r.unsigned()
		v.Tags = make(map[string]string, n)
		for range n {
			tag := string(r.short())
			v.Tags[tag] = string(r.short())
		}
	}
	if has(hasRelease) {
		v.Release = &releasePolicy{ContentType: string(r.short()), Data: r.short(), Immutable: has(isImmutable)}
		if v.Release.Data == nil {
			v.Release.Data = []byte{}
		}
	}
	return name, v
}

// compactReader reads what compact wrote in this process, so it panics where that ends too early.
type compactReader struct{ b []byte }

func (r *compactReader) unsigned() uint64 {
	n, size := binary.Uvarint(r.b)
	r.b = r.b[size:]
	return n
}

func (r *compactReader) signed() int64 {
	n, size := binary.Varint(r.b)
	r.b = r.b[size:]
	return n
}

func (r *compactReader) bytes(n int) []byte {
	part := r.b[:n:n]
	r.b = r.b[n:]
	return part
}

// short returns nil for no bytes.
func (r *compactReader) short() []byte {
	n := int(r.unsigned())
	if n == 0 {
		return nil
	}
	return r.bytes(n)
}
