package target

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"strongroom/secret"
)

// s3Target is a bucket of an S3-compatible service. A small object is one PUT, a large one a multipart upload; either is
// completed on the condition that no object has the name.
//
// The client holds the credentials as plain strings, so it sits behind a function, where no printing of a target finds it.
type s3Target struct {
	client func() *minio.Core
	where  string
	bucket string
	prefix string // "" or with "/" at its end
	tries  int    // of a download
}

func (p *Places) newS3(l Location, b bucket, accessKey, secretKey secret.Bytes) (Target, error) {
	t := p.newTransport(func(o origin) bool { return o == b.origin || isAWS(b.origin) && isAWS(o) })
	t.bulk = func(r *http.Request) bool { return r.Method == http.MethodGet && !r.URL.Query().Has("list-type") }
	client, err := minio.NewCore(b.origin.endpoint(), &minio.Options{
		Creds:      credentials.NewStaticV4(string(accessKey.Reveal()), string(secretKey.Reveal()), ""),
		Secure:     b.origin.scheme == "https",
		Transport:  t,
		Region:     b.region,
		MaxRetries: p.knobs.tries,
	})
	if err != nil {
		return nil, &Error{Op: "open", Where: l.String(), Why: "the client library does not take the endpoint"}
	}
	client.SetAppInfo("strongroom", "1")
	target := &s3Target{client: func() *minio.Core { return client }, where: l.String(), bucket: l.bucket, tries: p.knobs.tries}
	if len(l.segs) > 0 {
		target.prefix = strings.Join(l.segs, "/") + "/"
	}
	return target, nil
}

// endpoint is HOST[:PORT].
func (o origin) endpoint() string {
	_, endpoint, _ := strings.Cut(o.String(), "://")
	return endpoint
}

// isAWS says whether an origin is Amazon's, where a bucket and a region have hosts of their own.
func isAWS(o origin) bool {
	return o.scheme == "https" && o.port == "443" && (strings.HasSuffix(o.host, ".amazonaws.com") || strings.HasSuffix(o.host, ".amazonaws.com.cn"))
}

func (t *s3Target) String() string { return t.where }

// Format prints where it is, for every verb.
func (t *s3Target) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.where) }

func (t *s3Target) Create(ctx context.Context, name string) (Object, error) {
	if _, _, err := splitName(name); err != nil {
		return nil, err
	}
	op, to := "create "+name, &s3Parts{target: t, key: t.prefix + name, write: writeID()}
	if err := early(ctx, t.where, op, to); err != nil {
		return nil, err
	}
	return &upload{ctx: ctx, where: t.where, op: op, to: to}, nil
}

// s3Parts are those of one object.
type s3Parts struct {
	target *s3Target
	key    string
	write  string
	upload string // the multipart upload's id, once there is one
	done   []minio.CompletePart
}

func (s *s3Parts) id() string { return s.write }

func (s *s3Parts) metadata() map[string]string { return map[string]string{metadataKey: s.write} }

// sums are what a request carries of its body: SHA-256 is signed, and a bucket with object lock demands the MD5.
func sums(data []byte) (md5Base64, sha256Hex string) {
	m, s := md5.Sum(data), sha256.Sum256(data)
	return base64.StdEncoding.EncodeToString(m[:]), hex.EncodeToString(s[:])
}

func (s *s3Parts) part(ctx context.Context, number int, data []byte) error {
	client, bucket := s.target.client(), s.target.bucket
	if s.upload == "" {
		id, err := client.NewMultipartUpload(ctx, bucket, s.key, minio.PutObjectOptions{UserMetadata: s.metadata()})
		if err != nil {
			return err
		}
		s.upload = id
	}
	sum, signed := sums(data)
	part, err := client.PutObjectPart(ctx, bucket, s.key, s.upload, number, bytes.NewReader(data), int64(len(data)),
		minio.PutObjectPartOptions{Md5Base64: sum, Sha256Hex: signed, DisableContentSha256: true})
	if err != nil {
		return err
	}
	s.done = append(s.done, minio.CompletePart{PartNumber: number, ETag: part.ETag})
	return nil
}

func (s *s3Parts) finish(ctx context.Context, sent int, rest []byte) error {
	client, bucket := s.target.client(), s.target.bucket
	if sent == 0 {
		sum, signed := sums(rest)
		options := minio.PutObjectOptions{UserMetadata: s.metadata(), DisableContentSha256: true}
		options.SetMatchETagExcept("*")
		_, err := client.PutObject(ctx, bucket, s.key, bytes.NewReader(rest), int64(len(rest)), sum, signed, options)
		return err
	}
	if len(rest) > 0 {
		if err := s.part(ctx, sent+1, rest); err != nil {
			return err
		}
	}
	var options minio.PutObjectOptions
	options.SetMatchETagExcept("*")
	_, err := client.CompleteMultipartUpload(ctx, bucket, s.key, s.upload, s.done, options)
	return err
}

