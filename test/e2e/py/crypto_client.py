"""The SDK's CryptographyClient: every algorithm that it knows by name, done by the HSM and not here. What the HSM answers
is checked with the library `cryptography`, and what that makes goes to the HSM."""
import hmac
import os
from datetime import datetime, timedelta, timezone

from azure.keyvault.keys.crypto import EncryptionAlgorithm, KeyWrapAlgorithm, SignatureAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives import padding as blocks
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from material import CURVES, ec_key, number, oct_key, public_key, rsa_key
from shared import client, finish, local, local_first, refused, remote, same, sent, step

MESSAGE = b"the message that is signed"
HASHES = {256: hashes.SHA256, 384: hashes.SHA384, 512: hashes.SHA512}

# Algorithms that have been seen, and names that the HSM does not serve, with the reason. At the end, none of the SDK's
# own lists may be left.
seen = set()
NOT_SERVED = {
    "RSA1_5": "its padding makes a decryption oracle; off unless a setting allows it",
    "EdDSA": "a Managed HSM has no OKP keys",
}

pair, keys = {}, {}
pair["rsa"], jwk = rsa_key(2048)
keys["rsa"] = client.import_key("c-rsa", jwk)
for curve in CURVES:
    pair[curve], jwk = ec_key(curve)
    keys[curve] = client.import_key(f"c-{curve}", jwk)
for bits in (128, 192, 256):
    pair[bits], jwk = oct_key(bits)
    keys[bits] = client.import_key(f"c-oct-{bits}", jwk)


def on(key, operation):
    """The request that an operation must send: to the version, as the client has its ID."""
    return f"POST /keys/{key.name}/{key.properties.version}/{operation} 200"


def digest(hash):
    h = hashes.Hash(hash())
    h.update(MESSAGE)
    return h.finalize()


def damaged(data):
    i = len(data) // 2
    return data[:i] + bytes([data[i] ^ 1]) + data[i + 1:]


def signatures(alg, key, hash, check, make):
    """Both ways of one algorithm: sign on the HSM and check here; sign here and verify on the HSM."""
    c = remote(key)
    r = sent(on(key, "sign"), lambda: c.sign(alg, digest(hash)))
    same((r.key_id, r.algorithm), (key.id, alg))
    check(r.signature)
    ours = make()
    verified = lambda signature: sent(on(key, "verify"), lambda: c.verify(alg, digest(hash), signature)).is_valid
    same((verified(ours), verified(damaged(ours))), (True, False), "a signature made here, and the same damaged")
    refused(400, "BadParameter", lambda: c.sign(alg, digest(hash)[1:]))
    own = local(lambda: local_first(key).verify(alg, digest(hash), r.signature))  # the SDK agrees with the HSM
    same(own.is_valid, True)
    seen.add(alg.value)


def rsa_signatures(alg, hash, scheme):
    key = pair["rsa"]
    signatures(alg, keys["rsa"], hash, lambda s: key.public_key().verify(s, MESSAGE, scheme, hash()), lambda: key.sign(MESSAGE, scheme, hash()))


def ec_signatures(curve):
    _, name, hash, size = CURVES[curve]
    key = pair[curve]

    def check(s):
        same(len(s), 2 * size)
        der = encode_dss_signature(int.from_bytes(s[:size], "big"), int.from_bytes(s[size:], "big"))
        key.public_key().verify(der, MESSAGE, ec.ECDSA(hash()))

    def make():
        r, s = decode_dss_signature(key.sign(MESSAGE, ec.ECDSA(hash())))
        return number(r, size) + number(s, size)

    signatures(SignatureAlgorithm(name), keys[curve], hash, check, make)


def macs(bits):
    """HS* are not among the SDK's names, which are text, so a user may write them. The value is the message of the HMAC."""
    name, hash, key = f"HS{bits}", HASHES[bits], keys[256]
    mac = hmac.new(pair[256], digest(hash), f"sha{bits}").digest()
    c = remote(key)
    same(sent(on(key, "sign"), lambda: c.sign(name, digest(hash))).signature, mac)
    same((c.verify(name, digest(hash), mac).is_valid, c.verify(name, digest(hash), damaged(mac)).is_valid), (True, False))


