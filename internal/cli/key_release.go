package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/internal/api"
	"strongroom/internal/engine"
	"strongroom/internal/statement"
	"strongroom/internal/strictjson"
)

// Bounds in bytes: a server takes no longer token, and a released RSA-4096 key has some 16 KiB.
const (
	maxAttestationToken = 32 << 10
	maxReleased         = 256 << 10
)

// releaseType is the typ of a released key (docs: formats).
const releaseType = "strongroom-key-release+jws"

var (
	releaseWays   = []string{engine.RSAAESKeyWrap, engine.RSAAESKeyWrap256, engine.RSAAESKeyWrap384}
	releaseLimits = strictjson.Limits{Bytes: maxReleased, Depth: 16, Elements: 256, Values: 1024, StringBytes: maxReleased, FoldNames: true}
)

// verifyRelease checks that a released key is signed by a security domain, and returns what was signed and the domain's
// ID. Whether the domain is the right one is for the caller to compare.
func verifyRelease(compact []byte) (payload api.ReleasePayload, domain string, err error) {
	signed, err := statement.Verify(compact, releaseType)
	if err != nil {
		return payload, "", err
	}
	if strictjson.Check(signed.Payload, releaseLimits) != nil || json.Unmarshal(signed.Payload, &payload) != nil || len(payload.Response.Key.Key.KeyHSM) == 0 {
		return api.ReleasePayload{}, "", errors.New("what is signed is not a released key")
	}
	return payload, signed.Domain, nil
}

func (a *app) keyReleaseCommand() *cobra.Command {
	var (
		version, tokenFile, nonce, enc, domain string
		out                                    target
	)
	cmd := a.verb("release NAME", "Release an exportable key to an attested recipient", `Has the HSM wrap an exportable key for the recipient that an attestation token names, if the token fulfils the key's release
policy. What is written is a JWS, signed by the security domain, which only the recipient can open; the signature is verified
here first. --domain compares the domain ID that is printed with the one that was written down at the ceremony.`, 1,
		func(cmd *cobra.Command, args []string) error {
			if err := a.checkKey(cmd, args[0], version); err != nil {
				return err
			}
			way := slices.IndexFunc(releaseWays, func(w string) bool { return strings.EqualFold(w, enc) })
			if way < 0 {
				return a.usage(cmd, fmt.Errorf("--enc %q is not known: use one of %s", enc, strings.Join(releaseWays, ", ")))
			}
			if domain = strings.ToLower(domain); domain != "" && !domainID.MatchString(domain) {
				return a.usage(cmd, errors.New("--domain is no domain ID: it has 64 hexadecimal digits"))
			}
			if err := a.checkOut(cmd, out, tokenFile); err != nil {
				return err
			}
			token, err := a.readFull(cmd.Context(), tokenFile, maxAttestationToken)
			if err != nil {
				return err
			}
			token = bytes.TrimSpace(token)
			if bytes.Count(token, []byte(".")) != 2 || bytes.ContainsAny(token, " \r\n\t{") {
				return problemf("bad-file", "give the token of the attestation authority: a JWT, three parts with dots between them", "%s is no attestation token", inputName(tokenFile))
			}
			hsm, err := a.hsm(cmd)
			if err != nil {
				return err
			}
			jws, err := hsm.ReleaseKey(cmd.Context(), args[0], version, api.ReleaseRequest{Target: string(token), Nonce: nonce, Enc: releaseWays[way]})
			if err != nil {
				return err
			}
			what := "the released key"
			payload, signer, err := verifyRelease(jws)
			if err != nil {
				return problemf("release-does-not-hold", "do not use it; ask who runs the HSM", "%s does not hold, and was not written: %v", what, err)
			}
			name, of := splitKid(payload.Request.Kid)
			switch {
			case !strings.EqualFold(name, args[0]) || version != "" && !strings.EqualFold(of, version) || payload.Request.Nonce != nonce:
				return problemf("release-does-not-hold", "do not use it; ask who runs the HSM", "%s is the answer to another request, and was not written", what)
			case domain != "" && domain != signer:
				return problemf("wrong-domain", "compare the IDs, digit by digit", "%s is signed by the domain %s, and not by %s; it was not written", what, signer, domain)
			}
			if err := a.writeOut(out, append(jws, '\n'), secretFile); err != nil {
				return err
			}
			result := struct {
				Kid      string `json:"kid"`
				DomainID string `json:"domain_id"`
				Compared bool   `json:"domain_compared"` // with --domain
				Enc      string `json:"enc"`
				Released string `json:"released"`
			}{payload.Request.Kid, signer, domain != "", payload.Request.Enc, out.path}
			return a.resultBeside(out, result, func(t *table) {
				t.field("released key", out.path)
				t.field("domain", signer)
				t.field("wrapped by", payload.Request.Enc)
				t.field("kid", payload.Request.Kid)
			})
		})
	versionFlag(cmd, &version)
	flags := cmd.Flags()
	flags.StringVar(&tokenFile, "target", "", "file with the attestation token of the recipient; - is standard input")
	flags.StringVar(&nonce, "nonce", "", "text of the recipient's, to be signed with the key")
	flags.StringVar(&enc, "enc", engine.RSAAESKeyWrap256, "way of wrapping: "+strings.Join(releaseWays, ", "))
	flags.StringVar(&domain, "domain", "", "domain ID that was written down at the ceremony; another one is exit code 1")
	out.flags(cmd, "file to write the released key to")
	complete(cmd, "enc", releaseWays...)
	for _, name := range []string{"nonce", "domain"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return a.connected(a.requireFlags(cmd, "target", "out"), settingURL)
}
