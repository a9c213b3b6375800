"""Full backup and restore with the stock Python SDK: KeyVaultBackupClient of azure.keyvault.administration, against an
activated HSM that has no keys yet and a container that has no blobs. CONTAINER_URL, BACKUP_SAS and RESTORE_SAS name and
open it; ANOTHER_URL is one at which the server may not store anything, and PATH_URL the same account with its name in
the path."""
import hashlib
import os
import re

from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.keyvault.administration import KeyVaultAccessControlClient, KeyVaultBackupClient
from azure.keyvault.keys.crypto import SignatureAlgorithm

from shared import URL, client as keys, credential, finish, refused, remote, same, step

CONTAINER, MAY_WRITE, MAY_READ = os.environ["CONTAINER_URL"], os.environ["BACKUP_SAS"], os.environ["RESTORE_SAS"]

_wire = []


def _record(request):
    _wire.append((request.http_request.method, request.http_request.url))


client = KeyVaultBackupClient(URL, credential, raw_request_hook=_record)
digest = hashlib.sha256(b"signed before the loss").digest()
taken = {}


def versions(name):
    return sorted(v.version for v in keys.list_properties_of_key_versions(name))


def key_names():
    return sorted(k.name for k in keys.list_properties_of_keys())


def holds(name, version, signature):
    return remote(keys.get_key(name, version)).verify(SignatureAlgorithm.es256, digest, signature).is_valid


def failed(code, work):
    """Asserts that the operation was accepted, and ended as Failed with this code in what the SDK raises."""
    poller = work()
    try:
        poller.result()
    except HttpResponseError as e:
        assert code in str(e), e
        same(poller.status(), "Failed", "status")
        return e
    raise AssertionError(f"it went well; want {code}")


def fill():
    old = keys.create_ec_key("ledger", curve="P-256", tags={"year": "1"})
    signature = remote(old).sign(SignatureAlgorithm.es256, digest).signature
    keys.create_ec_key("ledger", curve="P-256", tags={"year": "2"})
    keys.create_rsa_key("press", size=2048)
    keys.create_ec_key("gone")
    keys.begin_delete_key("gone").wait()
    roles = KeyVaultAccessControlClient(URL, credential)
    auditor = [r for r in roles.list_role_definitions("/") if r.role_name == "Managed HSM Crypto Auditor"][0]
    roles.create_role_assignment("/keys/ledger", auditor.id, "5d2c1a40-0000-4000-8000-00000000000a")
    taken.update(old=old.properties.version, signature=signature, versions=versions("ledger"), latest=keys.get_key("ledger").properties)


def backup():
    poller = client.begin_backup(CONTAINER, MAY_WRITE)
    same(poller.status() in ("InProgress", "Succeeded"), True, "status at once")
    folder = poller.result().folder_url
    same((poller.status(), poller.done()), ("Succeeded", True), "status at the end")
    assert re.fullmatch(re.escape(CONTAINER) + r"/mhsm-alpha-[0-9]{16}", folder), folder
    taken["folder"] = folder
    # It polls the address that it was given, as it is.
    assert re.fullmatch(re.escape(URL) + "/backup/[0-9a-f]{32}/pending", _wire[-1][1]), _wire[-1]


def continued():
    """Another process goes on with the token of the first, and gets the same result, as often as it likes."""
    first = client.begin_backup(CONTAINER, MAY_WRITE)
    token = first.continuation_token()
    other = KeyVaultBackupClient(URL, credential)
    same(other.begin_backup(CONTAINER, MAY_WRITE, continuation_token=token).result().folder_url, first.result().folder_url, "the folder")
    same(other.begin_backup(CONTAINER, MAY_WRITE, continuation_token=token).result().folder_url, first.result().folder_url, "the folder, later")
    assert first.result().folder_url != taken["folder"], "two backups lie in one folder"


