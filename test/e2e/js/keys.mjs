// Every method of the SDK's KeyClient, against an activated HSM that has no keys yet.
import assert from "node:assert/strict";
import { createHash, createPrivateKey, createPublicKey, sign, verify } from "node:crypto";
import { ClientSecretCredential } from "@azure/identity";
import { CryptographyClient, KeyClient, KnownKeyExportEncryptionAlgorithm } from "@azure/keyvault-keys";
import { all, client, credential, finish, refused, sent, step, url } from "./setup.mjs";
import { curves, ec, oct, openRelease, publicKey, rsa, transferBlob } from "./material.mjs";

const day = 24 * 3600 * 1000;
const start = Math.floor(Date.now() / 1000) * 1000; // whole seconds, as on the wire
const inDays = (n) => new Date(start + n * day);
const hex32 = /^[0-9a-f]{32}$/;
const rsaOps = ["decrypt", "encrypt", "sign", "unwrapKey", "verify", "wrapKey"];

// removed deletes a key and purges it, so that its name is free.
async function removed(name) {
  const poller = await client.beginDeleteKey(name);
  await poller.pollUntilDone();
  await client.purgeDeletedKey(name);
}

await step("create: RSA is stored as RSA-HSM, with what an HSM fills in", async () => {
  const key = await sent(/^POST \/keys\/rsa\/create 200$/, () => client.createKey("rsa", "RSA"));
  assert.equal(key.keyType, "RSA-HSM");
  assert.equal(key.key.n.length, 256);
  assert.deepEqual(Buffer.from(key.key.e), Buffer.from([1, 0, 1]));
  assert.deepEqual([...key.keyOperations].sort(), rsaOps);
  const p = key.properties;
  assert.match(p.version, hex32);
  assert.equal(key.id, `${url}/keys/rsa/${p.version}`);
  assert.equal(p.vaultUrl, url);
  assert.equal(p.name, "rsa");
  assert.equal(p.enabled, true);
  assert.equal(p.exportable, false);
  assert.equal(p.recoverableDays, 90);
  assert.equal(p.recoveryLevel, "Recoverable+Purgeable");
  assert(Math.abs(p.createdOn - start) < day && +p.updatedOn === +p.createdOn, `created ${p.createdOn}`);
  assert.equal(p.notBefore, undefined);
  assert.equal(p.expiresOn, undefined);
  for (const secret of ["d", "p", "q", "dp", "dq", "qi", "k", "t"]) assert.equal(key.key[secret], undefined, secret);
});

await step("createRsaKey with every option", async () => {
  const options = { hsm: true, keySize: 3072, keyOps: ["sign", "verify"], enabled: true, notBefore: inDays(-1), expiresOn: inDays(400), tags: { team: "red", empty: "" } };
  const key = await client.createRsaKey("rsa-3072", options);
  assert.equal(key.keyType, "RSA-HSM");
  assert.equal(key.key.n.length, 384);
  assert.deepEqual([...key.keyOperations].sort(), ["sign", "verify"]);
  assert.equal(+key.properties.notBefore, +options.notBefore);
  assert.equal(+key.properties.expiresOn, +options.expiresOn);
  assert.deepEqual(key.properties.tags, options.tags);
});

for (const [curve, { size }] of Object.entries(curves)) {
  await step(`createEcKey ${curve}`, async () => {
    const key = await client.createEcKey(`ec-${curve}`, { curve, hsm: curve === "P-384" });
    assert.equal(key.keyType, "EC-HSM");
    assert.equal(key.key.crv, curve);
    assert.equal(key.key.x.length, size);
    assert.equal(key.key.y.length, size);
    assert.deepEqual([...key.keyOperations].sort(), ["sign", "verify"]);
    assert.equal(key.key.d, undefined);
    assert(publicKey(key.key)); // node refuses a point that is not on the curve
  });
}

for (const keySize of [128, 192, 256]) {
  await step(`createOctKey ${keySize}`, async () => {
    const key = await client.createOctKey(`oct-${keySize}`, { keySize, hsm: keySize === 256 });
    assert.equal(key.keyType, "oct-HSM");
    assert.equal(key.key.k, undefined);
  });
}

