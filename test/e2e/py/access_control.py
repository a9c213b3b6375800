"""Roles and settings of an HSM with the stock Python SDK: azure.keyvault.administration. The HSM was made through the
control plane, so its administrator has no role that uses keys. WORKER is a principal without roles."""
import os
from uuid import uuid4

from azure.keyvault.administration import (
    KeyVaultAccessControlClient, KeyVaultDataAction, KeyVaultPermission, KeyVaultRoleScope, KeyVaultSettingsClient)

from shared import URL, client as keys, credential, finish, refused, same, step

worker, me = os.environ["WORKER"], os.environ["STRONGROOM_OBJECT_ID"]
client = KeyVaultAccessControlClient(URL, credential)
HSM = KeyVaultRoleScope.GLOBAL
roles = {r.role_name: r for r in client.list_role_definitions(HSM)}
user, auditor = roles["Managed HSM Crypto User"], roles["Managed HSM Crypto Auditor"]


def built_in_roles():
    same(len(roles), 10, "roles")
    same((user.name, user.role_type), ("21dbd100-6940-42c2-9190-5d6cb909625b", "AKVBuiltInRole"), "Crypto User")
    same(client.get_role_definition("/keys/invoices", user.name).id, user.id, "the same at a key")
    refused(400, "BadParameter", lambda: client.delete_role_definition(HSM, user.name))


def administrator():
    """He uses no keys, until he gives himself the role, and none again once he has given it back."""
    refused(403, "AccessDenied", lambda: keys.create_ec_key("invoices", hardware_protected=True))
    own = client.create_role_assignment(HSM, user.id, me)
    same((own.properties.scope, own.properties.principal_id, own.properties.role_definition_id), ("/", me, user.id), "what was given")
    keys.create_ec_key("invoices", hardware_protected=True)
    client.delete_role_assignment(HSM, own.name)
    refused(403, "AccessDenied", lambda: keys.get_key("invoices"))
    last = [a for a in client.list_role_assignments(HSM) if a.properties.role_definition_id == roles["Managed HSM Administrator"].id]
    same(len(last), 1, "administrators")
    refused(409, "LastAdministrator", lambda: client.delete_role_assignment(HSM, last[0].name))


def custom_role():
    """Made, and changed to one without a name that gives nothing, as the SDK's own tests do."""
    name = str(uuid4())
    made = client.set_role_definition(
        HSM, name=name, role_name="Readers", description="read", permissions=[KeyVaultPermission(data_actions=[KeyVaultDataAction.READ_HSM_KEY])])
    same((made.name, made.role_name, made.description, made.role_type, made.assignable_scopes), (name, "Readers", "read", "CustomRole", ["/"]), "the role")
    same(made.permissions[0].data_actions, [KeyVaultDataAction.READ_HSM_KEY], "its data actions")
    same(client.get_role_definition(HSM, name).id, made.id, "the role as it is read")
    changed = client.set_role_definition(
        HSM, name=name, permissions=[KeyVaultPermission(data_actions=[], not_data_actions=[KeyVaultDataAction.READ_HSM_KEY])])
    same((changed.role_name, changed.description, changed.permissions[0].data_actions), ("", "", []), "the changed role")
    same(changed.permissions[0].not_data_actions, [KeyVaultDataAction.READ_HSM_KEY], "what it takes out")
    assert name in [r.name for r in client.list_role_definitions(KeyVaultRoleScope.KEYS)], "the role is not listed"
    client.delete_role_definition(HSM, name)
    refused(404, "RoleDefinitionNotFound", lambda: client.get_role_definition(HSM, name))
    refused(400, "BadParameter", lambda: client.create_role_assignment(HSM, made.id, worker))


def assignments(scope):
    """Given, read, listed, refused a second time, and taken away: under a name of our own, and one of the SDK's making."""
    for role, name in ((auditor, str(uuid4())), (user, None)):
        before = sorted(a.name for a in client.list_role_assignments(scope))
        given = client.create_role_assignment(scope, role.id, worker, name=name)
        same(name in (None, given.name), True, "the name")
        same(given.properties.scope, getattr(scope, "value", scope), "the scope")
        same(client.get_role_assignment(scope, given.name).role_assignment_id, given.role_assignment_id, "the assignment as it is read")
        same(sorted(a.name for a in client.list_role_assignments(scope)), sorted(before + [given.name]), "the list")
        refused(409, "RoleAssignmentExists", lambda: client.create_role_assignment(scope, role.id, worker))
        client.delete_role_assignment(scope, given.name)
        same(sorted(a.name for a in client.list_role_assignments(scope)), before, "the list, after deletion")
        refused(404, "RoleAssignmentNotFound", lambda: client.get_role_assignment(scope, given.name))
        client.delete_role_assignment(scope, given.name)  # the SDK takes a 404 for done


def settings():
    known = KeyVaultSettingsClient(URL, credential)
    arm = "AllowKeyManagementOperationsThroughARM"
    same([(s.name, s.type, s.value) for s in known.list_settings()], [(arm, "boolean", "false")], "settings")
    same(known.update_setting(arm, "true").value, "true", "the changed setting")
    same(known.get_setting(arm).value, "true", "the setting as it is read")
    refused(404, "SettingNotFound", lambda: known.get_setting("Other"))


step("the built-in roles", built_in_roles)
step("an administrator uses no keys", administrator)
step("a custom role", custom_role)
for at in (HSM, KeyVaultRoleScope.KEYS, "/keys/invoices"):
    step(f"assignments at {getattr(at, 'value', at)}", lambda at=at: assignments(at))
step("settings", settings)
finish()
