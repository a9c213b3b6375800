package server

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// names are the settings of a struct, as the configuration reference writes them.
func names(t reflect.Type, prefix string) (list []string) {
	for f := range t.Fields() {
		if f.Anonymous {
			list = append(list, names(f.Type, prefix)...)
			continue
		}
		name := prefix + f.Tag.Get("toml")
		inner := f.Type
		if inner.Kind() == reflect.Map {
			name, inner = name+".NAME", inner.Elem()
		}
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			list = append(list, names(inner, name+".")...)
			continue
		}
		list = append(list, name)
	}
	return list
}

// The configuration reference has every setting, and none that there is not.
func TestConfigurationReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	must(t, err)
	var documented []string
	for line := range strings.Lines(string(page)) {
		if first, _, is := strings.Cut(strings.TrimPrefix(line, "| "), " |"); is && strings.HasPrefix(first, "`") {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(first, -1) {
				documented = append(documented, m[1])
			}
		}
	}
	want := names(reflect.TypeFor[Config](), "")
	slices.Sort(documented)
	slices.Sort(want)
	if !slices.Equal(documented, want) {
		t.Errorf("documented: %q\nthere are:  %q", documented, want)
	}
}

// The example of the operator's guide is a configuration that a server takes.
func TestExampleConfiguration(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	must(t, err)
	_, rest, there := strings.Cut(string(page), "```toml\n")
	example, _, closed := strings.Cut(rest, "```")
	if !there || !closed {
		t.Fatal("there is no example in docs/operations.md")
	}
	path := filepath.Join(t.TempDir(), "strongroom.toml")
	must(t, os.WriteFile(path, []byte(example), 0o600))
	c, err := loadConfig(Options{ConfigFile: path})
	if err != nil {
		t.Fatal(err)
	}
	if c.HSMDomain != "hsm.example.org" || len(c.Issuers) != 1 || len(c.AttestationAuthorities) != 1 {
		t.Errorf("read as %+v", c)
	}
	must(t, os.WriteFile(path, []byte(example+"\ncolour = \"red\"\n"), 0o600))
	if _, err := loadConfig(Options{ConfigFile: path}); err == nil {
		t.Error("a setting that does not exist is taken")
	}
}
