"""Every method of the SDK's KeyClient, against an activated HSM that has no keys yet."""
import base64
import hashlib
import json
import os
import re
import ssl
import urllib.request
from datetime import datetime, timedelta, timezone

from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential
from azure.keyvault.keys import (JsonWebKey, KeyClient, KeyExportEncryptionAlgorithm, KeyReleasePolicy, KeyRotationLifetimeAction, KeyRotationPolicy,
                                 KeyRotationPolicyAction)
from azure.keyvault.keys.crypto import SignatureAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from material import CURVES, ec_key, number, oct_key, open_release, public_key, rsa_key, transfer_blob
from shared import URL, client, finish, refused, remote, same, sent, step

NOW = datetime.now(timezone.utc).replace(microsecond=0)  # whole seconds, as on the wire


def in_days(n):
    return NOW + timedelta(days=n)


def removed(name):
    """Deletes a key and purges it, so that its name is free."""
    client.begin_delete_key(name).wait()
    client.purge_deleted_key(name)


def holds(key, digest, signature):
    """Checks an ES256 signature with the library."""
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    public_key(key.key).verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))


def create():
    key = sent(r"POST /keys/rsa/create 200", lambda: client.create_key("rsa", "RSA"))
    same(key.key_type, "RSA-HSM")
    same((len(key.key.n), key.key.e), (256, b"\x01\x00\x01"))
    same(sorted(key.key_operations), ["decrypt", "encrypt", "sign", "unwrapKey", "verify", "wrapKey"])
    p = key.properties
    assert re.fullmatch("[0-9a-f]{32}", p.version), p.version
    same((key.id, p.vault_url, p.name), (f"{URL}/keys/rsa/{p.version}", URL, "rsa"))
    same((p.enabled, p.exportable, p.recoverable_days, p.recovery_level), (True, False, 90, "Recoverable+Purgeable"))
    same((p.not_before, p.expires_on, p.tags), (None, None, None))
    assert abs(p.created_on - NOW) < timedelta(days=1) and p.updated_on == p.created_on, p.created_on
    for secret in ("d", "p", "q", "dp", "dq", "qi", "k", "t"):
        same(getattr(key.key, secret), None, secret)


def create_rsa():
    tags = {"team": "red", "empty": ""}
    key = client.create_rsa_key("rsa-3072", size=3072, public_exponent=65539, hardware_protected=True, key_operations=["sign", "verify"], enabled=True,
                                not_before=in_days(-1), expires_on=in_days(400), tags=tags)
    same((key.key_type, len(key.key.n), key.key.e, sorted(key.key_operations)), ("RSA-HSM", 384, b"\x01\x00\x03", ["sign", "verify"]))
    same((key.properties.not_before, key.properties.expires_on, key.properties.tags), (in_days(-1), in_days(400), tags))


def create_ec(curve):
    size = CURVES[curve][3]
    key = client.create_ec_key(f"ec-{curve}", curve=curve, hardware_protected=curve == "P-384")
    same((key.key_type, key.key.crv, len(key.key.x), len(key.key.y)), ("EC-HSM", curve, size, size))
    same(sorted(key.key_operations), ["sign", "verify"])
    public_key(key.key)


def create_oct(size):
    key = client.create_oct_key(f"oct-{size}", size=size, hardware_protected=size == 256)
    same((key.key_type, key.key.k), ("oct-HSM", None))


def import_plain():
    pair, jwk = rsa_key(2048)
    key = sent(r"PUT /keys/in-rsa 200", lambda: client.import_key("in-rsa", jwk, hardware_protected=True, tags={"from": "outside"}, expires_on=in_days(30)))
    same((key.key_type, key.key.n, key.key.d), ("RSA-HSM", jwk.n, None))
    same((key.properties.tags, key.properties.expires_on), ({"from": "outside"}, in_days(30)))
    for curve in CURVES:
        _, e = ec_key(curve)
        key = client.import_key(f"in-{curve}", e)
        same((key.key_type, key.key.crv, key.key.x, key.key.y), ("EC-HSM", curve, e.x, e.y))
    key = client.import_key("in-oct", oct_key(256)[1])
    same((key.key_type, key.key.k), ("oct-HSM", None))
    other = rsa_key(2048)[1]
    jwk.p, jwk.q = other.p, other.q
    refused(400, "BadParameter", lambda: client.import_key("in-wrong", jwk))


