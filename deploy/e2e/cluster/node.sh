#!/usr/bin/env bash
# PID 1 of the cluster's namespaces; started by up.sh, never by hand. Sets up
# the network and the mounts of the namespaces, then starts every part and
# restarts any that ends. Descriptor 3 is the relay's listening socket.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cni_bin=/usr/lib/cni
export PATH=$BIN:/usr/sbin:/usr/bin:/sbin:/bin
unset KUBECONFIG

# keep NAME COMMAND...: runs it for as long as the node lives.
keep() {
	local name=$1
	shift
	(while :; do
		"$@" >>"$LOG/$name.log" 2>&1
		echo "--- $name ended with status $?" >>"$LOG/$name.log"
		sleep 1
	done) &
}
# until_ok COMMAND...: waits for it to succeed.
until_ok() { until "$@" >/dev/null 2>&1; do sleep 0.1; done; }

# --- Mounts: the paths that containerd, CNI and the kubelet have built in are
# --- ours here, and only here.
mount -t tmpfs tmpfs /run
for d in var/lib/kubelet var/lib/containerd var/lib/cni var/log/pods var/log/containers etc/cni opt/cni; do
	mkdir -p "$KUBE_DIR/var/$d" "/$d"
	mount --bind "$KUBE_DIR/var/$d" "/$d"
done

# --- Network: loopback, one bridge for the node's own address, no way out. The
# --- pods' bridge (cni0) is made by the CNI plugin at the first pod.
ip link set lo up
ip link add node0 type bridge
ip addr add "$KUBE_NODE_IP/32" dev node0
ip link set node0 up
ip route add "$KUBE_SVC_CIDR" dev node0 src "$KUBE_NODE_IP" # so that a Service's address is routable before it is rewritten
sysctl -qw net.ipv4.ip_forward=1
sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null

# --- Control plane.
mkdir -p "$KUBE_DIR/etcd" "$KUBE_DIR/config/net.d" "$KUBE_DIR/volumes"
api=https://127.0.0.1:6443
keep etcd etcd --name=kubelab --data-dir="$KUBE_DIR/etcd" --unsafe-no-fsync --log-level=warn \
	--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
	--listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
	--initial-cluster=kubelab=http://127.0.0.1:2380 --quota-backend-bytes=$((4 << 30))
# shellcheck disable=SC2086
keep kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
	--bind-address=0.0.0.0 --secure-port=6443 --advertise-address="$KUBE_NODE_IP" \
	--service-cluster-ip-range="$KUBE_SVC_CIDR" --allow-privileged=true --profiling=false \
	--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
	--client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
	--kubelet-certificate-authority="$PKI/ca.crt" --kubelet-preferred-address-types=InternalIP \
	--kubelet-client-certificate="$PKI/apiserver-kubelet-client.crt" --kubelet-client-key="$PKI/apiserver-kubelet-client.key" \
	--requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy-client \
	--requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
	--requestheader-extra-headers-prefix=X-Remote-Extra- \
	--proxy-client-cert-file="$PKI/front-proxy-client.crt" --proxy-client-key-file="$PKI/front-proxy-client.key" \
	--service-account-issuer=https://kubernetes.default.svc.cluster.local \
	--service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
	${KUBE_APISERVER_ARGS:-}
keep relay relay -fd 3 -to 127.0.0.1:6443
exec 3<&- # only the relay keeps it

