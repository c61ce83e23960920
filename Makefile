# Keywright. `make run` builds, starts and shows the service; `make test` installs what the tests need and runs them all.

GO       ?= go
BIN      := bin
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# gin without MessagePack, which nobody speaks to us: three megabytes less
TAGS     := nomsgpack
DATA     ?= .run/data
LISTEN   ?= 127.0.0.1:8200
LINT     := .tools/golangci-lint-2.15.0
FUZZTIME ?= 10s
KILLS    ?= 200
SOAK     ?= 15s

export CGO_ENABLED := 1
export GOFLAGS     := -buildvcs=false

.PHONY: all build run run-hsm run-tpm stop test unit judges crash lint bench bench-quick bench-hsm bench-tpm bench-pq bench-postgres bench-nodes bench-keyspace bench-reseal bench-access bench-audit bench-log soak fuzz clean

all: build

build:
	$(GO) build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $(BIN)/keywright ./cmd/keywright

# Starts the embedded default on $(LISTEN), runs the tour against it and leaves it running.
run: build
	deploy/run.sh '$(BIN)/keywright' '$(DATA)' '$(LISTEN)'

# The same with the keys on a SoftHSM2 token, which it sets up beside the data ($(DATA)-hsm). The PIN's file is the token's.
run-hsm: build
	@set -e; vars=$$(softhsm-test/softhsm.sh '$(DATA)-hsm/token'); eval "$$vars"; \
	'$(BIN)/keywright' hsm init --uri "$$HSM_URI"; \
	deploy/run.sh '$(BIN)/keywright' '$(DATA)-hsm' '$(LISTEN)' --backend "hsm=$$HSM_URI&x-processes=2"

# The same with the keys, and the root, on a TPM in software that it starts ($(DATA)-tpm/chip).
run-tpm: build
	@set -e; vars=$$(softhsm-test/swtpm.sh '$(DATA)-tpm/chip'); eval "$$vars"; \
	printf 'root: {device: tpm}\nbackends:\n  - {name: tpm, uri: "%s", tpm: {allow_sealed: true}}\n' "$$TPM_URI" >'$(DATA)-tpm/config.yaml'; \
	deploy/run.sh '$(BIN)/keywright' '$(DATA)-tpm' '$(LISTEN)' --config '$(DATA)-tpm/config.yaml'

# Ends what `make run`, `make run-hsm` and `make run-tpm` left running. The data stays.
stop:
	deploy/run.sh --stop '$(DATA)'
	deploy/run.sh --stop '$(DATA)-hsm'
	deploy/run.sh --stop '$(DATA)-tpm'
	[ ! -d '$(DATA)-tpm/chip' ] || softhsm-test/swtpm.sh '$(DATA)-tpm/chip' stop

# Everything, on a machine that has Go, gcc, make and Debian.
test:
	softhsm-test/install.sh
	$(MAKE) lint unit judges crash soak

# Once with the race detector; what leaves out part of its vectors or scripts under it, because it is slow there, once more without. The tests of
# the real binary (softhsm-test) are crash's: they drive it from outside. Three packages at a time: those of devices wait more than they compute.
unit:
	$(GO) test -race -p 3 -timeout 20m $$($(GO) list ./... | grep -v '/softhsm-test$$')
	$(GO) test -timeout 20m ./verify ./backend/... ./pqc ./cmd/keywright
	$(GO) test -timeout 20m -run '^Test(SoftHSM(Wrapped|Sealed)|NSS|OpenCryptoki(Sealed)?)$$' ./hsm

# Programs of others judge what is handed to operators: BuildKit, Compose, Helm, Kubernetes' types, Prometheus. A module of its own, for their weight.
judges:
	cd judges && $(GO) test ./...

# The real binary under load, killed without warning $(KILLS) times; every acknowledged effect must be there afterwards.
crash: build
	$(GO) test -timeout 20m -count=1 ./softhsm-test -kills $(KILLS)

# The real binary on two HSMs that fail in random ways for $(SOAK), under load; nothing may be wrong, lost or leaked.
soak:
	$(GO) test -timeout 60m -count=1 -v -run TestSoak ./softhsm-test -soak $(SOAK)

lint: $(LINT)
	$(GO) mod tidy -diff
	$(LINT) run ./...

$(LINT):
	mkdir -p .tools
	GOBIN=$(CURDIR)/.tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv .tools/golangci-lint $(LINT)

# Ends in a table; docs/benchmarks.md says how to read it. About ten minutes, most of them to create a million keys.
bench: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright

bench-quick: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -duration 2s -rounds 1 -keys 0

# The HSM backend on a SoftHSM2 token beside the module itself, and how it heals. About ten minutes.
bench-hsm: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only hsm -duration 2s

# The TPM backend on a TPM in software beside the TPM itself, and what power cycles and faults leave. About three minutes;
# -tpm-ops 1000000 is the long one.
bench-tpm: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only tpm -duration 2s

# Post-quantum operations beside the code that computes them, and a hundred thousand sealed keys on SoftHSM2. About five minutes.
bench-pq: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only pq -duration 2s

# The service on PostgreSQL beside the embedded default.
bench-postgres: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only postgres

# A new root under load with a hundred thousand keys, and the service killed in the midst; -reseal-postgres is on PostgreSQL. About five minutes.
bench-reseal: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only reseal -keys 100000

# Several nodes on one PostgreSQL: rates, and what happens when nodes or the database die. Takes four minutes.
bench-nodes: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only nodes

# A page of the list, one key and a rotation with a million keys, on both stores. About ten minutes.
bench-keyspace: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only keyspace

# What a request pays for being let in: credential, tenant, rates, scope. A minute.
bench-access: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only access

# The audited service beside the same with an audit log that records no operation, which bench/unaudited makes a program of. Two minutes.
bench-audit: build
	$(GO) build -o $(BIN)/bench ./bench
	$(GO) build -overlay bench/unaudited/overlay.json -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $(BIN)/keywright-unaudited ./cmd/keywright
	$(BIN)/bench -binary $(BIN)/keywright -only audit

# Proofs over an audit log of ten million entries, its export and the verification of that; ten gigabytes below /tmp. About ten minutes;
# -log-postgres is on PostgreSQL.
bench-log: build
	$(GO) build -o $(BIN)/bench ./bench
	$(BIN)/bench -binary $(BIN)/keywright -only log

# Every fuzz target in turn, $(FUZZTIME) each.
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; done; done

clean:
	rm -rf $(BIN) .tools bench/out