def one_key():
    """A key comes back with all its versions. Not over one that is there, nor over one that is deleted."""
    failed("Conflict", lambda: client.begin_restore(taken["folder"], MAY_READ, key_name="ledger"))
    keys.begin_delete_key("ledger").wait()
    failed("ObjectIsDeletedButRecoverable", lambda: client.begin_restore(taken["folder"], MAY_READ, key_name="ledger"))
    keys.purge_deleted_key("ledger")
    keys.create_ec_key("later")
    poller = client.begin_restore(taken["folder"], MAY_READ, key_name="ledger")
    same((poller.result(), poller.status()), (None, "Succeeded"), "the restore of a key")
    same(versions("ledger"), taken["versions"], "versions")
    got = keys.get_key("ledger").properties
    same((got.version, got.tags, got.created_on, got.updated_on), (taken["latest"].version, {"year": "2"}, taken["latest"].created_on, taken["latest"].updated_on), "the latest")
    same(holds("ledger", taken["old"], taken["signature"]), True, "the signature of before")
    same(key_names(), ["later", "ledger", "press"], "the other keys")
    failed("KeyNotFound", lambda: client.begin_restore(taken["folder"], MAY_READ, key_name="never"))


def everything():
    """The whole HSM is as it was: what was lost is there, and what came later is not."""
    for name in ("ledger", "press"):
        keys.begin_delete_key(name).wait()
        keys.purge_deleted_key(name)
    first = client.begin_restore(taken["folder"], MAY_READ)
    token = first.continuation_token()
    same(first.result(), None, "the restore")
    same(KeyVaultBackupClient(URL, credential).begin_restore(taken["folder"], MAY_READ, continuation_token=token).result(), None, "the same, continued")
    same(key_names(), ["ledger", "press"], "keys")
    same([d.name for d in keys.list_deleted_keys()], ["gone"], "deleted keys")
    same(versions("ledger"), taken["versions"], "versions")
    same(holds("ledger", taken["old"], taken["signature"]), True, "the signature of before")
    keys.begin_recover_deleted_key("gone").wait()
    given = [a.properties.principal_id for a in KeyVaultAccessControlClient(URL, credential).list_role_assignments("/keys/ledger")]
    same("5d2c1a40-0000-4000-8000-00000000000a" in given, True, "the role at a key")


def account_in_the_path():
    """The SDK takes the first part of a path for the container. The server puts the address together again."""
    folder = client.begin_backup(os.environ["PATH_URL"], MAY_WRITE).result().folder_url
    assert folder.startswith(os.environ["PATH_URL"] + "/mhsm-alpha-"), folder
    client.begin_restore(folder, MAY_READ).wait()
    same("press" in key_names(), True, "the key")


def refusals():
    refused(400, "BadParameter", lambda: client.begin_backup(os.environ["ANOTHER_URL"], MAY_WRITE))
    refused(400, "BadParameter", lambda: client.begin_restore(os.environ["ANOTHER_URL"] + "/mhsm-alpha-2026010100000000", MAY_READ))
    refused(400, "BadParameter", lambda: client.begin_backup(CONTAINER, "no token"))
    failed("the store does not allow it", lambda: client.begin_backup(CONTAINER, MAY_READ))
    failed("BackupNotFound", lambda: client.begin_restore(CONTAINER + "/mhsm-alpha-2026010100000000", MAY_READ))
    # While one runs, there is no second one. It may be over before the second is asked for; then both go well.
    first = client.begin_backup(CONTAINER, MAY_WRITE)
    try:
        client.begin_backup(CONTAINER, MAY_WRITE).wait()
    except ResourceExistsError as e:
        same((e.status_code, e.error.code), (409, "BackupOrRestoreInProgress"), "a second one")
    first.wait()


step("keys, a deleted key and a role", fill)
step("backup", backup)
step("a backup that another process goes on with", continued)
step("restore of one key", one_key)
step("restore of everything", everything)
step("an account whose name is in the path", account_in_the_path)
step("refusals", refusals)
finish()
