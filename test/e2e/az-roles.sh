#!/usr/bin/env bash
# Roles with the unmodified Azure CLI, on an activated HSM that the signed-in application administrates: definitions
# (list, show, create, update, delete) and assignments (create, list, delete) at all three scopes, by the role's name and by
# its ID. The effect of each on a second principal is asked from the HSM with `strongroom access check`.
#
# az asks Microsoft Graph for the names of principals, whatever it is told. Its cloud registration names our server as
# Graph, which refuses (404); az then shows Unknown for the name, and does what it was asked.
#
# Environment: that of az-session.sh (BASE HSM_URL CA_BUNDLE AZ_CLIENT_ID AZ_CLIENT_SECRET AZ_TENANT), and
#   WORKER     object ID of the second principal
#   MAY        command that takes PRINCIPAL ACTION SCOPE and exits 0 if that is allowed
# Exit status 0 means every check passed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export AZ_ONLY_ERRORS=${AZ_ONLY_ERRORS:-yes}
. "$here/az-session.sh"

hsm=$HSM_NAME
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
want() { [ "$2" = "$3" ] || die "$1: got '$2', want '$3'"; }
may() { $MAY "$WORKER" "$1" "$2" >/dev/null 2>&1; }
role() { azx keyvault role "$@" --hsm-name "$hsm"; }
user=21dbd100-6940-42c2-9190-5d6cb909625b

want "definition list" "$(role definition list --query 'length(@)' -o tsv)" 10
want "definition list at a key" "$(role definition list --scope /keys/invoices --query "[?roleName=='Managed HSM Crypto User'].name" -o tsv)" $user
want "definition show" "$(role definition show --name $user --query '[roleName, roleType, assignableScopes[0]]' -o tsv | tr '\n\t' '  ')" "Managed HSM Crypto User AKVBuiltInRole / "
want "definition show by its ID" "$(role definition show --role-id "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/$user" --query name -o tsv)" $user

custom=$(role definition create --role-definition '{"roleName": "Signers", "description": "sign and nothing else", "actions": [], "notActions": [],
  "dataActions": ["Microsoft.KeyVault/managedHsm/keys/sign/action", "Microsoft.KeyVault/managedHsm/keys/read/action"], "notDataActions": []}' --query name -o tsv)
want "the custom role" "$(role definition list --custom-role-only true --query '[].[name, roleType]' -o tsv)" "$custom	CustomRole"

# At one key, by the role's name.
one=$(role assignment create --scope /keys/invoices --role Signers --assignee-object-id "$WORKER" --query '[name, scope, roleName, principalId, principalName]' -o tsv)
set -- $one
want "create at a key" "$2 $3 $4 $5" "/keys/invoices Signers $WORKER Unknown"
may /keys/sign/action /keys/invoices || die "the role at the key gives nothing"
if may /keys/sign/action /keys/other; then die "the role at a key gives another key"; fi
want "list at the key" "$(role assignment list --scope /keys/invoices --query '[].name' -o tsv)" "$1"
want "list at another key" "$(role assignment list --scope /keys/other --query 'length(@)' -o tsv)" 0
want "list at /" "$(role assignment list --scope / --role Signers --query 'length(@)' -o tsv)" 0

# A change of the role counts at once.
role definition update --role-definition "{\"name\": \"$custom\", \"roleName\": \"Signers\", \"description\": \"verify\",
  \"dataActions\": [\"Microsoft.KeyVault/managedHsm/keys/verify/action\"]}" -o none
want "definition update" "$(role definition show --name "$custom" --query '[description, permissions[0].dataActions[0]]' -o tsv | tr '\n\t' '  ')" "verify Microsoft.KeyVault/managedHsm/keys/verify/action "
if may /keys/sign/action /keys/invoices; then die "the changed role gives what it gave"; fi
may /keys/verify/action /keys/invoices || die "the changed role does not give what it says"

# At /keys, by the role's ID; and at /, by its whole ID. Each name is of az's own making, or given.
role assignment create --scope /keys --role $user --assignee "$WORKER" -o none
may /keys/create /keys/new || die "the role at /keys gives nothing"
want "list at /keys" "$(role assignment list --scope /keys --assignee-object-id "$WORKER" --query '[].[scope, roleName]' -o tsv)" "/keys	Managed HSM Crypto User"
named=c0de0000-0000-4000-8000-000000000001
role assignment create --scope / --role Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/2c18b078-7c48-4d3a-af88-5a3a1b3f82b3 \
  --assignee-object-id "$WORKER" --name $named -o none
want "list at /" "$(role assignment list --scope / --role 'Managed HSM Crypto Auditor' --query '[].[name, principalId]' -o tsv)" "$named	$WORKER"
if role assignment create --scope / --role "Managed HSM Crypto Auditor" --assignee-object-id "$WORKER" -o none 2>/dev/null; then die "the same role was given twice"; fi
if role assignment create --scope / --role "No such role" --assignee-object-id "$WORKER" -o none 2>/dev/null; then die "a role that is not there was given"; fi
if role assignment create --scope /secrets --role $user --assignee-object-id "$WORKER" -o none 2>/dev/null; then die "a role was given at a scope that is not there"; fi

# Taking away: by name, by ID, by whom and what.
want "delete by name" "$(role assignment delete --scope / --name $named --query '[].name' -o tsv)" $named
if may /keys/deletedKeys/read/action /; then die "the role that was taken away gives something"; fi
role assignment delete --scope /keys --role "Managed HSM Crypto User" --assignee-object-id "$WORKER" -o none
if may /keys/create /keys/new; then die "the role at /keys is still there"; fi
role assignment delete --scope /keys/invoices --ids "/providers/Microsoft.Authorization/roleAssignments/$1" -o none
want "after deletion" "$(role assignment list --scope /keys/invoices --query 'length(@)' -o tsv)" 0
role definition delete --name "$custom" -o none
if role definition show --name "$custom" -o none 2>/dev/null; then die "the custom role is still there"; fi

# What is refused says why.
if role definition delete --name $user -o none 2>refusal.txt; then die "a built-in role was deleted"; fi
grep -q "built-in role, and those cannot be deleted" refusal.txt || die "refusal: $(cat refusal.txt)"
last=$(role assignment list --scope / --role "Managed HSM Administrator" --query '[].name' -o tsv)
if role assignment delete --scope / --name "$last" -o none 2>refusal.txt; then die "the last administrator was removed"; fi
grep -q "last assignment of Managed HSM Administrator" refusal.txt || die "refusal: $(cat refusal.txt)"
rm refusal.txt
echo "done: roles were made, given, changed and taken away"
