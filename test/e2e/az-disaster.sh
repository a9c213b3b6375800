#!/usr/bin/env bash
# The disaster recovery procedure that Azure publishes for Managed HSM, from start to end, with the unmodified Azure CLI alone:
# an HSM is taken into possession, used and backed up, and is lost; a new one is made, gets its security domain and its backup,
# and goes on.
#
# Environment: that of az-session.sh, with AZ_STORAGE_SUFFIX, and ACCOUNT and ACCOUNT_KEY of a storage account that the
# server may use; ME, the object ID of who is signed in. The HSM of HSM_URL is called alpha and not activated. Exit
# status 0 means every check passed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export AZ_ONLY_ERRORS=${AZ_ONLY_ERRORS:-yes}
. "$here/az-session.sh"
. "$here/az-backup-lib.sh"
group=strongroom worker=5d2c1a40-0000-4000-8000-00000000000a
succeeded() { case $2 in Success|Succeeded) ;; *) die "$1: status '${2:-none}'" ;; esac; } # az exits 0 also when the operation failed

# The HSM of before.
hsm=$HSM_NAME
for i in 1 2 3; do openssl req -x509 -newkey rsa:2048 -sha256 -nodes -days 365 -subj "/CN=custodian-$i" -keyout "custodian$i.key" -out "custodian$i.cer" 2>/dev/null; done
succeeded download "$(azx keyvault security-domain download --hsm-name "$hsm" --sd-wrapping-keys custodian1.cer custodian2.cer custodian3.cer \
  --sd-quorum 2 --security-domain-file SD.json --query status -o tsv)"
azx keyvault key create --hsm-name "$hsm" -n ledger --kty EC-HSM --curve P-256 --tags year=1 -o none
azx keyvault key create --hsm-name "$hsm" -n press --kty RSA-HSM --size 2048 -o none
azx keyvault role assignment create --hsm-name "$hsm" --scope /keys/ledger --role "Managed HSM Crypto Auditor" --assignee-object-id $worker -o none
signature=$(sign "$HSM_URL" ledger)
cipher=$(azx keyvault key encrypt --hsm-name "$hsm" -n press -a RSA-OAEP-256 --value Y2Fubm9ucw== --query result -o tsv)
before=$(kids)
azx storage container create --account-name "$ACCOUNT" --account-key "$ACCOUNT_KEY" --name backups -o none
lost=$(azx keyvault backup start --hsm-name "$hsm" --storage-account-name "$ACCOUNT" --blob-container-name backups -t "$(sas crdw)" --query folderUrl -o tsv)

# It is lost for good.
azx keyvault delete --hsm-name alpha -g $group -o none
azx keyvault purge --hsm-name alpha -l local -o none

# 1. A new HSM.
azx keyvault create --hsm-name phoenix -g $group -l local --administrators "$ME" -o none
url=$(azx keyvault show --hsm-name phoenix -g $group --query properties.hsmUri -o tsv) url=${url%/}
hsm=$(hsm_name_of "$url")

# 2. to 4. Its exchange key; the security domain for that key, made offline by a quorum; and the upload.
azx keyvault security-domain init-recovery --hsm-name "$hsm" --sd-exchange-key exchange.cer -o none
azx keyvault security-domain restore-blob --sd-file SD.json --sd-exchange-key exchange.cer --sd-wrapping-keys custodian1.key custodian3.key \
  --sd-file-restore-blob blob.json -o none
succeeded upload "$(azx keyvault security-domain upload --hsm-name "$hsm" --sd-file blob.json --restore-blob --query status -o tsv)"

# 5. A backup of the new HSM, before it is restored over.
azx keyvault backup start --hsm-name "$hsm" --storage-account-name "$ACCOUNT" --blob-container-name backups -t "$(sas crdw)" -o none

# 6. The backup of the lost one.
azx keyvault restore start --hsm-name "$hsm" --storage-account-name "$ACCOUNT" --blob-container-name backups -t "$(sas rl)" --backup-folder "${lost##*/}" -o none

# It is all there.
want "the keys" "$(kids)" "$before"
want "a tag" "$(azx keyvault key show --hsm-name "$hsm" -n ledger --query tags.year -o tsv)" 1
want "the signature of before" "$(verify "$url" ledger "$signature")" true
want "a new signature" "$(verify "$url" ledger "$(sign "$url" ledger)")" true
want "the ciphertext of before" "$(azx keyvault key decrypt --hsm-name "$hsm" -n press -a RSA-OAEP-256 --value "$cipher" --query result -o tsv)" Y2Fubm9ucw==
want "a role at a key" "$(azx keyvault role assignment list --hsm-name "$hsm" --scope /keys/ledger --assignee-object-id $worker --query '[].roleName' -o tsv)" "Managed HSM Crypto Auditor"
echo "done: the HSM was lost, and another one goes on"