def import_byok():
    exchange = client.create_rsa_key("exchange", size=2048, key_operations=["import"])
    same(exchange.key_operations, ["import"])
    pair, jwk = rsa_key(3072)
    key = client.import_key("byok-rsa", JsonWebKey(kty="RSA-HSM", key_ops=["sign", "verify"], t=transfer_blob(exchange, pair)))
    same((key.key_type, key.key.n, sorted(key.key_operations)), ("RSA-HSM", jwk.n, ["sign", "verify"]))
    for curve in CURVES:
        pair, jwk = ec_key(curve)
        key = client.import_key(f"byok-{curve}", JsonWebKey(kty="EC-HSM", crv=curve, t=transfer_blob(exchange, pair)))
        same((key.key_type, key.key.x, key.key.y), ("EC-HSM", jwk.x, jwk.y))
    k, _ = oct_key(256)
    key = client.import_key("byok-oct", JsonWebKey(kty="oct-HSM", t=transfer_blob(exchange, k)))
    same((key.key_type, key.key.k), ("oct-HSM", None))


def release_policy():
    def policy(value, **kwargs):
        text = json.dumps({"version": "1.0.0", "anyOf": [{"authority": "https://attest.example.com/", "allOf": [{"claim": "x", "equals": value}]}]})
        return KeyReleasePolicy(text.encode(), **kwargs)

    key = client.create_ec_key("leaving", curve="P-256", exportable=True, release_policy=policy("y"))
    same((key.properties.exportable, key.properties.release_policy.encoded_policy), (True, policy("y").encoded_policy))
    changed = client.update_key_properties("leaving", release_policy=policy("z", immutable=True)).properties.release_policy
    same((changed.encoded_policy, changed.immutable), (policy("z").encoded_policy, True))
    refused(400, "BadParameter", lambda: client.update_key_properties("leaving", release_policy=policy("y")))
    refused(400, "BadParameter", lambda: client.create_ec_key("staying", curve="P-256", release_policy=policy("y")))


def get():
    first = sent(r"GET /keys/rsa/ 200", lambda: client.get_key("rsa"))
    second = client.create_key("rsa", "RSA-HSM", tags={"v": "2"})
    assert second.properties.version != first.properties.version
    same(client.get_key("rsa").key.n, second.key.n)
    old = client.get_key("rsa", first.properties.version)
    same((old.key.n, old.properties.tags), (first.key.n, None))
    refused(404, "KeyNotFound", lambda: client.get_key("nobody"))
    refused(404, "KeyNotFound", lambda: client.get_key("rsa", "0" * 32))
    both = [first.properties.version, second.properties.version]
    same([v.version for v in client.list_properties_of_key_versions("rsa")], both)
    same([[v.version for v in page] for page in client.list_properties_of_key_versions("rsa", max_page_size=1).by_page()], [both[:1], both[1:]])


def list_keys():
    for i in range(12):
        client.create_ec_key(f"many-{i}", curve="P-256")
    keys = list(client.list_properties_of_keys())
    names = [k.name for k in keys]
    assert len(names) > 25, f"{len(names)} keys: too few for a second page"
    same(len(set(names)), len(names), "a key is listed twice")
    for want in ("rsa", "rsa-3072", "ec-P-256K", "oct-128", "in-P-521", "byok-rsa", "many-11"):
        assert want in names, want
    tags = {k.name: k.tags for k in keys}
    same(tags["rsa"], {"v": "2"})
    pages = [[k.name for k in page] for page in client.list_properties_of_keys(max_page_size=5).by_page()]
    assert all(len(page) == 5 for page in pages[:-1]) and 1 <= len(pages[-1]) <= 5, [len(page) for page in pages]
    same([name for page in pages for name in page], names)


def update():
    key = client.create_ec_key("changing", curve="P-256", tags={"a": "b"})
    digest = hashlib.sha256(b"m").digest()
    c = remote(key)
    changed = sent(r"PATCH /keys/changing/ 200", lambda: client.update_key_properties("changing", enabled=False))
    same((changed.properties.enabled, changed.properties.tags), (False, {"a": "b"}))
    refused(403, "KeyDisabled", lambda: c.sign(SignatureAlgorithm.es256, digest))
    changed = client.update_key_properties("changing", key.properties.version, enabled=True, expires_on=in_days(7), tags={"c": "d"}, key_operations=["sign"])
    same((changed.properties.tags, changed.key_operations, changed.properties.expires_on), ({"c": "d"}, ["sign"], in_days(7)))
    holds(key, digest, c.sign(SignatureAlgorithm.es256, digest).signature)
    refused(404, "KeyNotFound", lambda: client.update_key_properties("nobody", enabled=False))


