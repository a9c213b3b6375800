#!/usr/bin/env bash
# A user of the embedded issuer with the unmodified Azure CLI: signed in by name and password, refused until there is a role,
# at work with it, in several commands at once too, and shut out.
#
# az signs in for Azure's resource manager first. What it needs for the HSM it gets with the refresh token of that sign-in.
#
# Environment: that of az-session.sh (BASE HSM_URL CA_BUNDLE AZ_USERNAME AZ_PASSWORD), and
#   ALLOW      command that gives the user Managed HSM Crypto User at /keys
#   REVOKE     command that gives the user a new password and calls tokens back
# Exit status 0 means every check passed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export AZ_ONLY_ERRORS=${AZ_ONLY_ERRORS:-yes}
. "$here/az-session.sh"

die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
want() { [ "$2" = "$3" ] || die "$1: got '$2', want '$3'"; }
key() { azx keyvault key "$1" --hsm-name "$HSM_NAME" "${@:2}"; }

want "account show" "$(azx account show --query '[user.name, user.type]' -o tsv | tr '\n\t' '  ')" "$AZ_USERNAME user "
if key create -n az-user --kty EC-HSM -o none 2>refusal.txt; then die "a user without a role made a key"; fi
grep -q "needs the role Managed HSM Crypto User" refusal.txt || die "the refusal does not say which role it takes: $(cat refusal.txt)"
$ALLOW
want "key create" "$(key create -n az-user --kty RSA-HSM --size 2048 --query key.kty -o tsv)" RSA-HSM
want "key list" "$(key list --query "[?name=='az-user'].name" -o tsv)" az-user
text=Zm9yIGEgdXNlcg==
sealed=$(key encrypt -n az-user --algorithm RSA-OAEP-256 --data-type base64 --value "$text" --query result -o tsv)
want "key decrypt" "$(key decrypt -n az-user --algorithm RSA-OAEP-256 --data-type base64 --value "$sealed" --query result -o tsv)" "$text"

# Commands side by side share the refresh token on disk.
pids=()
for n in 1 2 3 4; do azx account get-access-token --resource "https://resource-$n.example" -o none & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || die "one of four commands side by side failed"; done
azx account get-access-token --resource https://resource-5.example -o none || die "after four commands side by side the sign-in is over"

$REVOKE
if key show -n az-user -o none 2>refusal.txt; then die "a token that was called back is good"; fi
if azx account get-access-token --resource https://resource-6.example -o none 2>refusal.txt; then die "a refresh token that was called back is good"; fi
grep -q "az login" refusal.txt || die "the refusal does not say to sign in again: $(cat refusal.txt)"
if azx login --username "$AZ_USERNAME" --password "$AZ_PASSWORD" --allow-no-subscriptions -o none 2>refusal.txt; then die "the old password is good"; fi
grep -q "the user is unknown or the password is wrong" refusal.txt || die "refusal: $(cat refusal.txt)"
rm refusal.txt
echo "done: the user signed in, worked and was shut out"
