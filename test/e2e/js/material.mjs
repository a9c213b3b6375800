// Key material made here, outside the HSM, in the form in which the SDK imports it.
import { createCipheriv, createPublicKey, generateKeyPairSync, publicEncrypt, constants, randomBytes } from "node:crypto";

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