def rotate():
    key = client.create_ec_key("turning", curve="P-256")
    refused(400, "BadParameter", lambda: client.rotate_key("turning"))
    actions = [KeyRotationLifetimeAction(KeyRotationPolicyAction.rotate, time_before_expiry="P30D")]
    put = client.update_key_rotation_policy("turning", KeyRotationPolicy(), expires_in="P90D", lifetime_actions=actions)
    got = client.get_key_rotation_policy("turning")
    for policy in (put, got):
        same((policy.expires_in, len(policy.lifetime_actions)), ("P90D", 1))
        action = policy.lifetime_actions[0]
        same((action.action, action.time_after_create, action.time_before_expiry), ("Rotate", None, "P30D"))
        assert policy.created_on and policy.updated_on and policy.id.startswith(f"{URL}/keys/turning/"), policy.id
    turned = client.rotate_key("turning")
    assert turned.properties.version != key.properties.version and turned.key.x != key.key.x
    same(turned.properties.expires_on - turned.properties.created_on, timedelta(days=90))
    notify = [KeyRotationLifetimeAction(KeyRotationPolicyAction.notify, time_before_expiry="P30D")]
    refused(400, "BadParameter", lambda: client.update_key_rotation_policy("turning", KeyRotationPolicy(), lifetime_actions=notify))


def delete():
    key = client.create_ec_key("passing", curve="P-384", tags={"a": "b"})
    poller = client.begin_delete_key("passing")
    deleted = poller.result()
    poller.wait()
    same(deleted.recovery_id, f"{URL}/deletedkeys/passing")
    same(deleted.scheduled_purge_date - deleted.deleted_date, timedelta(days=90))
    refused(404, "KeyNotFound", lambda: client.get_key("passing"))
    refused(404, "KeyNotFound", lambda: client.begin_delete_key("passing"))
    taken = refused(409, "Conflict", lambda: client.create_ec_key("passing", curve="P-384"))
    same(taken.error.innererror["code"], "ObjectIsDeletedButRecoverable")
    shown = client.get_deleted_key("passing")
    same((shown.id, shown.key.x, shown.properties.tags), (key.id, key.key.x, {"a": "b"}))
    listed = list(client.list_deleted_keys())
    same([k.name for k in listed], ["passing"])
    same((listed[0].recovery_id, listed[0].scheduled_purge_date), (deleted.recovery_id, deleted.scheduled_purge_date))
    recovering = client.begin_recover_deleted_key("passing")
    recovering.wait()
    same(recovering.result().id, key.id)
    same(client.get_key("passing").id, key.id)
    refused(404, "KeyNotFound", lambda: client.get_deleted_key("passing"))
    client.begin_delete_key("passing").wait()
    sent(r"DELETE /deletedkeys/passing 204", lambda: client.purge_deleted_key("passing"))
    refused(404, "KeyNotFound", lambda: client.get_deleted_key("passing"))
    refused(404, "KeyNotFound", lambda: client.purge_deleted_key("passing"))
    client.create_ec_key("passing", curve="P-384")  # the name is free again


def backup():
    first = client.create_ec_key("saved", curve="P-256", tags={"a": "b"})
    second = client.create_ec_key("saved", curve="P-256")
    blob = sent(r"POST /keys/saved/backup 200", lambda: client.backup_key("saved"))
    assert isinstance(blob, bytes) and len(blob) > 100
    refused(409, "Conflict", lambda: client.restore_key_backup(blob))
    removed("saved")
    same(client.restore_key_backup(blob).id, second.id)
    same([v.version for v in client.list_properties_of_key_versions("saved")], [first.properties.version, second.properties.version])
    digest = hashlib.sha256(b"after").digest()
    for key in (first, second):
        holds(key, digest, remote(key).sign(SignatureAlgorithm.es256, digest).signature)
    removed("saved")
    refused(400, "BadParameter", lambda: client.restore_key_backup(blob[:-1] + bytes([blob[-1] ^ 1])))
    client.restore_key_backup(blob)


def random():
    a, b = client.get_random_bytes(128), client.get_random_bytes(128)
    assert len(a) == 128 and a != b
    same(len(client.get_random_bytes(1)), 1)
    refused(400, "BadParameter", lambda: client.get_random_bytes(129))


