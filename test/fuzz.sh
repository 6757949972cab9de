#!/bin/sh
# Runs every fuzz target of the tree for a while: sh test/fuzz.sh [TIME]
set -eu
time=${1:-30s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz PACKAGE TARGET. At the end of its time go test now and then reports its own deadline as
# a failure; only a failing input is one.
fuzz() {
	echo "== $1 $2 ($time)"
	if ! go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 20x "$1" >"$log" 2>&1; then
		tail -n 20 "$log"
		if grep -q 'Failing input written' "$log" || ! grep -q 'context deadline exceeded' "$log"; then
			exit 1
		fi
	fi
	grep 'execs:' "$log" | tail -n 1
}

for file in $(grep -rl '^func Fuzz' --include='*_test.go' . | sort); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file"); do
		fuzz "$(dirname "$file")" "$target"
	done
done
