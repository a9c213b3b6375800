package keys

import (
	"regexp"
	"strconv"

	"strongroom/internal/failure"
)

// Lengths of time in seconds. A duration counts a year as 365 days and a month as 30, as Azure's own libraries do,
// so that it has one length whenever it begins.
const (
	minute  = 60
	hour    = 60 * minute
	oneDay  = 24 * hour
	month   = 30 * oneDay
	year    = 365 * oneDay
	longest = 100 * year
)

// isoDuration is the part of ISO 8601 (section 5.5.2.2) that XML Schema has, without fractions and signs. Every part
// may be missing, so that P and PT match too.
var isoDuration = regexp.MustCompile(`^P(?:([0-9]{1,5})Y)?(?:([0-9]{1,5})M)?(?:([0-9]{1,5})D)?(T(?:([0-9]{1,5})H)?(?:([0-9]{1,5})M)?(?:([0-9]{1,10})S)?)?$`)

// parseDuration returns the length in seconds, at most 100 years, of what the member name holds. The text is not
// repeated in the error.
func parseDuration(name, text string) (int64, error) {
	malformed := failure.New(failure.BadParameter, "%s is not a duration of at most 100 years in ISO 8601's form, such as P90D, P3M or P1Y10D, without weeks and fractions", name)
	if len(text) > 64 {
		return 0, malformed
	}
	parts := isoDuration.FindStringSubmatch(text)
	if parts == nil || parts[4] == "T" {
		return 0, malformed
	}
	var seconds int64
	given := false
	for i, unit := range []int64{0, year, month, oneDay, 0, hour, minute, 1} {
		if unit == 0 || parts[i] == "" {
			continue
		}
		n, err := strconv.ParseInt(parts[i], 10, 64)
		if err != nil {
			return 0, malformed
		}
		given = true
		seconds += n * unit // at most seven numbers of these sizes: far below 2⁶³
	}
	if !given || seconds > longest {
		return 0, malformed
	}
	return seconds, nil
}
