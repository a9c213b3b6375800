package server

import (
	"context"
	"fmt"
	"runtime"
	"strconv"

	"github.com/google/uuid"

	"strongroom/internal/store"
)

// What a server remembers of itself, each one record. None of it is secret.
const (
	keySeal         = "server/seal"         // ID of the seal that the database belongs to
	keyMode         = "server/mode"         // "dev" or "production"
	keyTenant       = "server/tenant"       // GUID
	keySubscription = "server/subscription" // GUID
	keyPort         = "server/port"         // main port that was picked for --listen :0
	keyPopulated    = "server/populated"    // the HSMs of the first start were made
)

// settings are those records, read at start.
type settings struct {
	tenant, subscription string
	port                 int
	populated            bool
}

// loadSettings reads the records, makes those that are missing, and refuses to serve a development database for
// real or the other way round.
func loadSettings(ctx context.Context, st store.Store, cfg Config, dev bool, sealID string) (s settings, err error) {
	mode := "production"
	if dev {
		mode = "dev"
	}
	err = st.Update(ctx, func(w store.Writer) error {
		if was, ok := w.Get(keyMode); ok && string(was) != mode {
			if dev {
				return fmt.Errorf("the data folder belongs to a production server and is not served with --dev; name another folder")
			}
			return fmt.Errorf("the data folder belongs to a development server (--dev): its credentials lie in dev.env, so it is not served without --dev; name another folder")
		}
		put := func(key, value string) { // what is there already is left alone: a refused start changes nothing
			if old, ok := w.Get(key); !ok || string(old) != value {
				w.Put(key, []byte(value))
			}
		}
		put(keyMode, mode)
		put(keySeal, sealID)
		for key, value := range map[string]struct {
			configured string
			target     *string
		}{keyTenant: {cfg.Tenant, &s.tenant}, keySubscription: {cfg.Subscription, &s.subscription}} {
			stored, ok := w.Get(key)
			switch {
			case value.configured != "":
				*value.target = value.configured
			case ok:
				*value.target = string(stored)
				continue
			default:
				*value.target = uuid.NewString()
			}
			put(key, *value.target)
		}
		if raw, ok := w.Get(keyPort); ok {
			s.port, _ = strconv.Atoi(string(raw))
		}
		_, s.populated = w.Get(keyPopulated)
		return nil
	})
	return s, err
}

func (s *settings) rememberPort(ctx context.Context, st store.Store, port int) error {
	if s.port == port {
		return nil
	}
	s.port = port
	return st.Update(ctx, func(w store.Writer) error {
		w.Put(keyPort, []byte(strconv.Itoa(port)))
		return nil
	})
}

func (s *settings) rememberPopulated(ctx context.Context, st store.Store) error {
	if s.populated {
		return nil
	}
	s.populated = true
	return st.Update(ctx, func(w store.Writer) error {
		w.Put(keyPopulated, []byte("1"))
		return nil
	})
}

// stack is the call stack of the panicking goroutine: function names and lines, no arguments' contents.
func stack() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs[:])])
	text := ""
	for {
		f, more := frames.Next()
		text += fmt.Sprintf("%s:%d ", f.Function, f.Line)
		if !more {
			return text
		}
	}
}
