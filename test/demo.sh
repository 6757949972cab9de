#!/bin/sh
# The main job in a throw-away folder: sh test/demo.sh PATH-TO-KUBEPKI
# Nothing outside the folder is touched and nothing goes over a network.
set -eu
kubepki=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

show() {
	printf '\n$ kubepki %s\n' "$*"
	"$kubepki" --root "$work" "$@"
}
say() { printf '\n--- %s\n' "$*"; }

cat >cluster.yaml <<'YAML'
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {name: cp1}
localAPIEndpoint: {advertiseAddress: 192.0.2.10}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: api.example.com
encryptionAlgorithm: ECDSA-P256
YAML

say "A control plane's certificates, keys and kubeconfig files, from nothing"
show init --config cluster.yaml

say "When do they end?"
show certs check-expiration

say "Renew everything; the old files are kept"
show certs show apiserver >before
show certs renew all
show certs show apiserver >after
say "What changed in the API server's certificate"
diff before after || true
show backups

say "An external CA: its keys leave the node, requests are made, signed elsewhere, taken back"
mkdir ca-machine requests
cp -R etc/kubernetes/pki ca-machine/pki
rm etc/kubernetes/pki/ca.key etc/kubernetes/pki/front-proxy-ca.key etc/kubernetes/pki/etcd/ca.key
show certs renew all --csr-only --csr-dir /requests
show certs sign /requests --ca-dir /ca-machine/pki --validity 2160h
show certs import /requests
show inventory
say "Done. $(du -sh . | cut -f1) in $work, removed now"
