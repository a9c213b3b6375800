package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Keys that sign checkpoints. Name and hash of a key in a note follow from its public key alone, so that a verifier
// needs nothing but that.
//
//	Ed25519       name strongroom-audit/FINGERPRINT    hash over 01 ‖ key, the note package's own algorithm
//	ECDSA P-384   name strongroom-domain/DOMAIN-ID     hash over ff ‖ "strongroom-ecdsa-p384-sha384" ‖ SPKI
//
// The fingerprint, like the domain ID, is the hex SHA-256 of the SubjectPublicKeyInfo. ff is the byte that the note
// format (C2SP signed-note) keeps for algorithms it does not number. An ECDSA signature is r ‖ s, 48 bytes each, over
// the SHA-384 of the text.
const (
	serverKeyName = "strongroom-audit/"
	domainKeyName = "strongroom-domain/"
	algEd25519    = 1
	algOther      = 0xff
	p384Algorithm = "strongroom-ecdsa-p384-sha384"
	p384Bytes     = 48
)

// ErrKey says that a key is of a type that signs no checkpoints.
var ErrKey = errors.New("audit: a key that signs checkpoints is Ed25519 or EC P-384")

// verifier implements [note.Verifier] for both types of key.
type verifier struct {
	name   string
	hash   uint32
	public crypto.PublicKey
}

func (v *verifier) Name() string    { return v.name }
func (v *verifier) KeyHash() uint32 { return v.hash }

func (v *verifier) Verify(msg, sig []byte) bool {
	switch k := v.public.(type) {
	case ed25519.PublicKey:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(k, msg, sig)
	case *ecdsa.PublicKey:
		if len(sig) != 2*p384Bytes {
			return false
		}
		digest := sha512.Sum384(msg)
		return ecdsa.Verify(k, digest[:], new(big.Int).SetBytes(sig[:p384Bytes]), new(big.Int).SetBytes(sig[p384Bytes:]))
	}
	return false
}

// NewVerifier returns the verifier of a public key: [ed25519.PublicKey] or [*ecdsa.PublicKey] on P-384. Its error is
// [ErrKey].
func NewVerifier(public crypto.PublicKey) (note.Verifier, error) { return newVerifier(public) }

func newVerifier(public crypto.PublicKey) (*verifier, error) {
	v := &verifier{public: public}
	var id []byte
	switch k := public.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, ErrKey
		}
		v.name, id = serverKeyName, append([]byte{algEd25519}, k...)
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P384() {
			return nil, ErrKey
		}
		v.name, id = domainKeyName, append([]byte{algOther}, p384Algorithm...)
	default:
		return nil, ErrKey
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if _, ok := public.(*ecdsa.PublicKey); ok {
		id = append(id, spki...)
	}
	fingerprint := sha256.Sum256(spki)
	v.name += hex.EncodeToString(fingerprint[:])
	sum := sha256.Sum256(append([]byte(v.name+"\n"), id...))
	v.hash = binary.BigEndian.Uint32(sum[:])
	return v, nil
}

// signer implements [note.Signer].
type signer struct {
	*verifier
	key crypto.Signer
}

// NewSigner returns the signer of a private key, Ed25519 or EC P-384 ([ErrKey] otherwise). The key may live elsewhere:
// only its Public and Sign are used, with an [crypto.Hash](0) message for Ed25519 and a SHA-384 digest for EC, and
// without a source of randomness, so that a key of crypto/ecdsa signs deterministically (RFC 6979).
func NewSigner(key crypto.Signer) (note.Signer, error) {
	v, err := newVerifier(key.Public())
	if err != nil {
		return nil, err
	}
	return &signer{v, key}, nil
}

func (s *signer) Sign(msg []byte) ([]byte, error) {
	if _, ok := s.public.(ed25519.PublicKey); ok {
		return s.key.Sign(nil, msg, crypto.Hash(0))
	}
	digest := sha512.Sum384(msg)
	der, err := s.key.Sign(nil, digest[:], crypto.SHA384)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 8*p384Bytes || rs.S.BitLen() > 8*p384Bytes {
		return nil, errors.New("audit: the key returned no ECDSA signature")
	}
	sig := make([]byte, 2*p384Bytes)
	rs.R.FillBytes(sig[:p384Bytes])
	rs.S.FillBytes(sig[p384Bytes:])
	return sig, nil
}

