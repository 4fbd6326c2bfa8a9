# Every target is described by the comment behind it; `make help` lists them.
GO      ?= go
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X main.version=$(VERSION)
PKGS     = ./...

.PHONY: help build test test-fast race lint generate manifests rules demo demo-channels bench chaos e2e fuzz deps clean ci

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build bin/troupe and bin/troupe-runner
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/troupe ./cmd/troupe
	$(GO) build -ldflags '-s -w -X main.version=$(VERSION)' -o bin/troupe-runner ./cmd/runner

deps: ## install what the tests need from Debian (redis-server, bubblewrap), unless it is there
	@command -v redis-server >/dev/null && command -v bwrap >/dev/null || \
	 { command -v apt-get >/dev/null && export DEBIAN_FRONTEND=noninteractive && $${SUDO:-} apt-get update -qq && \
	   $${SUDO:-} apt-get install -y -qq --no-install-recommends redis-server bubblewrap >/dev/null; }

test: deps ## run every test with the race detector
	$(GO) test -race -timeout 20m $(PKGS)

test-fast: deps ## run every test without the race detector
	$(GO) test -vet=off -timeout 10m $(PKGS)

lint: ## vet, formatting, tidy module, generated files up to date
	$(GO) vet $(PKGS)
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) mod tidy -diff
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 $(PKGS)

generate: ## make the generated files anew (needs protoc)
	cd actors/protocol && PATH="$$($(GO) env GOPATH)/bin:$$PATH" protoc --go_out=../.. --go_opt=module=troupe -I . envelope.proto

manifests: ## make the plain Kubernetes manifests anew from the chart
	cd deploy/e2e && $(GO) test -count=1 -run '^TestTheManifestsAreTheCharts$$' . -update

rules: ## the table of contract rules and the tests that quote them; fails if a finished section has a rule without a test
	@$(GO) test -count=1 -run '^TestRules$$' -v ./http/api | grep -v '^=== \|^--- \|^ok\|^PASS'

demo: build ## the main job end to end on the embedded store, with a kill -9 in the middle
	$(GO) run ./cmd/demo -bin bin

demo-channels: ## a conversation over every chat network, against servers that speak its protocol
	$(GO) test -count=1 -v -run '^TestDemoOfEveryChannel$$' ./cmd/troupe

bench: deps build ## throughput, latency and cost, as ratios to references of the same run
	$(GO) run ./cmd/bench -bin bin

chaos: deps build ## break a cluster of three nodes on purpose: DURATION=1m STORE=single|sentinel|cluster SEED= ONLY='node kill -9'
	$(GO) run ./cmd/chaos -bin bin -duration $(or $(DURATION),1m) -store $(or $(STORE),single) $(if $(SEED),-seed $(SEED)) $(if $(ONLY),-only '$(ONLY)')

e2e: ## the end-to-end suite on a real Kubernetes of its own (root, Debian): RUN='TestPOD_4' KEEP=1
	bash deploy/e2e/run.sh

fuzz: ## fuzz parsers, merges and templates for a minute each
	@for f in $$(grep -rhoE '^func Fuzz[A-Za-z0-9_]+' actors http channels | awk '{print $$2}'); do \
	  p=$$(grep -rlE "^func $$f\(" actors http channels | head -1 | xargs dirname); \
	  $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime 60s ./$$p || exit 1; done

ci: ## what CI runs
	bash .ci/run

clean: ## remove build output
	rm -rf bin
