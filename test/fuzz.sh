#!/usr/bin/env bash
# Runs every fuzz target of the tree for the given time (default 20s each). Fails on the first finding, and when
# there is nothing to run.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-20s}; ran=0
for pkg in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
    echo "== $pkg $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$pkg"
    ran=$((ran + 1))
  done
done
[ "$ran" -gt 0 ] || { echo "no fuzz target found"; exit 1; }
echo "$ran fuzz targets, $time each"
