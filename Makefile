# make            builds bin/pitvisor and libexec/pitvisor/pitvisor
# make run        builds and runs the example pool of real workers
# make test       all checks and tests, with a count of what was skipped and why
# make packages   .deb, .rpm and .tar.gz for amd64 and arm64 in out/packages
# make test-vm    the tests again on Debian's kernels 5.10, 6.1, 6.12 and 7.x in QEMU
# make test-delegated  the tests again as an ordinary user in a delegated cgroup
# make test-container  the tests again in containers of several kinds
# make test-systemd  the .deb and its units on Debians booted with systemd 252 and 257 in QEMU
# make test-ns    what needs a systemd, with 252 and 257, in namespaces on this kernel
# make test-all   the whole suite in all of these, for about an hour; .ci/run has a part of each
#
# Debian or Ubuntu with Go; what else is lacking is installed (as root) or named.

export GOFLAGS += -buildvcs=false
TOOL = go tool -modfile=tools.mod
# Of test-vm: kernels (VM=6.12 for one), packages, and flags of the test binaries.
VM = all
VMTEST = ./cgroup ./pidfd ./spawn ./registry ./resource ./history ./supervise ./linuxtest ./internal/... ./cmd/pitvisor ./cmd/front
# For the time that they take: what meets the kernel little is tested on one of them,
# the program that links nothing on the oldest and the newest.
VMONLY = -only 5.10,newest=./cmd/front -only newest=./internal/capture,./internal/config,./internal/report,./history
VMFLAGS = -test.short
LANEBUILD = -build ./cmd/front,./cmd/pitvisor,./examples/pool/goworker
# Of test-systemd: Debian's suites, and which tests of packaging.
SYSTEMD = bookworm,trixie
SYSTEMDTEST = ^Test(Booted|Cold)
RACE = ./cgroup ./pidfd ./spawn ./registry ./history ./supervise ./internal/... ./linuxtest

.PHONY: build run check fmt test test-vm test-delegated test-container test-ns test-systemd test-all docs-kernels race fuzz bench cover soak packages packages-check clean

build:
	CGO_ENABLED=0 go build -trimpath -o bin/pitvisor ./cmd/front
	CGO_ENABLED=0 go build -trimpath -o libexec/pitvisor/pitvisor ./cmd/pitvisor
	CGO_ENABLED=0 go build -trimpath -o bin/goworker ./examples/pool/goworker

run:
	scripts/run-example

# What is quick: format, vet, staticcheck, layers and policies.
check:
	@test -z "$$($(TOOL) gofumpt -l . | tee /dev/stderr)"
	go vet ./...
	$(TOOL) staticcheck ./...
	go test .

fmt:
	$(TOOL) gofumpt -w .

test:
	@scripts/test

# No KVM and no root needed. Downloads about 150 MB once; see docs/testing.md.
test-vm:
	@scripts/need qemu-system-x86_64 debian-keys mkfs.ext4 lz4 xz zstd
	CGO_ENABLED=0 go build -o bin/ ./cmd/pitvisor-linuxtest
	bin/pitvisor-linuxtest vm -kernel $(VM) -skips scripts/vm-skips -timeout 12m $(LANEBUILD) -install python3-grpcio $(VMONLY) -json bin/vm.json $(VMTEST) -- $(VMFLAGS)

# Root is needed once, to install two Debians on disks; see docs/testing.md.
test-systemd:
	@scripts/need qemu-system-x86_64 debian-keys mkfs.ext4 lz4 xz zstd mmdebstrap
	CGO_ENABLED=0 go build -o bin/ ./cmd/pitvisor-linuxtest
	packaging/build -o bin/deb -a amd64 -f deb
	bin/pitvisor-linuxtest systemd -suite $(SYSTEMD) -timeout 10m -skips scripts/systemd-skips -cold '^TestCold' -file "$$(ls bin/deb/*.deb)" -json bin/systemd.json ./packaging -- -test.run='$(SYSTEMDTEST)'

# As root, on this kernel. Downloads about 60 MB once; see docs/testing.md.
test-ns:
	@scripts/test-ns

# As root, or in a delegated cgroup of one's own.
test-delegated:
	CGO_ENABLED=0 go build -o bin/ ./cmd/pitvisor-linuxtest
	scripts/delegated bin/pitvisor-linuxtest delegated -skips scripts/delegated-skips -timeout 5m $(LANEBUILD) -json bin/delegated.json $(VMTEST) -- $(VMFLAGS)

# As root. The last kind differs from the one before it by an error number: only what
# looks at that is run there.
test-container:
	CGO_ENABLED=0 go build -o bin/ ./cmd/pitvisor-linuxtest
	bin/pitvisor-linuxtest container -kind docker,writable,no-clone3 -skips scripts/container-skips -timeout 5m $(LANEBUILD) -json bin/container.json $(VMTEST) -- $(VMFLAGS)
	bin/pitvisor-linuxtest container -kind clone3-eperm -skips scripts/container-skips -timeout 5m -json bin/container-eperm.json ./spawn ./linuxtest -- $(VMFLAGS)

# One after the other; a lane that fails keeps no other from running. docs-kernels makes
# the tables of what they have reported.
test-all:
	$(MAKE) --no-print-directory --keep-going -j1 test test-ns test-container test-delegated test-systemd test-vm VMONLY=

# Puts what the lanes have reported into docs/kernels.md.
docs-kernels:
	CGO_ENABLED=0 go build -o bin/ ./cmd/pitvisor-linuxtest
	test -e bin/host.json || bin/pitvisor-linuxtest probe -lane host -json bin/host.json
	bin/pitvisor-linuxtest matrix -data docs/kernels.json -o docs/kernels.md \
		$$(ls bin/host.json bin/vm.json bin/ns-*.json bin/systemd*.json bin/container*.json bin/delegated*.json 2>/dev/null)

race:
	@scripts/need gcc
	CGO_ENABLED=1 scripts/delegated --optional --leaf go test -race -short -shuffle=on -timeout 15m $(RACE)

# Each fuzz test for FUZZTIME (20s).
fuzz:
	scripts/fuzz

# About a quarter of an hour; writes docs/benchmarks.md.
bench: build
	@scripts/need gcc
	go run ./bench

cover:
	scripts/delegated --optional --leaf go test -coverprofile=cover.out -coverpkg=./... ./...
	go tool cover -func=cover.out | tail -n 1

# The crash cycles ten times over.
soak:
	scripts/delegated --optional --leaf go test -count=1 -timeout 3h -v -run TestCrashCycles ./cmd/pitvisor -cycles 10000
	scripts/delegated --optional --leaf go test -count=1 -timeout 3h -v -run "TestCrash(With|Of|In)" ./cmd/pitvisor -cycles 1000
	scripts/delegated --optional --leaf go test -count=1 -timeout 3h -v -run "Killed|Cancelled" ./cmd/front -cycles 10000

# The same commit and the same Go give the same bytes.
packages:
	packaging/build

# Builds them twice and compares; lintian's opinion, and the programs for arm64 in an emulator.
packages-check: packages
	packaging/build -o out/packages-again
	diff out/packages/SHA256SUMS out/packages-again/SHA256SUMS
	@scripts/need --optional lintian qemu-aarch64-static
	@! command -v lintian >/dev/null || lintian --allow-root --fail-on error,warning out/packages/*.deb
	PITVISOR_PACKAGES=$(CURDIR)/out/packages go test -count=1 -run TestARM64 ./packaging

clean:
	rm -rf bin libexec out/packages out/packages-again cover.out
