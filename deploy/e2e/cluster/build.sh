#!/usr/bin/env bash
# Builds the binaries and packs the image of the pods' sandbox into $KUBE_DIR. `go build` knows
# what is up to date, so a second run takes seconds.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
mkdir -p "$BIN" "$KUBE_DIR/images"
cd "$HERE"

v=${KUBE_VERSION#1.}
version=k8s.io/component-base/version
ldflags="-s -w -X $version.gitVersion=v$KUBE_VERSION -X $version.gitMajor=1 -X $version.gitMinor=${v%%.*}"
export CGO_ENABLED=0
say "building (cold: minutes; warm: seconds)"
go build -trimpath -ldflags "$ldflags" -o "$BIN/kubelab" ./cmd/kubelab
go build -trimpath -ldflags '-s -w' -o "$BIN/" ./cmd/pki ./cmd/mkimage ./cmd/pause ./cmd/relay
for part in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl provisioner dns hollow; do
	ln -sf kubelab "$BIN/$part"
done
"$BIN/mkimage" -o "$KUBE_DIR/images/pause.tar" -ref localhost/pause:1 -add "$BIN/pause:/pause" -entrypoint /pause -user 65535:65535
