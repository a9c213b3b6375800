package software

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"math"

	"strongroom/internal/engine"
)

// AES key wrap (RFC 3394) and AES key wrap with padding (RFC 5649; both are in NIST SP 800-38F). They are written
// out here over crypto/aes because no maintained Go package has all of it: what there is leaves out keys of 192 bits
// and plaintexts under 16 bytes. The tests hold this code against the published vectors and two such packages.

// semiblock is the unit of both algorithms.
const semiblock = 8

var (
	wrapIV    = []byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6} // RFC 3394 section 2.2.3.1
	wrapPadIV = []byte{0xa6, 0x59, 0x59, 0xa6}                         // RFC 5649 section 3, before the length
)

// wrap is the W of SP 800-38F section 6.1: out holds the check value and at least two semiblocks, and is
// overwritten with as many bytes.
func wrap(block cipher.Block, out []byte) {
	n := uint64(len(out)/semiblock - 1)
	var b [aes.BlockSize]byte
	defer clear(b[:])
	copy(b[:semiblock], out)
	for t := uint64(1); t <= 6*n; t++ {
		r := out[semiblock*((t-1)%n+1):][:semiblock]
		copy(b[semiblock:], r)
		block.Encrypt(b[:], b[:])
		copy(r, b[semiblock:])
		binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])^t)
	}
	copy(out, b[:semiblock])
}

// unwrap is the inverse of wrap.
func unwrap(block cipher.Block, out []byte) {
	n := uint64(len(out)/semiblock - 1)
	var b [aes.BlockSize]byte
	defer clear(b[:])
	copy(b[:semiblock], out)
	for t := 6 * n; t >= 1; t-- {
		binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])^t)
		r := out[semiblock*((t-1)%n+1):][:semiblock]
		copy(b[semiblock:], r)
		block.Decrypt(b[:], b[:])
		copy(r, b[semiblock:])
	}
	copy(out, b[:semiblock])
}

// wrapKey is RFC 3394: plaintext is a multiple of 8 bytes, and at least 16.
func wrapKey(block cipher.Block, plaintext []byte) []byte {
	out := append(bytes.Clone(wrapIV), plaintext...)
	wrap(block, out)
	return out
}

// unwrapKey is the way back: wrapped is a multiple of 8 bytes, and at least 24.
func unwrapKey(block cipher.Block, wrapped []byte) ([]byte, error) {
	out := bytes.Clone(wrapped)
	unwrap(block, out)
	if subtle.ConstantTimeCompare(out[:semiblock], wrapIV) != 1 {
		clear(out)
		return nil, engine.ErrDecrypt
	}
	return out[semiblock:], nil
}

// wrapPadded is RFC 5649: plaintext has at least one byte, and fewer than 2³².
func wrapPadded(block cipher.Block, plaintext []byte) []byte {
	padded := (len(plaintext) + semiblock - 1) / semiblock * semiblock
	out := make([]byte, semiblock+padded)
	copy(out, wrapPadIV)
	binary.BigEndian.PutUint32(out[4:], uint32(len(plaintext)))
	copy(out[semiblock:], plaintext)
	if padded == semiblock {
		block.Encrypt(out, out) // section 4.1: one block and no rounds
	} else {
		wrap(block, out)
	}
	return out
}

// unwrapPadded is the way back: wrapped is a multiple of 8 bytes, and at least 16. What exactly is wrong shows
// neither in the error nor in the work done.
func unwrapPadded(block cipher.Block, wrapped []byte) ([]byte, error) {
	out := bytes.Clone(wrapped)
	if len(out) == aes.BlockSize {
		block.Decrypt(out, out)
	} else {
		unwrap(block, out)
	}
	padded := len(out) - semiblock
	length := binary.BigEndian.Uint32(out[4:])
	good := subtle.ConstantTimeCompare(out[:4], wrapPadIV)
	// padded-8 < length ≤ padded, by section 3, for lengths that fit (callers' bodies are far smaller).
	if length > math.MaxInt32 {
		length, good = 0, 0
	}
	good &= subtle.ConstantTimeLessOrEq(padded-semiblock+1, int(length))
	good &= subtle.ConstantTimeLessOrEq(int(length), padded)
	// All the padding, which lies in the last semiblock, is zero.
	var rest byte
	for i := padded - semiblock; i < padded; i++ {
		behind := subtle.ConstantTimeLessOrEq(int(length), i)
		rest |= byte(-behind) & out[semiblock+i]
	}
	good &= subtle.ConstantTimeByteEq(rest, 0)
	if good != 1 {
		clear(out)
		return nil, engine.ErrDecrypt
	}
	return out[semiblock:][:length], nil
}
