package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/backupset"
	"strongroom/internal/client"
	"strongroom/internal/failure"
	"strongroom/internal/server"
	places "strongroom/internal/target"
	"strongroom/secret"
)

// maxTokenFile is in bytes. A SAS token has some 200.
const maxTokenFile = 16 << 10

// sasVariable holds the SAS token itself, where a file cannot be had.
const sasVariable = "STRONGROOM_SAS_TOKEN"

func placeFlags(cmd *cobra.Command, flag, what string, text, tokenFile *string) {
	cmd.Flags().StringVar(text, flag, "", what)
	sasFlag(cmd, tokenFile)
}

func sasFlag(cmd *cobra.Command, tokenFile *string) {
	cmd.Flags().StringVar(tokenFile, "sas-file", "", "file with the SAS token of the address ["+sasVariable+" has the token itself]")
}

// located reads where somebody says that backups lie. A token in the address is refused, whatever would be done with it:
// other users of the machine see command lines, and shells keep them.
func located(text string) (places.Location, error) {
	if strings.Contains(text, "://") && strings.Contains(text, "?") {
		return places.Location{}, problemf("bad-place", "put what follows the ? into a file, and name it with --sas-file; if it is a token that was used so, make a new one", "the address has a token in it, which others on this machine can see")
	}
	l, err := places.Parse(text)
	if err != nil {
		return places.Location{}, placeProblem(err)
	}
	return l, nil
}

// splitBackup takes the place of a backup apart: where it lies, and the name of its folder.
func splitBackup(text string) (place, folder string, err error) {
	if strings.Contains(text, "://") && strings.Contains(text, "?") {
		_, err := located(text)
		return "", "", err
	}
	if place, folder, err = places.SplitFolder(text); err != nil {
		return "", "", &problem{code: "bad-place", message: fmt.Sprintf("%q names no backup", text), next: "give the folder of a backup, PLACE/mhsm-NAME-DIGITS; see which there are with: strongroom backup list --in PLACE", cause: err}
	}
	if info, err := os.Stat(text); err == nil && !info.IsDir() && !strings.Contains(text, "://") {
		return "", "", problemf("bad-place", "give the folder of a backup, PLACE/mhsm-NAME-DIGITS", "%s is a file, and a backup is a folder", text)
	}
	// A place in the stead of a backup in it is the usual slip. A backup whose folder somebody renamed is looked at: it is told so then.
	if _, _, is := backupset.ParseFolder(folder); !is {
		if _, err := os.Stat(filepath.Join(text, backupset.ManifestName)); err != nil || strings.Contains(text, "://") {
			return "", "", problemf("bad-place", "give the folder of a backup, PLACE/mhsm-NAME-DIGITS; see which there are with: strongroom backup list --in "+text, "%q names no backup", text)
		}
	}
	return place, folder, nil
}

// placeProblem is a place that is none, in the words of a person and not of the API.
func placeProblem(err error) error {
	message := err.Error()
	if f, ok := errors.AsType[*failure.Error](err); ok {
		message = f.Message
	}
	return &problem{code: "bad-place", message: strings.ReplaceAll(message, "the storage resource URI", "the address"), cause: err,
		next: "a place is a folder, https://ACCOUNT.blob.core.windows.net/CONTAINER, or s3://BUCKET/PREFIX"}
}

// sas reads the SAS token for a place: from the file that was named, else from the variable, else there is none.
func (a *app) sas(ctx context.Context, l places.Location, tokenFile string) (secret.Bytes, error) {
	switch value := a.getenv(sasVariable); {
	case tokenFile != "" && !l.NeedsToken():
		return secret.Bytes{}, problemf("bad-place", "leave out --sas-file, or give the address of the container: https://ACCOUNT.blob.core.windows.net/CONTAINER", "a SAS token opens a container of blobs; this place is none")
	case tokenFile != "":
		data, err := readFile(ctx, tokenFile, maxTokenFile)
		if err != nil {
			return secret.Bytes{}, err
		}
		defer clear(data)
		a.warnIfReadable(tokenFile)
		token := secret.New(bytes.TrimSpace(data))
		if token.IsZero() {
			return secret.Bytes{}, problemf("no-token", "write the SAS token into the file, and nothing else", "the file %s is empty", tokenFile)
		}
		return token, nil
	case value != "" && l.NeedsToken():
		return secret.New([]byte(value)), nil
	case l.NeedsToken():
		return secret.Bytes{}, problemf("no-token", "name a file with the container's SAS token: --sas-file FILE", "%s opens with a SAS token only, and none is given", l)
	}
	return secret.Bytes{}, nil
}

// place reads where the HSM is to look for a backup, or to put one. A path means a folder of the server's machine.
func (a *app) place(cmd *cobra.Command, text, tokenFile string) (client.Place, error) {
	l, err := located(text)
	if err != nil {
		return client.Place{}, err
	}
	token, err := a.sas(cmd.Context(), l, tokenFile)
	if err != nil {
		return client.Place{}, err
	}
	if _, err := places.ParseStorage(l.URI(), token); err != nil { // told here: the server would not know which file is meant
		return client.Place{}, placeProblem(err)
	}
	return client.Place{URI: l.URI(), Token: token}, nil
}

// shownPlace is a place as --from takes it: a folder as its path.
func shownPlace(uri string) string {
	if u, err := url.Parse(uri); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return uri
}

// shelf is a place that this program opens itself.
type shelf struct {
	places.Target
	at string // for people, without the token
}

func (s shelf) Create(ctx context.Context, name string) (backupset.Object, error) {
	return s.Target.Create(ctx, name)
}

