#!/usr/bin/env bash
# The end-to-end suite on a real Kubernetes of its own: brings the cluster up, builds and imports the images, runs the suite in the
# cluster's network, takes the cluster down. `make e2e`; KEEP=1 leaves it up, RUN='TestPOD' picks tests.
#
# What is built is kept in KUBE_DIR (default ~/.cache/troupe-e2e): the first run builds Kubernetes from its Go modules.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
: "${KUBE_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/troupe-e2e}"
export KUBE_DIR KUBE_MAX_BACKOFF=${KUBE_MAX_BACKOFF:-2s} KUBE_HOLLOW_NODES=${KUBE_HOLLOW_NODES:-4}
say() { printf '%s %s\n' "$(date +%T)" "$*"; }

say "cluster"
[ -n "${KEEP:-}" ] || trap 'cluster/down.sh || true' EXIT
cluster/up.sh
say "images"
images/build.sh
say "suite"
export CGO_ENABLED=0 GOFLAGS=-trimpath
go mod tidy -diff
go vet .
(cd cluster && go mod tidy -diff && go vet ./...)
go test -c -o "$KUBE_DIR/build/e2e.test" .
cluster/run.sh "$KUBE_DIR/build/e2e.test" -test.v -test.count=1 -test.timeout 30m ${RUN:+-test.run "$RUN"}
