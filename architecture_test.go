// Package strongroom_test holds the rules of the house that a compiler does not know.
package strongroom_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// level orders the packages: an import goes to a lower level, or to the same one where sameLevel says why.
// A package that is not here fails the test: put it where it belongs.
var level = map[string]int{
	"cmd/strongroom":           100,
	"internal/cli":             90,
	"internal/server":          80,
	"internal/client":          80, // the CLI's HTTP client: knows wire types, not the server
	"internal/dataplane":       70,
	"internal/controlplane":    70,
	"internal/identity":        70,
	"internal/drill":           68,
	"internal/backup":          65,
	"internal/hsm":             60,
	"internal/record":          46,
	"internal/keys":            50,
	"internal/access":          45,
	"internal/engine/software": 41,
	"internal/engine":          40,
	"internal/limit":           40,
	"internal/metrics":         40,
	"internal/store/bolt":      42,
	"internal/store/memory":    42,
	"internal/store/overlay":   41, // one transaction's writes, shared by the stores
	"internal/store/feed":      41, // the change feed, shared by the stores
	"internal/store":           40,
	"internal/backupset":       41, // the form of a full backup: asks an engine to seal, and knows nothing of what it holds
	"internal/seal":            40,
	"internal/audit":           40, // beside the store: knows nothing of who calls
	"internal/pki":             40,
	"internal/target":          40, // where backups lie: knows nothing of what is in them
	"internal/api":             40,
	"internal/custodian":       30,
	"internal/durable":         30,
	"internal/slab":            30,
	"internal/failure":         30,
	"securitydomain":           20,
	"internal/release":         20,
	"internal/statement":       20,
	"shamir":                   10,
	"internal/strictjson":      10,
	"secret":                   0,
}

// testOnly are packages that only tests import; they may import anything but cmd.
var testOnly = map[string]bool{
	"internal/store/storetest": true, "internal/engine/enginetest": true, "test/crash/victim": true, "test/bench/floor": true, "test/harness": true,
	"internal/target/targettest": true, "test/azurite": true, "test/contract": true, "test/exchange": true, "test/recorder": true, "test/powercut": true,
}

// pure packages can be audited alone and used on a machine without a network: no files, network, clock or log.
// The list is what they may import besides the standard library's harmless part.
var pure = map[string][]string{
	"secret":              {},
	"shamir":              {"strongroom/secret"},
	"internal/strictjson": {},
	"internal/release":    {"strongroom/internal/strictjson"},
	"internal/statement":  {"strongroom/internal/strictjson", "github.com/go-jose/go-jose/v4"},
	"securitydomain":      {"strongroom/secret", "strongroom/shamir", "strongroom/internal/strictjson", "github.com/go-jose/go-jose/v4"},
}

// ioPackages are the standard library's doors to the outside. Each has its reason for being shut to the pure
// packages.
var ioPackages = map[string]string{
	"os":            "files and environment",
	"net":           "the offline tool runs on a machine without a network",
	"net/http":      "the offline tool runs on a machine without a network",
	"os/exec":       "no other programs",
	"syscall":       "no system calls of its own",
	"log":           "a library does not log",
	"path/filepath": "files",
	"io/ioutil":     "files",
	"crypto/rand":   "randomness is passed in",
	"math/rand":     "randomness is passed in",
	"math/rand/v2":  "randomness is passed in",
	"unsafe":        "no tricks",
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 10 {
		t.Fatalf("go list found %d packages: the test would check nothing", len(list))
	}
	return list
}

func TestImportsRunDownwards(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, "strongroom/")
		if name == "strongroom" || testOnly[name] || len(p.Imports) == 0 {
			continue
		}
		mine, known := level[name]
		if !known {
			t.Errorf("package %s has no level: add it to the map in architecture_test.go, where it belongs", name)
			continue
		}
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, "strongroom/")
			if !ours {
				continue
			}
			if testOnly[other] {
				t.Errorf("%s imports %s, which is for tests only", name, other)
			} else if theirs, known := level[other]; known && theirs >= mine {
				t.Errorf("%s (level %d) imports %s (level %d): imports run downwards only", name, mine, other, theirs)
			}
		}
	}
}

func TestPurePackagesStayPure(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		allowed, isPure := pure[strings.TrimPrefix(p.ImportPath, "strongroom/")]
		if !isPure {
			continue
		}
		seen++
		for _, imported := range p.Imports {
			if why, shut := ioPackages[imported]; shut {
				t.Errorf("%s imports %s: forbidden (%s)", p.ImportPath, imported, why)
			}
			// A dot in the first element means a module outside the standard library.
			first, _, _ := strings.Cut(imported, "/")
			if (strings.Contains(first, ".") || first == "strongroom") && !contains(allowed, imported) {
				t.Errorf("%s imports %s: a pure package may import only %v beside the standard library", p.ImportPath, imported, allowed)
			}
		}
	}
	if seen != len(pure) {
		t.Errorf("checked %d pure packages of %d: one was moved or renamed", seen, len(pure))
	}
}

// testModules are modules that only tests use, as docs/dependencies.md says. A test helper that the program came to
// import would bring them into it unseen.
var testModules = []string{
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity", "github.com/Azure/azure-sdk-for-go/sdk/security", "github.com/AzureAD", "github.com/rogpeppe/go-internal", "pgregory.net/rapid",
	"github.com/google/go-cmp", "github.com/tink-crypto", "github.com/getkin/kin-openapi", "github.com/anishathalye/porcupine",
	"github.com/zitadel",
}

func TestTestOnlyModulesAreNotLinked(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/strongroom").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	linked := strings.Fields(string(out))
	if !contains(linked, "go.etcd.io/bbolt") {
		t.Fatalf("go list names no module that is surely linked: the test would check nothing")
	}
	for _, module := range linked {
		for _, forbidden := range testModules {
			if strings.HasPrefix(module, forbidden) {
				t.Errorf("%s is linked into the program, and is meant for tests only", module)
			}
		}
	}
}

// alone are heavy modules that one package keeps to itself, so that what they bring is looked for in one place.
var alone = map[string]string{
	"github.com/Azure/azure-sdk-for-go": "internal/target",
	"github.com/minio/minio-go":         "internal/target",
}

func TestHeavyModulesStayBehindOnePackage(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, "strongroom/")
		for _, imported := range p.Imports {
			for module, home := range alone {
				if !strings.HasPrefix(imported, module) {
					continue
				}
				if seen[module] = true; name != home && !testOnly[name] {
					t.Errorf("%s imports %s, which is for %s alone", name, imported, home)
				}
			}
		}
	}
	if len(seen) != len(alone) {
		t.Errorf("only %d of %d modules were seen in imports: the test would check nothing", len(seen), len(alone))
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
