# "make help" lists what this file can do.

GO ?= go

MINIO_VERSION       := v0.0.0-20260212201848-7aac2a2c5b7c
STATICCHECK_VERSION := v0.8.2
FUZZ_TIME           := 20s
PLATFORMS           := linux-amd64 linux-arm64 darwin-arm64 windows-amd64

VERSION   := $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
GOVERSION := $(shell $(GO) env GOVERSION)
BUILD     := $(GO) build -trimpath -ldflags "-X main.version=$(VERSION)"
TOOLS     := .tools/bin
CROSS     := $(addprefix cross-,$(PLATFORMS))

# The version is stamped above. Go's own stamping would fail in a checkout
# that belongs to another user.
export GOFLAGS := $(strip $(shell $(GO) env GOFLAGS) -buildvcs=false)
# Tests find the tools first.
export PATH := $(CURDIR)/$(TOOLS):$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo cross $(CROSS) tools judges man test lint fuzz bench bench-quick bench-stages clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## build bin/embassy and bin/embassy-rescue
	$(BUILD) -o bin/ ./cmd/embassy
	CGO_ENABLED=0 $(BUILD) -o bin/ ./cmd/embassy-rescue

man: build ## write the manual page to bin/embassy.1
	bin/embassy manual >bin/embassy.1

demo: build ## build, then back up to four jurisdictions, lose some, restore everything
	bin/embassy demo

cross: $(CROSS) ## build embassy-rescue for every supported platform into bin/

$(CROSS): cross-%:
	CGO_ENABLED=0 GOOS=$(word 1,$(subst -, ,$*)) GOARCH=$(word 2,$(subst -, ,$*)) \
	$(BUILD) -o bin/embassy-rescue-$*$(if $(filter windows-%,$*),.exe) ./cmd/embassy-rescue

tools: $(TOOLS)/minio $(TOOLS)/staticcheck judges ## install what the tests need: MinIO, staticcheck, rsync, attr, acl

# A tool depends on a stamp named by its version. The stamp of another version
# is removed, so that going back installs again. staticcheck refuses code newer
# than the Go it was built with: it is built with the module's.
MINIO_STAMP       := .tools/minio-$(MINIO_VERSION)
STATICCHECK_STAMP := .tools/staticcheck-$(STATICCHECK_VERSION)-$(firstword $(GOVERSION))

$(TOOLS)/minio: $(MINIO_STAMP)
	GOBIN="$(CURDIR)/$(TOOLS)" $(GO) install github.com/minio/minio@$(MINIO_VERSION)
	@touch $@

$(TOOLS)/staticcheck: $(STATICCHECK_STAMP)
	GOTOOLCHAIN=$(filter go1.%,$(firstword $(GOVERSION))) GOBIN="$(CURDIR)/$(TOOLS)" \
	$(GO) install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)
	@touch $@

$(MINIO_STAMP):
	@mkdir -p .tools && rm -f .tools/minio-* && touch $@

$(STATICCHECK_STAMP):
	@mkdir -p .tools && rm -f .tools/staticcheck-* && touch $@

judges:
	@need=; for p in rsync:rsync getfattr:attr getfacl:acl; do \
		command -v $${p%%:*} >/dev/null || need="$$need $${p##*:}"; \
	done; \
	if [ -z "$$need" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ] && command -v apt-get >/dev/null; then \
		apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$need; \
	else \
		echo "missing:$$need. Run: sudo apt-get update && sudo apt-get install -y$$need" >&2; \
		echo "On other systems, install them with their package manager." >&2; \
		exit 1; \
	fi

# These tests, of any package, and all of integration, whose programs are built
# without it, run once, without the race detector, which makes them many times
# slower: death at every step, random worlds, sizes, memory, damage, long sums of one
# goroutine. The code that they run, others run under it. The packages that take
# longest begin first.
ONCE := TestScripts TestSimulation TestAnyTree TestYear \
	TestPruneCrashAtEveryStep TestBackupCrashAtEveryStep TestVerifyRepairCrashAtEveryStep \
	TestBackupChangingFile TestBackupKnowsManyTinyFiles TestBackupLargeFile \
	TestBrowseMemory TestBrowseBadCopies TestDumpBadCopies \
	TestViewBigEntries TestVerifyOutageIsNobodysFault TestVerifyManyNamesAreNoDeadTarget \
	TestLargeRecordsAreCollected TestCorruptFiles TestSpace TestDestroyCrash \
	TestBroughtUpAfterReplacement TestCheckpoint TestViewOfMany TestRepack TestRotateRootTwice \
	TestAgreesWithModel TestFatesMany TestRepackLeavesUnread TestBothReplace \
	TestKill TestCorruptBlocks TestCorruptManifest TestEmptyLogs TestUnsignedCharterCostsLittle \
	TestSealReplaced TestSealEntryRefuses TestSealOrders TestTreeBuilderStability TestSampleIsDeterministic