def release():
    authority = os.environ["STRONGROOM_AUTHORITY"] + "/attest"
    recipient, jwk = rsa_key(3072)

    def attest(claims):
        """Has the development server's own authority attest claims for the recipient's key."""
        text = lambda b: base64.urlsafe_b64encode(b).rstrip(b"=").decode()
        body = {"claims": claims, "key": {"kty": "RSA", "kid": "enclave", "n": text(jwk.n), "e": text(jwk.e)}}
        who = base64.b64encode(f"{os.environ['STRONGROOM_CLIENT_ID']}:{os.environ['STRONGROOM_CLIENT_SECRET']}".encode()).decode()
        request = urllib.request.Request(authority + "/token", json.dumps(body).encode(), {"Content-Type": "application/json", "Authorization": "Basic " + who})
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])) as answer:
            return json.load(answer)["token"]

    policy = KeyReleasePolicy(json.dumps({"version": "1.0.0", "anyOf": [{"authority": authority, "allOf": [{"claim": "place", "equals": "enclave"}]}]}).encode())
    made = client.create_ec_key("leaves-ec", curve="P-384", exportable=True, release_policy=policy)
    k, secret = oct_key(256)
    client.import_key("leaves-oct", secret, exportable=True, release_policy=policy)
    token = attest({"place": "enclave"})
    for alg in KeyExportEncryptionAlgorithm:
        released = sent(r"POST /keys/leaves-ec/+release 200", lambda: client.release_key("leaves-ec", token, algorithm=alg, nonce="once"))
        request, der = open_release(released.value, recipient)
        same((request["enc"], request["nonce"]), (alg.value, "once"))
        same(number(serialization.load_der_private_key(der, None).public_key().public_numbers().x, 48), made.key.x, "the released EC key")
        same(open_release(client.release_key("leaves-oct", token, algorithm=alg).value, recipient)[1], k, "the released oct key")
    version = made.properties.version
    sent(f"POST /keys/leaves-ec/{version}/release 200", lambda: client.release_key("leaves-ec", token, version=version))
    elsewhere = attest({"place": "street"})
    refused(403, "Forbidden", lambda: client.release_key("leaves-ec", elsewhere))
    refused(403, "Forbidden", lambda: client.release_key("leaves-ec", token[:-8] + "AAAAAAAA"))
    refused(403, "Forbidden", lambda: client.release_key("ec-P-256", token))
    refused(404, "KeyNotFound", lambda: client.release_key("nobody", token))


def shared_client():
    key = client.get_key("ec-P-256")
    digest = hashlib.sha256(b"shared").digest()
    for version in (None, key.properties.version):
        c = client.get_cryptography_client("ec-P-256", key_version=version)
        signed = sent(f"POST /keys/ec-P-256/{key.properties.version}/sign 200", lambda: c.sign(SignatureAlgorithm.es256, digest))
        holds(key, digest, signed.signature)


def refusals():
    refused(400, "BadParameter", lambda: client.create_key("a_b", "RSA"))
    refused(400, "BadParameter", lambda: client.create_key("x" * 128, "RSA"))
    refused(400, "BadParameter", lambda: client.create_rsa_key("odd", size=1024))
    refused(400, "BadParameter", lambda: client.create_ec_key("odd", curve="P-224"))
    refused(400, "BadParameter", lambda: client.create_okp_key("odd", curve="Ed25519"))
    refused(404, "KeyNotFound", lambda: client.get_key("odd"))


def wrong_secret():
    wrong = ClientSecretCredential(os.environ["STRONGROOM_TENANT"], os.environ["STRONGROOM_CLIENT_ID"], "wrong",
                                   authority=os.environ["STRONGROOM_AUTHORITY"], instance_discovery=False)
    try:
        KeyClient(URL, wrong).get_key("rsa")
    except ClientAuthenticationError:
        return
    raise AssertionError("a wrong secret signs in")


step("create: RSA is stored as RSA-HSM, with what an HSM fills in", create)
step("create_rsa_key with every option", create_rsa)
for name in CURVES:
    step(f"create_ec_key {name}", lambda: create_ec(name))
for bits in (128, 192, 256):
    step(f"create_oct_key {bits}", lambda: create_oct(bits))
step("import_key: RSA, EC on every curve, oct", import_plain)
step("import_key: a BYOK transfer blob", import_byok)
step("a release policy: made with the key, changed, made immutable", release_policy)
step("get_key: latest and by version; a second create is a new version", get)
step("list_properties_of_keys, whole and by pages", list_keys)
step("update_key_properties, of the latest version and of one by name", update)
step("update_key_rotation_policy, get_key_rotation_policy, rotate_key", rotate)
step("begin_delete_key, get_deleted_key, list_deleted_keys, begin_recover_deleted_key, purge_deleted_key", delete)
step("backup_key and restore_key_backup: every version, with its private key", backup)
step("get_random_bytes", random)
step("release_key: to whom the policy wants, in every way of wrapping", release)
step("get_cryptography_client shares the client, and signs", shared_client)
step("names and values that are refused", refusals)
step("a wrong secret does not sign in", wrong_secret)
finish()