def rsa_encryption(name, hash):
    key, c, plaintext = pair["rsa"], remote(keys["rsa"]), os.urandom(32)
    oaep = padding.OAEP(padding.MGF1(hash()), hash(), None)
    outside = key.public_key().encrypt(plaintext, oaep)
    alg = EncryptionAlgorithm(name)
    inside = sent(on(keys["rsa"], "encrypt"), lambda: c.encrypt(alg, plaintext))
    same(key.decrypt(inside.ciphertext, oaep), plaintext)
    same(sent(on(keys["rsa"], "decrypt"), lambda: c.decrypt(alg, outside)).plaintext, plaintext)
    refused(400, "BadParameter", lambda: c.decrypt(alg, damaged(outside)))
    refused(400, "BadParameter", lambda: c.encrypt(alg, os.urandom(300)))
    wrap = KeyWrapAlgorithm(name)
    wrapped = sent(on(keys["rsa"], "wrapkey"), lambda: c.wrap_key(wrap, plaintext))
    same(key.decrypt(wrapped.encrypted_key, oaep), plaintext)
    same(sent(on(keys["rsa"], "unwrapkey"), lambda: c.unwrap_key(wrap, outside)).key, plaintext)
    refused(400, "BadParameter", lambda: c.unwrap_key(wrap, damaged(outside)))
    own = local(lambda: local_first(keys["rsa"]).encrypt(alg, plaintext))  # what the SDK encrypts, the HSM decrypts
    same(c.decrypt(alg, own.ciphertext).plaintext, plaintext)
    own = local(lambda: local_first(keys["rsa"]).wrap_key(wrap, plaintext))
    same(c.unwrap_key(wrap, own.encrypted_key).key, plaintext)
    seen.add(name)


def gcm(bits):
    alg, key, c = EncryptionAlgorithm(f"A{bits}GCM"), keys[bits], remote(keys[bits])
    plaintext, aead = os.urandom(45), AESGCM(pair[bits])
    for aad in (b"header", None):
        e = sent(on(key, "encrypt"), lambda: c.encrypt(alg, plaintext, additional_authenticated_data=aad))
        same((len(e.iv), len(e.tag), len(e.ciphertext)), (12, 16, 45))
        same(aead.decrypt(e.iv, e.ciphertext + e.tag, aad), plaintext)

        def decrypt(ciphertext=e.ciphertext, iv=e.iv, tag=e.tag, aad=aad):
            return c.decrypt(alg, ciphertext, iv=iv, authentication_tag=tag, additional_authenticated_data=aad)

        same(sent(on(key, "decrypt"), decrypt).plaintext, plaintext)
        refused(400, "BadParameter", lambda: decrypt(ciphertext=damaged(e.ciphertext)))
        refused(400, "BadParameter", lambda: decrypt(tag=damaged(e.tag)))
        refused(400, "BadParameter", lambda: decrypt(aad=b"another"))
        iv = os.urandom(12)
        ours = aead.encrypt(iv, plaintext, aad)
        same(decrypt(ours[:-16], iv, ours[-16:]).plaintext, plaintext)
    seen.add(alg.value)


def cbc(bits, padded):
    alg, key, c = EncryptionAlgorithm(f"A{bits}CBC" + ("PAD" if padded else "")), keys[bits], remote(keys[bits])
    iv, plaintext = os.urandom(16), os.urandom(45 if padded else 48)
    pad = blocks.PKCS7(128).padder()
    whole = pad.update(plaintext) + pad.finalize() if padded else plaintext
    encryptor = Cipher(algorithms.AES(pair[bits]), modes.CBC(iv)).encryptor()
    ours = encryptor.update(whole) + encryptor.finalize()
    e = sent(on(key, "encrypt"), lambda: c.encrypt(alg, plaintext, iv=iv))
    same((e.ciphertext, e.iv), (ours, iv))
    same(sent(on(key, "decrypt"), lambda: c.decrypt(alg, ours, iv=iv)).plaintext, plaintext)
    refused(400, "BadParameter", lambda: c.encrypt(alg, plaintext, iv=iv[1:]))
    if not padded:
        refused(400, "BadParameter", lambda: c.encrypt(alg, plaintext[1:], iv=iv))
    seen.add(alg.value)


