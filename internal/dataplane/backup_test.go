package dataplane

import (
	"testing"

	"strongroom/internal/api"
)

// A client takes the URL of a backup apart after the first part of its path. Whatever the place, it is put together again.
func TestSourceOfARestore(t *testing.T) {
	for name, c := range map[string]struct{ uri, folder, wantURI, wantFolder string }{
		"a container":                      {"https://a.blob.example/c", "mhsm-a-1", "https://a.blob.example/c", "mhsm-a-1"},
		"an account in the path":           {"http://127.0.0.1:10000/account", "c/mhsm-a-1", "http://127.0.0.1:10000/account/c", "mhsm-a-1"},
		"a folder":                         {"file:///srv", "backups/hsm/mhsm-a-1", "file:///srv/backups/hsm", "mhsm-a-1"},
		"a bucket with a prefix":           {"s3://bucket/a", "b/mhsm-a-1", "s3://bucket/a/b", "mhsm-a-1"},
		"with / at the end of the place":   {"file:///srv/", "backups/mhsm-a-1", "file:///srv/backups", "mhsm-a-1"},
		"no folder, which the job refuses": {"file:///srv", "", "file:///srv", ""},
	} {
		to, folder, err := source(&api.SASTokenParameter{StorageResourceURI: c.uri}, c.folder)
		if err != nil || to.URI != c.wantURI || folder != c.wantFolder {
			t.Errorf("%s: got %s and %s, %v; want %s and %s", name, to.URI, folder, err, c.wantURI, c.wantFolder)
		}
	}
	if _, _, err := source(nil, "mhsm-a-1"); err == nil {
		t.Error("no place at all was taken")
	}
}
