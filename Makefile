# Strongroom. `make run` and `make test` work on a fresh Debian machine with Go.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 20s

.PHONY: build run test lint fmt-check bench fuzz soak install-test-tools clean

build:
	CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "-s -w -X strongroom/internal/cli.release=$(VERSION)" -o bin/strongroom ./cmd/strongroom

# A development server with two provisioned HSMs, alpha and beta. Credentials and addresses: data/dev.env.
run: build
	bin/strongroom serve --dev --data data

install-test-tools:
	@test/install.sh

fmt-check:
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); test -z "$$out" || { echo "gofmt would change:"; echo "$$out"; exit 1; }

# Everything. The race detector needs cgo and runs on the packages that share state between goroutines.
test: install-test-tools build fmt-check
	$(GO) vet ./...
	$(GO) test -count=1 -timeout 40m ./...
	$(GO) test -count=1 -timeout 20m -race ./secret ./internal/...
	$(GO) test -count=1 -timeout 10m -race -run "Seal|Shared|Example" ./securitydomain

lint:
	@test/lint.sh

bench: build
	$(GO) test -run '^$$' -bench . -benchmem ./shamir ./securitydomain ./internal/store/bolt ./internal/access ./internal/dataplane ./internal/backupset
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 20m ./test/bench

# Random kills and power cuts, and ten random histories of keys for each, for a night: SOAK rounds (default 2000).
# The restores that are struck down are of SOAK_KEYS keys (default 300). With 100000 a round takes some ten seconds.
SOAK ?= 2000
SOAK_KEYS ?= 300
soak: install-test-tools
	STRONGROOM_SOAK=$(SOAK) STRONGROOM_SOAK_KEYS=$(SOAK_KEYS) $(GO) test -count=1 -v -timeout 24h -run Random ./test/crash ./internal/keys

# Every fuzz target of the tree, FUZZTIME each.
fuzz:
	@test/fuzz.sh $(FUZZTIME)

clean:
	rm -rf bin
