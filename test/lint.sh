#!/usr/bin/env bash
# staticcheck fails the build on any finding. govulncheck fails it on any known hole in what is linked; where its
# database cannot be reached it says so, and the rest stands.
set -uo pipefail
cd "$(dirname "$0")/.."
go vet ./... || exit 1
go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./... || exit 1
out=$(go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./... 2>&1); rc=$?
if [ $rc -eq 0 ]; then
  echo "govulncheck: no known vulnerability is reachable"
elif printf '%s' "$out" | grep -qE 'dial tcp|no such host|connection refused|proxyconnect|fetching vulnerabilities|Forbidden'; then
  echo "govulncheck: NOT CHECKED, its database cannot be reached from here: $(printf '%s' "$out" | tail -n 1)"
else
  printf '%s\n' "$out"; exit 1
fi
