#!/usr/bin/env bash
# Builds the binaries and packs the images of the end-to-end suite: no registry, no Docker. With a cluster up, they are imported.
#
#   localhost/troupe:e2e          the server, as deploy/images/server.Dockerfile makes it
#   localhost/troupe-runner:e2e   the runner with a shell and busybox; a small stand-in for deploy/images/runner.Dockerfile
#   localhost/testagent:e2e       a script in the runner's place, for the contract of agent.Runtime
#   localhost/redis:e2e           Debian's redis-server
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../cluster/env.sh
out=$KUBE_DIR/images
work=$KUBE_DIR/build
mkdir -p "$out" "$work"
need=()
for p in bash-static:/bin/bash-static busybox-static:/bin/busybox redis-server:/usr/bin/redis-server ca-certificates:/etc/ssl/certs/ca-certificates.crt; do
	[ -e "${p#*:}" ] || need+=("${p%%:*}")
done
if [ ${#need[@]} -gt 0 ]; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

version=e2e
(cd ../../.. && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$work/" ./cmd/troupe &&
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$work/troupe-runner" ./cmd/runner)
printf 'root:x:0:0:root:/:/bin/bash\nagent:x:1000:1000:agent:/agent/home:/bin/bash\n' >"$work/passwd"

tools=(-add /bin/bash-static:/bin/bash -add /bin/busybox:/bin/busybox -add "$work/passwd:/etc/passwd"
	-add /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt -env PATH=/usr/local/bin:/usr/bin:/bin)
for applet in $(busybox --list); do
	case $applet in bash | busybox) ;; *) tools+=(-link "busybox:/bin/$applet") ;; esac
done
"$BIN/mkimage" -o "$out/troupe.tar" -ref localhost/troupe:e2e -add "$work/troupe:/usr/local/bin/troupe" \
	-add /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt -entrypoint /usr/local/bin/troupe -user 65532:65532
"$BIN/mkimage" -o "$out/troupe-runner.tar" -ref localhost/troupe-runner:e2e "${tools[@]}" \
	-add "$work/troupe-runner:/usr/local/bin/troupe-runner" -entrypoint /usr/local/bin/troupe-runner -user 1000:1000
"$BIN/mkimage" -o "$out/testagent.tar" -ref localhost/testagent:e2e "${tools[@]}" -add testagent.sh:/testagent.sh -entrypoint /testagent.sh -user 1000:1000
redis=(-add /usr/bin/redis-server:/usr/bin/redis-server)
for lib in $(ldd /usr/bin/redis-server | grep -o '/[^ ]*'); do redis+=(-add "$(realpath "$lib"):$lib"); done
"$BIN/mkimage" -o "$out/redis.tar" -ref localhost/redis:e2e "${redis[@]}" -entrypoint /usr/bin/redis-server -user 999:999 -env PATH=/usr/bin

if node_pid >/dev/null; then ../cluster/import.sh "$out/troupe.tar" "$out/troupe-runner.tar" "$out/testagent.tar" "$out/redis.tar" >/dev/null; fi
