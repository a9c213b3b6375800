// A user of the embedded issuer with the SDK's own credential for a name and a password. The Go test has given the user the
// role to use keys.
import assert from "node:assert/strict";
import { UsernamePasswordCredential } from "@azure/identity";
import { CryptographyClient, KeyClient } from "@azure/keyvault-keys";
import { finish, step, url } from "./setup.mjs";

const client = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"; // az's; any GUID does that is no application's
const { STRONGROOM_TENANT: tenant, STRONGROOM_AUTHORITY: authorityHost, USER_NAME: name, USER_PASSWORD: password } = process.env;
const options = { authorityHost, disableInstanceDiscovery: true };
const credential = new UsernamePasswordCredential(tenant, client, name, password, options);

await step("a key is made and signs", async () => {
  const key = await new KeyClient(url, credential).createKey("js-user", "EC");
  assert.equal(key.keyType, "EC-HSM");
  const { result } = await new CryptographyClient(key, credential).sign("ES256", Buffer.alloc(32, 1));
  assert.equal(result.length, 64);
});

await step("a token for a further resource", async () => {
  const first = await credential.getToken("https://first.example/.default");
  const second = await credential.getToken("https://second.example/.default");
  assert(first.token && second.token && first.token !== second.token);
});

await step("a wrong password is refused", async () => {
  const wrong = new UsernamePasswordCredential(tenant, client, name, "wrong", options);
  await assert.rejects(() => wrong.getToken("https://first.example/.default"), /invalid_grant/);
});

finish();