def key_wrap(bits, name, wrap, length):
    """CKM_AES_KEY_WRAP and _PAD are not among this version's names, which are text, so a user may write them."""
    alg = KeyWrapAlgorithm(name) if name.endswith("KW") else name
    key, c, plaintext = keys[bits], remote(keys[bits]), os.urandom(length)
    ours = wrap(pair[bits], plaintext)
    same(sent(on(key, "wrapkey"), lambda: c.wrap_key(alg, plaintext)).encrypted_key, ours)
    same(sent(on(key, "unwrapkey"), lambda: c.unwrap_key(alg, ours)).key, plaintext)
    refused(400, "BadParameter", lambda: c.unwrap_key(alg, damaged(ours)))
    seen.add(name)


def made_inside():
    plaintext, iv = os.urandom(32), os.urandom(16)
    for bits in (128, 192, 256):
        c = remote(client.create_oct_key(f"c-made-{bits}", size=bits))
        alg = EncryptionAlgorithm(f"A{bits}CBCPAD")
        same(c.decrypt(alg, c.encrypt(alg, plaintext, iv=iv).ciphertext, iv=iv).plaintext, plaintext)
    key = client.create_rsa_key("c-made-rsa", size=2048)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    c = client.get_cryptography_client("c-made-rsa")
    same(c.decrypt(EncryptionAlgorithm.rsa_oaep_256, public_key(key.key).encrypt(plaintext, oaep)).plaintext, plaintext)


def lost_by_the_sdk():
    """docs/compatibility.md warns of this: with an oct key of which it has no bytes, this version of the SDK makes a key
    of its own, of 256 bits, and encrypts with that, unseen by the HSM. When it is no longer so, take the warning out."""
    plaintext, iv = os.urandom(32), os.urandom(16)
    for bits in (128, 192, 256):
        alg = KeyWrapAlgorithm(f"A{bits}KW")
        wrapped = local(lambda: local_first(keys[bits].id).wrap_key(alg, plaintext)).encrypted_key
        assert wrapped != keywrap.aes_key_wrap(pair[bits], plaintext), "it did use the key"
        refused(400, "BadParameter", lambda: remote(keys[bits]).unwrap_key(alg, wrapped))
    local(lambda: local_first(keys[256].id).encrypt(EncryptionAlgorithm.a256_cbcpad, plaintext, iv=iv))
    for bits in (128, 192):  # this does not fit its own key, and it asks the HSM
        alg, c = EncryptionAlgorithm(f"A{bits}CBCPAD"), local_first(keys[bits].id)
        e = sent(on(keys[bits], "encrypt"), lambda: c.encrypt(alg, plaintext, iv=iv))
        same(sent(on(keys[bits], "decrypt"), lambda: c.decrypt(alg, e.ciphertext, iv=iv)).plaintext, plaintext)


