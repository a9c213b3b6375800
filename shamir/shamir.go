// Package shamir splits a secret into n shares of which any m give it back and any m−1 say nothing about it
// (Shamir, 1979), over the field GF(257) and in the byte form of Azure Key Vault's security domain.
//
// It is the lowest layer of Strongroom: bytes in, bytes out, no I/O, no clock, randomness passed in. It can be
// read and audited alone.
//
// A share is one 16-bit word for each byte of the secret, least significant byte first. A word is x<<9 | v:
//
//	 15           9 8                 0
//	┌──────────────┬───────────────────┐
//	│ x, 1 … 126   │ v = f(x), 0 … 256 │
//	└──────────────┴───────────────────┘
//
// x numbers the share and is the same in all its words. Each byte of the secret has its own polynomial f of
// degree m−1 over GF(257), with that byte as f(0) and every other coefficient drawn uniformly from 0 … 256.
//
// What it does not do: a share carries no checksum. m wrong shares combine to a wrong secret, now and then with
// an error and mostly without one; whoever needs certainty authenticates what the secret opens, as package
// securitydomain does. Shares beyond m are compared with the others, which finds a wrong one but does not name it.
package shamir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"strongroom/secret"
)

// Bounds of a split.
const (
	MaxShares = 126     // x has seven bits, and 127 is kept free as in the stock client
	MaxSecret = 1 << 16 // bytes; a limit on work, not of the mathematics
)

const (
	wordBytes = 2
	valueBits = 9
	valueMask = 1<<valueBits - 1
	maxValue  = prime - 1
)

// What Split refuses.
var (
	ErrRandom = errors.New("shamir: the source of randomness is missing or failed")
	ErrSecret = fmt.Errorf("shamir: the secret must have 1 to %d bytes", MaxSecret)
	ErrShape  = fmt.Errorf("shamir: want 1 ≤ threshold ≤ shares ≤ %d", MaxShares)
)

// What Combine refuses. All but ErrThreshold, ErrTooFew, ErrTooMany, ErrInconsistent and ErrNotByte come inside
// a *[ShareError] that says which share.
var (
	ErrThreshold    = fmt.Errorf("shamir: the threshold must be 1 to %d", MaxShares)
	ErrTooFew       = errors.New("shamir: too few shares")
	ErrTooMany      = fmt.Errorf("shamir: more than %d shares", MaxShares)
	ErrLength       = errors.New("shamir: the share has an impossible length")
	ErrUnequal      = errors.New("shamir: the share is not as long as the first one")
	ErrZero         = errors.New("shamir: share number 0 does not exist")
	ErrRange        = fmt.Errorf("shamir: the share number is above %d", MaxShares)
	ErrMixed        = errors.New("shamir: the share number changes inside the share")
	ErrValue        = errors.New("shamir: a value of the share is not in the field")
	ErrRepeated     = errors.New("shamir: the same share number twice")
	ErrInconsistent = errors.New("shamir: the shares do not lie on one polynomial")
	ErrNotByte      = errors.New("shamir: the shares do not combine to bytes; they do not belong together")
)

// ShareError says which share was refused and why.
type ShareError struct {
	Index int   // position in the slice given to Combine, from 0
	Err   error // one of the errors above
}

func (e *ShareError) Error() string {
	return fmt.Sprintf("%v (share %d of those given)", e.Err, e.Index+1)
}

// Unwrap makes errors.Is see the reason.
func (e *ShareError) Unwrap() error { return e.Err }

// Split returns n shares of s, of which any m combine to s. The share at position i has x = i+1. Each is
// 2·s.Len() bytes long. Randomness is read from rand: about 2·s.Len()·(m−1) bytes, each coefficient uniform over
// the whole field by rejection. Time does not depend on the bytes of s.
//
// With m = 1 every share is the secret itself in another spelling; that is allowed and is no protection.
// It fails with ErrRandom, ErrSecret or ErrShape.
func Split(rand io.Reader, s secret.Bytes, n, m int) ([]secret.Bytes, error) {
	if m < 1 || m > n || n > MaxShares {
		return nil, ErrShape
	}
	if s.Len() < 1 || s.Len() > MaxSecret {
		return nil, ErrSecret
	}
	plain := s.Reveal()
	// One polynomial for each byte, never one for all: with shared coefficients a single share would give away
	// every difference between two bytes of the secret.
	coefficients := make([]uint16, len(plain)*(m-1))
	defer clear(coefficients)
	if err := drawUniform(rand, coefficients); err != nil {
		return nil, err
	}

	shares := make([]secret.Bytes, n)
	for i := range shares {
		x := uint32(i + 1)
		share := make([]byte, 0, wordBytes*len(plain))
		for b, constant := range plain {
			v := uint32(0)
			for _, c := range coefficients[b*(m-1) : (b+1)*(m-1)] {
				v = mul(add(v, uint32(c)), x)
			}
			share = binary.LittleEndian.AppendUint16(share, uint16(x<<valueBits|add(v, uint32(constant))))
		}
		shares[i] = secret.Take(share)
	}
	return shares, nil
}