await step("importKey: RSA, EC on every curve, oct", async () => {
  const r = rsa(2048);
  let key = await sent(/^PUT \/keys\/in-rsa 200$/, () => client.importKey("in-rsa", r.material, { hardwareProtected: true, tags: { from: "outside" }, expiresOn: inDays(30) }));
  assert.equal(key.keyType, "RSA-HSM");
  assert.deepEqual(Buffer.from(key.key.n), r.material.n);
  assert.deepEqual(key.properties.tags, { from: "outside" });
  assert.equal(+key.properties.expiresOn, +inDays(30));
  assert.equal(key.key.d, undefined);
  for (const curve of Object.keys(curves)) {
    const e = ec(curve);
    key = await client.importKey(`in-${curve}`, e.material);
    assert.equal(key.keyType, "EC-HSM");
    assert.equal(key.key.crv, curve);
    assert.deepEqual(Buffer.from(key.key.x), e.material.x);
    assert.deepEqual(Buffer.from(key.key.y), e.material.y);
  }
  key = await client.importKey("in-oct", oct(256).material);
  assert.equal(key.keyType, "oct-HSM");
  assert.equal(key.key.k, undefined);
  const wrong = rsa(2048).material;
  await refused(400, "BadParameter", () => client.importKey("in-wrong", { ...r.material, p: wrong.p, q: wrong.q }));
});

await step("importKey: a BYOK transfer blob", async () => {
  const exchange = await client.createRsaKey("exchange", { keySize: 2048, keyOps: ["import"] });
  assert.deepEqual(exchange.keyOperations, ["import"]);
  const r = rsa(3072);
  const pkcs8 = (pair) => pair.privateKey.export({ format: "der", type: "pkcs8" });
  let key = await client.importKey("byok-rsa", { kty: "RSA-HSM", keyOps: ["sign", "verify"], t: transferBlob(exchange, pkcs8(r)) });
  assert.equal(key.keyType, "RSA-HSM");
  assert.deepEqual(Buffer.from(key.key.n), r.material.n);
  assert.deepEqual([...key.keyOperations].sort(), ["sign", "verify"]);
  for (const crv of Object.keys(curves)) {
    const e = ec(crv);
    key = await client.importKey(`byok-${crv}`, { kty: "EC-HSM", crv, t: transferBlob(exchange, pkcs8(e)) });
    assert.equal(key.keyType, "EC-HSM");
    assert.deepEqual(Buffer.from(key.key.x), e.material.x);
    assert.deepEqual(Buffer.from(key.key.y), e.material.y);
  }
  const o = oct(256);
  key = await client.importKey("byok-oct", { kty: "oct-HSM", t: transferBlob(exchange, o.k) });
  assert.equal(key.keyType, "oct-HSM");
  const damaged = JSON.parse(transferBlob(exchange, o.k));
  damaged.ciphertext = damaged.ciphertext.replace(/^./, (c) => (c === "A" ? "B" : "A"));
  await refused(400, "BadParameter", () => client.importKey("byok-no", { kty: "oct-HSM", t: Buffer.from(JSON.stringify(damaged)) }));
});

await step("a release policy: made with the key, changed, made immutable", async () => {
  const policy = (equals) => Buffer.from(JSON.stringify({ version: "1.0.0", anyOf: [{ authority: "https://attest.example.com/", allOf: [{ claim: "x", equals }] }] }));
  const key = await client.createEcKey("leaving", { curve: "P-256", exportable: true, releasePolicy: { encodedPolicy: policy("y") } });
  assert.equal(key.properties.exportable, true);
  assert.deepEqual(Buffer.from(key.properties.releasePolicy.encodedPolicy), policy("y"));
  const changed = await client.updateKeyProperties("leaving", { releasePolicy: { encodedPolicy: policy("z"), immutable: true } });
  assert.deepEqual(Buffer.from(changed.properties.releasePolicy.encodedPolicy), policy("z"));
  assert.equal(changed.properties.releasePolicy.immutable, true);
  await refused(400, "BadParameter", () => client.updateKeyProperties("leaving", { releasePolicy: { encodedPolicy: policy("y") } }));
  await refused(400, "BadParameter", () => client.createEcKey("staying", { curve: "P-256", releasePolicy: { encodedPolicy: policy("y") } }));
});

await step("getKey: latest and by version; a second create is a new version", async () => {
  const first = await sent(/^GET \/keys\/rsa\/ 200$/, () => client.getKey("rsa"));
  const second = await client.createKey("rsa", "RSA-HSM", { tags: { v: "2" } });
  assert.notEqual(second.properties.version, first.properties.version);
  assert.deepEqual((await client.getKey("rsa")).key.n, second.key.n);
  const old = await client.getKey("rsa", { version: first.properties.version });
  assert.deepEqual(old.key.n, first.key.n);
  assert.equal(old.properties.tags, undefined);
  await refused(404, "KeyNotFound", () => client.getKey("nobody"));
  await refused(404, "KeyNotFound", () => client.getKey("rsa", { version: "0".repeat(32) }));

  const versions = await all(client.listPropertiesOfKeyVersions("rsa"));
  assert.deepEqual(versions.map((v) => v.version), [first.properties.version, second.properties.version]);
  const pages = await all(client.listPropertiesOfKeyVersions("rsa").byPage({ maxPageSize: 1 }));
  assert.deepEqual(pages.map((page) => page.map((v) => v.version)), [[first.properties.version], [second.properties.version]]);
});

