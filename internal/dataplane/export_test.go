package dataplane

import (
	"strings"

	"strongroom/internal/access"
)

// Routes lists method and pattern of every route, so that a test can go through all of them.
func Routes() (list [][2]string) {
	for _, r := range routes {
		list = append(list, [2]string{r.method, "/" + r.pattern})
	}
	return list
}

// Operation is what a test sees of a route.
type Operation struct {
	Method, Pattern, Name string
	Changes               bool
}

// Operations lists every route with its operation.
func Operations() (list []Operation) {
	for _, r := range routes {
		list = append(list, Operation{r.method, r.pattern, r.op.name, r.op.changes})
	}
	return list
}

// Actions is the table of data actions, by method and pattern: "GET /keys".
func Actions() map[string]access.Action {
	list := map[string]access.Action{}
	for route, action := range actions {
		method, pattern, _ := strings.Cut(route, " ")
		list[method+" /"+pattern] = action
	}
	return list
}

// BodyLimits has the bound of each route that takes a body, by method and pattern.
func BodyLimits() map[[2]string]int64 {
	limits := map[[2]string]int64{}
	for _, r := range routes {
		if r.op.maxBody > 0 {
			limits[[2]string{r.method, "/" + r.pattern}] = r.op.maxBody
		}
	}
	return limits
}

// AssignmentFilter reads the filter of a list of assignments.
var AssignmentFilter = assignmentFilter
