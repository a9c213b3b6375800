"""Opens an SD file, full backups and key backups, and checks attestations and drill reports, as docs/formats.md describes them, with nothing
of Strongroom's. It was written from that page alone, in another language, with the cryptography that Debian has. What it prints is held against what the
server says of the same keys: if it can read them, so can whoever has only the page and the files.

    reader.py --sd SD.json --key CUSTODIAN.key [--key …] [--backup FOLDER] [--blob KEY.backup] [--attestation FILE] [--report FILE]
"""
import argparse, base64, hashlib, hmac, itertools, json, os, re, struct, sys, zlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.padding import PKCS7


class Refused(Exception):
    pass


def must(held, why):
    if not held:
        raise Refused(why)


def load(data, where):
    """JSON in which no name stands twice."""
    def unique(pairs):
        names = [name for name, _ in pairs]
        must(len(names) == len(set(names)), f"{where}: a name twice")
        return dict(pairs)
    return json.loads(data.decode("utf-8"), object_pairs_hook=unique)


def unb64(text):
    must(re.fullmatch(r"[A-Za-z0-9_-]*", text) and len(text) % 4 != 1, "no base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    must(b64(data) == text, "base64url with unused bits")
    return data


def b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# --- JWE, of the two forms ---------------------------------------------------------------------------------------------

def jwe_parts(compact):
    parts = compact.split(".")
    must(len(parts) == 5, "a JWE has five segments")
    header = load(unb64(parts[0]), "header")
    must(set(header) == {"alg", "enc", "kid"} and header["enc"] == "A256CBC-HS512", "header")
    return header, parts[0].encode(), *[unb64(p) for p in parts[1:]]


def jwe_content(key, aad, iv, ciphertext, tag):
    """RFC 7518, section 5.2.5."""
    must(len(key) == 64 and len(iv) == 16 and len(tag) == 32, "lengths")
    want = hmac.new(key[:32], aad + iv + ciphertext + struct.pack(">Q", 8 * len(aad)), "sha512").digest()[:32]
    must(hmac.compare_digest(want, tag), "authentication tag")
    d = Cipher(algorithms.AES(key[32:]), modes.CBC(iv)).decryptor()
    u = PKCS7(128).unpadder()
    return u.update(d.update(ciphertext) + d.finalize()) + u.finalize()


def open_share(private, compact):
    header, aad, key, iv, ciphertext, tag = jwe_parts(compact)
    must(header["alg"] == "RSA-OAEP-256", "alg")
    cek = private.decrypt(key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    return jwe_content(cek, aad, iv, ciphertext, tag)


def open_item(master, item):
    header, aad, key, iv, ciphertext, tag = jwe_parts(item["compact_jwe"])
    must(header["alg"] == "dir" and header["kid"] == item["tag"] and key == b"", "header of an item")
    cek = hmac.new(master, struct.pack(">I", 1) + item["tag"].encode() + b"\0" + struct.pack(">I", 512), "sha512").digest()
    return jwe_content(cek, aad, iv, ciphertext, tag)


# --- Shamir over GF(257) -----------------------------------------------------------------------------------------------

def combine(shares):
    xs, columns = [], []
    for share in shares:
        must(len(share) == 64, "length of a share")
        words = struct.unpack("<32H", share)
        x = {w >> 9 for w in words}
        must(len(x) == 1 and 1 <= min(x) <= 126, "x of a share")
        must(all(w & 0x1ff <= 256 for w in words), "a word of a share")
        xs.append(x.pop())
        columns.append([w & 0x1ff for w in words])
    must(len(set(xs)) == len(xs), "the same x twice")
    master = []
    for i in range(32):
        value = 0
        for j, x in enumerate(xs):
            weight = columns[j][i]
            for k, other in enumerate(xs):
                if k != j:
                    weight = weight * other * pow(other - x, -1, 257) % 257
            value += weight
        must(value % 257 != 256, "a byte of 256")
        master.append(value % 257)
    return bytes(master)


def open_sd(path, keys):
    sd = load(open(path, "rb").read(), "SD file")
    must(sd["version"] == 2 and sd["EncData"]["kdf"] == "sp108_kdf" and sd["SharedKeys"]["key_algorithm"] == "shamir_share", "form of the SD file")
    shares = []
    for private in keys:
        for entry in sd["SharedKeys"]["enc_shares"]:  # never by position
            try:
                shares.append(open_share(private, entry["enc_key"]))
                break
            except (ValueError, Refused):
                continue
    items = sd["EncData"]["data"]
    for some in itertools.combinations(shares, sd["SharedKeys"]["required"]):
        try:
            master = combine(some)
            return sd, {item["tag"]: open_item(master, item) for item in items}
        except Refused:
            continue
    raise Refused("these keys do not open the SD file")


def spki(public):
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def p384(public, signature, data):
    must(len(signature) == 96, "length of a signature")
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    public.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA384()))


