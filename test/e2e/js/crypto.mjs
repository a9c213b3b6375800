// The SDK's CryptographyClient: every algorithm that it knows by name, done by the HSM and not here. What the HSM
// answers is checked with node's own cryptography, and what node makes goes to the HSM.
import assert from "node:assert/strict";
import { constants, createCipheriv, createDecipheriv, createHash, createHmac, privateDecrypt, publicEncrypt, randomBytes, sign, verify } from "node:crypto";
import { CryptographyClient, KnownEncryptionAlgorithms, KnownSignatureAlgorithms } from "@azure/keyvault-keys";
import { client, credential, finish, local, refused, sent, step, url } from "./setup.mjs";
import { curves, ec, oct, publicKey, rsa } from "./material.mjs";

// remote is a client that knows of the key no more than its name. The SDK does RSA-OAEP and verifyData by itself when it
// has the public key; without it, which its types allow, everything goes to the HSM.
const remote = (key) => new CryptographyClient({ id: key.id, name: key.name, properties: {} }, credential);

// on is the request that an operation must send: to the version, as the client has its ID.
const on = (key, operation) => new RegExp(`^POST /keys/${key.name}/${key.properties.version}/${operation} 200$`);

const message = Buffer.from("the message that is signed");
const digest = (hash) => createHash(hash).update(message).digest();
const damaged = (bytes) => {
  const copy = Buffer.from(bytes);
  copy[copy.length >> 1] ^= 1;
  return copy;
};

// Algorithms that have been seen, and names that the HSM does not serve, with the reason. At the end, none of the
// SDK's own lists may be left.
const seen = new Set();
const notServed = {
  RSA1_5: "its padding makes a decryption oracle; off unless a setting allows it",
  RSNULL: "signs what the caller has padded",
};

const pair = { rsa: rsa(2048) };
const keys = { rsa: await client.importKey("c-rsa", pair.rsa.material) };
for (const curve of Object.keys(curves)) {
  pair[curve] = ec(curve);
  keys[curve] = await client.importKey(`c-${curve}`, pair[curve].material);
}
for (const bits of [128, 192, 256]) {
  pair[bits] = oct(bits);
  keys[bits] = await client.importKey(`c-oct-${bits}`, pair[bits].material);
}

// signatures checks both ways of one algorithm: sign on the HSM and check here; sign here and verify on the HSM.
async function signatures(alg, key, hash, check, make) {
  const c = remote(key);
  const { result, keyID, algorithm } = await sent(on(key, "sign"), () => c.sign(alg, digest(hash)));
  assert.equal(keyID, key.id);
  assert.equal(algorithm, alg);
  assert(check(result), "the HSM's signature does not verify here");
  const ours = make();
  const verified = async (signature) => (await sent(on(key, "verify"), () => c.verify(alg, digest(hash), signature))).result;
  assert.equal(await verified(ours), true, "a signature made here does not verify on the HSM");
  assert.equal(await verified(damaged(ours)), false, "a damaged signature verifies");
  assert.equal(await verified(Buffer.alloc(0)), false, "an empty signature verifies");
  await refused(400, "BadParameter", () => c.sign(alg, digest(hash).subarray(1)));
  seen.add(alg);
}

// data checks signData and verifyData, in which the SDK hashes the message.
async function data(alg, key, check) {
  const c = remote(key);
  const { result } = await sent(on(key, "sign"), () => c.signData(alg, message));
  assert(check(result), "signData: the HSM's signature does not verify here");
  assert.equal((await sent(on(key, "verify"), () => c.verifyData(alg, message, result))).result, true);
  assert.equal((await c.verifyData(alg, Buffer.from("another"), result)).result, false);
}

for (const [bits, hash] of [[256, "sha256"], [384, "sha384"], [512, "sha512"]]) {
  const pss = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: bits / 8 };
  for (const [alg, options] of [[`RS${bits}`, {}], [`PS${bits}`, pss]]) {
    await step(alg, async () => {
      const check = (signature) => verify(hash, message, { key: pair.rsa.publicKey, ...options }, signature);
      await signatures(alg, keys.rsa, hash, check, () => sign(hash, message, { key: pair.rsa.privateKey, ...options }));
      await data(alg, keys.rsa, check);
    });
  }
}

for (const [curve, { alg, hash, size }] of Object.entries(curves)) {
  await step(alg, async () => {
    const p1363 = { dsaEncoding: "ieee-p1363" }; // r ‖ s
    const check = (signature) => signature.length === 2 * size && verify(hash, message, { key: pair[curve].publicKey, ...p1363 }, signature);
    await signatures(alg, keys[curve], hash, check, () => sign(hash, message, { key: pair[curve].privateKey, ...p1363 }));
    await data(alg, keys[curve], check);
  });
}

