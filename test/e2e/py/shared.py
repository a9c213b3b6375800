"""What the scripts beside this file share: a signed-in client of the HSM, a record of what went over the wire, and steps
that are counted. The Go tests start them with the addresses and credentials of a development server in the environment.
Nothing of the SDK is switched off or replaced; the CA comes by REQUESTS_CA_BUNDLE, as users set it."""
import logging
import os
import re
import sys
import traceback
from urllib.parse import urlsplit

from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.keyvault.keys import KeyClient, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient

URL = os.environ["HSM_URL"]

logging.getLogger("azure").setLevel(logging.ERROR)  # it warns of each operation that it has to send

# Our authority is not one that Microsoft's login server knows, so it is not asked about it.
credential = ClientSecretCredential(
    os.environ["STRONGROOM_TENANT"], os.environ["STRONGROOM_CLIENT_ID"], os.environ["STRONGROOM_CLIENT_SECRET"],
    authority=os.environ["STRONGROOM_AUTHORITY"], instance_discovery=False)

# Every request that the HSM answered, as "POST /keys/a/b/sign 200", in order.
_wire = []


def _record(response):
    path = urlsplit(response.http_request.url).path
    _wire.append(f"{response.http_request.method} {path} {response.http_response.status_code}")


client = KeyClient(URL, credential, raw_response_hook=_record)


def local_first(key):
    """A client as the SDK makes it: public operations it does by itself."""
    return CryptographyClient(key, credential, raw_response_hook=_record)


def remote(key):
    """A client for which everything goes to the HSM: in its copy of the key nothing is allowed, and what the SDK may
    not do by itself, it sends."""
    return local_first(KeyVaultKey(key.id, jwk={**vars(key.key), "key_ops": []}))


def sent(request, work):
    """Runs work and asserts that its last request was the one that is named: a regular expression over method, path and
    status. An operation that the SDK did by itself, on this machine, fails here."""
    before = len(_wire)
    result = work()
    assert len(_wire) > before, f"nothing was sent; want {request}"
    assert re.fullmatch(request, _wire[-1]), f"sent {_wire[-1]}, want {request}"
    return result


def local(work):
    """The opposite: the SDK does it here, once it has read the public key."""
    before = len(_wire)
    result = work()
    assert [line for line in _wire[before:] if not line.startswith("GET ")] == [], "a public operation went to the server"
    return result


def refused(status, code, work):
    """Asserts that the server refused, with this status and this code in its answer, and that the SDK raised what its
    users catch. Returns the error."""
    try:
        work()
    except HttpResponseError as e:
        assert (e.status_code, e.error and e.error.code) == (status, code), f"got {e.status_code} {e.error}, want {status} {code}"
        assert isinstance(e, {404: ResourceNotFoundError, 409: ResourceExistsError}.get(status, HttpResponseError)), type(e)
        return e
    raise AssertionError(f"it was done; want {status} {code}")


def same(got, want, what=""):
    assert got == want, f"{what}: got {got!r}, want {want!r}"


_passed, _failed = 0, 0


def step(name, work):
    """Runs one part. A failure is told and counted, and the next part still runs."""
    global _passed, _failed
    try:
        work()
        _passed += 1
        print(f"ok    {name}", flush=True)
    except Exception:  # pylint: disable=broad-except
        _failed += 1
        print(f"FAIL  {name}\n{traceback.format_exc()}", flush=True)


def finish():
    """Ends the script; the Go test wants its last line and exit status 0."""
    print(f"{_failed} steps failed" if _failed else f"done: {_passed} steps")
    sys.exit(0 if _passed and not _failed else 1)
