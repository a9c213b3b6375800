#!/usr/bin/env bash
# Keys of every kind with the unmodified Azure CLI on an activated HSM: made, imported from PEM and as a BYOK transfer
# blob, shown, downloaded; data encrypted and decrypted. What az gets is checked with openssl. (az 2.45 has no commands to
# sign, verify, wrap and unwrap.)
#
# Environment: that of az-session.sh (BASE HSM_URL CA_BUNDLE AZ_CLIENT_ID AZ_CLIENT_SECRET AZ_TENANT), and
#   OUT   directory for keys and files (default: a new temporary one)
# Exit status 0 means every check passed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export AZ_ONLY_ERRORS=${AZ_ONLY_ERRORS:-yes}
. "$here/az-session.sh"

out=${OUT:-$(mktemp -d "${TMPDIR:-/tmp}/azkeyuse.XXXXXX")}
mkdir -p "$out"; chmod 700 "$out"; cd "$out"
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
want() { [ "$2" = "$3" ] || die "$1: got '$2', want '$3'"; }
key() { local verb=$1; shift; azx keyvault key "$verb" --hsm-name "$HSM_NAME" "$@"; }
refused() { # what, exit status, words of the message; then a key command
  local what=$1 status=$2 words=$3 got=0; shift 3
  key "$@" -o none 2>refusal || got=$?
  want "$what: exit status" "$got" "$status"
  grep -q "$words" refusal || die "$what: no '$words' in: $(cat refusal)"
}
spki() { # the hash of the public key in a file; two files without a key are not equal
  openssl pkey "$@" -pubout -outform DER 2>/dev/null | openssl sha256 -r || echo "no key: $*"
}
hex() { od -An -v -tx1 | tr -d ' \n'; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]] or "")' "$1" <"$2"; }

echo "create"
want "no --kty" "$(key create -n plain --query key.kty -o tsv)" RSA-HSM
want "-p hsm" "$(key create -n rsa -p hsm --size 3072 --ops sign verify --expires 2040-01-02T03:04:05Z --not-before 2020-01-02T03:04:05Z --tags a=b c= \
  --query '[key.kty, attributes.expires, attributes.notBefore, tags.a, join(`,`, sort(key.keyOps))]' -o tsv | tr '\n' ' ')" \
  "RSA-HSM 2040-01-02T03:04:05+00:00 2020-01-02T03:04:05+00:00 b sign,verify "
for curve in P-256 P-256K P-384 P-521; do
  want "$curve" "$(key create -n "ec-$curve" --curve "$curve" --query '[key.kty, key.crv]' -o tsv | tr '\n' ' ')" "EC-HSM $curve "
done
for size in 128 192 256; do
  want "oct $size" "$(key create -n "oct-$size" --kty oct-HSM --size "$size" --query key.kty -o tsv)" oct-HSM
done
want "--disabled" "$(key create -n off --kty EC-HSM --curve P-256 --disabled true --query attributes.enabled -o tsv)" false
refused "a name that is not one" 1 BadParameter create -n under_score
refused "a size that there is not" 1 BadParameter create -n odd --kty RSA-HSM --size 1024