func (s shelf) List(ctx context.Context, folder string) ([]backupset.Info, error) {
	found, err := s.Target.List(ctx, folder)
	list := make([]backupset.Info, len(found))
	for i, f := range found {
		list[i] = backupset.Info{Name: f.Name, Size: f.Size}
	}
	return list, err
}

// openShelf opens a place for the person who runs the command. config names a server's configuration, whose buckets of S3 are
// used then; it may be empty.
func (a *app) openShelf(ctx context.Context, text, tokenFile, config string) (shelf, error) {
	l, err := located(text)
	if err != nil {
		return shelf{}, err
	}
	token, err := a.sas(ctx, l, tokenFile)
	if err != nil {
		return shelf{}, err
	}
	if l, err = places.ParseStorage(l.URI(), token); err != nil {
		return shelf{}, placeProblem(err)
	}
	var allowed places.Config
	if config != "" {
		if allowed, err = server.BackupPlaces(config); err != nil {
			return shelf{}, &problem{code: "bad-config", message: err.Error(), next: "give the configuration of a server, which says where its buckets are: [backup.s3.NAME]", cause: err}
		}
	}
	own, err := places.Own(allowed)
	if err != nil {
		return shelf{}, &problem{code: "bad-config", message: fmt.Sprintf("%s: %v", config, err), cause: err}
	}
	opened, err := own.Open(l)
	if _, ok := errors.AsType[*places.Error](err); ok {
		return shelf{}, shelfProblem(err)
	}
	if err != nil {
		p := explain(placeProblem(err))
		if strings.HasPrefix(l.URI(), "s3://") && config == "" {
			p.message, p.next = "it is not known where "+l.URI()+" is, and which credentials open it", "name the configuration of a server that has [backup.s3.NAME] for it: --config FILE"
		}
		return shelf{}, p
	}
	return shelf{opened, shownPlace(l.URI())}, nil
}

// configFlag names a server's configuration, for what is in S3.
func configFlag(cmd *cobra.Command, config *string) {
	cmd.Flags().StringVar(config, "config", "", "configuration of a server, for its buckets of S3")
}

// onlyRead is a command that only reads, given up: whoever pressed ctrl-C wants to know what is left of it.
func onlyRead(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return &problem{code: "interrupted", message: "interrupted; nothing was changed", cause: err}
	}
	return err
}

// unbegun explains why a backup or a restore did not begin, above all what a server says of a place. what is backup or restore.
func unbegun(ctx context.Context, err error, what string) error {
	if ctx.Err() != nil {
		return &problem{code: "interrupted", message: "interrupted before the HSM had answered: the " + what + " may have begun, and goes on then", next: "see whether it did: strongroom backup list", cause: err}
	}
	refused, ok := errors.AsType[*client.Error](err)
	if !ok || refused.Status != http.StatusBadRequest {
		return err
	}
	p := explain(err)
	p.next = "nothing was done; a server uses only the places that its configuration allows ([backup]), a development server DATA/backups; a folder is one of its machine"
	return p
}

// notThere is a backup that is not where it was said to be.
func notThere(err error, s shelf) error {
	p := explain(backupProblem(err))
	if backupset.CodeOf(err) == backupset.NotThere {
		p.next += "; see which there are with: strongroom backup list --in " + s.at
	}
	return p
}

// backupProblem explains what packages backupset, backup, target and drill say of a backup: they say what to do as well, behind
// a semicolon.
func backupProblem(err error) error {
	f, ok := errors.AsType[*failure.Error](err)
	if !ok {
		return err
	}
	p := &problem{code: f.Code, message: f.Message, cause: err}
	if p.code == "" {
		_, body := api.FromFailure(f, "")
		p.code = body.Error.Code
	}
	if what, next, found := strings.Cut(f.Message, "; "); found {
		p.message, p.next = what, next
	}
	// What a place of backups says is made of words that may be shown, and its name without the token.
	if cause, ok := errors.AsType[*places.Error](err); ok {
		if !strings.Contains(p.message, cause.Why) {
			p.message += ": " + cause.Why
		}
		p.next = placeNext(cause)
	}
	return p
}

// placeNext is what to do about a place that does not give what is asked of it. Reading changes nothing, and whoever is afraid for
// his backups is told so.
func placeNext(e *places.Error) string {
	next := "check that it is there, and who may read it"
	switch {
	case errors.Is(e, fs.ErrPermission) && strings.HasPrefix(e.Where, "https://"):
		next = "give a SAS token of this container that may read and list, and is not over: --sas-file FILE"
	case errors.Is(e, fs.ErrPermission) && strings.HasPrefix(e.Where, "s3://"):
		next = "check the credentials that the configuration names, and what they may do: reading and listing is needed"
	case errors.Is(e, fs.ErrPermission):
		next = "check the rights of the folder and of what is in it"
	case errors.Is(e, fs.ErrNotExist):
		next = "check the name of the place"
	}
	return next + "; nothing was changed"
}

// shelfProblem is a place that cannot be read.
func shelfProblem(err error) error {
	if e, ok := errors.AsType[*places.Error](err); ok {
		if errors.Is(e, fs.ErrNotExist) && strings.HasPrefix(e.Where, "/") {
			return &problem{code: "unreadable-place", message: "there is no folder " + e.Where + " on this machine", next: "check the path; what a server writes to a folder is on the server's machine", cause: err}
		}
		return &problem{code: "unreadable-place", message: e.Where + " cannot be read: " + e.Why, next: placeNext(e), cause: err}
	}
	return backupProblem(err)
}