await step("listPropertiesOfKeys, whole and by pages", async () => {
  for (let i = 0; i < 12; i++) await client.createEcKey(`many-${i}`, { curve: "P-256" });
  const keys = await all(client.listPropertiesOfKeys());
  const names = keys.map((k) => k.name);
  assert(names.length > 25, `${names.length} keys: too few for a second page`);
  assert.equal(new Set(names).size, names.length, "a key is listed twice");
  for (const want of ["rsa", "rsa-3072", "ec-P-256K", "oct-128", "in-P-521", "byok-rsa", "many-11"]) assert(names.includes(want), want);
  assert.deepEqual(keys.find((k) => k.name === "rsa").tags, { v: "2" });
  assert.equal(keys.find((k) => k.name === "rsa").version, undefined);
  const pages = await all(client.listPropertiesOfKeys().byPage({ maxPageSize: 5 }));
  assert(pages.every((page, i) => page.length === 5 || (i === pages.length - 1 && page.length <= 5)), pages.map((p) => p.length).join());
  assert.deepEqual(pages.flat().map((k) => k.name), names);
});

await step("updateKeyProperties, of the latest version and of one by name", async () => {
  const key = await client.createKey("changing", "EC", { curve: "P-256", tags: { a: "b" } });
  const digest = createHash("sha256").update("m").digest();
  const remote = new CryptographyClient(key.id, credential);
  let changed = await sent(/^PATCH \/keys\/changing\/ 200$/, () => client.updateKeyProperties("changing", { enabled: false }));
  assert.equal(changed.properties.enabled, false);
  assert.deepEqual(changed.properties.tags, { a: "b" });
  await refused(403, "KeyDisabled", () => remote.sign("ES256", digest));
  changed = await client.updateKeyProperties("changing", key.properties.version, { enabled: true, expiresOn: inDays(7), tags: { c: "d" }, keyOps: ["sign"] });
  assert.deepEqual(changed.properties.tags, { c: "d" });
  assert.deepEqual(changed.keyOperations, ["sign"]);
  assert.equal(+changed.properties.expiresOn, +inDays(7));
  assert.equal((await remote.sign("ES256", digest)).result.length, 64);
  await refused(404, "KeyNotFound", () => client.updateKeyProperties("nobody", { enabled: false }));
});

await step("updateKeyRotationPolicy, getKeyRotationPolicy, rotateKey", async () => {
  const key = await client.createEcKey("turning", { curve: "P-256" });
  await refused(400, "BadParameter", () => client.rotateKey("turning"));
  const set = await client.updateKeyRotationPolicy("turning", { expiresIn: "P90D", lifetimeActions: [{ action: "Rotate", timeBeforeExpiry: "P30D" }] });
  const got = await client.getKeyRotationPolicy("turning");
  for (const policy of [set, got]) {
    assert.equal(policy.expiresIn, "P90D");
    assert.deepEqual(policy.lifetimeActions.map((a) => ({ ...a })), [{ action: "Rotate", timeAfterCreate: undefined, timeBeforeExpiry: "P30D" }]);
    assert(policy.id.startsWith(`${url}/keys/turning/`), policy.id);
    assert(policy.createdOn && policy.updatedOn);
  }
  const turned = await client.rotateKey("turning");
  assert.notEqual(turned.properties.version, key.properties.version);
  assert.notDeepEqual(turned.key.x, key.key.x);
  assert.equal(+turned.properties.expiresOn, +turned.properties.createdOn + 90 * day);
  await refused(400, "BadParameter", () => client.updateKeyRotationPolicy("turning", { lifetimeActions: [{ action: "Notify", timeBeforeExpiry: "P30D" }] }));
});

