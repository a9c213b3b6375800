package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples are what --help shows of each command that does something, by its path. A test holds them against the
// commands: none is missing, and each line is one that its command takes.
var examples = map[string][]string{
	"serve":                  {"strongroom serve --dev --data ./data", "strongroom serve --config /etc/strongroom/config.toml"},
	"demo":                   {"strongroom demo"},
	"custodian new":          {"strongroom custodian new ada --out keys --ask-passphrase"},
	"domain download":        {"strongroom domain download --url alpha --custodian ada.cer --custodian bo.cer --custodian cy.cer --quorum 2 --out SD.json"},
	"domain init-recovery":   {"strongroom domain init-recovery --url beta --out exchange.cer"},
	"domain restore-blob":    {"strongroom domain restore-blob --sd SD.json --exchange exchange.cer --key ada.key --key cy.key --out blob.json"},
	"domain upload":          {"strongroom domain upload --url beta --blob blob.json", "strongroom domain upload --url beta --sd SD.json --key ada.key --key cy.key"},
	"domain cancel-recovery": {"strongroom domain cancel-recovery --url beta"},
	"domain status":          {"strongroom domain status --url alpha"},
	"domain inspect":         {"strongroom domain inspect SD.json --custodian ada.cer"},
	"key create":             {"strongroom key create invoices --url alpha --kty EC --curve P-384", "strongroom key create archive --url alpha --kty RSA --bits 4096"},
	"key show":               {"strongroom key show invoices --url alpha"},
	"key list":               {"strongroom key list --url https://127.0.0.1:8444 --output json"},
	"key sign":               {"strongroom key sign invoices --url alpha --file invoice.pdf --out invoice.sig"},
	"key verify":             {"strongroom key verify invoices --url alpha --file invoice.pdf --signature invoice.sig"},
	"key backup":             {"strongroom key backup invoices --url alpha --out invoices.backup"},
	"key restore":            {"strongroom key restore --url beta --file invoices.backup"},
	"hsm create":             {"strongroom hsm create gamma --server https://127.0.0.1:8443"},
	"hsm show":               {"strongroom hsm show gamma"},
	"hsm list":               {"strongroom hsm list", "strongroom hsm list --deleted"},
	"hsm delete":             {"strongroom hsm delete gamma --confirm gamma"},
	"hsm recover":            {"strongroom hsm recover gamma"},
	"hsm purge":              {"strongroom hsm purge gamma --confirm gamma"},
	"identity app create":    {"strongroom identity app create ci --data ./data", "strongroom identity app create ci --config /etc/strongroom/config.toml --secret-out ci.secret"},
	"identity app list":      {"strongroom identity app list --data ./data --output json"},
	"identity app rotate":    {"strongroom identity app rotate ci --data ./data --revoke-tokens"},
	"identity app delete":    {"strongroom identity app delete ci --data ./data"},
	"login":                  {"strongroom login --profile lab", "strongroom login --url alpha --client-secret-file lab.secret"},
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
