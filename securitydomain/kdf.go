package securitydomain

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"hash"

	"strongroom/secret"
)

const (
	masterBytes  = 32 // of the master key
	contentBytes = 64 // of a content key of A256CBC-HS512: 32 for the MAC, then 32 for AES-256
)

// itemKey returns the content key of the item with the given tag: SP 800-108 in counter mode with HMAC-SHA-512,
// the tag as label, an empty context, 512 bits. The caller wipes it.
func itemKey(master secret.Bytes, tag string) secret.Bytes {
	return secret.Take(counterKDF(sha512.New, master.Reveal(), fixedInput([]byte(tag), nil, 8*contentBytes), contentBytes))
}

// fixedInput is what SP 800-108 section 4.1 feeds to the PRF behind the counter:
// label ‖ 0x00 ‖ context ‖ [L]₃₂, with L in bits, big-endian.
func fixedInput(label, context []byte, bits int) []byte {
	b := make([]byte, 0, len(label)+1+len(context)+4)
	b = append(b, label...)
	b = append(b, 0)
	b = append(b, context...)
	return binary.BigEndian.AppendUint32(b, uint32(bits))
}

// counterKDF is the KDF in counter mode of NIST SP 800-108r1 section 4.1 with HMAC and a 32-bit big-endian counter
// from 1 before the fixed input. It returns n bytes.
func counterKDF(h func() hash.Hash, key, fixed []byte, n int) []byte {
	prf := hmac.New(h, key)
	out := make([]byte, 0, n+prf.Size())
	var counter [4]byte
	for i := uint32(1); len(out) < n; i++ {
		binary.BigEndian.PutUint32(counter[:], i)
		prf.Reset()
		prf.Write(counter[:])
		prf.Write(fixed)
		out = prf.Sum(out)
	}
	clear(out[n:])
	return out[:n]
}
