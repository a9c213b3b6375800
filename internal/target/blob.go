package target

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azlog "github.com/Azure/azure-sdk-for-go/sdk/azcore/log"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// blobTarget is a container of Azure Blob Storage. Objects are block blobs: blocks are staged, and the list of them,
// committed on the condition that no blob has the name, makes the object.
type blobTarget struct {
	container *container.Client
	where     string
	tries     int // of a download
}

// The library's own log writes what a store answers, and an environment variable turns it on: here it stays off.
func init() { azlog.SetListener(nil) }

func (p *Places) openBlob(l Location) (Target, error) {
	t := p.newTransport(func(o origin) bool { return o == l.origin })
	// The library gets the URL without the token, so that no error of its own can hold it.
	t.sign = func(r *http.Request) {
		token := string(l.token.Reveal())
		if r.URL.RawQuery != "" {
			token = r.URL.RawQuery + "&" + token
		}
		r.URL.RawQuery = token // the request is a clone, its URL too
	}
	t.bulk = func(r *http.Request) bool { return r.Method == http.MethodGet && !r.URL.Query().Has("comp") }
	client, err := container.NewClientWithNoCredential(l.URI(), &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: t.client(),
		Telemetry: policy.TelemetryOptions{ApplicationID: "strongroom"},
		Retry:     policy.RetryOptions{MaxRetries: int32(p.knobs.tries - 1), RetryDelay: p.knobs.retryDelay, MaxRetryDelay: 20 * time.Second},
	}})
	if err != nil {
		return nil, &Error{Op: "open", Where: l.String(), Why: "the client library does not take the URL"}
	}
	return &blobTarget{container: client, where: l.String(), tries: p.knobs.tries}, nil
}

func (t *blobTarget) String() string { return t.where }

// Format prints where it is, for every verb.
func (t *blobTarget) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.where) }

func (t *blobTarget) Create(ctx context.Context, name string) (Object, error) {
	if _, _, err := splitName(name); err != nil {
		return nil, err
	}
	op, to := "create "+name, &blobParts{client: t.container.NewBlockBlobClient(name), write: writeID()}
	if err := early(ctx, t.where, op, to); err != nil {
		return nil, err
	}
	return &upload{ctx: ctx, where: t.where, op: op, to: to}, nil
}

// early refuses an object that exists before anything is sent. The commit is what decides: where reading is not allowed,
// it is left to that.
func early(ctx context.Context, where, op string, to parts) error {
	_, err := to.owner(ctx)
	if err == nil {
		return &Error{Op: op, Where: where, Why: "it exists already, and nothing is overwritten", Kind: fs.ErrExist}
	}
	shown := explain(ctx, where, op, err)
	if errors.Is(shown, errNoContainer) || errors.Is(shown, errCredentials) || !errors.Is(shown, fs.ErrNotExist) && !errors.Is(shown, fs.ErrPermission) {
		return shown
	}
	return nil
}

// blobParts are the blocks of one blob. A small one has a block too: a PUT in one request is refused where a killed
// writer left blocks of that name.
type blobParts struct {
	client *blockblob.Client
	write  string
}

func (b *blobParts) id() string { return b.write }

// block names a block. Blocks of two writers of one blob lie together until one commits, so the names have the writing in them.
func (b *blobParts) block(number int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s%08d", b.write, number))
}

func (b *blobParts) part(ctx context.Context, number int, data []byte) error {
	_, err := b.client.StageBlock(ctx, b.block(number), streaming.NopCloser(bytes.NewReader(data)), nil)
	return err
}

func (b *blobParts) finish(ctx context.Context, sent int, rest []byte) error {
	any, write := azcore.ETagAny, b.write
	metadata := map[string]*string{metadataKey: &write}
	conditions := &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &any}}
	if len(rest) > 0 {
		if err := b.part(ctx, sent+1, rest); err != nil {
			return err
		}
		sent++
	}
	blocks := make([]string, sent)
	for i := range blocks {
		blocks[i] = b.block(i + 1)
	}
	_, err := b.client.CommitBlockList(ctx, blocks, &blockblob.CommitBlockListOptions{Metadata: metadata, AccessConditions: conditions})
	return err
}

