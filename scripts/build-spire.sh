#!/usr/bin/env bash
# build-spire.sh VERSION OUTDIR: a real SPIRE server and agent from their Go module, for the tests.
# An exact version downloads where the module's version list is not served, so `go install …@version` is not used.
# The EJBCA upstream authority is left out: its client library is not available as a module. sqlite3 needs cgo (gcc).
set -euo pipefail
version=v${1:?which version}
out=$(realpath -m "${2:?where to}")
[ -x "$out/spire-server" ] && [ -x "$out/spire-agent" ] && exit 0
mkdir -p "$out"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
printf 'module fetch\n\ngo 1.21\n' > go.mod
source_dir=$(go mod download -json "github.com/spiffe/spire@$version" | python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
cp -r "$source_dir" spire
chmod -R u+w spire
cd spire
sed -i '/ejbca/d' pkg/server/catalog/upstreamauthority.go
CGO_ENABLED=0 go build -v -ldflags '-s -w' -o "$work/bin/" ./cmd/spire-agent
CGO_ENABLED=1 go build -v -ldflags '-s -w' -o "$work/bin/" ./cmd/spire-server
mv "$work/bin/spire-agent" "$work/bin/spire-server" "$out/"
