package oidc_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// The other way round: a client and a resource server that somebody else wrote take the embedded issuer for what it says
// it is, under each of its names. They discover it, sign in, and verify the token with its key set.
func TestAnotherClientTrustsTheEmbeddedIssuer(t *testing.T) {
	s := startProcess(t, newProvider(t), "[identity]\nembedded = true", `principal_prefix = "corp"`)
	env := map[string]string{}
	raw, err := os.ReadFile(filepath.Join(s.data, "administrator.env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = value
	}
	tenant := env["STRONGROOM_TENANT"]
	for _, issuer := range []string{s.base, s.base + "/adfs", s.base + "/" + tenant, s.base + "/" + tenant + "/v2.0"} {
		t.Run(strings.TrimPrefix(issuer, s.base), func(t *testing.T) {
			ctx := t.Context()
			party, err := rp.NewRelyingPartyOIDC(ctx, issuer, env["STRONGROOM_CLIENT_ID"], env["STRONGROOM_CLIENT_SECRET"], "", []string{"https://managedhsm.azure.net/.default"},
				rp.WithHTTPClient(s.client), rp.WithSigningAlgsFromDiscovery())
			if err != nil {
				t.Fatal(err)
			}
			token, err := rp.ClientCredentials(ctx, party, url.Values{})
			if err != nil {
				t.Fatal(err)
			}
			keys := discovered(t, s.client, issuer, "jwks_uri")
			claims, err := op.VerifyAccessToken[*oidc.AccessTokenClaims](ctx, token.AccessToken, op.NewAccessTokenVerifier(issuer, rp.NewRemoteKeySet(s.client, keys), op.WithSupportedAccessTokenSigningAlgorithms("ES256")))
			if err != nil {
				t.Fatal(err)
			}
			if claims.Subject != env["STRONGROOM_OBJECT_ID"] || len(claims.Audience) != 1 || claims.Audience[0] != "https://managedhsm.azure.net" {
				t.Errorf("it says %+v", claims)
			}
		})
	}
}
