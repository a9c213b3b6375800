package e2e_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"strongroom/test/exchange"
	"strongroom/test/harness"
)

// What start does at the end of every test here would notice: real answers, each with one thing changed in it, are
// all refused, and the fault names the place. Unchanged they pass.
func TestAChangedAnswerIsNoticed(t *testing.T) {
	s, file := startRecorded(t, t.TempDir(), harness.Options{})
	activate(t, s, "alpha")
	client := azureClient(t, s, s.URL(t, "alpha"))
	if _, err := client.CreateKey(t.Context(), "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeySize: to.Ptr[int32](2048), Tags: map[string]*string{"a": to.Ptr("b")}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Sign(t.Context(), "k", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmPS256), Value: make([]byte, 32)}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.GetKey(t.Context(), "none", "", nil); err == nil {
		t.Fatal("a key that is not there was got")
	}
	if _, err := client.NewListKeyPropertiesPager(nil).NextPage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	list, err := exchange.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	statuses := map[int]int{}
	changes := 0
	for _, e := range list {
		statuses[e.Status]++
		if faults := documents.Check(e); len(faults) > 0 {
			t.Errorf("an answer of the server: %v", faults)
		}
		var body any
		if err := json.Unmarshal(e.Response, &body); err != nil {
			t.Fatalf("%s %s: %v", e.Method, e.URI, err)
		}
		noticed := func(what, member string) {
			t.Helper()
			changes++
			changed := e
			changed.Response, _ = json.Marshal(body)
			for _, f := range documents.Check(changed) {
				if strings.HasPrefix(f.Member, member) {
					return
				}
			}
			t.Errorf("%s %s, answered %d, %s at %q: not noticed", e.Method, e.URI, e.Status, what, member)
		}
		walk(body, "", func(object map[string]any, name, path string) {
			// Texts become numbers, and everything else becomes a text.
			old := object[name]
			object[name] = "text"
			if _, isText := old.(string); isText {
				object[name] = 17
			}
			noticed("another type", path)
			object[name] = old
			object[name+"2"] = old
			if !strings.Contains(path, "/tags/") { // tags have the names that users give them
				noticed("an unknown member", path+"2")
			}
			delete(object, name+"2")
		})
		for _, status := range []int{201, 203, 302} {
			changed := e
			changed.Status = status
			if len(documents.Check(changed)) == 0 {
				t.Errorf("%s %s: status %d instead of %d is not noticed", e.Method, e.URI, status, e.Status)
			}
		}
	}
	for _, status := range []int{200, 202, 401, 404} {
		if statuses[status] == 0 {
			t.Errorf("no answer %d was recorded: %v", status, statuses)
		}
	}
	if changes < 80 {
		t.Errorf("only %d changes were tried", changes)
	}
	t.Logf("%d answers, %d changes of their bodies", len(list), changes)
}

// walk visits every member of every object in a JSON value.
func walk(value any, path string, visit func(object map[string]any, name, path string)) {
	switch value := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) { // visit changes the object
			walk(value[name], path+"/"+name, visit)
			visit(value, name, path+"/"+name)
		}
	case []any:
		for i, item := range value {
			walk(item, path+"/"+strconv.Itoa(i), visit)
		}
	}
}