func (b *blobParts) owner(ctx context.Context) (string, error) {
	properties, err := b.client.GetProperties(ctx, nil)
	if err != nil {
		return "", err
	}
	for name, value := range properties.Metadata {
		if strings.EqualFold(name, metadataKey) && value != nil {
			return *value, nil
		}
	}
	return "", nil
}

// abort leaves the blocks to the service, which drops what was not committed within a week; there is no call for it.
func (b *blobParts) abort(context.Context) {}

func (t *blobTarget) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if _, _, err := splitName(name); err != nil {
		return nil, err
	}
	client := t.container.NewBlobClient(name)
	d := &download{ctx: ctx, where: t.where, op: "open " + name, tries: t.tries}
	d.from = func(ctx context.Context, offset int64, etag string) (piece, error) {
		options := &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: offset}}
		if etag != "" {
			same := azcore.ETag(etag)
			options.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &same}}
		}
		answer, err := client.DownloadStream(ctx, options)
		if err != nil {
			return piece{}, err
		}
		got := piece{body: answer.Body, length: -1}
		if answer.ContentLength != nil && answer.ETag != nil {
			got.length, got.etag = *answer.ContentLength, string(*answer.ETag)
		}
		return got, nil
	}
	return opened(d)
}

func (t *blobTarget) List(ctx context.Context, folder string) ([]Info, error) {
	if err := checkFolder(folder); err != nil {
		return nil, err
	}
	op, prefix := "list "+folder, folder+"/"
	var list []Info
	seen := 0
	for pager := t.container.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, explain(ctx, t.where, op, err)
		}
		if page.Segment == nil {
			break
		}
		if seen += len(page.Segment.BlobItems); seen > maxListed {
			return nil, tooMany(t.where, op)
		}
		for _, item := range page.Segment.BlobItems {
			if item == nil || item.Name == nil || item.Properties == nil || item.Properties.ContentLength == nil || item.Properties.LastModified == nil {
				continue
			}
			list = appendInfo(list, prefix, *item.Name, *item.Properties.ContentLength, *item.Properties.LastModified)
		}
	}
	return sorted(list), nil
}

// appendInfo adds what a store listed, if it is an object of this folder.
func appendInfo(list []Info, prefix, name string, size int64, modified time.Time) []Info {
	object, is := strings.CutPrefix(name, prefix)
	if !is || !validName(object) || size < 0 {
		return list
	}
	return append(list, Info{Name: object, Size: size, Modified: modified.UTC().Truncate(time.Second)})
}

func sorted(list []Info) []Info {
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (t *blobTarget) Folders(ctx context.Context, prefix string) ([]string, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	op := "list " + prefix + "*"
	var list []string
	seen := 0
	for pager := t.container.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: &prefix}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, explain(ctx, t.where, op, err)
		}
		if page.Segment == nil {
			break
		}
		if seen += len(page.Segment.BlobItems) + len(page.Segment.BlobPrefixes); seen > maxListed {
			return nil, tooMany(t.where, op)
		}
		for _, item := range page.Segment.BlobPrefixes {
			if item != nil && item.Name != nil {
				list = appendFolder(list, *item.Name, prefix)
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

// appendFolder adds a folder as a store lists it, with "/" at its end.
func appendFolder(list []string, listed, prefix string) []string {
	name, is := strings.CutSuffix(listed, "/")
	if !is || !validName(name) || !strings.HasPrefix(name, prefix) {
		return list
	}
	return append(list, name)
}

func (t *blobTarget) Delete(ctx context.Context, name string) error {
	if _, _, err := splitName(name); err != nil {
		return err
	}
	_, err := t.container.NewBlobClient(name).Delete(ctx, nil)
	shown := explain(ctx, t.where, "delete "+name, err)
	if errors.Is(shown, fs.ErrNotExist) && !errors.Is(shown, errNoContainer) {
		return nil
	}
	return shown
}

// Sweep has nothing to do: the service drops blocks that were put and not listed after a week.
func (t *blobTarget) Sweep(ctx context.Context, folder string) error {
	if err := checkFolder(folder); err != nil {
		return err
	}
	return explain(ctx, t.where, "sweep "+folder, ctx.Err())
}
