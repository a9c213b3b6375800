# What the scripts on backup share. To be sourced after az-session.sh; needs ACCOUNT and ACCOUNT_KEY.
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
want() { [ "$2" = "$3" ] || die "$1: got '$2', want '$3'"; }

refused() { # WORDS COMMAND...: the command must fail, and say so
  local words=$1 said; shift
  if said=$("$@" 2>&1); then die "$*: went well, want a refusal with '$words'"; fi
  [[ $said == *"$words"* ]] || die "$*: want a refusal with '$words', got: $said"
}

sas() { # PERMISSIONS: a token for the container backups, good for two days
  azx storage container generate-sas --account-name "$ACCOUNT" --account-key "$ACCOUNT_KEY" --name backups --permissions "$1" --https-only \
    --expiry "$(date -u -d '+2 days' +%Y-%m-%dT%H:%MZ)" -o tsv
}

# az 2.45 has no command that signs. Its rest command reaches every call.
rest() { # HSM_URL CALL BODY QUERY
  local host=${1#https://}
  azx rest --method post --url "$1/$2?api-version=7.4" --resource "https://${host#*.}" --body "$3" --query "$4" -o tsv
}
digest=$(printf 'signed before the loss' | openssl dgst -sha256 -binary | openssl base64 -A | tr '+/' '-_' | tr -d =)
sign() { rest "$1" "keys/$2/sign" "{\"alg\":\"ES256\",\"value\":\"$digest\"}" '[kid, value]' | tr '\n' ' '; }    # HSM_URL KEY: version and signature
verify() { # HSM_URL KEY SIGNATURE
  local kid value; read -r kid value <<<"$3"
  rest "$1" "keys/$2/${kid##*/}/verify" "{\"alg\":\"ES256\",\"digest\":\"$digest\",\"value\":\"$value\"}" value
}

kids() { # all versions of all keys
  local name
  for name in $(azx keyvault key list --hsm-name "$hsm" --query '[].name' -o tsv | sort); do
    azx keyvault key list-versions --hsm-name "$hsm" -n "$name" --query '[].kid' -o tsv | sed 's|.*/keys/||' | sort
  done
}
