package dataplane

// Routes lists method and pattern of every route, so that a test can go through all of them.
func Routes() (list [][2]string) {
	for _, r := range routes {
		list = append(list, [2]string{r.method, "/" + r.pattern})
	}
	return list
}
