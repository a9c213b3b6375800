package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"strongroom/internal/engine"
)

// A decoder that is used again decides as a new one does, whatever it read before.
func TestStrictDecodeAgain(t *testing.T) {
	long := strings.Repeat("a", 3000)
	inputs := []string{
		`{"name":"one","versions":[{"id":"1","mac":"AAAA"}]}`, `{"name":"` + long + `","versions":[]}`, ` {"name":"two"} ` + "\n", `{"name":"three"}` + strings.Repeat(" ", 5000),
		`{"name":"x"}{"name":"y"}`, `{"name":"x"}x`, `{"name":"x"}` + strings.Repeat(" ", 5000) + `x`, `{"name":"x"`, `{"name":"x","other":1}`, `{"name":1}`, `[]`, ``, ` `, `null`, `1`, `"x"`, `{"name":"x"}]`, `{"name":"x"},`, "{\"name\":\"x\"}\x00",
	}
	fresh := func(data []byte, into any) bool {
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			return false
		}
		_, err := d.Token()
		return errors.Is(err, io.EOF)
	}
	for range 5000 {
		text := []byte(inputs[rand.IntN(len(inputs))])
		var got, want keyRecord
		accepted := strictDecode(text, &got) == nil
		if fine := fresh(text, &want); accepted != fine || fine && !reflect.DeepEqual(got, want) {
			t.Fatalf("%.60q: accepted %v as %.80v; want %v and %.80v", text, accepted, got, fine, want)
		}
	}
}

// The code of a record is over the fields of its label, place and body, each behind its length.
func TestMacIsOfFields(t *testing.T) {
	var heard []byte
	eng := hearing{heard: &heard}
	for _, body := range []string{"", "{}", strings.Repeat("x", 2000), "y"} {
		if _, err := mac(t.Context(), eng, 12, "hsm/1/key/a", []byte(body)); err != nil {
			t.Fatal(err)
		}
		if want := fields("strongroom/keys/record/v12", "hsm/1/key/a", body); !bytes.Equal(heard, want) {
			t.Errorf("the code of %.10q is over %.100q, want %.100q", body, heard, want)
		}
	}
}

// hearing is an engine that only makes codes, and keeps what they are of.
type hearing struct {
	engine.Engine
	heard *[]byte
}

func (h hearing) MAC(_ context.Context, message []byte) ([]byte, error) {
	*h.heard = bytes.Clone(message)
	return nil, nil
}
