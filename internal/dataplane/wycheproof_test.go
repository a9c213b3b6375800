package dataplane_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"strongroom/internal/engine/enginetest"
	"strongroom/internal/engine/software"
)

// Wycheproof over HTTP: the keys of the vectors come in as JWK, and every sample is called as a client does. What is
// valid answers what was published, and what is not is refused. Covers K6, K7, K8.
func TestWycheproofOnTheWire(t *testing.T) {
	samples, skipped := enginetest.Samples(t)
	for name, row := range map[string]struct {
		options []software.Option
		rsa15   bool
	}{"RSA1_5 off": {nil, false}, "RSA1_5 allowed": {[]software.Option{software.AllowRSA15()}, true}} {
		t.Run(name, func(t *testing.T) {
			f := newFixtureWith(t, row.options, "alpha")
			f.activate("alpha")
			imported, refusedKeys := map[string]bool{}, map[string]bool{}
			type count struct{ right, refused, noKey int }
			counts := map[string]*count{}
			for _, s := range samples {
				if row.rsa15 != s.RSA15 && (row.rsa15 || counts[s.File] != nil) {
					continue // the setting changes nothing about the others; and where it is off, one refusal of a file is as good as all
				}
				what := fmt.Sprintf("%s, tcId %d (%s), %s with %s", s.File, s.TcID, s.Comment, s.Operation, s.Alg)
				if counts[s.File] == nil {
					counts[s.File] = &count{}
				}
				c, id := counts[s.File], "k-"+s.ID()
				if !imported[id] && !refusedKeys[id] {
					w := f.do(request{method: "PUT", path: "/keys/" + id, token: f.bearer(), body: jsonOf(map[string]any{"key": s.JWK})})
					switch {
					case s.NoKey:
						refusal(t, what, w, 400)
						refusedKeys[id] = true
					case w.Code != 200:
						t.Fatalf("%s: the key is not imported: %d %s", what, w.Code, w.Body)
					default:
						imported[id] = true
					}
				}
				if s.NoKey {
					c.noKey++
					continue
				}
				members := map[string]any{"alg": s.Alg}
				for member, value := range s.Request {
					members[member] = b64(value)
				}
				w := f.do(request{method: "POST", path: "/keys/" + id + "/" + s.Operation, token: f.bearer(), body: jsonOf(members)})
				var answer struct{ Value json.RawMessage }
				_ = json.Unmarshal(w.Body.Bytes(), &answer)
				switch {
				case s.RSA15 && !row.rsa15:
					if code, _ := refusal(t, what, w, 400); code != "NotSupported" {
						t.Errorf("%s: code %s", what, code)
					}
					c.refused++
				case s.Operation == "verify":
					if w.Code != 200 || string(answer.Value) != fmt.Sprint(s.Holds) {
						t.Errorf("%s: %d %s, want %t", what, w.Code, w.Body, s.Holds)
					}
					c.right++
				case s.Want != nil:
					if w.Code != 200 || string(answer.Value) != `"`+b64(s.Want)+`"` {
						t.Errorf("%s: %d %s, want the published value", what, w.Code, w.Body)
					}
					c.right++
				default:
					if code, _ := refusal(t, what, w, 400); code != "BadParameter" || answer.Value != nil {
						t.Errorf("%s: %s", what, w.Body)
					}
					c.refused++
				}
			}
			var files []string
			for file := range counts {
				files = append(files, file)
			}
			slices.Sort(files)
			ran := count{}
			for _, file := range files {
				c := counts[file]
				t.Logf("%s: %d as published, %d refused, %d with a key that is not taken", file, c.right, c.refused, c.noKey)
				ran.right, ran.refused, ran.noKey = ran.right+c.right, ran.refused+c.refused, ran.noKey+c.noKey
			}
			t.Logf("in all %d as published, %d refused, %d with a key that is not taken, of %d keys", ran.right, ran.refused, ran.noKey, len(imported)+len(refusedKeys))
			if ran.right == 0 || ran.refused == 0 || !row.rsa15 && ran.noKey == 0 {
				t.Error("the vectors are not what they should be")
			}
		})
	}
	for _, s := range skipped {
		t.Logf("%s has no samples: %s", s.File, s.Reason)
	}
}