def refusals():
    c, d = remote(keys["rsa"]), digest(hashes.SHA256)
    refused(400, "NotSupported", lambda: c.encrypt(EncryptionAlgorithm.rsa1_5, d))
    refused(400, "NotSupported", lambda: c.decrypt(EncryptionAlgorithm.rsa1_5, os.urandom(256)))
    refused(400, "BadParameter", lambda: c.sign(SignatureAlgorithm.es256, d))
    refused(400, "BadParameter", lambda: remote(keys["P-256"]).sign(SignatureAlgorithm.es384, digest(hashes.SHA384)))
    refused(400, "BadParameter", lambda: remote(keys["P-256"]).sign(SignatureAlgorithm.eddsa, d))
    refused(400, "BadParameter", lambda: remote(keys[128]).encrypt(EncryptionAlgorithm.a256_gcm, d))
    refused(400, "BadParameter", lambda: remote(keys[128]).wrap_key(KeyWrapAlgorithm.aes_256, d))
    refused(400, "BadParameter", lambda: c.encrypt(EncryptionAlgorithm.a256_gcm, d))

    sign_only = remote(client.create_rsa_key("c-sign-only", key_operations=["sign"]))
    refused(403, "KeyDisabled", lambda: sign_only.decrypt(EncryptionAlgorithm.rsa_oaep_256, os.urandom(256)))
    now = datetime.now(timezone.utc)
    # This client, too, refuses what is outside its time; one that has no times in its copy of the key asks the HSM.
    later = remote(client.create_ec_key("c-later", curve="P-256", not_before=now + timedelta(hours=1)))
    refused(403, "KeyDisabled", lambda: later.sign(SignatureAlgorithm.es256, d))
    past = remote(client.create_ec_key("c-past", curve="P-256", expires_on=now - timedelta(hours=1)))
    refused(403, "KeyDisabled", lambda: past.sign(SignatureAlgorithm.es256, d))
    same(past.verify(SignatureAlgorithm.es256, d, os.urandom(64)).is_valid, False)  # verify works outside the time

    key = client.create_ec_key("c-off", curve="P-256", enabled=False)
    off = remote(key)
    refused(403, "KeyDisabled", lambda: off.sign(SignatureAlgorithm.es256, d))
    client.update_key_properties("c-off", enabled=True)
    same(len(off.sign(SignatureAlgorithm.es256, d).signature), 64)
    client.begin_delete_key("c-off").wait()
    refused(404, "KeyNotFound", lambda: off.sign(SignatureAlgorithm.es256, d))


def complete():
    for known in (EncryptionAlgorithm, KeyWrapAlgorithm, SignatureAlgorithm):
        for alg in known:
            assert (alg.value in seen) != (alg.value in NOT_SERVED), f"{alg.value} was neither tried nor given a reason, or both"


for bits, hash in HASHES.items():
    step(f"RS{bits}", lambda: rsa_signatures(SignatureAlgorithm(f"RS{bits}"), hash, padding.PKCS1v15()))
    step(f"PS{bits}", lambda: rsa_signatures(SignatureAlgorithm(f"PS{bits}"), hash, padding.PSS(padding.MGF1(hash()), bits // 8)))
    step(f"HS{bits}", lambda: macs(bits))
for curve in CURVES:
    step(CURVES[curve][1], lambda: ec_signatures(curve))
step("RSA-OAEP: encrypt, decrypt, wrap_key, unwrap_key", lambda: rsa_encryption("RSA-OAEP", hashes.SHA1))
step("RSA-OAEP-256: encrypt, decrypt, wrap_key, unwrap_key", lambda: rsa_encryption("RSA-OAEP-256", hashes.SHA256))
for bits in (128, 192, 256):
    step(f"A{bits}GCM", lambda: gcm(bits))
    step(f"A{bits}CBC", lambda: cbc(bits, False))
    step(f"A{bits}CBCPAD", lambda: cbc(bits, True))
    for name, wrap, length in ((f"A{bits}KW", keywrap.aes_key_wrap, 32), ("CKM_AES_KEY_WRAP", keywrap.aes_key_wrap, 24),
                               ("CKM_AES_KEY_WRAP_PAD", keywrap.aes_key_wrap_with_padding, 29)):
        step(f"{name} with a key of {bits} bits", lambda: key_wrap(bits, name, wrap, length))
step("keys that the HSM made itself", made_inside)
step("what this version loses by itself", lost_by_the_sdk)
step("refusals: not served, another key's algorithm, key_ops, disabled, outside its time, deleted", refusals)
step("every algorithm that the SDK names was seen, or is not served", complete)
finish()