// drawUniform fills out with independent values, each uniform over 0 … 256. It takes 16 random bits, refuses
// the one value (65535) that would make the residues uneven, and reduces. What is refused is thrown away, so the
// branch on it says nothing about what is kept.
func drawUniform(rand io.Reader, out []uint16) error {
	if rand == nil {
		return fmt.Errorf("%w: no reader was given", ErrRandom)
	}
	buf := make([]byte, 2*len(out))
	defer clear(buf)
	for len(out) > 0 {
		chunk := buf[:2*len(out)]
		if _, err := io.ReadFull(rand, chunk); err != nil {
			return fmt.Errorf("%w: %w", ErrRandom, err)
		}
		for ; len(chunk) > 0; chunk = chunk[2:] {
			if v := binary.LittleEndian.Uint16(chunk); v != 1<<16-1 {
				out[0], out = uint16(reduce(uint32(v))), out[1:]
			}
		}
	}
	return nil
}

// Index checks the form of one share by itself and returns its number x. It fails with ErrLength, ErrZero,
// ErrRange, ErrMixed or ErrValue. The time depends on the share's length and number, not on its values.
func Index(share secret.Bytes) (int, error) {
	b := share.Reveal()
	if len(b) == 0 || len(b)%wordBytes != 0 || len(b) > wordBytes*MaxSecret {
		return 0, ErrLength
	}
	x := uint32(binary.LittleEndian.Uint16(b)) >> valueBits
	var mixed, above uint32
	for ; len(b) > 0; b = b[wordBytes:] {
		word := uint32(binary.LittleEndian.Uint16(b))
		mixed |= word>>valueBits ^ x
		above |= isAbove(word&valueMask, maxValue)
	}
	switch {
	case mixed != 0:
		return 0, ErrMixed
	case x == 0:
		return 0, ErrZero
	case x > MaxShares:
		return 0, ErrRange
	case above != 0:
		return 0, ErrValue
	}
	return int(x), nil
}

// Combine returns the secret that was split with threshold m. It needs at least m shares, and at least two
// whatever m is, in any order; the secret comes from the first m, and every further one must lie on the same
// polynomials, or the answer is ErrInconsistent. Shares are not changed. Time depends on the number, length and
// x of the shares only.
//
// An error is one of the list above. Success with exactly m shares does not prove that they belong together:
// see the package comment.
func Combine(shares []secret.Bytes, m int) (secret.Bytes, error) {
	if m < 1 || m > MaxShares {
		return secret.Bytes{}, ErrThreshold
	}
	if len(shares) > MaxShares {
		return secret.Bytes{}, ErrTooMany
	}
	xs := make([]uint32, len(shares))
	seen := [MaxShares + 1]bool{}
	for i, share := range shares {
		x, err := Index(share)
		switch {
		case err != nil:
			return secret.Bytes{}, &ShareError{i, err}
		case share.Len() != shares[0].Len():
			return secret.Bytes{}, &ShareError{i, ErrUnequal}
		case seen[x]: // equal numbers would divide by zero
			return secret.Bytes{}, &ShareError{i, ErrRepeated}
		}
		xs[i], seen[x] = uint32(x), true
	}
	// After the shares themselves, so that a person with a bad share hears of that one first.
	if len(shares) < max(m, 2) {
		return secret.Bytes{}, ErrTooFew
	}

	used, words := shares[:m], shares[0].Len()/wordBytes
	for i := m; i < len(shares); i++ {
		ws := weights(xs[:m], xs[i])
		var differ uint32
		for b := range words {
			differ |= interpolate(used, ws, b) ^ value(shares[i], b)
		}
		if differ != 0 {
			return secret.Bytes{}, ErrInconsistent
		}
	}

	ws := weights(xs[:m], 0)
	plain := make([]byte, words)
	var above uint32
	for b := range plain {
		v := interpolate(used, ws, b)
		above |= v >> 8 // 256 is in the field and is no byte
		plain[b] = byte(v)
	}
	if above != 0 {
		clear(plain)
		return secret.Bytes{}, ErrNotByte
	}
	return secret.Take(plain), nil
}

// interpolate returns Σ wsᵢ·vᵢ over the values at word b.
func interpolate(shares []secret.Bytes, ws []uint32, b int) uint32 {
	var sum uint32
	for i, share := range shares {
		sum = add(sum, mul(ws[i], value(share, b)))
	}
	return sum
}

// value returns the value in word b of a share that Index has accepted.
func value(share secret.Bytes, b int) uint32 {
	return uint32(binary.LittleEndian.Uint16(share.Reveal()[wordBytes*b:])) & valueMask
}
