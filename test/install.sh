#!/usr/bin/env bash
# Installs what the tests need and is not there. Idempotent; silent and quick when nothing is missing.
#   azure-cli   a stock client that the end-to-end tests drive
#   python3-azure   the same: the Python SDK. Tests run it with Debian's own interpreter, which alone sees it
#   nodejs, npm     for the JavaScript SDK, which comes as npm packages (test/e2e/js/package-lock.json), and for Azurite, an
#                   Azure Blob Storage that runs here, which does too (test/azurite/package-lock.json)
#   strace      kills the server at an exact system call, and makes a sync fail
#   e2fsprogs   mkfs.ext4, for the power-loss tests (a loop image that is shut down)
#   util-linux  unshare: a client gets an /etc/hosts of its own
#   openssl, node, curl, python3   cross-checks of key files and certificates: what strict clients think of them
#   gcc         the race detector
set -euo pipefail
declare -A package=([az]=azure-cli [strace]=strace [mkfs.ext4]=e2fsprogs [openssl]=openssl [mount]=mount [gcc]=gcc [node]=nodejs [npm]=npm [curl]=curl
  [python3]=python3 [unshare]=util-linux)
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || [ -x "/sbin/$tool" ] || missing+=("${package[$tool]}")
done
[ -d /usr/lib/python3/dist-packages/azure/keyvault/keys ] || missing+=(python3-azure)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing for the tests: ${missing[*]}"
  sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# The npm packages, exactly as locked. What was installed last stands beside them. No package's script is run: none needs it.
cd "$(dirname "$0")"
for folder in e2e/js azurite; do
  if ! cmp -s "$folder/package-lock.json" "$folder/node_modules/.installed"; then
    echo "installing for the tests: the npm packages of test/$folder"
    (cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
    cp "$folder/package-lock.json" "$folder/node_modules/.installed"
  fi
done
