"""Roles and settings of an HSM with the stock Python SDK: azure.keyvault.administration and azure.identity, as Debian
packages them (python3-azure). Nothing of the SDK is switched off or replaced: the challenge's resource is checked, and the
CA comes by REQUESTS_CA_BUNDLE, as users set it.

Environment: HSM_URL, STRONGROOM_AUTHORITY, _TENANT, _CLIENT_ID, _CLIENT_SECRET, _OBJECT_ID (who signs in, an
administrator), WORKER (a principal without roles). Exit status 0 and a last line "done" mean that every check passed."""
import os
from uuid import uuid4

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.keyvault.administration import (
    KeyVaultAccessControlClient, KeyVaultDataAction, KeyVaultPermission, KeyVaultRoleScope, KeyVaultSettingsClient)
from azure.keyvault.keys import KeyClient

url, worker, me = os.environ["HSM_URL"], os.environ["WORKER"], os.environ["STRONGROOM_OBJECT_ID"]
# Our authority is not one that Microsoft's login server knows, so it is not asked about it.
credential = ClientSecretCredential(
    os.environ["STRONGROOM_TENANT"], os.environ["STRONGROOM_CLIENT_ID"], os.environ["STRONGROOM_CLIENT_SECRET"],
    authority=os.environ["STRONGROOM_AUTHORITY"], instance_discovery=False)
client = KeyVaultAccessControlClient(url, credential)
keys = KeyClient(url, credential)
everywhere = (KeyVaultRoleScope.GLOBAL, KeyVaultRoleScope.KEYS, "/keys/invoices")


def same(got, want, what):
    assert got == want, f"{what}: got {got!r}, want {want!r}"


def refused(status, code, work):
    try:
        work()
    except HttpResponseError as e:
        same((e.status_code, e.error.code), (status, code), "refusal")
        same(isinstance(e, ResourceNotFoundError), status == 404, "its type")
        return
    raise AssertionError(f"it was done; want {status} {code}")


# The HSM was made through the control plane: its administrator uses no keys, until he gives himself the role.
refused(403, "AccessDenied", lambda: keys.create_ec_key("invoices", hardware_protected=True))
roles = {r.role_name: r for r in client.list_role_definitions(KeyVaultRoleScope.GLOBAL)}
same(len(roles), 10, "roles")
user = roles["Managed HSM Crypto User"]
same(user.name, "21dbd100-6940-42c2-9190-5d6cb909625b", "its ID")
same(user.role_type, "AKVBuiltInRole", "its type")
own = client.create_role_assignment(KeyVaultRoleScope.GLOBAL, user.id, me)
same((own.properties.scope, own.properties.principal_id, own.properties.role_definition_id), ("/", me, user.id), "what was given")
keys.create_ec_key("invoices", hardware_protected=True)

# A custom role: made, changed, and changed to one without a name that gives nothing, as the SDK's own tests do.
name = str(uuid4())
made = client.set_role_definition(
    KeyVaultRoleScope.GLOBAL, name=name, role_name="Readers", description="read", permissions=[KeyVaultPermission(data_actions=[KeyVaultDataAction.READ_HSM_KEY])])
same((made.name, made.role_name, made.description, made.role_type, made.assignable_scopes), (name, "Readers", "read", "CustomRole", ["/"]), "the role")
same(made.permissions[0].data_actions, [KeyVaultDataAction.READ_HSM_KEY], "its data actions")
same(client.get_role_definition(KeyVaultRoleScope.GLOBAL, name).id, made.id, "the role as it is read")
changed = client.set_role_definition(
    KeyVaultRoleScope.GLOBAL, name=name, permissions=[KeyVaultPermission(data_actions=[], not_data_actions=[KeyVaultDataAction.READ_HSM_KEY])])
same((changed.role_name, changed.description, changed.permissions[0].data_actions), ("", "", []), "the changed role")
same(changed.permissions[0].not_data_actions, [KeyVaultDataAction.READ_HSM_KEY], "what it takes out")
assert name in [r.name for r in client.list_role_definitions(KeyVaultRoleScope.KEYS)], "the role is not listed"

# An assignment at each scope, under a name of the SDK's making or our own.
for i, scope in enumerate(everywhere):
    before = [a.name for a in client.list_role_assignments(scope)]
    given = client.create_role_assignment(scope, made.id, worker) if i == 0 else None
    if i == 0:
        refused(409, "RoleAssignmentExists", lambda s=scope: client.create_role_assignment(s, made.id, worker))
    else:
        given = client.create_role_assignment(scope, roles["Managed HSM Crypto Auditor"].id, worker, name=str(uuid4()))
    same(given.properties.scope, str(getattr(scope, "value", scope)), "the scope")
    same(client.get_role_assignment(scope, given.name).role_assignment_id, given.role_assignment_id, "the assignment as it is read")
    listed = [a.name for a in client.list_role_assignments(scope)]
    same(sorted(listed), sorted(before + [given.name]), f"assignments at {scope}")
    client.delete_role_assignment(scope, given.name)
    same(sorted(a.name for a in client.list_role_assignments(scope)), sorted(before), f"assignments at {scope}, after deletion")
    refused(404, "RoleAssignmentNotFound", lambda s=scope, n=given.name: client.get_role_assignment(s, n))
    client.delete_role_assignment(scope, given.name)  # the SDK takes a 404 for done

client.delete_role_definition(KeyVaultRoleScope.GLOBAL, name)
refused(404, "RoleDefinitionNotFound", lambda: client.get_role_definition(KeyVaultRoleScope.GLOBAL, name))
refused(400, "BadParameter", lambda: client.delete_role_definition(KeyVaultRoleScope.GLOBAL, user.name))
refused(400, "BadParameter", lambda: client.create_role_assignment(KeyVaultRoleScope.GLOBAL, made.id, worker))
last = [a for a in client.list_role_assignments(KeyVaultRoleScope.GLOBAL) if a.properties.role_definition_id == roles["Managed HSM Administrator"].id]
same(len(last), 1, "administrators")
refused(409, "LastAdministrator", lambda: client.delete_role_assignment(KeyVaultRoleScope.GLOBAL, last[0].name))

# Without the role that he gave himself, the administrator uses no keys again.
client.delete_role_assignment(KeyVaultRoleScope.GLOBAL, own.name)
refused(403, "AccessDenied", lambda: keys.get_key("invoices"))

# Settings.
settings = KeyVaultSettingsClient(url, credential)
arm = "AllowKeyManagementOperationsThroughARM"
same([(s.name, s.type, s.value) for s in settings.list_settings()], [(arm, "boolean", "false")], "settings")
same(settings.update_setting(arm, "true").value, "true", "the changed setting")
same(settings.get_setting(arm).value, "true", "the setting as it is read")
refused(404, "SettingNotFound", lambda: settings.get_setting("Other"))
print("done")
