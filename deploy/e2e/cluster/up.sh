#!/usr/bin/env bash
# Brings up a single-node Kubernetes cluster in namespaces of its own and waits
# until it is ready. Safe to run twice: a cluster that is up is left as it is.
#
#   ./up.sh && export KUBECONFIG=$KUBE_DIR/pki/admin.kubeconfig
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ "$(id -u)" = 0 ] || { echo "up.sh: must be root" >&2; exit 1; }

# What the node needs from Debian; nothing is installed when all is there.
need=()
want() { command -v "$1" >/dev/null || [ -e "$1" ] || need+=("$2"); }
want ip iproute2
want unshare util-linux
if [ "$KUBE_NODE_AGENT" = 1 ]; then
	want containerd containerd
	want runc runc
	want /usr/lib/cni/bridge containernetworking-plugins
	want iptables iptables
	want nft nftables
	want conntrack conntrack
	want mkfs.xfs xfsprogs
fi
if [ ${#need[@]} -gt 0 ]; then
	say "installing ${need[*]}"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

"$HERE/build.sh"
mkdir -p "$LOG" "$RUN"
"$BIN/pki" -dir "$PKI" -node "$KUBE_NODE" -server "https://127.0.0.1:6443" \
	-public-server "https://127.0.0.1:$KUBE_PORT" -sans "127.0.0.1,localhost,$KUBE_NODE_IP,${KUBE_SVC_CIDR%.*}.1"

if pid=$(node_pid); then
	say "already up (pid $pid)"
else
	say "starting"
	# The relay's socket is made out here and handed down; all the rest is in
	# new pid, network and mount namespaces: when this one process ends, the
	# kernel ends every process and drops every mount and link of the cluster.
	setsid "$BIN/relay" -listen "127.0.0.1:$KUBE_PORT" -- \
		unshare --pid --net --mount --propagation private --fork --kill-child --mount-proc \
		bash "$HERE/node.sh" </dev/null >"$LOG/node.log" 2>&1 &
	pid=$!
	disown
	echo "$pid $(start_time $pid)" >"$RUN/node.pid"
fi

ready() {
	if [ "$KUBE_NODE_AGENT" = 1 ]; then
		[ "$("$BIN/kubectl" get node "$KUBE_NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
	else
		"$BIN/kubectl" get serviceaccount default >/dev/null 2>&1 # made by the controller manager
	fi
}
for ((i = 0; i < ${KUBE_WAIT:-180} * 5; i++)); do
	ready && break
	node_pid >/dev/null || { echo "up.sh: the cluster died:" >&2; tail -n 20 "$LOG"/*.log >&2; exit 1; }
	sleep 0.2
done
ready || { echo "up.sh: not ready in time; see $LOG" >&2; exit 1; }
"$BIN/kubectl" apply -f "$HERE/manifests/" >/dev/null
say "ready: export KUBECONFIG=$KUBECONFIG"
