#!/usr/bin/env bash
# The life of a Managed HSM in the control plane, with the unmodified Azure CLI: made, found, changed, deleted, recovered,
# deleted again and purged; and one with purge protection, which is not.
#
# Environment: that of az-session.sh (BASE HSM_URL CA_BUNDLE AZ_CLIENT_ID AZ_CLIENT_SECRET AZ_TENANT).
# Argument: the object ID of the administrator. Exit status 0 means every check passed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export AZ_ONLY_ERRORS=${AZ_ONLY_ERRORS:-yes}
. "$here/az-session.sh"

oid=$1 group=strongroom
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
want() { [ "$2" = "$3" ] || die "$1: got '$2', want '$3'"; }
names() { "$@" --query '[].name' -o tsv | sort | tr '\n' ' '; }

want "check-name of a free one" "$(azx keyvault check-name -n delta --resource-type hsm --query nameAvailable -o tsv)" true
azx keyvault create --hsm-name delta -g $group -l local --administrators "$oid" --retention-days 7 --tags a=b -o none
want "check-name of a taken one" "$(azx keyvault check-name -n delta --resource-type hsm --query nameAvailable -o tsv)" false
azx keyvault wait-hsm --hsm-name delta -g $group --created
want "show: state" "$(azx keyvault show --hsm-name delta -g $group --query properties.provisioningState -o tsv)" Succeeded
want "show: retention" "$(azx keyvault show --hsm-name delta --query properties.softDeleteRetentionInDays -o tsv)" 7
want "show: administrators" "$(azx keyvault show --hsm-name delta -g $group --query 'properties.initialAdminObjectIds[0]' -o tsv)" "$oid"
want "list of the group" "$(names azx keyvault list --resource-type hsm -g $group)" "alpha beta delta "
want "list of the subscription" "$(names azx keyvault list --resource-type hsm)" "alpha beta delta "
want "list of another group" "$(names azx keyvault list --resource-type hsm -g elsewhere)" ""

azx keyvault update-hsm --hsm-name delta -g $group --bypass None -o none
want "update keeps the tags" "$(azx keyvault show --hsm-name delta -g $group --query tags.a -o tsv)" b
if azx keyvault update-hsm --hsm-name delta -g $group --default-action Deny -o none 2>/dev/null; then die "a network rule that nothing enforces was taken"; fi

azx keyvault delete --hsm-name delta -g $group -o none
if azx keyvault show --hsm-name delta -g $group -o none 2>/dev/null; then die "a deleted HSM is shown"; fi
want "list-deleted" "$(names azx keyvault list-deleted --resource-type hsm)" "delta "
want "show-deleted" "$(azx keyvault show-deleted --hsm-name delta -l local --query properties.purgeProtectionEnabled -o tsv)" false
if azx keyvault create --hsm-name delta -g $group -l local --administrators "$oid" -o none 2>/dev/null; then die "the name of a deleted HSM was taken"; fi
azx keyvault recover --hsm-name delta -l local -g $group -o none
want "after recover" "$(azx keyvault show --hsm-name delta -g $group --query properties.provisioningState -o tsv)" Succeeded
azx keyvault delete --hsm-name delta -g $group -o none
azx keyvault purge --hsm-name delta -l local -o none
want "after purge" "$(names azx keyvault list-deleted --resource-type hsm)" ""
want "the name is free again" "$(azx keyvault check-name -n delta --resource-type hsm --query nameAvailable -o tsv)" true

azx keyvault create --hsm-name guarded -g $group -l local --administrators "$oid" --enable-purge-protection true -o none
if azx keyvault update-hsm --hsm-name guarded -g $group --enable-purge-protection false -o none 2>/dev/null; then die "purge protection was switched off"; fi
azx keyvault delete --hsm-name guarded -g $group -o none
if azx keyvault purge --hsm-name guarded -l local -o none 2>/dev/null; then die "a protected HSM was purged"; fi
want "still there" "$(names azx keyvault list-deleted --resource-type hsm)" "guarded "
echo "done: the HSM came and went"
