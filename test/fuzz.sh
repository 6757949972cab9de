#!/bin/sh
# Runs every fuzz target of the tree for a while: sh test/fuzz.sh [TIME]
set -eu
time=${1:-30s}
grep -rl '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
	package=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file"); do
		echo "== $package $target ($time)"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
	done
done