await step("beginDeleteKey, getDeletedKey, listDeletedKeys, beginRecoverDeletedKey, purgeDeletedKey", async () => {
  const key = await client.createEcKey("passing", { curve: "P-384", tags: { a: "b" } });
  const poller = await client.beginDeleteKey("passing");
  const deleted = await poller.pollUntilDone();
  assert.equal(deleted.properties.recoveryId, `${url}/deletedkeys/passing`);
  assert.equal(deleted.properties.scheduledPurgeDate - deleted.properties.deletedOn, 90 * day);
  await refused(404, "KeyNotFound", () => client.getKey("passing"));
  await refused(404, "KeyNotFound", () => client.beginDeleteKey("passing"));
  await refused(409, "Conflict", () => client.createEcKey("passing", { curve: "P-384" }));
  const shown = await client.getDeletedKey("passing");
  assert.equal(shown.id, key.id);
  assert.deepEqual(shown.key.x, key.key.x);
  assert.deepEqual(shown.properties.tags, { a: "b" });
  const listed = await all(client.listDeletedKeys());
  assert.deepEqual(listed.map((k) => k.name), ["passing"]);
  assert.equal(listed[0].properties.recoveryId, deleted.properties.recoveryId);
  assert.equal(+listed[0].properties.scheduledPurgeDate, +deleted.properties.scheduledPurgeDate);
  const pages = await all(client.listDeletedKeys().byPage({ maxPageSize: 1 }));
  assert.deepEqual(pages.map((p) => p.length), [1]);

  const recovering = await client.beginRecoverDeletedKey("passing");
  const recovered = await recovering.pollUntilDone();
  assert.equal(recovered.id, key.id);
  assert.equal((await client.getKey("passing")).id, key.id);
  await refused(404, "KeyNotFound", () => client.getDeletedKey("passing"));
  await (await client.beginDeleteKey("passing")).pollUntilDone();
  await sent(/^DELETE \/deletedkeys\/passing 204$/, () => client.purgeDeletedKey("passing"));
  await refused(404, "KeyNotFound", () => client.getDeletedKey("passing"));
  await refused(404, "KeyNotFound", () => client.purgeDeletedKey("passing"));
  await client.createEcKey("passing", { curve: "P-384" }); // the name is free again
});

await step("backupKey and restoreKeyBackup: every version, with its private key", async () => {
  const first = await client.createEcKey("saved", { curve: "P-256", tags: { a: "b" } });
  const second = await client.createEcKey("saved", { curve: "P-256" });
  const backup = await sent(/^POST \/keys\/saved\/backup 200$/, () => client.backupKey("saved"));
  assert(backup instanceof Uint8Array && backup.length > 100);
  await refused(409, "Conflict", () => client.restoreKeyBackup(backup));
  await removed("saved");
  const restored = await client.restoreKeyBackup(backup);
  assert.equal(restored.id, second.id);
  const versions = await all(client.listPropertiesOfKeyVersions("saved"));
  assert.deepEqual(versions.map((v) => v.version), [first.properties.version, second.properties.version]);
  const digest = createHash("sha256").update("after").digest();
  for (const key of [first, second]) {
    const { result } = await new CryptographyClient(key.id, credential).sign("ES256", digest);
    assert(verify("sha256", Buffer.from("after"), { key: publicKey(key.key), dsaEncoding: "ieee-p1363" }, result), key.id);
  }
  const damaged = Buffer.from(backup);
  damaged[damaged.length - 1] ^= 1;
  await removed("saved");
  await refused(400, "BadParameter", () => client.restoreKeyBackup(damaged));
  await client.restoreKeyBackup(backup);
});

await step("getRandomBytes", async () => {
  const a = await client.getRandomBytes(128), b = await client.getRandomBytes(128);
  assert.equal(a.length, 128);
  assert.notDeepEqual(a, b);
  assert.equal((await client.getRandomBytes(1)).length, 1);
  await refused(400, "BadParameter", () => client.getRandomBytes(129));
});

await step("getKeyAttestation", async () => {
  for (const name of ["rsa", "ec-P-256", "oct-256"]) {
    const key = await client.getKey(name);
    const attested = await sent(/^GET \/keys\/[^/]+\/attestation 200$/, () => client.getKeyAttestation(name));
    assert.equal(attested.id, key.id);
    const a = attested.properties.attestation;
    assert(a.version, "no version of the attestation");
    assert.match(Buffer.from(a.certificatePemFile).toString(), /^-----BEGIN CERTIFICATE-----\n/);
    assert(a.privateKeyAttestation.length > 0);
    assert.equal(a.publicKeyAttestation === undefined, name === "oct-256", "symmetric keys have no public part");
    const byVersion = await sent(/^GET \/keys\/[^/]+\/[0-9a-f]{32}\/attestation 200$/, () => client.getKeyAttestation(name, { version: key.properties.version }));
    assert.equal(byVersion.id, key.id);
  }
});