test: tools lint cross ## everything: tools, lint, all tests with the race detector, cross-build
	@set -e; race=-race; missing=; cc=$$($(GO) env CC); cc=$${cc%% *}; \
	if ! command -v "$$cc" >/dev/null; then missing="a C compiler ($$cc)"; \
	elif [ "$$($(GO) env CGO_ENABLED)" = 0 ]; then missing="cgo (CGO_ENABLED is 0)"; fi; \
	if [ -n "$$missing" ]; then \
		if [ "$$CI" = true ]; then echo "the race detector needs $$missing" >&2; exit 1; fi; \
		echo "the race detector is skipped: it needs $$missing"; race=; \
	fi; \
	ours=$$(sed -n 's/^func \(Test[A-Za-z0-9_]*\)(t .*/\1/p' integration/*_test.go); \
	dirs=; for name in $(ONCE); do \
		found=$$(grep -rl --include='*_test.go' "^func $$name(" catalog chunk cmd crypto embassy integration targets) || { echo "ONCE names $$name: no such test" >&2; exit 1; }; \
		for file in $$found; do dirs="$$dirs ./$${file%/*}"; done; \
	done; \
	dirs=$$(printf '%s\n' $$dirs | sort -u); rest=$$($(GO) list ./... | grep -vx embassy/integration); \
	any() { echo "^($$(echo $$* | tr ' ' '|'))\$$"; }; \
	set -- $(GO) test $$race -count=1 -timeout 20m -skip "$$(any $(ONCE))" ./embassy $$rest; echo "$$@"; "$$@"; \
	set -- $(GO) test -count=1 -timeout 20m -run "$$(any $(ONCE) $$ours)" ./integration ./embassy $$dirs; echo "$$@"; "$$@"; \
	set -- env GODEBUG=fips140=on $(GO) test -count=1 -timeout 15m ./crypto ./chunk ./embassy/format ./cmd/embassy-rescue; echo "$$@"; "$$@"

lint: $(TOOLS)/staticcheck ## formatting, vet, staticcheck, go.mod, import rules
	@list=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .) || exit 1; \
	if [ -n "$$list" ]; then echo "not formatted; run gofmt -w on:" >&2; echo "$$list" >&2; exit 1; fi
	$(GO) vet ./...
	$(TOOLS)/staticcheck ./...
	$(GO) mod tidy -diff
	$(GO) test -count=1 ./integration/lint

fuzz: ## run each fuzz target for 20 seconds
	@list=$$($(GO) test -list '^Fuzz' ./...) || { echo "$$list" >&2; exit 1; }; \
	targets=$$(echo "$$list" | awk '/^Fuzz/ { name[n++] = $$1 } /^ok/ { while (n > 0) print $$2, name[--n] }'); \
	if [ -z "$$targets" ]; then echo "no fuzz target found" >&2; exit 1; fi; \
	echo "$$targets" | while read -r pkg name; do \
		echo "$$pkg $$name"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZ_TIME) -fuzzminimizetime 10x "$$pkg" </dev/null || exit 1; \
	done

BENCH_DATA   ?= $(CURDIR)/.bench
BENCH_ROUNDS ?= 5
BENCH := $(GO) test ./integration/bench -run '^$$' -bench Peers -benchtime 1x -timeout 6h -args -program $(CURDIR)/bin/embassy -data $(BENCH_DATA)

bench: build $(TOOLS)/minio ## compare with restic and kopia, where they are in the PATH; BENCH_FLAGS="-profile tiny -stores dir"
	@mkdir -p $(BENCH_DATA)
	$(BENCH) -rounds $(BENCH_ROUNDS) $(BENCH_FLAGS)

bench-quick: build $(TOOLS)/minio ## two minutes of it, alone, against the first such run on this machine
	@mkdir -p $(BENCH_DATA)
	$(BENCH) -rounds 3 -profile quick -peers none -stores dir,minio -baseline $(BENCH_DATA)/baseline.json $(BENCH_FLAGS)

bench-stages: ## each stage by itself, in the form that benchstat reads
	$(GO) test -run '^$$' -bench 'ID|Encode|Decode|Split|SealKey|ParseNodes|FindChunks|AddPack' -count 6 ./chunk ./crypto ./embassy/format ./catalog

clean: ## remove bin/ (the tools stay; remove .tools/ for those)
	rm -rf bin
