// What the scripts beside this file share: a signed-in client of the HSM, a record of what went over the wire, and
// steps that are counted. The Go tests start them with the addresses and credentials of a development server in the
// environment. Nothing of the SDK is switched off or replaced; the CA comes by NODE_EXTRA_CA_CERTS, as users set it.
import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { subscribe } from "node:diagnostics_channel";
import { ClientSecretCredential } from "@azure/identity";
import { KeyClient } from "@azure/keyvault-keys";

// Node 18, which Debian 12 has, keeps this behind a flag; the SDK was written for Node 20 and later.
globalThis.crypto ??= webcrypto;

function env(name) {
  const value = process.env[name];
  assert(value, `${name} is not set: run this through the Go tests`);
  return value;
}

export const url = env("HSM_URL");

// Our authority is not one that Microsoft's login server knows, so it is not asked about it.
export const credential = new ClientSecretCredential(
  env("STRONGROOM_TENANT"), env("STRONGROOM_CLIENT_ID"), env("STRONGROOM_CLIENT_SECRET"),
  { authorityHost: env("STRONGROOM_AUTHORITY"), disableInstanceDiscovery: true },
);

export const client = new KeyClient(url, credential);

// Every request that this process sent to the HSM and that was answered, as "POST /keys/a/b/sign 200", in order. Node
// itself reports them, so the clients are as users have them.
const wire = [];
subscribe("http.client.response.finish", ({ request, response }) => {
  if (request.host === new URL(url).hostname && request.getHeader("host") === new URL(url).host) {
    wire.push(`${request.method} ${request.path.split("?")[0]} ${response.statusCode}`);
  }
});

// sent runs work and asserts that its last request was the one that is named: a regular expression over method, path
// and status. An operation that the SDK did by itself, on this machine, fails here.
export async function sent(request, work) {
  const before = wire.length;
  const result = await work();
  assert(wire.length > before, `nothing was sent; want ${request}`);
  assert.match(wire.at(-1), request);
  return result;
}

// local is the opposite: the SDK does it here, once it has read the public key.
export async function local(work) {
  const before = wire.length;
  const result = await work();
  assert.deepEqual(wire.slice(before).filter((line) => !line.startsWith("GET ")), [], "a public operation went to the server");
  return result;
}

// refused asserts that the server refused, with this status and this code in its answer.
export async function refused(status, code, work) {
  await assert.rejects(work, (e) => {
    assert.equal(`${e.statusCode} ${e.code}`, `${status} ${code}`, `${e.name}: ${e.message}`);
    return true;
  });
}

let passed = 0, failed = 0;

// step runs one part. A failure is told and counted, and the next part still runs.
export async function step(name, work) {
  try {
    await work();
    passed++;
    console.log(`ok    ${name}`);
  } catch (e) {
    failed++;
    console.log(`FAIL  ${name}\n${e.stack}`);
  }
}

// finish ends the script; the Go test wants its last line and exit status 0.
export function finish() {
  console.log(failed ? `${failed} steps failed` : `done: ${passed} steps`);
  process.exitCode = failed || !passed ? 1 : 0;
}

// all collects what an asynchronous iterator gives.
export async function all(iterator) {
  const items = [];
  for await (const item of iterator) items.push(item);
  return items;
}