// ParsePublicKey reads a public key that signs checkpoints from PEM: PUBLIC KEY, or the CERTIFICATE of a security
// domain. It never shows what it read.
func ParsePublicKey(text []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("audit: a public key is one block of PEM")
	}
	var public crypto.PublicKey
	switch block.Type {
	case "PUBLIC KEY":
		k, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("audit: the public key cannot be read")
		}
		public = k
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("audit: the certificate cannot be read")
		}
		public = c.PublicKey
	default:
		return nil, errors.New("audit: it is neither a public key nor a certificate")
	}
	if _, err := newVerifier(public); err != nil {
		return nil, err
	}
	return public, nil
}

// MarshalPublicKey returns the PEM that ParsePublicKey reads.
func MarshalPublicKey(public crypto.PublicKey) ([]byte, error) {
	if _, err := newVerifier(public); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// originName begins the first line of a checkpoint. Nothing else that a domain's signing key signs begins so.
const originName = "strongroom-audit/"

// checkpointText is what is signed: origin, number of records, root hash (C2SP tlog-checkpoint).
func checkpointText(log string, t *tree) string {
	return fmt.Sprintf("%s%s\n%d\n%s\n", originName, log, t.n, t.root())
}

// parseCheckpointText is the inverse of checkpointText.
func parseCheckpointText(text string) (log string, t tlog.Tree, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return "", t, errors.New("a checkpoint has three lines")
	}
	log, ok := strings.CutPrefix(lines[0], originName)
	if !ok || !isLogID(log) {
		return "", t, errors.New("the checkpoint is of no audit log")
	}
	n, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != lines[1] {
		return "", t, errors.New("the size in the checkpoint is no number")
	}
	h, err := parseHash([]byte(lines[2]))
	if err != nil {
		return "", t, fmt.Errorf("the root in the checkpoint: %w", err)
	}
	return log, tlog.Tree{N: n, Hash: h}, nil
}

// signedNote is a checkpoint as it was read.
type signedNote struct {
	log      string
	tree     tlog.Tree
	verified []string // names of the keys whose signature holds
	bad      error    // a signature of a known key does not hold
}

// readNote reads a checkpoint and tries the keys on it. Its error says that it is no checkpoint at all.
func readNote(text string, known note.Verifiers) (c signedNote, err error) {
	if len(text) > MaxLine {
		return c, errors.New("the checkpoint is too long")
	}
	n, err := note.Open([]byte(text), known)
	if e, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		n, err = e.Note, nil
	}
	if e, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
		c.bad = fmt.Errorf("the signature of %s does not hold", e.Name)
		if n, err = note.Open([]byte(text), nil); err != nil {
			if e, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
				n, err = e.Note, nil
			}
		}
	}
	if err != nil {
		return c, errors.New("the checkpoint is no signed note")
	}
	for _, list := range [][]note.Signature{n.Sigs, n.UnverifiedSigs} {
		for _, sig := range list { // one spelling
			if raw, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil || base64.StdEncoding.EncodeToString(raw) != sig.Base64 {
				return c, errors.New("a signature of the checkpoint is not spelled as base64 is")
			}
		}
	}
	if c.bad == nil {
		for _, s := range n.Sigs {
			c.verified = append(c.verified, s.Name)
		}
	}
	c.log, c.tree, err = parseCheckpointText(n.Text)
	return c, err
}

// verifiers makes a list of public keys one thing to look them up in.
func verifiers(keys []crypto.PublicKey) (note.Verifiers, []string, error) {
	var list []note.Verifier
	var names []string
	for _, k := range keys {
		v, err := newVerifier(k)
		if err != nil {
			return nil, nil, err
		}
		if !slices.Contains(names, v.name) {
			list, names = append(list, v), append(names, v.name)
		}
	}
	return note.VerifierList(list...), names, nil
}
