// Key material made here, outside the HSM, in the form in which the SDK imports it.
import assert from "node:assert/strict";
import { constants, createCipheriv, createDecipheriv, createPublicKey, generateKeyPairSync, privateDecrypt, publicEncrypt, randomBytes, verify, X509Certificate } from "node:crypto";

const bytes = (text) => Buffer.from(text, "base64url");

// curves are those of the HSM: its name, node's name, the signature algorithm, its hash, bytes of a coordinate.
export const curves = {
  "P-256": { node: "P-256", jwk: "P-256", alg: "ES256", hash: "sha256", size: 32 },
  "P-256K": { node: "secp256k1", jwk: "secp256k1", alg: "ES256K", hash: "sha256", size: 32 },
  "P-384": { node: "P-384", jwk: "P-384", alg: "ES384", hash: "sha384", size: 48 },
  "P-521": { node: "P-521", jwk: "P-521", alg: "ES512", hash: "sha512", size: 66 },
};

// rsa returns a new key pair and what the SDK's importKey takes.
export function rsa(bits) {
  const pair = generateKeyPairSync("rsa", { modulusLength: bits });
  const jwk = pair.privateKey.export({ format: "jwk" });
  const parts = ["n", "e", "d", "p", "q", "dp", "dq", "qi"].map((name) => [name, bytes(jwk[name])]);
  return { ...pair, material: { kty: "RSA", ...Object.fromEntries(parts) } };
}

export function ec(curve) {
  const pair = generateKeyPairSync("ec", { namedCurve: curves[curve].node });
  const jwk = pair.privateKey.export({ format: "jwk" });
  return { ...pair, material: { kty: "EC", crv: curve, x: bytes(jwk.x), y: bytes(jwk.y), d: bytes(jwk.d) } };
}

export function oct(bits) {
  const k = randomBytes(bits / 8);
  return { k, material: { kty: "oct", k } };
}

// publicKey is the key that the HSM shows, as node takes it.
export function publicKey(key) {
  const text = (name) => Buffer.from(key[name]).toString("base64url");
  const jwk = key.kty.startsWith("RSA")
    ? { kty: "RSA", n: text("n"), e: text("e") }
    : { kty: "EC", crv: curves[key.crv].jwk, x: text("x"), y: text("y") };
  return createPublicKey({ key: jwk, format: "jwk" });
}

// transferBlob is what a BYOK tool makes: a target key for the exchange key of an HSM, by CKM_RSA_AES_KEY_WRAP. target
// is PKCS #8 for RSA and EC, the bare key for oct. It goes into an import as the member t of the key.
export function transferBlob(exchange, target) {
  const aes = randomBytes(32);
  const wrap = createCipheriv("id-aes256-wrap-pad", aes, Buffer.from("a65959a6", "hex"));
  const ciphertext = Buffer.concat([
    publicEncrypt({ key: publicKey(exchange.key), padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha1" }, aes),
    wrap.update(target), wrap.final(),
  ]);
  return Buffer.from(JSON.stringify({
    schema_version: "1.0.0",
    header: { kid: exchange.id, alg: "dir", enc: "CKM_RSA_AES_KEY_WRAP" },
    ciphertext: ciphertext.toString("base64url"),
    generator: "node:crypto",
  }));
}

// releases are the ways in which a released key is wrapped, with the hash of each.
const releases = { CKM_RSA_AES_KEY_WRAP: "sha1", RSA_AES_KEY_WRAP_256: "sha256", RSA_AES_KEY_WRAP_384: "sha384" };

// openRelease is the recipient of a released key: it checks the signature, and returns the request that was signed with it
// and the key, as PKCS #8 or, for oct, bare.
export function openRelease(jws, recipient) {
  const [header, payload, signature] = jws.split(".");
  const certificate = new X509Certificate(Buffer.from(JSON.parse(bytes(header)).x5c[0], "base64"));
  assert(verify("sha384", Buffer.from(`${header}.${payload}`), { key: certificate.publicKey, dsaEncoding: "ieee-p1363" }, bytes(signature)), "the release is not signed");
  const { request, response } = JSON.parse(bytes(payload));
  const ciphertext = bytes(JSON.parse(bytes(response.key.key.key_hsm)).ciphertext), size = recipient.asymmetricKeyDetails.modulusLength / 8;
  const oaep = { key: recipient, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: releases[request.enc] };
  const unwrap = createDecipheriv("id-aes256-wrap-pad", privateDecrypt(oaep, ciphertext.subarray(0, size)), Buffer.from("a65959a6", "hex"));
  return { request, key: Buffer.concat([unwrap.update(ciphertext.subarray(size)), unwrap.final()]) };
}
