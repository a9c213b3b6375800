package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples are what --help shows of each command that does something, by its path. A test holds them against the
// commands: none is missing, and each line is one that its command takes.
var examples = map[string][]string{
	"serve":                  {"strongroom serve --dev --data ./data", "strongroom serve --config /etc/strongroom/strongroom.toml"},
	"demo":                   {"strongroom demo"},
	"custodian new":          {"strongroom custodian new ada --out keys --ask-passphrase"},
	"domain download":        {"strongroom domain download --url alpha --custodian ada.cer --custodian bo.cer --custodian cy.cer --quorum 2 --out SD.json"},
	"domain init-recovery":   {"strongroom domain init-recovery --url beta --out exchange.cer"},
	"domain restore-blob":    {"strongroom domain restore-blob --sd SD.json --exchange exchange.cer --key ada.key --key cy.key --out blob.json"},
	"domain upload":          {"strongroom domain upload --url beta --blob blob.json", "strongroom domain upload --url beta --sd SD.json --key ada.key --key cy.key"},
	"domain cancel-recovery": {"strongroom domain cancel-recovery --url beta"},
	"domain status":          {"strongroom domain status --url alpha"},
	"domain inspect":         {"strongroom domain inspect SD.json --custodian ada.cer"},
	"domain public-key":      {"strongroom domain public-key SD.json --out domain.pem"},
	"key create":             {"strongroom key create invoices --url alpha --kty EC --curve P-384", "strongroom key create archive --url alpha --kty oct --tag owner=ada --expires 1y", "strongroom key create receiver --url alpha --kty RSA --bits 4096 --ops import"},
	"key import":             {"strongroom key import old-invoices --url alpha --file old.pem --passphrase-file old.passphrase", "strongroom key import moved --url alpha --byok moved.byok --kty EC --curve P-256"},
	"key wrap-for-import":    {"strongroom key wrap-for-import --kek receiver.jwk --file old.pem --out old.byok"},
	"key show":               {"strongroom key show invoices --url alpha", "strongroom key show invoices --url alpha --format pem --out invoices.pub"},
	"key list":               {"strongroom key list --url https://127.0.0.1:8444 --output json", "strongroom key list --url alpha --deleted"},
	"key versions":           {"strongroom key versions invoices --url alpha"},
	"key attest":             {"strongroom key attest invoices --url alpha --out invoices.attestation", "strongroom key attest --verify invoices.attestation"},
	"key sign":               {"strongroom key sign invoices --url alpha --file invoice.pdf --out invoice.sig", "strongroom key sign invoices --url alpha --file invoice.pdf --format der --out -"},
	"key verify":             {"strongroom key verify invoices --url alpha --file invoice.pdf --signature invoice.sig"},
	"key encrypt":            {"strongroom key encrypt archive --url alpha --file letter.txt --out letter.enc"},
	"key decrypt":            {"strongroom key decrypt archive --url alpha --file letter.enc --out letter.txt"},
	"key wrap":               {"strongroom key wrap archive --url alpha --file disk.key --out disk.wrapped"},
	"key unwrap":             {"strongroom key unwrap archive --url alpha --file disk.wrapped --out disk.key"},
	"key rng":                {"strongroom key rng --url alpha --bytes 32 --out disk.key"},
	"key set":                {"strongroom key set invoices --url alpha --disabled", "strongroom key set invoices --url alpha --tag owner=grace --expires 90d --ops sign,verify"},
	"key rotate":             {"strongroom key rotate invoices --url alpha"},
	"key policy show":        {"strongroom key policy show invoices --url alpha"},
	"key policy set":         {"strongroom key policy set invoices --url alpha --rotate-after P90D --expiry P1Y"},
	"key policy remove":      {"strongroom key policy remove invoices --url alpha"},
	"key delete":             {"strongroom key delete invoices --url alpha --confirm invoices"},
	"key recover":            {"strongroom key recover invoices --url alpha"},
	"key purge":              {"strongroom key purge invoices --url alpha --confirm invoices"},
	"key backup":             {"strongroom key backup invoices --url alpha --out invoices.backup"},
	"key release":            {"strongroom key release travels --url alpha --target enclave.jwt --out travels.released"},
	"key restore":            {"strongroom key restore --url beta --file invoices.backup"},
	"backup start":           {"strongroom backup start --url alpha --to /srv/backups", "strongroom backup start --url alpha --to https://backups.blob.core.windows.net/alpha --sas-file alpha.sas"},
	"backup schedule":        {"strongroom backup schedule --url alpha"},
	"backup status":          {"strongroom backup status 3f6d0c5be2a14f7f9a70d2c1b8e4a955 --url alpha"},
	"backup list":            {"strongroom backup list --url alpha", "strongroom backup list --in /srv/backups"},
	"backup verify":          {"strongroom backup verify /srv/backups/mhsm-alpha-2026112503000000 --domain SD.json", "strongroom backup verify s3://backups/alpha/mhsm-alpha-2026112503000000 --config strongroom.toml --domain SD.json --key ada.key --key cy.key"},
	"restore start":          {"strongroom restore start --url beta --from /srv/backups/mhsm-alpha-2026112503000000 --dry-run", "strongroom restore start --url beta --from s3://backups/alpha/mhsm-alpha-2026112503000000 --key invoices"},
	"restore status":         {"strongroom restore status 3f6d0c5be2a14f7f9a70d2c1b8e4a955 --url beta", "strongroom restore status --url beta"},
	"restore undo":           {"strongroom restore undo --url beta"},
	"drill":                  {"strongroom drill --sd SD.json --key ada.key --key cy.key --backup /srv/backups/mhsm-alpha-2026112503000000 --out drill-2026-11.report"},
	"drill report verify":    {"strongroom drill report verify drill-2026-11.report --domain SD.json"},
	"drill verify":           {"strongroom drill verify drill-2026-11.report --domain SD.json"},
	"hsm create":             {"strongroom hsm create gamma --server https://127.0.0.1:8443"},
	"hsm show":               {"strongroom hsm show gamma"},
	"hsm list":               {"strongroom hsm list", "strongroom hsm list --deleted"},
	"hsm delete":             {"strongroom hsm delete gamma --confirm gamma"},
	"hsm recover":            {"strongroom hsm recover gamma"},
	"hsm purge":              {"strongroom hsm purge gamma --confirm gamma"},
	"role definition list":   {"strongroom role definition list --url alpha", "strongroom role definition list --url alpha --custom"},
	"role definition show":   {`strongroom role definition show "Crypto User" --url alpha`},
	"role definition create": {"strongroom role definition create Signers --url alpha --allow /keys/sign/action --allow /keys/read/action"},
	"role definition update": {`strongroom role definition update Signers --url alpha --allow /keys/sign/action --description "sign, and see nothing"`},
	"role definition delete": {"strongroom role definition delete Signers --url alpha"},
	"role assignment list":   {"strongroom role assignment list --url alpha", "strongroom role assignment list --url alpha --principal 5d2c1a40-0000-4000-8000-000000000000"},
	"role assignment create": {`strongroom role assignment create --url alpha --principal 5d2c1a40-0000-4000-8000-000000000000 --role "Managed HSM Crypto User" --scope /keys/invoices`},
	"role assignment delete": {"strongroom role assignment delete 9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d --url alpha --scope /keys/invoices"},
	"access check":           {"strongroom access check 5d2c1a40-0000-4000-8000-000000000000 /keys/sign/action /keys/invoices --url alpha"},
	"access recover":         {"strongroom access recover --data ./data --hsm alpha --principal 5d2c1a40-0000-4000-8000-000000000000 --confirm alpha"},
	"audit verify":           {"strongroom audit verify ./data --key audit.pem --checkpoint kept.txt"},
	"audit show":             {"strongroom audit show ./data --since 24h --outcome refused", "strongroom audit show ./data --key-name invoices --output json"},
	"audit prove":            {"strongroom audit prove 17 ./data --out proof-17.json"},
	"audit check-proof":      {"strongroom audit check-proof proof-17.json --key audit.pem"},
	"audit checkpoint":       {"strongroom audit checkpoint ./data --out kept.txt"},
	"identity app create":    {"strongroom identity app create ci --data ./data", "strongroom identity app create ci --config /etc/strongroom/strongroom.toml --secret-out ci.secret"},
	"identity app list":      {"strongroom identity app list --data ./data --output json"},
	"identity app rotate":    {"strongroom identity app rotate ci --data ./data --revoke-tokens"},
	"identity app delete":    {"strongroom identity app delete ci --data ./data"},
	"identity user create":   {"strongroom identity user create anna --data ./data", "strongroom identity user create anna --config /etc/strongroom/config.toml --secret-out anna.password"},
	"identity user list":     {"strongroom identity user list --data ./data --output json"},
	"identity user rotate":   {"strongroom identity user rotate anna --data ./data --revoke-tokens"},
	"identity user delete":   {"strongroom identity user delete anna --data ./data"},
	"login":                  {"strongroom login --profile lab", "strongroom login --url alpha --client-secret-file lab.secret"},
	"logout":                 {"strongroom logout"},
	"version":                {"strongroom version"},
}

// addExamples gives the commands below cmd their examples.
func addExamples(cmd *cobra.Command) {
	for _, child := range cmd.Commands() {
		_, path, _ := strings.Cut(child.CommandPath(), " ")
		if lines := examples[path]; len(lines) > 0 {
			child.Example = "  " + strings.Join(lines, "\n  ")
		}
		addExamples(child)
	}
}
