package target_test

import (
	"testing"

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
	targettest.Run(t, func(t *testing.T) target.Target {
		bucket := newBucket(t, false)
		endpoint, err := s3Server()
		if err != nil {
			t.Fatal(err)
		}
		return openS3(t, endpoint, bucket, "/hsm/prod")
	})
}
