package keys

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"strongroom/internal/access"
	"strongroom/internal/failure"
	"strongroom/internal/store"
)

// Get returns a version of a key; version "" is the latest.
func (k *Keys) Get(ctx context.Context, caller access.Caller, name, version string) (Key, error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyRead, name)
	if err != nil {
		return Key{}, err
	}
	if version, err = normalVersion(version); err != nil {
		return Key{}, err
	}
	name, v, err := k.find(ctx, eng, lower, version)
	if err != nil {
		return Key{}, err
	}
	return k.key(name, v), nil
}

// List returns up to max keys (1 to MaxPage; 0 means MaxPage) by name, from the start or from where a page with
// that token ended. Keys that come and go between two pages neither repeat others nor hide them.
func (k *Keys) List(ctx context.Context, caller access.Caller, token string, max int) (Page, error) {
	return k.list(ctx, caller, access.KeyRead, false, token, max)
}

// list is List for the keys in use or for the deleted ones.
func (k *Keys) list(ctx context.Context, caller access.Caller, action access.Action, deleted bool, token string, max int) (page Page, err error) {
	eng, err := k.enter(ctx, caller, action, access.ScopeKeys)
	if err != nil {
		return Page{}, err
	}
	if max, err = pageSize(max); err != nil {
		return Page{}, err
	}
	prefix := k.keyPrefix()
	if deleted {
		prefix = k.deletedPrefix()
	}
	after := ""
	if token != "" {
		last, err := base64.RawURLEncoding.Strict().DecodeString(token)
		if err != nil || !validName.Match(last) {
			return Page{}, badToken()
		}
		after = prefix + strings.ToLower(string(last))
	}
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		last := ""
		for path, raw := range r.Scan(prefix, after) {
			if len(page.Items) == max {
				page.Next = base64.RawURLEncoding.EncodeToString([]byte(last))
				return nil
			}
			lower := strings.TrimPrefix(path, prefix)
			rec, err := k.openKey(ctx, eng, r, lower, deleted, raw)
			if err != nil {
				return err
			}
			v, err := k.loadVersion(ctx, eng, r, lower, rec, len(rec.Versions)-1)
			if err != nil {
				return err
			}
			item := Item{Name: rec.Name, Attributes: k.attributes(v), Tags: cloneTags(v.Tags)}
			if deleted {
				item.DeletedAt, item.PurgeAt = moment(&rec.Deleted.At), moment(&rec.Deleted.Purge)
			}
			page.Items = append(page.Items, item)
			last = lower
		}
		return nil
	})
	if err != nil {
		return Page{}, store.Failure(err)
	}
	return page, nil
}

// ListVersions returns up to max versions of a key (1 to MaxPage; 0 means MaxPage) in order of making, from the
// start or from where a page with that token ended. Versions that are made between two pages come at the end.
func (k *Keys) ListVersions(ctx context.Context, caller access.Caller, name, token string, max int) (page Page, err error) {
	eng, lower, err := k.enterKey(ctx, caller, access.KeyRead, name)
	if err != nil {
		return Page{}, err
	}
	if max, err = pageSize(max); err != nil {
		return Page{}, err
	}
	if token != "" && !validVersion.MatchString(token) {
		return Page{}, badToken()
	}
	err = k.cfg.Store.View(ctx, func(r store.Reader) error {
		rec, err := k.loadKey(ctx, eng, r, lower)
		if err != nil {
			return err
		}
		if rec == nil {
			return notFound(lower)
		}
		// The token is the last version of the page before. Versions only ever come at the end, and all go at once
		// with their key: a version that is not there was one of another key of this name.
		start := 0
		if token != "" {
			start = 1 + slices.IndexFunc(rec.Versions, func(ref versionRef) bool { return ref.ID == token })
			if start == 0 {
				return badToken()
			}
		}
		end := min(start+max, len(rec.Versions))
		for i := start; i < end; i++ {
			v, err := k.loadVersion(ctx, eng, r, lower, rec, i)
			if err != nil {
				return err
			}
			page.Items = append(page.Items, Item{Name: rec.Name, Version: v.ID, Attributes: k.attributes(v), Tags: cloneTags(v.Tags)})
		}
		if end < len(rec.Versions) {
			page.Next = rec.Versions[end-1].ID
		}
		return nil
	})
	if err != nil {
		return Page{}, store.Failure(err)
	}
	return page, nil
}

func pageSize(max int) (int, error) {
	if max == 0 {
		return MaxPage, nil
	}
	if max < 1 || max > MaxPage {
		return 0, failure.New(failure.BadParameter, "maxresults is %d; it must be 1 to %d", max, MaxPage)
	}
	return max, nil
}

func badToken() error {
	return failure.New(failure.BadParameter, "$skiptoken is not one that this HSM gave out; start the list again without it")
}
