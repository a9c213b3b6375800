#!/usr/bin/env bash
# Full backup and restore with the unmodified Azure CLI, of an activated HSM, to and from a container that az makes too:
# the whole HSM, and one key of it.
#
# Environment: that of az-session.sh, with AZ_STORAGE_SUFFIX, and ACCOUNT and ACCOUNT_KEY of a storage account that the
# server may use. Exit status 0 means every check passed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export AZ_ONLY_ERRORS=${AZ_ONLY_ERRORS:-yes}
. "$here/az-session.sh"
. "$here/az-backup-lib.sh"

hsm=$HSM_NAME
azx storage container create --account-name "$ACCOUNT" --account-key "$ACCOUNT_KEY" --name backups -o none

azx keyvault key create --hsm-name "$hsm" -n ledger --kty EC-HSM --curve P-256 -o none
signature=$(sign "$HSM_URL" ledger)
azx keyvault key create --hsm-name "$hsm" -n ledger --kty EC-HSM --curve P-256 -o none
azx keyvault key create --hsm-name "$hsm" -n press --kty RSA-HSM --size 2048 -o none
before=$(kids)

# With the permissions that Azure documents, and no others.
folder=$(azx keyvault backup start --hsm-name "$hsm" --storage-account-name "$ACCOUNT" --blob-container-name backups -t "$(sas crdw)" --query folderUrl -o tsv)
[[ $folder =~ ^https://$ACCOUNT\.blob\.$AZ_STORAGE_SUFFIX/backups/mhsm-[a-z]+-[0-9]{16}$ ]] || die "the backup lies at $folder"
uri=${folder%/*} folder=${folder##*/}
again=$(azx keyvault backup start --hsm-name "$hsm" --storage-resource-uri "$uri" -t "$(sas crdw)" --query folderUrl -o tsv)
[ "$again" != "$uri/$folder" ] || die "two backups lie in one folder"

# One key: not over one that is there, and with all its versions once the name is free.
restore_key() { azx keyvault key restore --hsm-name "$hsm" -n "$1" --storage-resource-uri "$uri" -t "$(sas rl)" --backup-folder "$folder" -o none; }
refused "exists in this HSM" restore_key ledger
azx keyvault key delete --hsm-name "$hsm" -n ledger -o none
azx keyvault key purge --hsm-name "$hsm" -n ledger -o none
restore_key ledger
want "the versions of the key" "$(kids)" "$before"
want "the signature of before" "$(verify "$HSM_URL" ledger "$signature")" true

# Everything: what was lost is there, and what came later is not.
azx keyvault key delete --hsm-name "$hsm" -n press -o none
azx keyvault key create --hsm-name "$hsm" -n later --kty EC-HSM -o none
azx keyvault restore start --hsm-name "$hsm" --storage-account-name "$ACCOUNT" --blob-container-name backups -t "$(sas rl)" --backup-folder "$folder" -o none
want "the keys" "$(kids)" "$before"
want "the deleted keys" "$(azx keyvault key list-deleted --hsm-name "$hsm" --query 'length(@)' -o tsv)" 0
azx keyvault restore start --hsm-name "$hsm" --storage-resource-uri "$uri" -t "$(sas rl)" --backup-folder "${again##*/}" -o none
want "the signature of before" "$(verify "$HSM_URL" ledger "$signature")" true

# What is refused, or fails, says why.
restore() { azx keyvault restore start --hsm-name "$hsm" --storage-resource-uri "$1" -t "$2" --backup-folder "$3" -o none; }
refused "may not send backups to" restore https://another.blob.core.localhost/backups "$(sas rl)" "$folder"
refused "BackupNotFound" restore "$uri" "$(sas rl)" mhsm-alpha-2026010100000000
refused "does not allow it" restore "$uri" "$(sas c)" "$folder"
refused "is not one" azx keyvault backup start --hsm-name "$hsm" --storage-resource-uri "$uri" -t none -o none
echo "done: the HSM was backed up and came back"
