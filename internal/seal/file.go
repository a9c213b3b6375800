package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/crypto/argon2"

	"strongroom/internal/durable"
	"strongroom/secret"
)

// The kinds of seal files.
const (
	KindFile       = "file"
	KindPassphrase = "passphrase"
)

// ErrExposed says that others than the owner may read the seal file.
var ErrExposed = errors.New("seal: the seal file can be read by others")

const (
	fileFormat  = "strongroom-seal"
	fileVersion = 1
	maxFile     = 4 << 10
	labelRoot   = "strongroom/seal/root/v1"
	saltSize    = 32
	// maxPassphrase keeps a wrong file (a disk, a log) from being hashed.
	maxPassphrase = 4 << 10
)

// Params say how hard a passphrase is to try (Argon2id, RFC 9106).
type Params struct {
	Time      uint32 `json:"time"`       // passes, 1 to 16
	MemoryKiB uint32 `json:"memory_kib"` // 8 per thread, to 1 GiB
	Threads   uint8  `json:"threads"`    // 1 to 16
}

// DefaultParams are the second recommended option of RFC 9106 section 4: 3 passes over 64 MiB with 4 lanes.
func DefaultParams() Params { return Params{Time: 3, MemoryKiB: 64 << 10, Threads: 4} }

// check bounds the work before any is done: a seal file is input.
func (p Params) check() error {
	switch {
	case p.Time < 1 || p.Time > 16:
		return fmt.Errorf("argon2id with %d passes is outside 1 to 16", p.Time)
	case p.Threads < 1 || p.Threads > 16:
		return fmt.Errorf("argon2id with %d threads is outside 1 to 16", p.Threads)
	case p.MemoryKiB < 8*uint32(p.Threads) || p.MemoryKiB > 1<<20:
		return fmt.Errorf("argon2id with %d KiB of memory is outside 8 KiB per thread to 1 GiB", p.MemoryKiB)
	}
	return nil
}

// file is the seal file. It has one spelling: what [encode] writes. A file that does not print back to the same
// bytes is damaged; so are unknown, repeated or missing members without a check of their own.
type file struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Kind    string `json:"kind"`
	ID      string `json:"id"` // of the root key; hex

	RootKey []byte `json:"root_key,omitempty"` // kind file: the root key itself

	Argon2id *Params `json:"argon2id,omitempty"`    // kind passphrase
	Salt     []byte  `json:"salt,omitempty"`        // 32 random bytes
	Wrapped  []byte  `json:"wrapped_key,omitempty"` // the root key, as a sealed record

	// Checksum is the SHA-256 of the file with this member empty. It tells a damaged file from a wrong
	// passphrase; it protects against nobody.
	Checksum string `json:"checksum"`
}

func (f file) encode() ([]byte, error) {
	f.Checksum = ""
	plain, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(plain)
	clear(plain)
	f.Checksum = hex.EncodeToString(sum[:])
	out, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}

// wipe clears what is secret in f.
func (f *file) wipe() { clear(f.RootKey) }

// parse reads a seal file. Its errors never hold bytes of the file, except for a short unknown version or kind.
func parse(data []byte) (*file, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrMalformed, maxFile)
	}
	var f file
	if json.Unmarshal(data, &f) != nil || f.Format != fileFormat {
		return nil, fmt.Errorf("%w: it is no seal file", ErrMalformed)
	}
	if f.Version != fileVersion {
		return nil, fmt.Errorf("%w: it has version %d and this program reads version %d; use the version of Strongroom that wrote it", ErrMalformed, f.Version, fileVersion)
	}
	again, err := f.encode()
	if err != nil {
		return nil, fmt.Errorf("%w: it cannot be read back", ErrMalformed)
	}
	same := bytes.Equal(again, data)
	clear(again)
	if !same {
		return nil, fmt.Errorf("%w: its checksum does not hold, or it was edited", ErrMalformed)
	}
	if id, err := hex.DecodeString(f.ID); err != nil || len(id) != idSize {
		return nil, fmt.Errorf("%w: its ID is not %d hex digits", ErrMalformed, 2*idSize)
	}
	switch f.Kind {
	case KindFile:
		if len(f.RootKey) != rootSize || f.Argon2id != nil || f.Salt != nil || f.Wrapped != nil {
			return nil, fmt.Errorf("%w: a seal of kind %q holds a root key of %d bytes and nothing else", ErrMalformed, KindFile, rootSize)
		}
	case KindPassphrase:
		if f.RootKey != nil || f.Argon2id == nil || len(f.Salt) != saltSize || len(f.Wrapped) != recordMin+rootSize {
			return nil, fmt.Errorf("%w: a seal of kind %q holds argon2id, salt and wrapped_key and nothing else", ErrMalformed, KindPassphrase)
		}
		if err := f.Argon2id.check(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	default:
		return nil, fmt.Errorf("%w: its kind is %.20q, and this program knows %q and %q", ErrMalformed, f.Kind, KindFile, KindPassphrase)
	}
	return &f, nil
}

// read reads and parses the file at path, and refuses one that others may read.
func read(path string) (*file, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w (%s); put back a copy of the file: without it the HSMs of this server need their security domains again", err, path)
	}
	return f, nil
}

func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s; put the file back, or name the right one: without it the HSMs of this server need their security domains again", ErrMissing, path)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: open the seal file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("seal: open the seal file: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a file", ErrMalformed, path)
	case info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows":
		return nil, fmt.Errorf("%w: %s has mode %#o; type: chmod 600 %s", ErrExposed, path, info.Mode().Perm(), path)
	}
	data := make([]byte, maxFile+1) // one buffer that can be wiped
	n, err := io.ReadFull(f, data)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		clear(data)
		return nil, fmt.Errorf("seal: read the seal file: %w", err)
	}
	return data[:n], nil
}

