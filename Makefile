# make demo   build, then run the main job in a throw-away folder
# make test   everything that judges the tree; fetches and builds what it needs
# make bench  ratios against the real kubeadm
# make lab    a real control plane on this machine, until Ctrl-C
GO      ?= go
LAB     := $(CURDIR)/.lab/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w -X github.com/kubepki/kubepki/internal/cli.version=$(VERSION)
FUZZTIME ?= 30s

export CGO_ENABLED = 0
# Programs that only tests use, such as other CAs; see .ci/run.
export PATH := $(CURDIR)/.lab/tools:$(PATH)

.PHONY: build demo servers lab test test-plain test-lab test-chart test-kubernetes race fuzz bench bench-recover bench-csr bench-rotation soak-csr soak-rotation lint tidy man oracle clean

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/kubepki ./cmd/kubepki

demo: build
	@sh test/demo.sh bin/kubepki

oracle:
	@test/kubernetes/build.sh kubeadm kubectl kubeconfigcheck

test: test-plain test-lab test-chart test-kubernetes

# Packages whose tests run real control planes: they wait more than they compute, so two at a time, the longest first,
# and apart from those that compute.
LABTESTS := ./test/e2e ./internal/lab ./internal/restart ./internal/kube ./internal/controller ./internal/proof ./cmd/kubepki-lab

test-plain: oracle servers
	$(GO) test -timeout 30m $$($(GO) list ./... | grep -v -x -F "$$($(GO) list $(LABTESTS))")

test-lab: oracle servers
	$(GO) test -timeout 30m -p 2 $(LABTESTS)

test-chart: servers
	cd test/chart && $(GO) test -timeout 10m ./...

test-kubernetes:
	cd test/kubernetes && $(GO) vet ./...

servers:
	@test/kubernetes/build.sh etcd kube-apiserver kube-controller-manager kube-scheduler kubelet

# Without root, on loopback addresses only. LABFLAGS="--control-planes 3 --workers 5" for more.
lab: servers
	$(GO) run ./cmd/kubepki-lab up $(LABFLAGS)

# The race detector needs cgo and a C compiler.
race:
	CGO_ENABLED=1 $(GO) test -short -race ./...

# Every fuzz target of the tree, one after the other.
fuzz:
	@sh test/fuzz.sh $(FUZZTIME)

# A million random clusters: nothing is approved without evidence. KUBEPKI_SEED=2 for others.
soak-csr:
	KUBEPKI_WORLDS=1000000 $(GO) test -timeout 60m -run TestRandomWorlds -v ./internal/csr

# On the disk, where kubepki syncs what it writes and kubeadm does not, and in memory.
# Then what a renewal costs a control plane that runs.
bench: oracle servers
	$(GO) run ./bench
	if [ -d /dev/shm ]; then $(GO) run ./bench -dir /dev/shm; fi
	$(GO) run ./bench/lab

# Three control planes and five workers that have expired.
bench-recover: servers
	$(GO) run ./bench/lab -recover

# kubepki controller against kube-controller-manager; 3,000 nodes, floods. BENCHFLAGS="-only burst" for a part.
bench-csr: servers
	$(GO) run ./bench/csr $(BENCHFLAGS)

# Half an hour in which 50 workers rotate certificates of ten minutes, and a client polls each of them.
soak-rotation: servers
	KUBEPKI_WORKERS=50 KUBEPKI_SPAN=27m $(GO) test -timeout 60m -run 'TestRotation$$' -v ./test/e2e

# What 500 agents of "rotation run" cost a machine, beside client-go's certificate manager.
bench-rotation: servers
	$(GO) run ./bench/rotation $(BENCHFLAGS)

lint:
	$(GO) vet ./...
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

tidy:
	$(GO) mod tidy
	cd test/kubernetes && $(GO) mod tidy
	cd test/chart && $(GO) mod tidy

man:
	$(GO) run ./cmd/kubepki-man bin/man

clean:
	rm -rf bin .lab
