package strictjson

import (
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// Few names are compared with strings.EqualFold and many by their folded form: both are one rule.
func TestFoldingIsOneRule(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			if a, b := string(r), string(next); foldCase(a) != foldCase(b) || !strings.EqualFold(a, b) {
				t.Fatalf("%U and %U differ in case alone, and one of the rules does not know it", r, next)
			}
		}
		if a, b := string(r), foldCase(string(r)); !strings.EqualFold(a, b) {
			t.Fatalf("%U folds to %q, which differs in more than case", r, b)
		}
	}
	for _, first := range []string{"name", "\u212aelvin", "k"} { // the Kelvin sign is a k
		for _, others := range []int{0, manyNames - 2, manyNames - 1, 2 * manyNames} {
			set := names{fold: true}
			set.add(first)
			for i := range others {
				set.add(strconv.Itoa(i))
			}
			for _, second := range []string{strings.ToUpper(first), strings.ToLower(first), first} {
				if set.add(second) {
					t.Errorf("%q was new beside %q and %d others", second, first, others)
				}
			}
		}
	}
}
