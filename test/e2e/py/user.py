"""A user of the embedded issuer with the SDK's own credential for a name and a password. The Go test has given the user the
role to use keys. The tenant is "adfs": with any other, this version asks a server without our port about the user first."""
import os

from azure.core.exceptions import ClientAuthenticationError
from azure.identity import UsernamePasswordCredential
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, SignatureAlgorithm

from shared import URL, finish, step

CLIENT = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"  # az's; any GUID does that is no application's


def credential(password):
    return UsernamePasswordCredential(CLIENT, os.environ["USER_NAME"], password, tenant_id="adfs", authority=os.environ["STRONGROOM_AUTHORITY"])


user = credential(os.environ["USER_PASSWORD"])


def key_made():
    key = KeyClient(URL, user).create_key("py-user", "EC-HSM")
    assert len(CryptographyClient(key, user).sign(SignatureAlgorithm.es256, b"1" * 32).signature) == 64


def further_resource():
    assert user.get_token("https://first.example/.default").token != user.get_token("https://second.example/.default").token


def wrong_password():
    try:
        credential("wrong").get_token("https://first.example/.default")
    except ClientAuthenticationError as e:
        assert "the user is unknown or the password is wrong" in str(e), e
    else:
        raise AssertionError("it was accepted")


step("a key is made and signs", key_made)
step("a token for a further resource", further_resource)
step("a wrong password is refused", wrong_password)
finish()
