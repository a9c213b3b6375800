package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"strongroom/internal/access"
	"strongroom/internal/audit"
	"strongroom/internal/failure"
	"strongroom/internal/hsm"
	"strongroom/internal/seal"
	"strongroom/internal/store"
	"strongroom/internal/store/bolt"
)

// Recovery says whom to make administrator of which HSM, and where the server's files are.
type Recovery struct {
	DataDir            string // folder of the database and, unless the configuration says otherwise, the seal
	ConfigFile         string // the server's; "" means DataDir alone
	HSM                string // name
	Principal          string // object ID
	SealPassphraseFile string
	Log                io.Writer // the warning goes there
	// Prompt asks a person at a terminal for a passphrase; nil where there is no terminal.
	Prompt func(question string) ([]byte, error)
}

// Recovered is what was done.
type Recovered struct {
	HSM, ID, Principal string
	Already            bool // the principal was an administrator before; nothing was written
}

// RecoverAccess makes a principal Managed HSM Administrator at "/" of an HSM, for an operator who holds the data folder
// and its seal, which is as much as the server has. The server must be stopped: the lock of the database proves it. There
// is no way to this over the network.
//
// It makes nothing: a missing database or seal is an error. On an error nothing was changed.
func RecoverAccess(ctx context.Context, r Recovery) (Recovered, error) {
	principal, err := access.ParseObjectID(r.Principal)
	if err != nil {
		return Recovered{}, &UsageError{err}
	}
	options := Options{ConfigFile: r.ConfigFile, DataDir: r.DataDir, SealPassphraseFile: r.SealPassphraseFile, Prompt: r.Prompt}
	cfg := Config{Data: r.DataDir}
	cfg.Seal.File, cfg.Seal.PassphraseFile = filepath.Join(r.DataDir, "seal.json"), r.SealPassphraseFile
	if r.ConfigFile != "" {
		if cfg, err = loadConfig(options); err != nil {
			return Recovered{}, &UsageError{err}
		}
	}
	log := slog.New(slog.NewTextHandler(r.Log, nil))
	if err := harden(); err != nil { // as when the server starts: told, and no reason to lock an operator out
		log.WarnContext(ctx, "core dumps could not be switched off", "error", err)
	}
	// openState makes what is not there, as the first start of a server should. Here it would be a mistake.
	for _, file := range []struct{ path, what string }{
		{filepath.Join(cfg.Data, bolt.FileName), "no database of a server"}, {cfg.Seal.File, "no seal of a server"},
	} {
		if _, err := os.Stat(file.path); errors.Is(err, fs.ErrNotExist) {
			return Recovered{}, fmt.Errorf("there is %s at %s, and without it nothing can be recovered. Name the server's own data folder, or its configuration", file.what, file.path)
		} else if err != nil {
			return Recovered{}, err
		}
	}
	db, sl, err := openState(cfg, options)
	if errors.Is(err, ErrRunning) {
		return Recovered{}, fmt.Errorf("%w %s; stop it first, and start it again afterwards. Nothing was changed", ErrRunning, cfg.Data)
	}
	if err != nil {
		return Recovered{}, err
	}
	defer db.Close()
	defer sl.Close()
	return recoverAccess(ctx, cfg, db, sl, log, r, principal)
}

func recoverAccess(ctx context.Context, cfg Config, db store.Store, sl seal.Seal, log *slog.Logger, r Recovery, principal string) (_ Recovered, err error) {
	// The seal fits the database only if that says so; a database that says nothing has seen no start of a server.
	err = db.View(ctx, func(rd store.Reader) error {
		if _, owned := rd.Get(keySeal); !owned {
			return fmt.Errorf("the database in %s is not that of a server that was started; nothing was changed", r.DataDir)
		}
		return nil
	})
	if err != nil {
		return Recovered{}, err
	}
	hsms := hsm.New(hsm.Config{Store: db, Seal: sl, Now: time.Now, Rand: rand.Reader, Log: log})
	defer hsms.Close()
	info, err := hsms.Get(ctx, r.HSM)
	if errors.Is(err, failure.NotFound) {
		return Recovered{}, noSuchHSM(ctx, hsms, r.HSM)
	}
	if err != nil {
		return Recovered{}, err
	}
	done := Recovered{HSM: info.Name, ID: info.ID, Principal: principal}
	records, err := cfg.openAudit(ctx, db, sl, hsms, log, false)
	if err != nil {
		return Recovered{}, fmt.Errorf("nothing was changed: %w", err)
	}
	defer func() {
		if closeErr := records.close(); err == nil {
			err = closeErr
		}
	}()
	// The record says who is made an administrator; who does it is the operator, of whom there is a user ID.
	entry := audit.Record{Principal: principal, HSM: info.ID, HSMName: info.Name, Operation: "RecoverAccess", Action: string(access.AssignmentsWrite)}
	err = records.do(ctx, entry, func() error {
		return db.Update(ctx, func(w store.Writer) (err error) {
			if done.Already, err = access.RecoverAdministrator(w, sl, info.Place, principal, rand.Reader); err != nil || done.Already {
				return err
			}
			return recordRecovery(ctx, log, done)
		})
	})
	switch {
	case errors.Is(err, errUnrecorded):
		return done, err
	case err != nil:
		return Recovered{}, fmt.Errorf("nothing was changed: %w", store.Failure(err))
	}
	return done, nil
}

// recordRecovery tells that an operator made an administrator. It runs inside the transaction that does it, just before
// that becomes durable: a recovery that cannot be told is not done.
func recordRecovery(ctx context.Context, log *slog.Logger, r Recovered) error {
	record := slog.NewRecord(time.Now(), slog.LevelWarn, "access recovered: an operator made an administrator on the server's files, past the HSM's roles", 0)
	record.Add("hsm", r.HSM, "id", r.ID, "principal", r.Principal, "role", "Managed HSM Administrator", "scope", access.ScopeRoot, "uid", os.Getuid())
	return log.Handler().Handle(ctx, record)
}

// noSuchHSM says which HSMs there are: the server, which could be asked, is stopped.
func noSuchHSM(ctx context.Context, hsms *hsm.Service, name string) error {
	living, deleted, err := hsms.ListAll(ctx)
	if err != nil {
		return err
	}
	for _, i := range deleted {
		if strings.EqualFold(i.Name, name) {
			return fmt.Errorf("the HSM %s was deleted; start the server and bring it back first, with: strongroom hsm recover %s. Nothing was changed", i.Name, i.Name)
		}
	}
	var names []string
	for _, i := range living {
		names = append(names, i.Name)
	}
	there := "it has none"
	if len(names) > 0 {
		there = "it has " + strings.Join(names, ", ")
	}
	return fmt.Errorf("this server has no HSM %s; %s. Nothing was changed", name, there)
}