if [ "$KUBE_NODE_AGENT" = 1 ]; then
	# containerd 1.6 and 2.x both read this version of the file.
	cat >"$KUBE_DIR/config/containerd.toml" <<-TOML
		version = 2
		root = "/var/lib/containerd"
		state = "/run/containerd"
		[grpc]
		  address = "/run/containerd/containerd.sock"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "localhost/pause:1"
		  restrict_oom_score_adj = true # this machine's root lacks CAP_SYS_RESOURCE
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "overlayfs"
		    default_runtime_name = "runc"
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		      runtime_type = "io.containerd.runc.v2"
		      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		        SystemdCgroup = false
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "$cni_bin"
		    conf_dir = "$KUBE_DIR/config/net.d"
	TOML
	cat >"$KUBE_DIR/config/net.d/10-kubelab.conflist" <<-JSON
		{"cniVersion": "0.4.0", "name": "kubelab", "plugins": [
		  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
		   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
		            "ranges": [[{"subnet": "$KUBE_POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}
		]}
	JSON
	keep containerd containerd --config "$KUBE_DIR/config/containerd.toml" --log-level warn

	# One cgroup of ours in every v1 hierarchy; a new cpuset starts out empty.
	for c in /sys/fs/cgroup/*/; do
		[ -e "$c/cgroup.procs" ] || continue
		mkdir -p "$c$KUBE_CGROUP"
		for f in cpuset.cpus cpuset.mems; do
			[ -e "$c$f" ] && cat "$c$f" >"$c$KUBE_CGROUP/$f"
		done
	done
	rm -f "$KUBE_DIR"/volumes/*/device # the provisioner makes these anew; until then they may lie
	cat >"$KUBE_DIR/config/resolv.conf" <<-TXT
		nameserver $KUBE_NODE_IP
	TXT
	cat >"$KUBE_DIR/config/kubelet.yaml" <<-YAML
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		address: $KUBE_NODE_IP
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
		authorization: {mode: Webhook}
		tlsCertFile: $PKI/kubelet-server.crt
		tlsPrivateKeyFile: $PKI/kubelet-server.key
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		cgroupDriver: cgroupfs
		cgroupRoot: /$KUBE_CGROUP
		failCgroupV1: false
		failSwapOn: false
		clusterDomain: cluster.local
		clusterDNS: [$KUBE_NODE_IP]
		resolvConf: $KUBE_DIR/config/resolv.conf
		maxPods: 250
		syncFrequency: 10s # how soon a grown volume is noticed; 1m by default
		podLogsDir: /var/log/pods
		imageGCHighThresholdPercent: 100
		evictionHard: {memory.available: 200Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%, imagefs.inodesFree: 1%}
	YAML
	# How long a crashing container waits at most (default 5m, starting at 10s).
	[ -z "${KUBE_MAX_BACKOFF:-}" ] || echo "crashLoopBackOff: {maxContainerRestartPeriod: $KUBE_MAX_BACKOFF}" >>"$KUBE_DIR/config/kubelet.yaml"
fi

until_ok kubectl --kubeconfig="$PKI/local.kubeconfig" get --raw=/readyz
qps=${KUBE_QPS:-300} # Kubernetes' own defaults are 20 (controllers) and 50 (scheduler) requests a second
keep kube-controller-manager kube-controller-manager --kubeconfig="$PKI/controller-manager.kubeconfig" \
	--authentication-kubeconfig="$PKI/controller-manager.kubeconfig" --authorization-kubeconfig="$PKI/controller-manager.kubeconfig" \
	--kube-api-qps="$qps" --kube-api-burst=$((2 * qps)) --concurrent-statefulset-syncs=10 \
	--bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true --profiling=false \
	--root-ca-file="$PKI/ca.crt" --service-account-private-key-file="$PKI/sa.key" \
	--cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
	--controllers='*,bootstrap-signer-controller,token-cleaner-controller'
keep kube-scheduler kube-scheduler --kubeconfig="$PKI/scheduler.kubeconfig" \
	--authentication-kubeconfig="$PKI/scheduler.kubeconfig" --authorization-kubeconfig="$PKI/scheduler.kubeconfig" \
	--kube-api-qps="$qps" --kube-api-burst=$((2 * qps)) \
	--bind-address=127.0.0.1 --leader-elect=false --profiling=false

if [ "$KUBE_NODE_AGENT" = 1 ]; then
	until_ok ctr version
	for image in "$KUBE_DIR"/images/*.tar; do
		ctr -n k8s.io images import "$image"
	done
	keep kubelet kubelet --config="$KUBE_DIR/config/kubelet.yaml" --kubeconfig="$PKI/kubelet.kubeconfig" \
		--root-dir=/var/lib/kubelet --hostname-override="$KUBE_NODE" --node-ip="$KUBE_NODE_IP"
	cat >"$KUBE_DIR/config/proxy.yaml" <<-YAML
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		mode: nftables
		clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
		hostnameOverride: $KUBE_NODE
		clusterCIDR: $KUBE_POD_CIDR
		healthzBindAddress: 127.0.0.1:10256
		metricsBindAddress: 127.0.0.1:10249
		conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
	YAML
	keep kube-proxy kube-proxy --config="$KUBE_DIR/config/proxy.yaml"
	keep provisioner provisioner -kubeconfig "$PKI/local.kubeconfig" -node "$KUBE_NODE" -dir "$KUBE_DIR/volumes"
	keep dns dns -kubeconfig "$PKI/local.kubeconfig" -listen "$KUBE_NODE_IP:53"
fi
# Nodes without a kubelet, for tests of scale.
[ "${KUBE_HOLLOW_NODES:-0}" = 0 ] || keep hollow hollow -kubeconfig "$PKI/local.kubeconfig" -nodes "$KUBE_HOLLOW_NODES"

while :; do wait -n || sleep 1; done # and reap orphans, as PID 1 must