func write(path string, f file) error {
	data, err := f.encode()
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	defer clear(data)
	err = durable.WriteFile(path, data, 0o600, false)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("seal: %s exists and is never replaced, since it may be the only way to a server's keys; open it, or choose another place: %w", path, err)
	}
	if err != nil {
		return fmt.Errorf("seal: write the seal file: %w", err)
	}
	return nil
}

// CreateFile makes a new root key from rand, keeps it in a file of mode 0600 at path, and returns its seal. The
// file is on disk when it returns; an existing file is an error ([fs.ErrExist]) and left alone.
func CreateFile(path string, rand io.Reader) (Seal, error) {
	root, err := secret.Random(rand, rootSize)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	defer root.Wipe()
	s, err := newRootSeal(root, KindFile)
	if err != nil {
		return nil, err
	}
	if err := write(path, file{Format: fileFormat, Version: fileVersion, Kind: KindFile, ID: s.id, RootKey: root.Reveal()}); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// OpenFile opens the seal that CreateFile wrote. Errors: [ErrMissing], [ErrExposed], [ErrMalformed].
func OpenFile(path string) (Seal, error) {
	f, err := read(path)
	if err != nil {
		return nil, err
	}
	defer f.wipe()
	if f.Kind != KindFile {
		return nil, fmt.Errorf("%w: %s is protected by a passphrase; start the server with the file that holds it (--seal-passphrase-file)", ErrPassphrase, path)
	}
	return openRoot(secret.New(f.RootKey), f, path)
}

// CreatePassphrase is [CreateFile] with the root key encrypted under a passphrase of 1 to 4096 bytes. The zero
// Params are [DefaultParams]. It uses that much memory and time, as does opening.
func CreatePassphrase(path string, passphrase secret.Bytes, rand io.Reader, params Params) (Seal, error) {
	if params == (Params{}) {
		params = DefaultParams()
	}
	if err := params.check(); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if passphrase.IsZero() || passphrase.Len() > maxPassphrase {
		return nil, fmt.Errorf("seal: a passphrase has 1 to %d bytes, this one has %d", maxPassphrase, passphrase.Len())
	}
	root, err := secret.Random(rand, rootSize)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	defer root.Wipe()
	s, err := newRootSeal(root, KindPassphrase)
	if err != nil {
		return nil, err
	}
	f := file{Format: fileFormat, Version: fileVersion, Kind: KindPassphrase, ID: s.id, Argon2id: &params, Salt: make([]byte, saltSize)}
	if _, err := io.ReadFull(rand, f.Salt); err != nil {
		s.Close()
		return nil, fmt.Errorf("seal: read a random salt: %w", err)
	}
	key := f.key(passphrase)
	defer key.Wipe()
	if f.Wrapped, err = sealBytes(key, root, f.aad()); err == nil {
		err = write(path, f)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// OpenPassphrase opens the seal that CreatePassphrase wrote. Errors: [ErrPassphrase], and those of [OpenFile].
func OpenPassphrase(path string, passphrase secret.Bytes) (Seal, error) {
	f, err := read(path)
	if err != nil {
		return nil, err
	}
	defer f.wipe()
	if f.Kind != KindPassphrase {
		return nil, fmt.Errorf("%w: %s has none; start the server without one", ErrPassphrase, path)
	}
	if passphrase.IsZero() || passphrase.Len() > maxPassphrase {
		return nil, fmt.Errorf("%w: a passphrase has 1 to %d bytes, this one has %d", ErrPassphrase, maxPassphrase, passphrase.Len())
	}
	key := f.key(passphrase)
	defer key.Wipe()
	root, err := openBytes(key, f.Wrapped, f.aad())
	if err != nil {
		return nil, fmt.Errorf("%w: it does not open %s (seal %s); the file itself is whole, so try another passphrase", ErrPassphrase, path, f.ID)
	}
	return openRoot(root, f, path)
}

// openRoot makes the seal of a root key and checks that it is the one that the file names. It wipes root.
func openRoot(root secret.Bytes, f *file, path string) (Seal, error) {
	defer root.Wipe()
	s, err := newRootSeal(root, f.Kind)
	if err != nil {
		return nil, err
	}
	if s.id != f.ID {
		s.Close()
		return nil, fmt.Errorf("%w: %s names seal %s and holds another; put back a copy of the file", ErrMalformed, path, f.ID)
	}
	return s, nil
}

// key derives the key that wraps the root key.
func (f *file) key(passphrase secret.Bytes) secret.Bytes {
	p := f.Argon2id
	return secret.Take(argon2.IDKey(passphrase.Reveal(), f.Salt, p.Time, p.MemoryKiB, p.Threads, 32))
}

// aad binds the wrapped root key to the members around it.
func (f *file) aad() []byte {
	b := []byte(labelRoot + "\x00" + f.ID + "\x00")
	b = binary.BigEndian.AppendUint32(b, f.Argon2id.Time)
	b = binary.BigEndian.AppendUint32(b, f.Argon2id.MemoryKiB)
	b = append(b, f.Argon2id.Threads)
	return append(b, f.Salt...)
}

// Info is what a seal file says of itself. Nothing in it is secret.
type Info struct {
	Kind string // KindFile or KindPassphrase
	ID   string
	// Params of a passphrase seal, else zero.
	Params Params
}

// Describe reads the seal file at path without opening the seal. Errors: [ErrMissing], [ErrExposed],
// [ErrMalformed].
func Describe(path string) (Info, error) {
	f, err := read(path)
	if err != nil {
		return Info{}, err
	}
	defer f.wipe()
	info := Info{Kind: f.Kind, ID: f.ID}
	if f.Argon2id != nil {
		info.Params = *f.Argon2id
	}
	return info, nil
}