await step("releaseKey: to whom the policy wants, in every way of wrapping", async () => {
  const authority = `${process.env.STRONGROOM_AUTHORITY}/attest`, recipient = rsa(3072);
  // attest has the development server's own authority attest claims for the recipient's key.
  const attest = async (claims) => {
    const { kty, n, e } = recipient.publicKey.export({ format: "jwk" });
    const answer = await fetch(`${authority}/token`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: "Basic " + btoa(`${process.env.STRONGROOM_CLIENT_ID}:${process.env.STRONGROOM_CLIENT_SECRET}`) },
      body: JSON.stringify({ claims, key: { kty, n, e, kid: "enclave" } }),
    });
    assert.equal(answer.status, 200);
    return (await answer.json()).token;
  };
  const encodedPolicy = Buffer.from(JSON.stringify({ version: "1.0.0", anyOf: [{ authority, allOf: [{ claim: "place", equals: "enclave" }] }] }));
  const made = await client.createEcKey("leaves-ec", { curve: "P-384", exportable: true, releasePolicy: { encodedPolicy } });
  const secret = oct(256), token = await attest({ place: "enclave" });
  await client.importKey("leaves-oct", secret.material, { exportable: true, releasePolicy: { encodedPolicy } });
  for (const algorithm of Object.values(KnownKeyExportEncryptionAlgorithm)) {
    const ecRelease = await sent(/^POST \/keys\/leaves-ec\/release 200$/, () => client.releaseKey("leaves-ec", token, { algorithm, nonce: "once" }));
    const { request, key } = openRelease(ecRelease.value, recipient.privateKey);
    assert.equal(request.enc, algorithm);
    assert.equal(request.nonce, "once");
    const outside = createPublicKey(createPrivateKey({ key, format: "der", type: "pkcs8" }));
    assert(outside.equals(publicKey(made.key)), "another EC key was released");
    const octRelease = await client.releaseKey("leaves-oct", token, { algorithm });
    assert.deepEqual(openRelease(octRelease.value, recipient.privateKey).key, secret.k);
  }
  const { version } = made.properties;
  await sent(/^POST \/keys\/leaves-ec\/[0-9a-f]{32}\/release 200$/, () => client.releaseKey("leaves-ec", token, { version }));
  const elsewhere = await attest({ place: "street" });
  await refused(403, "Forbidden", () => client.releaseKey("leaves-ec", elsewhere));
  await refused(403, "Forbidden", () => client.releaseKey("leaves-ec", token.slice(0, -8) + "AAAAAAAA"));
  await refused(403, "Forbidden", () => client.releaseKey("ec-P-256", token));
  await refused(404, "KeyNotFound", () => client.releaseKey("nobody", token));
});

await step("getCryptographyClient shares the client, and signs", async () => {
  const remote = client.getCryptographyClient("ec-P-256");
  const digest = createHash("sha256").update("shared").digest();
  const { result } = await sent(/^POST \/keys\/ec-P-256\/\/sign 200$/, () => remote.sign("ES256", digest));
  const { key } = await client.getKey("ec-P-256");
  assert(verify("sha256", Buffer.from("shared"), { key: publicKey(key), dsaEncoding: "ieee-p1363" }, result));
});

await step("an imported key is the key: what was signed outside verifies inside", async () => {
  const e = ec("P-256");
  const key = await client.importKey("same", e.material);
  const signature = sign("sha256", Buffer.from("outside"), { key: e.privateKey, dsaEncoding: "ieee-p1363" });
  const digest = createHash("sha256").update("outside").digest();
  const { result } = await sent(/^POST \/keys\/same\/[0-9a-f]{32}\/verify 200$/, () => new CryptographyClient(key, credential).verify("ES256", digest, signature));
  assert.equal(result, true);
});

await step("names and values that are refused", async () => {
  await refused(400, "BadParameter", () => client.createKey("a_b", "RSA"));
  await refused(400, "BadParameter", () => client.createKey("x".repeat(128), "RSA"));
  await refused(400, "BadParameter", () => client.createRsaKey("odd", { keySize: 1024 }));
  await refused(400, "BadParameter", () => client.createEcKey("odd", { curve: "P-224" }));
  await refused(400, "BadParameter", () => client.createKey("odd", "DSA"));
  await refused(404, "KeyNotFound", () => client.getKey("odd"));
});

await step("a wrong secret does not sign in", async () => {
  const wrong = new ClientSecretCredential(process.env.STRONGROOM_TENANT, process.env.STRONGROOM_CLIENT_ID, "wrong",
    { authorityHost: process.env.STRONGROOM_AUTHORITY, disableInstanceDiscovery: true });
  await assert.rejects(() => new KeyClient(url, wrong).getKey("rsa"), (e) => {
    assert.match(e.message, /invalid_client/);
    return true;
  });
});

finish();