// HS*: the value is the message of the HMAC, of any length; here, as the SDK would have it, a digest.
for (const [bits, hash] of [[256, "sha256"], [384, "sha384"], [512, "sha512"]]) {
  const alg = `HS${bits}`;
  await step(alg, async () => {
    const mac = createHmac(hash, pair[256].k).update(digest(hash)).digest();
    const c = remote(keys[256]);
    const { result } = await sent(on(keys[256], "sign"), () => c.sign(alg, digest(hash)));
    assert.deepEqual(Buffer.from(result), mac);
    assert.equal((await sent(on(keys[256], "verify"), () => c.verify(alg, digest(hash), mac))).result, true);
    assert.equal((await c.verify(alg, digest(hash), damaged(mac))).result, false);
    seen.add(alg);
  });
}

for (const [alg, oaepHash] of [["RSA-OAEP", "sha1"], ["RSA-OAEP-256", "sha256"]]) {
  await step(`${alg}: encrypt, decrypt, wrapKey, unwrapKey`, async () => {
    const c = remote(keys.rsa), oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash };
    const plaintext = randomBytes(32);
    const inside = await sent(on(keys.rsa, "encrypt"), () => c.encrypt({ algorithm: alg, plaintext }));
    assert.deepEqual(privateDecrypt({ key: pair.rsa.privateKey, ...oaep }, inside.result), plaintext);
    const outside = publicEncrypt({ key: pair.rsa.publicKey, ...oaep }, plaintext);
    const back = await sent(on(keys.rsa, "decrypt"), () => c.decrypt({ algorithm: alg, ciphertext: outside }));
    assert.deepEqual(Buffer.from(back.result), plaintext);
    assert.equal(back.algorithm, alg);

    const wrapped = await sent(on(keys.rsa, "wrapkey"), () => c.wrapKey(alg, plaintext));
    assert.deepEqual(privateDecrypt({ key: pair.rsa.privateKey, ...oaep }, wrapped.result), plaintext);
    const unwrapped = await sent(on(keys.rsa, "unwrapkey"), () => c.unwrapKey(alg, outside));
    assert.deepEqual(Buffer.from(unwrapped.result), plaintext);

    await refused(400, "BadParameter", () => c.decrypt({ algorithm: alg, ciphertext: damaged(outside) }));
    await refused(400, "BadParameter", () => c.unwrapKey(alg, damaged(outside)));
    await refused(400, "BadParameter", () => c.encrypt({ algorithm: alg, plaintext: randomBytes(300) }));
    seen.add(alg);
  });
}

