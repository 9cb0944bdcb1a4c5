# make            builds bin/pitvisor and libexec/pitvisor/pitvisor
# make run        builds and runs the example pool of real workers
# make test       all checks and tests, with a count of what was skipped and why
#
# Debian or Ubuntu with Go; what else is lacking is installed (as root) or named.

export GOFLAGS += -buildvcs=false
TOOL = go tool -modfile=tools.mod
RACE = ./cgroup ./pidfd ./spawn ./registry ./history ./supervise ./internal/... ./linuxtest

.PHONY: build run check fmt test race fuzz bench cover soak clean

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

race:
	@scripts/need gcc
	CGO_ENABLED=1 scripts/delegated --optional --leaf go test -race -shuffle=on -timeout 15m $(RACE)

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

clean:
	rm -rf bin libexec cover.out
