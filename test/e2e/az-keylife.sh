#!/usr/bin/env bash
# The life of a key with the unmodified Azure CLI on an activated HSM: change, rotate, delete, recover, delete again,
# purge, and random bytes.
#
# Environment: that of az-session.sh (BASE HSM_URL CA_BUNDLE AZ_CLIENT_ID AZ_CLIENT_SECRET AZ_TENANT).
# Exit status 0 means every check passed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export AZ_ONLY_ERRORS=${AZ_ONLY_ERRORS:-yes}
. "$here/az-session.sh"

hsm=$HSM_NAME
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
want() { [ "$2" = "$3" ] || die "$1: got '$2', want '$3'"; }

first=$(azx keyvault key create --hsm-name "$hsm" -n life --kty EC-HSM --curve P-256 --tags a=b --query key.kid -o tsv)

want "set-attributes: enabled" "$(azx keyvault key set-attributes --hsm-name "$hsm" -n life --enabled false --query attributes.enabled -o tsv)" false
want "set-attributes: tags stay" "$(azx keyvault key set-attributes --hsm-name "$hsm" -n life --enabled true --ops sign --query 'tags.a' -o tsv)" b
want "set-attributes: key_ops" "$(azx keyvault key show --hsm-name "$hsm" -n life --query 'key.keyOps' -o tsv)" sign

azx keyvault key rotation-policy update --hsm-name "$hsm" -n life \
  --value '{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Rotate"}}],"attributes":{"expiryTime":"P90D"}}' -o none
azx keyvault key rotation-policy show --hsm-name "$hsm" -n life -o json | grep -q P90D || die "the rotation policy is not the one that was set"
second=$(azx keyvault key rotate --hsm-name "$hsm" -n life --query key.kid -o tsv)
[ -n "$second" ] && [ "$first" != "$second" ] || die "rotate made no new version"
want "list-versions" "$(azx keyvault key list-versions --hsm-name "$hsm" -n life --query 'length(@)' -o tsv)" 2

azx keyvault key delete --hsm-name "$hsm" -n life -o none
want "list" "$(azx keyvault key list --hsm-name "$hsm" --query 'length(@)' -o tsv)" 0
want "list-deleted" "$(azx keyvault key list-deleted --hsm-name "$hsm" --query 'length(@)' -o tsv)" 1
want "show-deleted" "$(azx keyvault key show-deleted --hsm-name "$hsm" -n life --query key.kid -o tsv)" "$second"
if azx keyvault key create --hsm-name "$hsm" -n life --kty EC-HSM -o none 2>/dev/null; then die "a deleted name was taken"; fi
azx keyvault key recover --hsm-name "$hsm" -n life -o none
want "after recover" "$(azx keyvault key show --hsm-name "$hsm" -n life --query key.kid -o tsv)" "$second"
azx keyvault key delete --hsm-name "$hsm" -n life -o none
azx keyvault key purge --hsm-name "$hsm" -n life -o none
want "after purge" "$(azx keyvault key list-deleted --hsm-name "$hsm" --query 'length(@)' -o tsv)" 0

[ -n "$(azx keyvault key random --hsm-name "$hsm" --count 16 -o tsv)" ] || die "no random bytes"
echo "done: the key lived and is gone"