for (const bits of [128, 192, 256]) {
  const key = keys[bits], k = pair[bits].k, c = remote(key);

  await step(`A${bits}GCM`, async () => {
    const algorithm = `A${bits}GCM`, plaintext = randomBytes(45), aad = Buffer.from("header");
    for (const additionalAuthenticatedData of [aad, undefined]) {
      const e = await sent(on(key, "encrypt"), () => c.encrypt({ algorithm, plaintext, additionalAuthenticatedData }));
      assert.equal(e.iv.length, 12);
      assert.equal(e.authenticationTag.length, 16);
      assert.equal(e.result.length, plaintext.length);
      const d = createDecipheriv(`aes-${bits}-gcm`, k, e.iv).setAuthTag(e.authenticationTag);
      if (additionalAuthenticatedData) d.setAAD(additionalAuthenticatedData);
      assert.deepEqual(Buffer.concat([d.update(e.result), d.final()]), plaintext);
      const sealed = { algorithm, ciphertext: e.result, iv: e.iv, authenticationTag: e.authenticationTag, additionalAuthenticatedData };
      const back = await sent(on(key, "decrypt"), () => c.decrypt(sealed));
      assert.deepEqual(Buffer.from(back.result), plaintext);
      await refused(400, "BadParameter", () => c.decrypt({ ...sealed, ciphertext: damaged(e.result) }));
      await refused(400, "BadParameter", () => c.decrypt({ ...sealed, authenticationTag: damaged(e.authenticationTag) }));
      await refused(400, "BadParameter", () => c.decrypt({ ...sealed, additionalAuthenticatedData: Buffer.from("another") }));
    }
    const iv = randomBytes(12), cipher = createCipheriv(`aes-${bits}-gcm`, k, iv).setAAD(aad);
    const ciphertext = Buffer.concat([cipher.update(plaintext), cipher.final()]);
    const back = await c.decrypt({ algorithm, ciphertext, iv, authenticationTag: cipher.getAuthTag(), additionalAuthenticatedData: aad });
    assert.deepEqual(Buffer.from(back.result), plaintext);
    await refused(400, "BadParameter", () => c.encrypt({ algorithm, plaintext, iv })); // the HSM makes IVs
    seen.add(algorithm);
  });

  for (const [algorithm, length, padded] of [[`A${bits}CBC`, 48, false], [`A${bits}CBCPAD`, 45, true]]) {
    await step(algorithm, async () => {
      const plaintext = randomBytes(length), iv = randomBytes(16);
      const cipher = createCipheriv(`aes-${bits}-cbc`, k, iv).setAutoPadding(padded);
      const ours = Buffer.concat([cipher.update(plaintext), cipher.final()]);
      const e = await sent(on(key, "encrypt"), () => c.encrypt({ algorithm, plaintext, iv }));
      assert.deepEqual(Buffer.from(e.result), ours);
      assert.deepEqual(Buffer.from(e.iv), iv);
      const back = await sent(on(key, "decrypt"), () => c.decrypt({ algorithm, ciphertext: ours, iv }));
      assert.deepEqual(Buffer.from(back.result), plaintext);
      await refused(400, "BadParameter", () => c.encrypt({ algorithm, plaintext, iv: iv.subarray(1) }));
      if (!padded) await refused(400, "BadParameter", () => c.encrypt({ algorithm, plaintext: plaintext.subarray(1), iv }));
      seen.add(algorithm);
    });
  }

  for (const [algorithm, cipher, target] of [
    [`A${bits}KW`, `id-aes${bits}-wrap`, 32],
    ["CKM_AES_KEY_WRAP", `id-aes${bits}-wrap`, 24],
    ["CKM_AES_KEY_WRAP_PAD", `id-aes${bits}-wrap-pad`, 29],
  ]) {
    await step(`${algorithm} with a key of ${bits} bits`, async () => {
      const plaintext = randomBytes(target), iv = Buffer.from(cipher.endsWith("pad") ? "a65959a6" : "a6a6a6a6a6a6a6a6", "hex");
      const wrap = createCipheriv(cipher, k, iv);
      const ours = Buffer.concat([wrap.update(plaintext), wrap.final()]);
      const wrapped = await sent(on(key, "wrapkey"), () => c.wrapKey(algorithm, plaintext));
      assert.deepEqual(Buffer.from(wrapped.result), ours);
      const unwrapped = await sent(on(key, "unwrapkey"), () => c.unwrapKey(algorithm, ours));
      assert.deepEqual(Buffer.from(unwrapped.result), plaintext);
      await refused(400, "BadParameter", () => c.unwrapKey(algorithm, damaged(ours)));
      const e = await sent(on(key, "encrypt"), () => c.encrypt({ algorithm, plaintext })); // the names are encryption algorithms too
      assert.deepEqual(Buffer.from(e.result), ours);
      const d = await sent(on(key, "decrypt"), () => c.decrypt({ algorithm, ciphertext: ours }));
      assert.deepEqual(Buffer.from(d.result), plaintext);
      seen.add(algorithm);
    });
  }
}

await step("what the SDK does by itself agrees with the HSM", async () => {
  const c = new CryptographyClient(keys.rsa.id, credential), plaintext = randomBytes(32);
  const encrypted = await local(() => c.encrypt("RSA-OAEP", plaintext));
  assert.deepEqual(Buffer.from((await c.decrypt("RSA-OAEP", encrypted.result)).result), plaintext);
  const wrapped = await local(() => c.wrapKey("RSA-OAEP", plaintext));
  assert.deepEqual(Buffer.from((await c.unwrapKey("RSA-OAEP", wrapped.result)).result), plaintext);
  const signed = await c.signData("RS256", message);
  assert.equal((await local(() => c.verifyData("RS256", message, signed.result))).result, true);
});

