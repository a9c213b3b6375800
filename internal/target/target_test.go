package target_test

import (
	"slices"
	"testing"

	"github.com/minio/minio-go/v7"

	"strongroom/internal/target"
	"strongroom/internal/target/targettest"
)

func TestFolder(t *testing.T) {
	targettest.Run(t, func(t *testing.T) target.Target {
		dir := t.TempDir()
		return openURI(t, places(t, target.Config{Folders: []string{dir}}), "file://"+dir+"/below/it")
	})
}

// Against Azurite, the storage emulator that Microsoft maintains.
func TestBlob(t *testing.T) {
	targettest.Run(t, func(t *testing.T) target.Target {
		uri, token := newContainer(t, full)
		return openBlob(t, uri, token)
	})
}

// Against a real S3-compatible server.
func TestS3(t *testing.T) {
	t.Run("sweeping uploads", testSweepUploads)
	targettest.Run(t, func(t *testing.T) target.Target {
		bucket := newBucket(t, false)
		endpoint, err := s3Server()
		if err != nil {
			t.Fatal(err)
		}
		return openS3(t, endpoint, bucket, "/hsm/prod")
	})
}

// Uploads whose writer died are given up, and those of other folders go on.
func testSweepUploads(t *testing.T) {
	bucket := newBucket(t, false)
	endpoint, err := s3Server()
	if err != nil {
		t.Fatal(err)
	}
	place := openS3(t, endpoint, bucket, "/hsm/prod")
	core := minio.Core{Client: s3Admin(t)}
	waiting := func() (keys []string) {
		found, err := core.ListMultipartUploads(t.Context(), bucket, "", "", "", "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range found.Uploads {
			keys = append(keys, u.Key)
		}
		slices.Sort(keys)
		return keys
	}
	for _, name := range []string{"f/a", "f/b", "ff/a", "g/a"} {
		o, err := place.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Write(make([]byte, target.PartSize+1)); err != nil { // dies here
			t.Fatal(err)
		}
	}
	if got := waiting(); len(got) != 4 {
		t.Fatalf("%q wait", got)
	}
	if err := place.Sweep(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	if got, want := waiting(), []string{"hsm/prod/ff/a", "hsm/prod/g/a"}; !slices.Equal(got, want) {
		t.Errorf("%q wait, want %q", got, want)
	}
}