echo "show, download"
first=$(key show -n plain --query key.kid -o tsv)
second=$(key create -n plain --kty RSA-HSM --query key.kid -o tsv)
want "show" "$(key show -n plain --query key.kid -o tsv)" "$second"
want "show of a version" "$(key show -n plain -v "${first##*/}" --query key.kid -o tsv)" "$first"
refused "show of nobody" 3 "(KeyNotFound)" show -n nobody
key download -n ec-P-384 -f ec.pem -o none
key download -n ec-P-384 -f ec.der -e DER -o none
want "download, PEM and DER" "$(spki -pubin -in ec.pem)" "$(spki -pubin -inform DER -in ec.der)"

echo "import from PEM"
openssl genrsa -out rsa.key 2048 2>/dev/null
want "RSA" "$(key import -n in-rsa --pem-file rsa.key --ops encrypt decrypt sign verify --query key.kty -o tsv)" RSA-HSM
key download -n in-rsa -f rsa.pem -o none
want "RSA: the key" "$(spki -pubin -in rsa.pem)" "$(spki -in rsa.key)"
for curve in prime256v1:P-256 secp256k1:P-256K secp384r1:P-384 secp521r1:P-521; do
  openssl ecparam -name "${curve%:*}" -genkey -noout -out "${curve#*:}.key"
  want "${curve#*:}" "$(key import -n "in-${curve#*:}" --pem-file "${curve#*:}.key" -p hsm --query '[key.kty, key.crv]' -o tsv | tr '\n' ' ')" "EC-HSM ${curve#*:} "
  key download -n "in-${curve#*:}" -f "${curve#*:}.pem" -o none
  want "${curve#*:}: the key" "$(spki -pubin -in "${curve#*:}.pem")" "$(spki -in "${curve#*:}.key")"
done
openssl pkcs8 -topk8 -in P-256.key -v2 aes-256-cbc -passout pass:open -out locked.key
want "PEM with a password" "$(key import -n in-locked --pem-file locked.key --pem-password open --query key.crv -o tsv)" P-256
want "PEM as text" "$(key import -n in-text --pem-string "$(cat P-384.key)" --query key.crv -o tsv)" P-384

echo "import of BYOK transfer blobs"
kek=$(key create -n exchange --kty RSA-HSM --size 3072 --ops import --query key.kid -o tsv)
key download -n exchange -f exchange.pem -o none
transfer() { # file with the target, file to write: what a BYOK tool does
  local secret; secret=$(openssl rand -hex 32)
  { python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1]))' "$secret" |
      openssl pkeyutl -encrypt -pubin -inkey exchange.pem -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha1
    openssl enc -id-aes256-wrap-pad -K "$secret" -iv A65959A6 -in "$1"
  } >ciphertext
  printf '{"schema_version":"1.0.0","header":{"kid":"%s","alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},"ciphertext":"%s","generator":"openssl"}' \
    "$kek" "$(openssl base64 -A -in ciphertext | tr '+/' '-_' | tr -d '=')" >"$2"
}
for k in rsa P-256 P-256K P-521; do openssl pkcs8 -topk8 -nocrypt -in "$k.key" -outform DER -out "$k.pkcs8"; transfer "$k.pkcs8" "$k.byok"; done
openssl rand -out oct.bytes 16; transfer oct.bytes oct.byok
key import -n byok-rsa --byok-file rsa.byok --ops sign verify -o none
key download -n byok-rsa -f byok-rsa.pem -o none
want "RSA: the key" "$(spki -pubin -in byok-rsa.pem)" "$(spki -in rsa.key)"
for curve in P-256 P-256K P-521; do
  want "$curve" "$(key import -n "byok-$curve" --kty EC --curve "$curve" --byok-file "$curve.byok" --query '[key.kty, key.crv]' -o tsv | tr '\n' ' ')" "EC-HSM $curve "
  key download -n "byok-$curve" -f "byok-$curve.pem" -o none
  want "$curve: the key" "$(spki -pubin -in "byok-$curve.pem")" "$(spki -in "$curve.key")"
done
want "oct" "$(key import -n byok-oct --kty oct --byok-file oct.byok --query key.kty -o tsv)" oct-HSM
refused "an RSA blob said to be oct" 1 BadParameter import -n never --kty oct --byok-file rsa.byok

echo "encrypt, decrypt"
openssl rand -out plaintext 48; plaintext=$(openssl base64 -A -in plaintext)
for a in RSA-OAEP RSA-OAEP-256; do
  ciphertext=$(key encrypt -n in-rsa -a "$a" --value "$plaintext" --query result -o tsv)   # by az itself, with the public key
  want "$a: decrypt" "$(key decrypt -n in-rsa -a "$a" --value "$ciphertext" --query result -o tsv)" "$plaintext"
  md=sha1; [ "$a" = RSA-OAEP ] || md=sha256
  want "$a: openssl" "$(printf %s "$ciphertext" | openssl base64 -d -A | openssl pkeyutl -decrypt -inkey rsa.key -pkeyopt rsa_padding_mode:oaep \
    -pkeyopt rsa_oaep_md:$md -pkeyopt rsa_mgf1_md:$md | openssl base64 -A)" "$plaintext"