// docs/compatibility.md warns of these. When one is no longer so, take its warning out.
await step("what this version of the SDK gets wrong", async () => {
  const c = new CryptographyClient(keys.rsa.id, credential), signed = await c.signData("PS256", message);
  assert.equal((await local(() => c.verifyData("PS256", message, signed.result))).result, false); // it checks for RS256
  assert.equal((await sent(on(keys.rsa, "verify"), () => c.verify("PS256", digest("sha256"), signed.result))).result, true);
  await refused(400, "BadParameter", () => remote(keys[128]).encrypt({ algorithm: "A128CBC", plaintext: randomBytes(16) })); // it says that it makes an iv
  await refused(400, "BadParameter", () => client.createEcKey("c-2040", { curve: "P-256", expiresOn: new Date("2040-01-01") })); // 32 bits of seconds
  const exponent = await client.createRsaKey("c-exponent", { publicExponent: 65539 });
  assert.deepEqual(Buffer.from(exponent.key.e), Buffer.from([1, 0, 1])); // not sent
});

await step("keys that the HSM made itself, addressed without a version", async () => {
  const iv = randomBytes(16), plaintext = randomBytes(32);
  for (const keySize of [128, 192, 256]) {
    await client.createOctKey(`c-made-${keySize}`, { keySize });
    const c = new CryptographyClient(`${url}/keys/c-made-${keySize}`, credential);
    const e = await sent(new RegExp(`^POST /keys/c-made-${keySize}//encrypt 200$`), () => c.encrypt({ algorithm: `A${keySize}CBCPAD`, plaintext, iv }));
    assert.deepEqual(Buffer.from((await c.decrypt({ algorithm: `A${keySize}CBCPAD`, ciphertext: e.result, iv })).result), plaintext);
    const w = await c.wrapKey(`A${keySize}KW`, plaintext);
    assert.deepEqual(Buffer.from((await c.unwrapKey(`A${keySize}KW`, w.result)).result), plaintext);
  }
  const made = await client.createRsaKey("c-made-rsa", { keySize: 2048 });
  const oaep = { key: publicKey(made.key), padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" };
  const back = await remote(made).decrypt({ algorithm: "RSA-OAEP-256", ciphertext: publicEncrypt(oaep, plaintext) });
  assert.deepEqual(Buffer.from(back.result), plaintext);
});

await step("refusals: not served, another key's algorithm, key_ops, disabled, outside its time, deleted", async () => {
  const c = remote(keys.rsa), d = digest("sha256");
  await refused(400, "NotSupported", () => c.encrypt({ algorithm: "RSA1_5", plaintext: d }));
  await refused(400, "NotSupported", () => c.decrypt({ algorithm: "RSA1_5", ciphertext: randomBytes(256) }));
  await refused(400, "BadParameter", () => c.sign("RSNULL", d));
  await refused(400, "BadParameter", () => c.sign("ES256", d));
  await refused(400, "BadParameter", () => remote(keys["P-256"]).sign("ES384", digest("sha384")));
  await refused(400, "BadParameter", () => remote(keys[128]).encrypt({ algorithm: "A256GCM", plaintext: d }));
  await refused(400, "BadParameter", () => remote(keys[128]).wrapKey("A256KW", d));
  await refused(400, "BadParameter", () => c.encrypt({ algorithm: "A256GCM", plaintext: d }));

  const signOnly = await client.createRsaKey("c-sign-only", { keyOps: ["sign"] });
  await refused(403, "KeyDisabled", () => remote(signOnly).decrypt({ algorithm: "RSA-OAEP-256", ciphertext: randomBytes(256) }));
  const later = await client.createEcKey("c-later", { curve: "P-256", notBefore: new Date(Date.now() + 3600_000) });
  await refused(403, "KeyDisabled", () => remote(later).sign("ES256", d));
  const past = await client.createEcKey("c-past", { curve: "P-256", expiresOn: new Date(Date.now() - 3600_000) });
  await refused(403, "KeyDisabled", () => remote(past).sign("ES256", d));
  assert.equal((await remote(past).verify("ES256", d, randomBytes(64))).result, false); // verify works outside the time

  const off = await client.createEcKey("c-off", { curve: "P-256", enabled: false });
  await refused(403, "KeyDisabled", () => remote(off).sign("ES256", d));
  await client.updateKeyProperties("c-off", { enabled: true });
  assert.equal((await remote(off).sign("ES256", d)).result.length, 64);
  await (await client.beginDeleteKey("c-off")).pollUntilDone();
  await refused(404, "KeyNotFound", () => remote(off).sign("ES256", d));
});

await step("every algorithm that the SDK names was seen, or is not served", () => {
  for (const name of [...Object.values(KnownEncryptionAlgorithms), ...Object.values(KnownSignatureAlgorithms)]) {
    assert(seen.has(name) !== name in notServed, `${name} was neither tried nor given a reason, or both`);
  }
});

finish();