func (s *s3Parts) owner(ctx context.Context) (string, error) {
	info, err := s.target.client().StatObject(ctx, s.target.bucket, s.key, minio.StatObjectOptions{})
	if err != nil {
		return "", err
	}
	for name, value := range info.UserMetadata {
		if strings.EqualFold(name, metadataKey) {
			return value, nil
		}
	}
	return "", nil
}

// abort frees the parts. A store that refuses keeps them until its own rule for unfinished uploads.
func (s *s3Parts) abort(ctx context.Context) {
	if s.upload == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_ = s.target.client().AbortMultipartUpload(ctx, s.target.bucket, s.key, s.upload)
}

func (t *s3Target) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if _, _, err := splitName(name); err != nil {
		return nil, err
	}
	d := &download{ctx: ctx, where: t.where, op: "open " + name, tries: t.tries}
	d.from = func(ctx context.Context, offset int64, etag string) (piece, error) {
		var options minio.GetObjectOptions
		if offset > 0 {
			if err := errors.Join(options.SetRange(offset, 0), options.SetMatchETag(etag)); err != nil {
				return piece{}, err
			}
		}
		body, info, header, err := t.client().GetObject(ctx, t.bucket, t.prefix+name, options)
		if err != nil {
			return piece{}, err
		}
		length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
		if err != nil {
			length = -1
		}
		return piece{body: body, length: length, etag: info.ETag}, nil
	}
	return opened(d)
}

func (t *s3Target) List(ctx context.Context, folder string) ([]Info, error) {
	if err := checkFolder(folder); err != nil {
		return nil, err
	}
	prefix := t.prefix + folder + "/"
	var list []Info
	err := t.list(ctx, "list "+folder, prefix, func(o minio.ObjectInfo) {
		list = appendInfo(list, prefix, o.Key, o.Size, o.LastModified)
	})
	if err != nil {
		return nil, err
	}
	return sorted(list), nil
}

// list calls visit for each object and each folder below prefix.
func (t *s3Target) list(ctx context.Context, op, prefix string, visit func(minio.ObjectInfo)) error {
	seen := 0
	for o := range t.client().ListObjectsIter(ctx, t.bucket, minio.ListObjectsOptions{Prefix: prefix}) {
		if o.Err != nil {
			return explain(ctx, t.where, op, o.Err)
		}
		if seen++; seen > maxListed {
			return tooMany(t.where, op)
		}
		visit(o)
	}
	return explain(ctx, t.where, op, ctx.Err())
}

func (t *s3Target) Folders(ctx context.Context, prefix string) ([]string, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	var list []string
	err := t.list(ctx, "list "+prefix+"*", t.prefix+prefix, func(o minio.ObjectInfo) {
		if name, is := strings.CutPrefix(o.Key, t.prefix); is {
			list = appendFolder(list, name, prefix)
		}
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(list)
	return list, nil
}

func (t *s3Target) Delete(ctx context.Context, name string) error {
	if _, _, err := splitName(name); err != nil {
		return err
	}
	err := t.client().RemoveObject(ctx, t.bucket, t.prefix+name, minio.RemoveObjectOptions{})
	shown := explain(ctx, t.where, "delete "+name, err)
	if errors.Is(shown, fs.ErrNotExist) && !errors.Is(shown, errNoContainer) {
		return nil
	}
	return shown
}

// Sweep gives up the uploads below a folder that were begun and not completed: a store keeps their parts, and charges for them.
func (t *s3Target) Sweep(ctx context.Context, folder string) error {
	if err := checkFolder(folder); err != nil {
		return err
	}
	op, prefix, key, upload := "sweep "+folder, t.prefix+folder+"/", "", ""
	for seen := 0; ; {
		found, err := t.client().ListMultipartUploads(ctx, t.bucket, prefix, key, upload, "", 1000)
		if err != nil {
			return explain(ctx, t.where, op, err)
		}
		for _, u := range found.Uploads {
			if seen++; seen > maxListed {
				return tooMany(t.where, op)
			}
			if !strings.HasPrefix(u.Key, prefix) {
				continue // a store that looks at no prefix
			}
			if err := t.client().AbortMultipartUpload(ctx, t.bucket, u.Key, u.UploadID); err != nil {
				return explain(ctx, t.where, op, err)
			}
		}
		if !found.IsTruncated || found.NextKeyMarker == key && found.NextUploadIDMarker == upload {
			return nil
		}
		key, upload = found.NextKeyMarker, found.NextUploadIDMarker
	}
}