done
for size in 128 192 256; do
  key encrypt -n "oct-$size" -a "A${size}GCM" --value "$plaintext" --aad 0102 -o json >gcm.json
  want "A${size}GCM" "$(key decrypt -n "oct-$size" -a "A${size}GCM" --value "$(field result gcm.json)" --iv "$(field iv gcm.json)" --tag "$(field tag gcm.json)" --aad 0102 \
    --query result -o tsv)" "$plaintext"
  iv=$(openssl rand -hex 16)
  ciphertext=$(key encrypt -n "oct-$size" -a "A${size}CBC" --value "$plaintext" --iv "$iv" --query result -o tsv)
  want "A${size}CBC" "$(key decrypt -n "oct-$size" -a "A${size}CBC" --value "$ciphertext" --iv "$iv" --query result -o tsv)" "$plaintext"
done
refused "another aad" 1 BadParameter decrypt -n oct-256 -a A256GCM --value "$(field result gcm.json)" --iv "$(field iv gcm.json)" --tag "$(field tag gcm.json)" --aad 0103
iv=$(openssl rand -hex 16)
want "A128CBCPAD: openssl" "$(key encrypt -n byok-oct -a A128CBCPAD --value "$plaintext" --iv "$iv" --query result -o tsv)" \
  "$(openssl enc -aes-128-cbc -K "$(hex <oct.bytes)" -iv "$iv" -in plaintext | openssl base64 -A)"
# docs/compatibility.md warns of this: A256CBCPAD the library under az does by itself, with a key of its own.
ciphertext=$(key encrypt -n oct-256 -a A256CBCPAD --value "$plaintext" --iv "$iv" --query result -o tsv)
if [ "$(key decrypt -n oct-256 -a A256CBCPAD --value "$ciphertext" --iv "$iv" --query result -o tsv 2>/dev/null)" = "$plaintext" ]; then
  die "A256CBCPAD works: take the warning out of docs/compatibility.md"
fi
refused "a key without encrypt" 1 KeyDisabled decrypt -n rsa -a RSA-OAEP --value "$(openssl rand 384 | openssl base64 -A)"
refused "RSA1_5" 1 NotSupported decrypt -n in-rsa -a RSA1_5 --value "$(openssl rand 256 | openssl base64 -A)"

echo "release policy"
azx keyvault key get-policy-template -o json | grep -q authority || die "no policy template"
policy() { printf '{"version":"1.0.0","anyOf":[{"authority":"https://attest.example.com/","allOf":[{"claim":"x","equals":"%s"}]}]}' "$1"; }
policy y >policy.json
want "--policy" "$(key create -n leaving --kty RSA-HSM --exportable true --policy policy.json --query '[attributes.exportable, releasePolicy.contentType]' -o tsv | tr '\n' ' ')" \
  "true application/json; charset=utf-8 "
want "a policy that stays" "$(key set-attributes -n leaving --policy "$(policy z)" --immutable true --query releasePolicy.immutable -o tsv)" true
key show -n leaving --query releasePolicy.encodedPolicy -o tsv | grep -q '"z"' || die "the policy is not the new one"
refused "a policy that cannot change" 1 immutable set-attributes -n leaving --policy policy.json
refused "a policy for a key that stays" 1 BadParameter create -n staying --kty RSA-HSM --policy policy.json

echo "list, over more than a page"
names=$(key list --query 'sort([].name) | join(`,`, @)' -o tsv)
for i in 1 2 3; do key create -n "z-$i" --curve P-256 -o none; done
want "list" "$(key list --query 'sort([].name) | join(`,`, @)' -o tsv)" "$names,z-1,z-2,z-3"
want "how many" "$(tr ',' '\n' <<<"$names" | grep -c .)" 24

echo "done: keys of every kind"
