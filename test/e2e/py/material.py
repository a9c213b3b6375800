"""Key material made here, outside the HSM, in the form in which the SDK imports it."""
import base64
import json
import os

from azure.keyvault.keys import JsonWebKey
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding

# The curves of the HSM: the library's name, the signature algorithm, its hash, bytes of a coordinate.
CURVES = {
    "P-256": (ec.SECP256R1, "ES256", hashes.SHA256, 32),
    "P-256K": (ec.SECP256K1, "ES256K", hashes.SHA256, 32),
    "P-384": (ec.SECP384R1, "ES384", hashes.SHA384, 48),
    "P-521": (ec.SECP521R1, "ES512", hashes.SHA512, 66),
}


def number(n, size=None):
    return n.to_bytes(size or (n.bit_length() + 7) // 8, "big")


def rsa_key(bits):
    """A new private key and what import_key takes."""
    key = rsa.generate_private_key(65537, bits)
    p = key.private_numbers()
    return key, JsonWebKey(kty="RSA", n=number(p.public_numbers.n), e=number(p.public_numbers.e), d=number(p.d), p=number(p.p), q=number(p.q),
                           dp=number(p.dmp1), dq=number(p.dmq1), qi=number(p.iqmp))


def ec_key(curve):
    library, _, _, size = CURVES[curve]
    key = ec.generate_private_key(library())
    p = key.private_numbers()
    return key, JsonWebKey(kty="EC", crv=curve, x=number(p.public_numbers.x, size), y=number(p.public_numbers.y, size), d=number(p.private_value, size))


def oct_key(bits):
    k = os.urandom(bits // 8)
    return k, JsonWebKey(kty="oct", k=k)


def public_key(jwk):
    """The key that the HSM shows, as the library takes it. A point that is not on the curve is refused."""
    read = lambda b: int.from_bytes(b, "big")
    if jwk.kty == "RSA-HSM":
        return rsa.RSAPublicNumbers(read(jwk.e), read(jwk.n)).public_key()
    return ec.EllipticCurvePublicNumbers(read(jwk.x), read(jwk.y), CURVES[jwk.crv][0]()).public_key()


def transfer_blob(exchange, target):
    """What a BYOK tool makes: a target key for the exchange key of an HSM, by CKM_RSA_AES_KEY_WRAP. target is PKCS #8
    for RSA and EC, the bare key for oct. It goes into an import as the member t of the key."""
    if not isinstance(target, bytes):
        target = target.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    aes = os.urandom(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    ciphertext = public_key(exchange.key).encrypt(aes, oaep) + aes_key_wrap_with_padding(aes, target)
    return json.dumps({
        "schema_version": "1.0.0",
        "header": {"kid": exchange.id, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
        "ciphertext": base64.urlsafe_b64encode(ciphertext).rstrip(b"=").decode(),
        "generator": "cryptography",
    }).encode()


# The ways in which a released key is wrapped, with the hash of each.
_RELEASES = {"CKM_RSA_AES_KEY_WRAP": hashes.SHA1, "RSA_AES_KEY_WRAP_256": hashes.SHA256, "RSA_AES_KEY_WRAP_384": hashes.SHA384}


def _read(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def open_release(jws, recipient):
    """The recipient of a released key: checks the signature, and returns the request that was signed with it and the key,
    as PKCS #8 or, for oct, bare."""
    header, payload, signature = jws.split(".")
    certificate = x509.load_der_x509_certificate(base64.b64decode(json.loads(_read(header))["x5c"][0]))
    signature = _read(signature)
    der = encode_dss_signature(int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big"))
    certificate.public_key().verify(der, f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA384()))
    signed = json.loads(_read(payload))
    ciphertext = _read(json.loads(_read(signed["response"]["key"]["key"]["key_hsm"]))["ciphertext"])
    hash, size = _RELEASES[signed["request"]["enc"]], recipient.key_size // 8
    aes = recipient.decrypt(ciphertext[:size], padding.OAEP(padding.MGF1(hash()), hash(), None))
    return signed["request"], aes_key_unwrap_with_padding(aes, ciphertext[size:])
