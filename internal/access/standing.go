package access

import (
	"context"
	"encoding/json"
	"time"
)

// Standing is what an issuer that can call tokens back is asked about those that are out. Safe for concurrent use.
type Standing interface {
	// Generation moves whenever Check may answer otherwise than before. It is asked for at every use of a token, so
	// it reads a number in memory and no more.
	Generation() uint64
	// Check returns nil while the token counts, and failure.Unauthorized when it was called back. What it finds after
	// a Generation is at least as new as that. It is asked once for a new token, and for one seen before when the
	// generation has moved or standingAge has passed.
	Check(ctx context.Context, t Issued) error
}

// Issued is what a token says about its making: to which application, or to which user, and in which series of their
// tokens. An issuer that calls somebody's tokens back begins a new series. It is a count and no time, because clocks of
// two servers differ, and a second is long.
type Issued struct {
	AppID  string // claim appid or azp
	Series uint64 // claim series; 0 if there is none
	// User and ObjectID are the claims upn and oid where the claim idtyp is "user", and empty otherwise.
	User, ObjectID string
}

// issued reads what the claims say.
func issued(claims map[string]json.RawMessage, appID string) (t Issued, err error) {
	t.AppID = appID
	if t.Series, err = series(claims); err != nil {
		return Issued{}, err
	}
	if _, present := claims["idtyp"]; !present {
		return t, nil
	}
	kind, err := text(claims, "idtyp")
	if err != nil || kind != "user" {
		return t, err
	}
	if t.User, err = text(claims, "upn"); err != nil {
		return Issued{}, err
	}
	t.ObjectID, err = text(claims, "oid")
	return t, err
}

// standingAge is how long an answer of [Standing] is believed at most without asking again: should the news of a change
// not come through, because it was made on another server, a token that was called back still stops within a minute.
const standingAge = 30 * time.Second

// stood says when a token last counted, and in which generation.
type stood struct {
	generation uint64
	at         time.Time
}

// holds reports whether nobody has to be asked again. A clock that was set back makes it ask.
func (s stood) holds(generation uint64, now time.Time) bool {
	age := now.Sub(s.at)
	return s.generation == generation && age >= 0 && age < standingAge
}

// maxSeries is the largest number that every reader of JSON takes for what it is.
const maxSeries = 1 << 53

func series(claims map[string]json.RawMessage) (n uint64, err error) {
	raw, present := claims["series"]
	if !present {
		return 0, nil
	}
	var number *uint64
	if json.Unmarshal(raw, &number) != nil || number == nil || *number > maxSeries {
		return 0, refuse("the token's claim series is not a number")
	}
	return *number, nil
}
