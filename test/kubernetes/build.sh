#!/usr/bin/env bash
# Builds the programs of Kubernetes that tests, benchmarks and the lab run beside kubepki, from the versions that
# this folder's go.mod pins.
#
#   test/kubernetes/build.sh [FOLDER] NAME...
#
# FOLDER (anything with a slash in it) is where the programs go; without it $BIN_DIR, else .lab/bin at the root of the
# repository. A program is built again only when its key changes: the hash of go.mod, go.sum, this script, the version
# of Go and, for the programs that live in this folder, their source. Runs that start at the same time wait for each other.
set -euo pipefail

known="kubeadm kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet etcd kubeconfigcheck"

usage() {
    echo "usage: $0 [FOLDER] NAME...   (names: $known)" >&2
    exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${BIN_DIR:-$here/../../.lab/bin}
if [[ ${1:-} == */* ]]; then
    bin=$1
    shift
fi
[[ $# -gt 0 ]] || usage
for name in "$@"; do
    [[ " $known " == *" $name "* ]] || usage
done
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
cd "$here"

say() { echo "build: $*" >&2; }

exec 9>"$bin/.lock"
if ! flock --nonblock 9; then
    say "another build holds $bin/.lock; waiting for it"
    flock 9
fi

export CGO_ENABLED=0
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
done

# What the build at hand must not leave behind, whichever way it ends.
ticker= temporary=
cleanup() {
    [[ -z $ticker ]] || kill "$ticker" 2>/dev/null || true
    [[ -z $temporary ]] || rm -f "$temporary"
}
trap cleanup EXIT

# tick NAME prints a line every few seconds, so that the first build (minutes) never looks dead. Its sleep may
# outlive it, and so holds neither the lock nor anybody's pipe.
tick() {
    local started=$SECONDS
    while sleep 5 >&- 2>&-; do
        say "$1: still building, $((SECONDS - started)) s"
    done
}

build() {
    local name=$1 package=k8s.io/kubernetes/cmd/$1 sources=(go.mod go.sum build.sh)
    if [[ -d $name ]]; then
        package=./$name
        sources+=("$name"/*.go)
    fi
    local key stamp=$bin/.$name.key started=$SECONDS
    key=$({ go env GOVERSION GOOS GOARCH; cat "${sources[@]}"; } | sha256sum | cut -c1-16)
    if [[ -x $bin/$name && -f $stamp && $(<"$stamp") == "$key" ]]; then
        say "$name: up to date"
        return
    fi
    say "$name: building ($package)"
    tick "$name" 9>&- >&2 &
    ticker=$!
    temporary=$(mktemp "$bin/.$name.XXXXXX")
    go build -trimpath -buildvcs=false -ldflags "$flags" -o "$temporary" "$package" 9>&-
    chmod 0755 "$temporary"
    # Without its stamp a program counts as absent: a run that ends between these lines leaves nothing wrong behind.
    rm -f "$stamp"
    mv "$temporary" "$bin/$name"
    echo "$key" >"$stamp"
    temporary=
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    ticker=
    say "$name: built in $((SECONDS - started)) s"
}

for name in "$@"; do
    build "$name"
done
