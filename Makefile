# Everything a developer or a build machine does here is a target below.
# `make` alone lists them.

GO      ?= go
VERSION := $(shell cat VERSION)
# Empty where this is no git checkout, for example in a source archive.
REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null)

# Stripped and without the build machine's paths: the same source, Go version
# and revision give the same bytes.
LDFLAGS    := -s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)
BUILDFLAGS := -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
PLATFORMS  := amd64 arm64 s390x ppc64le

# The tests against real programs: files, packages (those that take longest
# first), and the names of the tests, as the other tests of these packages are
# run by `make test`. What of tests/storm measures has the machine for itself: it
# is in files where nothing is parallel. The packages whose tests also run as
# s390x programs.
REAL_FILES    = $(shell grep -rl --include='*_test.go' '^//go:build real$$' tests pkg cmd)
REAL_FIRST    = tests/real/package/ tests/real/operations/ tests/real/ tests/storm/ tests/real/chromium/ pkg/playback/ cmd/hmcnotifyd/ tests/real/e2e/ tests/real/alertmanager/ tests/real/clock/
REAL_PACKAGES = $(addprefix ./,$(REAL_FIRST) $(filter-out $(REAL_FIRST),$(sort $(dir $(REAL_FILES)))))
MEASURING     = $(shell grep -L '\.Parallel' tests/storm/*_test.go)
tests_in      = ^($(shell grep -oh '^func Test[A-Za-z0-9_]*' $(1) | cut -c6- | sort -u | paste -s -d '|' -))$$
S390X_PACKAGES = ./pkg/receiver/... ./pkg/queue/... ./pkg/storage/... ./pkg/diskstore/... ./pkg/sinks/...
# The packages with tests whose size tests/soak decides.
SOAK_PACKAGES = $(addprefix ./,$(filter-out tests/soak/,$(sort $(dir $(shell grep -rl --include='*_test.go' '/tests/soak"' tests pkg cmd)))))

# For example: make test TESTFLAGS='-run Reconnect -v'
TESTFLAGS ?=
# Most tests wait more than they compute: there are more at a time, of packages
# and in each, than there are cores.
CORES     := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
PARALLEL  ?= -p $(shell echo $$((3 * $(CORES)))) -parallel $(shell echo $$((4 * $(CORES))))
# The packages whose tests take longest begin first: none of them is still at it when all others are done.
TEST_FIRST = $(addprefix ./,tests/hostile pkg/bridge pkg/sinks pkg/cluster cmd/hmcnotifyd pkg/playback pkg/record pkg/queue tests/histories pkg/hmc pkg/receiver tests/upgrade pkg/deliver)
# Where they start real programs, these compute as well.
PARALLEL_REAL ?= -p $(shell echo $$((2 * $(CORES)))) -parallel $(shell echo $$((4 * $(CORES))))
# Under the race detector they compute more, and in an emulator.
PARALLEL_RACE ?= -p $(shell echo $$(($(CORES) + 1))) -parallel $(shell echo $$((2 * $(CORES))))

# Tests keep little in memory and make much garbage, as do compiler, linker and linters: a fifth of the
# processor goes into collecting it as often as a small program should. What takes much memory as it is
# does it more often. Programs that tests start collect as they do elsewhere.
SELDOM      = GOGC=$(or $(GOGC),400)
LESS_SELDOM = GOGC=$(or $(GOGC),200)

BIN  := .cache/bin
DIST := dist

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##
.PHONY: demo
demo: build ## See it work: a simulated HMC, the daemon and a webhook consumer, until Ctrl-C
	./hmcnotifyd demo

.PHONY: build
build: ## Build ./hmcnotifyd for this machine, static
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o hmcnotifyd ./cmd/hmcnotifyd

.PHONY: build-all
build-all: $(PLATFORMS:%=$(DIST)/hmcnotifyd-linux-%) ## Build static binaries for linux amd64, arm64, s390x and ppc64le into dist/

.PHONY: FORCE
$(DIST)/hmcnotifyd-linux-%: FORCE
	CGO_ENABLED=0 GOOS=linux GOARCH=$* $(GO) build $(BUILDFLAGS) -o $@ ./cmd/hmcnotifyd

# What packages hold besides the program, printed by one that runs here. Their
# files bear the time of the last commit: the same source gives the same packages.
PACKAGERS := deb rpm
# What is given away leads to the documents and sources of its own version.
at_version = find $(1) -type f ! -name '*.png' -exec sed -i -E \
  -e 's,(github\.com/hmcnotifyd/hmcnotifyd/(blob|tree)|raw\.githubusercontent\.com/hmcnotifyd/hmcnotifyd)/main/,\1/v$(VERSION)/,g' \
  -e 's,\]\((\.\./)*((bench|cmd|deploy/(compose|helm|kubernetes|nats|package|systemd)|pkg|tests|tools)[/)]|CONTRIBUTING\.md|SECURITY\.md|Makefile|[a-z]+_test\.go),](https://github.com/hmcnotifyd/hmcnotifyd/blob/v$(VERSION)/\2,g' {} +
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1767225600)

.PHONY: package
package: build-all $(BIN)/nfpm ## Build .deb and .rpm packages for the same platforms into dist/
	rm -rf $(DIST)/package $(DIST)/*.deb $(DIST)/*.rpm
	mkdir -p $(DIST)/package/share/deploy
	cp -r README.md CHANGELOG.md LICENSE config.example.yaml docs $(DIST)/package/share
	cp -r deploy/prometheus deploy/grafana $(DIST)/package/share/deploy
	rm $(DIST)/package/share/docs/docs.go
	chmod -R u=rwX,go=rX $(DIST)/package/share
	$(call at_version,$(DIST)/package/share)
	host=$$($(GO) env GOHOSTOS)-$$($(GO) env GOHOSTARCH); case " $(PLATFORMS:%=linux-%) " in \
	  *" $$host "*) cp $(DIST)/hmcnotifyd-$$host $(DIST)/package/hmcnotifyd ;; \
	  *) CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o $(DIST)/package/hmcnotifyd ./cmd/hmcnotifyd ;; esac
	$(DIST)/package/hmcnotifyd man | gzip -9n >$(DIST)/package/hmcnotifyd.1.gz
	for shell in bash zsh fish; do $(DIST)/package/hmcnotifyd completion $$shell >$(DIST)/package/hmcnotifyd.$$shell || exit; done
	for arch in $(PLATFORMS); do for packager in $(PACKAGERS); do echo $$arch $$packager; done; done | \
	  VERSION=$(VERSION) DIST=$(DIST) SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) xargs -P $(CORES) -L 1 sh -c \
	  'GOARCH=$$0 $(BIN)/nfpm package --config deploy/package/nfpm.yaml --packager $$1 --target $(DIST)/'

.PHONY: chart
chart: ## Pack the Helm chart into dist/
	rm -rf $(DIST)/chart
	mkdir -p $(DIST)/chart
	cp -rL deploy/helm/hmcnotifyd $(DIST)/chart/hmcnotifyd
	sed -i -E 's/^(version|appVersion): .*/\1: $(VERSION)/' $(DIST)/chart/hmcnotifyd/Chart.yaml
	$(call at_version,$(DIST)/chart/hmcnotifyd)
	tar --create --sort=name --format=ustar --mtime=@$(SOURCE_DATE_EPOCH) --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
	  -C $(DIST)/chart hmcnotifyd | gzip -n >$(DIST)/hmcnotifyd-$(VERSION)-chart.tgz

# The OpenPGP secret key that a release is signed with; none: it is not signed.
RELEASE_KEY ?=

.PHONY: release
release: package chart $(BIN)/cyclonedx-gomod ## Build all that a release has (docs/release.md): archives, packages, images, repositories, checksums
	VERSION=$(VERSION) REVISION=$(REVISION) DIST=$(DIST) PLATFORMS='$(PLATFORMS)' SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
	  RELEASE_KEY=$(RELEASE_KEY) tools/release

.PHONY: image
image: ## Build the container image hmcnotifyd:VERSION with docker, podman or buildah
	VERSION=$(VERSION) REVISION=$(REVISION) tools/image

.PHONY: test
test: ## Run the tests; needs nothing but Go
	$(SELDOM) $(GO) test $(PARALLEL) $(TESTFLAGS) $(TEST_FIRST) ./...

.PHONY: test-race
test-race: ## Run the tests under the race detector; needs a C compiler
	HMCNOTIFYD_STORM_HISTORIES=$(or $(HMCNOTIFYD_STORM_HISTORIES),35) $(LESS_SELDOM) CGO_ENABLED=1 $(GO) test -race $(PARALLEL_RACE) $(TESTFLAGS) $(TEST_FIRST) ./...

.PHONY: test-real
test-real: build ## Run the tests against real programs and on s390x; as root it installs the Debian packages that are missing
	tests/real/install
	$(MAKE) --no-print-directory -j 2 real-programs real-s390x
	HMCNOTIFYD_BINARY=$(CURDIR)/hmcnotifyd CGO_ENABLED=0 $(GO) test -tags real -trimpath -count=1 -timeout 40m -run '$(call tests_in,$(MEASURING))' $(TESTFLAGS) ./tests/storm

# Parts of test-real: the programs wait more than they compute, and the emulator computes. What the tests make is not made
# by the flags of this make.
.PHONY: real-programs real-s390x
real-programs:
	MAKEFLAGS= $(SELDOM) HMCNOTIFYD_BINARY=$(CURDIR)/hmcnotifyd CGO_ENABLED=0 $(GO) test -tags real -trimpath -count=1 $(PARALLEL_REAL) -timeout 40m -run '$(call tests_in,$(filter-out $(MEASURING),$(REAL_FILES)))' $(TESTFLAGS) $(REAL_PACKAGES)

real-s390x:
	HMCNOTIFYD_TEST_EMULATOR=qemu-s390x-static $(SELDOM) CGO_ENABLED=0 GOARCH=s390x $(GO) test -trimpath -short -count=1 $(PARALLEL_RACE) -timeout 30m -exec qemu-s390x-static $(TESTFLAGS) $(S390X_PACKAGES)

.PHONY: storm
storm: build ## Test the promises of docs/delivery.md in full: 200 kill -9 under load, 1,000,000 events waiting, ...; takes minutes
	HMCNOTIFYD_STORM=full HMCNOTIFYD_BINARY=$(CURDIR)/hmcnotifyd $(GO) test -tags real -count=1 -p 1 -v -timeout 60m $(TESTFLAGS) $(SOAK_PACKAGES)

.PHONY: chaos
chaos: build ## Break everything around the daemon at random and look for what is lost: make chaos SEED=1 DURATION=5m
	CHAOS_SEED=$(or $(SEED),$(shell date +%s)) CHAOS_DURATION=$(or $(DURATION),2m) CHAOS_ACTIVEMQ=optional CHAOS_KEEP=$(if $(KEEP),$(abspath $(KEEP))) HMCNOTIFYD_BINARY=$(CURDIR)/hmcnotifyd \
	  $(GO) test -tags real -count=1 -timeout 60m -run '^TestChaos$$' -v ./tests/chaos

.PHONY: fuzz
fuzz: build ## Have a fuzzing HMC and a fuzzing client of the web side attack the daemon: make fuzz SEED=1 SECONDS=1800
	HMCNOTIFYD_STORM_ALONE=1 HMCNOTIFYD_STORM_FUZZ_SECONDS=$(or $(SECONDS),1800) $(if $(SEED),HMCNOTIFYD_STORM_FUZZ_SEED=$(SEED)) HMCNOTIFYD_BINARY=$(CURDIR)/hmcnotifyd \
	  $(GO) test -count=1 -timeout 0 -run '^TestFuzzing' -v ./tests/hostile

.PHONY: bench
bench: ## Measure notifications per second and CPU per notification against go-stomp's own client
	$(GO) run ./bench

.PHONY: docs
docs: ## Write the references in docs/ that are made from the code
	HMCNOTIFYD_WRITE_DOCS=1 $(GO) test -count=1 -run 'Reference$$' ./pkg/config ./pkg/web ./cmd/hmcnotifyd
	HMCNOTIFYD_WRITE_DOCS=1 $(GO) test -count=1 -run 'QuestionsAreDocumented$$' ./pkg/assume

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run the linters and check the formatting
	$(LESS_SELDOM) $(BIN)/golangci-lint run --allow-parallel-runners ./...

.PHONY: vuln
vuln: $(BIN)/govulncheck ## Ask the Go vulnerability database (vuln.go.dev, or GOVULNDB) about what the program uses
	@$(BIN)/govulncheck $(if $(GOVULNDB),-db $(GOVULNDB)) ./... || { status=$$?; [ $$status -eq 3 ] || \
	  echo "make vuln: the vulnerability database could not be asked: it needs https://vuln.go.dev, or GOVULNDB=file:///a/copy" >&2; exit $$status; }

.PHONY: check-modules
check-modules: ## Check that go.mod and go.sum are complete, tidy and unaltered
	$(GO) mod verify
	$(GO) mod tidy -diff

.PHONY: fmt
fmt: $(BIN)/golangci-lint ## Format the code
	$(BIN)/golangci-lint fmt ./...

.PHONY: tools
tools: ## Build the pinned tools into .cache/bin
	mkdir -p $(BIN)
	GOBIN=$(CURDIR)/$(BIN) $(GO) -C tools install tool

# What a target needs is built by itself: all tools take much longer. Their
# versions are in tools/go.mod and in no other place.
$(BIN)/golangci-lint: tools/go.mod tools/go.sum
	mkdir -p $(BIN)
	$(GO) -C tools build -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	touch $@

$(BIN)/govulncheck: tools/go.mod tools/go.sum
	mkdir -p $(BIN)
	$(GO) -C tools build -o $(CURDIR)/$@ golang.org/x/vuln/cmd/govulncheck

$(BIN)/nfpm: tools/go.mod tools/go.sum
	mkdir -p $(BIN)
	$(GO) -C tools build -o $(CURDIR)/$@ github.com/goreleaser/nfpm/v2/cmd/nfpm
	touch $@

# What it says of itself is in the list that it makes: it is the same wherever it is built.
$(BIN)/cyclonedx-gomod: tools/go.mod tools/go.sum
	mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) -C tools build -trimpath -buildvcs=false -o $(CURDIR)/$@ github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
	touch $@

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf hmcnotifyd $(DIST) .cache
