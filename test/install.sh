#!/usr/bin/env bash
# Installs what the tests need and is not there. Idempotent; silent when nothing is missing.
#   azure-cli   the stock client that the end-to-end tests drive
#   python3-azure   the same: the Python SDK. Tests run it with Debian's own interpreter, which alone sees it
#   strace      kills the server at an exact system call, and makes a sync fail
#   e2fsprogs   mkfs.ext4, for the power-loss tests (a loop image that is shut down)
#   openssl, node, curl, python3   cross-checks of key files and certificates: what strict clients think of them
#   gcc         the race detector
set -euo pipefail
declare -A package=([az]=azure-cli [strace]=strace [mkfs.ext4]=e2fsprogs [openssl]=openssl [mount]=mount [gcc]=gcc [node]=nodejs [curl]=curl [python3]=python3)
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || [ -x "/sbin/$tool" ] || missing+=("${package[$tool]}")
done
[ -d /usr/lib/python3/dist-packages/azure/keyvault/administration ] || missing+=(python3-azure)
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing for the tests: ${missing[*]}"
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