def canonical(value):
    """RFC 8785, without numbers that are no integers; names in ASCII, so that code points sort as code units do."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def check_extension(sd, domain):
    extension = dict(sd["strongroom"])
    signature = unb64(extension.pop("signature"))
    must(extension["domain_id"] == domain, "the domain of the extension")
    der = unb64(extension["signing_key"])
    must(hashlib.sha256(der).hexdigest() == domain, "the signing key of the extension")
    whole = dict(sd, strongroom=extension)
    p384(serialization.load_der_public_key(der), signature, b"strongroom security domain file signature 1\n" + canonical(whole))


# --- statements of a domain --------------------------------------------------------------------------------------------

def statement(compact, typ, domain):
    parts = compact.split(".")
    must(len(parts) == 3, "a JWS has three segments")
    header = load(unb64(parts[0]), "header")
    must(header["alg"] == "ES384" and header["typ"] == typ, "header of a statement")
    public = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0])).public_key()
    must(hashlib.sha256(spki(public)).hexdigest() == domain, "another domain signed it")
    p384(public, unb64(parts[2]), (parts[0] + "." + parts[1]).encode())
    return load(unb64(parts[1]), "payload")


# --- keys --------------------------------------------------------------------------------------------------------------

def derive(key, salt, info):
    return HKDF(hashes.SHA256(), 32, salt, info.encode()).derive(key)


def unseal(key, info, bound, sealed):
    must(sealed[:1] == b"\1", "version of what is sealed")
    return AESGCM(key).decrypt(sealed[1:13], sealed[13:], info.encode() + b"\0\1" + bound)


def fields(*values):
    out = b""
    for v in values:
        data = v if isinstance(v, bytes) else str(v).encode()
        out += struct.pack(">I", len(data)) + data
    return out


def truth(value):
    return "true" if value else "false"


def thumbprint(jwk):
    """RFC 7638, with the curve as RFC 8812 names it."""
    if jwk.get("crv") == "P-256K":
        jwk = dict(jwk, crv="secp256k1")
    return b64(hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest())


CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521", "secp256k1": "P-256K"}


def public_jwk(private):
    def number(n, size):
        return b64(n.to_bytes(size, "big"))
    numbers = private.public_key().public_numbers()
    if isinstance(private, rsa.RSAPrivateKey):
        return {"kty": "RSA", "n": number(numbers.n, (numbers.n.bit_length() + 7) // 8), "e": number(numbers.e, (numbers.e.bit_length() + 7) // 8)}
    size = (private.curve.key_size + 7) // 8
    return {"kty": "EC", "crv": CURVES[private.curve.name], "x": number(numbers.x, size), "y": number(numbers.y, size)}


def works(private):
    data = os.urandom(32)
    if isinstance(private, rsa.RSAPrivateKey):
        private.public_key().verify(private.sign(data, padding.PKCS1v15(), hashes.SHA256()), data, padding.PKCS1v15(), hashes.SHA256())
    else:
        private.public_key().verify(private.sign(data, ec.ECDSA(hashes.SHA256())), data, ec.ECDSA(hashes.SHA256()))


def open_version(export_key, name, v):
    """The key of a version in the exported form, used once; returns what is public of it."""
    bound = [v["kty"], v.get("bits", 0), v.get("crv", ""), truth(v["exportable"]), truth(v["hsm"])]
    policy = v.get("release_policy")
    if policy and policy.get("immutable"):
        bound += [policy["content_type"], base64.b64decode(policy["data"])]
    plain = unseal(export_key, "strongroom/engine/export/v1", fields("strongroom/keys/export/v1", name.lower(), v["id"], *bound), base64.b64decode(v["sealed"]))
    found = {"name": name, "version": v["id"], "kty": v["kty"], "enabled": v["enabled"], "key_ops": v["key_ops"]}
    if plain[:1] == b"\0":
        must(v["kty"] == "oct-HSM" and 8 * len(plain[1:]) == v["bits"], "size of an oct key")
        found["check"] = b64(hmac.new(plain[1:], b"strongroom/keys/check/v1", "sha256").digest()[:16])
        return found
    private = serialization.load_der_private_key(plain, None)
    works(private)
    jwk = public_jwk(private)
    must(jwk["kty"] + "-HSM" == v["kty"] and jwk.get("crv", "") == v.get("crv", ""), "type of a key")
    found["check"] = thumbprint(jwk)
    found["jwk"] = jwk
    return found


# --- backups -----------------------------------------------------------------------------------------------------------

PART = b"strongroom-backup-part\1"


def read_part(path, number, last, domain, backup, backup_key):
    data = open(path, "rb").read()
    header, rest = data[:107], data[107:]
    must(header[:75] == PART + bytes.fromhex(domain) + bytes.fromhex(backup) + struct.pack(">I", number), f"header of part {number}")
    key = derive(backup_key, header[75:], "strongroom/engine/backup/v1")
    stream = b""
    for chunk in itertools.count():
        mark, size = struct.unpack(">BI", rest[:5])
        sealed, rest = rest[5:5 + size], rest[5 + size:]
        must(len(sealed) == size, "a part is cut off")
        stream += unseal(key, "strongroom/engine/backup/v1", header + struct.pack(">I", chunk) + bytes([mark]), sealed)
        if mark:
            must(mark == (2 if last else 1) and not rest, f"end of part {number}")
            break
    inflate = zlib.decompressobj(-15)
    plain = inflate.decompress(stream) + inflate.flush()
    must(inflate.eof and not inflate.unused_data, f"stream of part {number}")
    while plain:
        record, sizes = [], (">B", ">H", ">I")
        for form in sizes:
            (size,) = struct.unpack(form, plain[:struct.calcsize(form)])
            record.append(plain[struct.calcsize(form):][:size])
            must(len(record[-1]) == size, "a record is cut off")
            plain = plain[struct.calcsize(form) + size:]
        yield record[0].decode(), record[1].decode(), record[2]


def read_backup(folder, domain, backup_key):
    def at(name):
        return os.path.join(folder, name)
    m = statement(open(at("manifest")).read(), "strongroom-backup-manifest+jws", domain)
    must(m["format"] == "strongroom-backup" and m["version"] == 1 and m["domain"] == domain, "manifest")
    must(m["folder"] == os.path.basename(os.path.normpath(folder)), "the folder has another name")
    for part in m["parts"] + [m["inventory"]]:
        data = open(at(part["name"]), "rb").read()
        must(len(data) == part["size"] and hashlib.sha256(data).hexdigest() == part["sha256"], f"{part['name']} is not the one of the manifest")
    lines = open(at("inventory"), "rb").read().split(b"\n")
    must(lines.pop() == b"" and load(lines[0], "inventory") == {"format": "strongroom-backup-inventory", "version": 1, "backup": m["backup"]}, "inventory")
    inventory = [load(line, "inventory") for line in lines[1:]]
    must(len(inventory) == m["records"] and [p["name"] for p in m["parts"]] == [f"part-{i + 1:06}" for i in range(len(m["parts"]))], "counts")

    found, counts, salt, settings, roles = [], {}, None, None, []
    expected = iter(inventory)
    for i, part in enumerate(m["parts"]):
        records = 0
        for kind, name, body in read_part(at(part["name"]), i + 1, i + 1 == len(m["parts"]), domain, m["backup"], backup_key):
            line = next(expected)
            must((kind, name.lower()) == (line["kind"], line["name"].lower()), f"the inventory has another record than {kind} {name}")
            records += 1
            counts[kind] = counts.get(kind, 0) + 1
            value = load(body, f"{kind} {name}")
            if kind == "hsm":
                must(value["v"] == 1, "version of the records")
                salt, settings = derive(backup_key, base64.b64decode(value["export_salt"]), "strongroom/engine/export/v1"), value["settings"]
            elif kind in ("key", "deleted-key"):
                must(value["name"].lower() == name.lower() and ("deleted" in value) == (kind == "deleted-key"), f"key {name}")
                must(len(value["versions"]) == len(line["versions"]), f"versions of {name}")
                for v, listed in zip(value["versions"], line["versions"]):
                    one = open_version(salt, value["name"], v)
                    must(listed["id"] == one["version"] and listed.get("check", one["check"]) == one["check"], f"the inventory has another key than {name} {one['version']}")
                    for member in ("n", "e", "x", "y"):  # the public part beside it, without leading zeros
                        if member in v:
                            said = v[member] if member == "e" else int.from_bytes(base64.b64decode(v[member]), "big")
                            must(int.from_bytes(unb64(one["jwk"][member]), "big") == said, f"public part of {name}")
                    found.append(dict(one, deleted=kind == "deleted-key"))
            else:
                roles.append(dict(value, kind=kind))
        must(records == part["records"], f"records of part {i + 1}")
    must(counts == m["counts"] and next(expected, None) is None, "counts of the manifest")
    return {"backup": m["backup"], "hsm": m["hsm"], "settings": settings, "roles": roles, "keys": found}


def read_blob(path, domain, backup_key):
    data = open(path, "rb").read()
    header = data[:86]
    must(header[:22] == b"strongroom-key-backup\2" and header[22:54].hex() == domain, "header of the key backup")
    salt = header[54:]
    key = load(unseal(derive(backup_key, salt, "strongroom/engine/backup/v1"), "strongroom/engine/backup/v1", header, data[86:]), "key backup")
    export = derive(backup_key, salt, "strongroom/engine/export/v1")
    return {"name": key["name"], "keys": [open_version(export, key["name"], v) for v in key["versions"]]}


def read_attestation(path, domain):
    """The answer with a key's attestation, as any client keeps it: both statements, held against each other and the key."""
    bundle = load(open(path, "rb").read(), "attestation")
    a = bundle["attributes"]["attestation"]
    must(a["version"] == "STRONGROOM-1", "version of the attestation")
    private, public = (statement(unb64(a[part]).decode(), "strongroom-key-attestation+jws", domain) for part in ("privateKeyAttestation", "publicKeyAttestation"))
    must(private.pop("part") == "private" and public.pop("part") == "public" and public.pop("jwk") is not None and private == public, "the statements differ")
    jwk = {name: bundle["key"][name] for name in ("crv", "x", "y", "n", "e") if name in bundle["key"]}
    must(private["jkt"] == thumbprint(dict(jwk, kty=bundle["key"]["kty"].removesuffix("-HSM"))), "it is about another key")
    must(private["kid"] == bundle["key"]["kid"] and private["domain"] == domain, "it is about another version, or of another domain")
    return private


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--sd", required=True)
    a.add_argument("--key", action="append", required=True)
    a.add_argument("--backup")
    a.add_argument("--blob")
    a.add_argument("--attestation")
    a.add_argument("--report")
    o = a.parse_args()
    keys = [serialization.load_pem_private_key(open(path, "rb").read(), None) for path in o.key]
    sd, items = open_sd(o.sd, keys)
    domain = hashlib.sha256(spki(serialization.load_der_private_key(items["signing-key"], None).public_key())).hexdigest()
    check_extension(sd, domain)
    out = {"domain": domain, "items": sorted(items)}
    if o.backup:
        out["backup"] = read_backup(o.backup, domain, items["backup-key"])
    if o.blob:
        out["blob"] = read_blob(o.blob, domain, items["backup-key"])
    if o.attestation:
        out["attestation"] = read_attestation(o.attestation, domain)
    if o.report:
        out["report"] = statement(open(o.report).read().removesuffix("\n"), "strongroom-drill-report+jws", domain)
    json.dump(out, sys.stdout)


try:
    main()
except (Refused, InvalidSignature, InvalidTag, ValueError, struct.error, zlib.error) as e:
    sys.exit(f"refused: {type(e).__name__} {e}")
