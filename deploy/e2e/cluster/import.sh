#!/usr/bin/env bash
# Gives image archives (of mkimage, `docker save`, ...) to the running cluster.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
pid=$(node_pid) || { echo "import.sh: no cluster; ./up.sh first" >&2; exit 1; }
child=$(cat "/proc/$pid/task/$pid/children")
for image in "$@"; do
	nsenter --target "${child%% *}" --mount --pid --net -- ctr -n k8s.io images import "$(realpath "$image")"
done
