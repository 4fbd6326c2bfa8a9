# Settings shared by the scripts here; every one can be set in the environment.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${KUBE_DIR:=${TMPDIR:-/tmp}/kube-state}"  # everything that is built or written goes here
: "${KUBE_BIN:=$KUBE_DIR/bin}"           # the binaries; may be shared by several clusters
: "${KUBE_VERSION:=1.36.3}"             # must match go.mod
: "${KUBE_PORT:=6443}"                  # the API server on this machine's 127.0.0.1
: "${KUBE_NODE:=kubelab}"               # name of the node
: "${KUBE_NODE_IP:=10.245.0.1}"         # these three exist only in the cluster's own
: "${KUBE_POD_CIDR:=10.244.0.0/16}"     #   network namespace, which has no link and
: "${KUBE_SVC_CIDR:=10.96.0.0/16}"      #   no route to anything outside it
: "${KUBE_NODE_AGENT:=1}"               # 0: control plane only (no containerd, no kubelet)
: "${KUBE_CGROUP:=kubelab}"             # pods' cgroups go below this one
export KUBE_DIR KUBE_BIN KUBE_VERSION KUBE_PORT KUBE_NODE KUBE_NODE_IP KUBE_POD_CIDR KUBE_SVC_CIDR KUBE_NODE_AGENT KUBE_CGROUP
BIN=$KUBE_BIN PKI=$KUBE_DIR/pki LOG=$KUBE_DIR/log RUN=$KUBE_DIR/run
export KUBECONFIG=$PKI/admin.kubeconfig
say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }

# node_pid prints the pid of the process that holds the cluster, if it is alive
# and really ours (its start time is in the file too, against reused pids).
node_pid() {
	local pid start now
	read -r pid start 2>/dev/null <"$RUN/node.pid" || return 1
	now=$(start_time "$pid") || return 1
	[ "$now" = "$start" ] && echo "$pid"
}

# start_time PID: field 22 of /proc/PID/stat, counted after the name's last ')'.
start_time() {
	local s
	s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# shellcheck disable=SC2086
	set -- ${s##*) }
	echo "${20}"
}
