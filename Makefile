# Needs Go. `make test` lists what it had to leave out on this machine, and why.

GO ?= go
# -race needs cgo; Go turns cgo off where it finds no C compiler.
RACE ?= $(shell test "$$($(GO) env CGO_ENABLED)" = 1 && echo -race)
GOLANGCI_LINT ?= $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s
BASE ?= HEAD
OLD ?= v0.1.0
BENCHSTAT ?= $(GO) run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
HOT := Transition|Deadlines|ParseContent|AppendPseudo|Publication|Engine|Outbox|Journey

.DEFAULT_GOAL := build
.PHONY: build test test-heavy lint fmt demo dev bench bench-compare bench-stat bench-dashboard bench-nodes bench-outstanding bench-receipts bench-storm bench-services bench-xmpp faults xmpp-kill nodes nodes-versions siege soak reloads attack attack-load fuzz fuzz-security release release-test first-test package-test image-test nodes-image-test help fresh example web web-modules client client-test

## help: the targets
help:
	@sed -n 's/^## //p' Makefile

## build: the program, ./heartline
build: web
	$(GO) build -o heartline .

## test: all tests that this machine can run; as root, with apt, it installs what they use (.ci/setup)
test:
	@GO="$(GO)" RACE="$(RACE)" .ci/test

## test-heavy: kill -9 with more rounds, in minutes
test-heavy: web
	HEARTLINE_TEST_HEAVY=1 $(GO) test -count 1 -timeout 60m -run Kill ./integration

## lint: formatting, vet and the linters of .golangci.yml; the first run builds them, which takes minutes
lint:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GOLANGCI_LINT) run ./...

## fmt: format the code
fmt:
	gofmt -w .

## demo: the four paths of the loop, told line by line
demo:
	$(GO) run . demo

## dev: a server to try things out with
dev: web
	$(GO) run . serve --dev

## bench: the benchmarks, without tests
bench:
	$(GO) test -run '^$$' -bench . -benchmem -timeout 30m ./...

# In turn, so that both meet the same machine.
## bench-stat: the hot pieces as they are in BASE, a commit, and as they are here, compared by benchstat
bench-stat:
	@set -e; dir=$$(mktemp -d); trap 'git worktree remove --force "$$dir/base"; rm -rf "$$dir"' EXIT; \
	git worktree add --quiet --detach "$$dir/base" $(BASE); \
	for round in 1 2 3 4 5 6; do for side in base here; do \
		(test $$side = here || cd "$$dir/base"; $(GO) test -run '^$$' -bench '$(HOT)' -benchmem -benchtime 0.5s ./delivery/... ./wire ./hooks ./broker >> "$$dir/$$side.txt"); \
	done; done; \
	$(BENCHSTAT) "$$dir/base.txt" "$$dir/here.txt"

## bench-compare: Heartline beside mochi, its storage hooks and Mosquitto, into docs/performance.md; ARGS, such as -run rate,ordinary, choose less
bench-compare:
	cd bench/compare && $(GO) run . -root ../.. -write ../../docs/performance.md $(ARGS)

## bench-dashboard: what open dashboards cost, and each read of a page on a store with millions; takes some 20 minutes and 10 GB of disk
bench-dashboard:
	$(GO) run ./bench/dashboard

## bench-nodes: one and three nodes over one PostgreSQL, and a node on its disk: rate, and CPU time of nodes and database; takes two minutes
bench-nodes:
	$(GO) run ./bench/nodes

## bench-outstanding: what a million deliveries for offline devices cost; takes minutes
bench-outstanding:
	$(GO) run ./bench/outstanding

## bench-receipts: a webhook that is 100,000 events behind, beside notifications that flow
bench-receipts:
	$(GO) run ./bench/receipts

## bench-storm: pushes for offline devices beside a bare apns2 loop; ARGS, such as -engine journal, is for the program
bench-storm:
	$(GO) run ./bench/storm $(ARGS)

## bench-services: pushes to 50 push services of which 15 are dead, slow or refuse, beside the same without those
bench-services:
	$(GO) run ./bench/services

## bench-xmpp: notifications a second over XMPP, beside a bare loop on the same server and MQTT; takes two minutes
bench-xmpp:
	$(GO) run ./bench/xmpp

## faults: the table of faults, with a million notifications, then the other tests that kill and fill disks; HEARTLINE_FAULTS_ENGINE=journal takes that engine of the store
faults:
	HEARTLINE_FAULTS=full $(GO) test -count 1 -timeout 60m -parallel 4 -v ./integration/faults
	$(GO) test $(RACE) -count 1 -timeout 30m -v -run 'Kill|Fault|Crash' ./integration ./store/...

## xmpp-kill: kill -9 of Heartline, of ejabberd and of Prosody under load, 100 rounds each; takes an hour
xmpp-kill:
	XMPP_KILL_ROUNDS=100 $(GO) test -count 1 -timeout 120m -v -run TestKill ./integration/xmpp

## nodes: three nodes over one PostgreSQL; they are paused, killed, stopped and cut off under load, and so is the database, which also fails over, fills its disk and gets another clock; takes 40 min
nodes:
	$(GO) test $(RACE) -count 1 -timeout 60m -v ./integration/nodes -nodes

## nodes-versions: nodes of this version and of OLD, an earlier commit, together over one PostgreSQL, upgraded and taken back under load; takes minutes
nodes-versions:
	@set -e; dir=$$(mktemp -d); trap 'git worktree remove --force "$$dir/old"; rm -rf "$$dir"' EXIT; \
	git worktree add --quiet --detach "$$dir/old" $(OLD); \
	(cd "$$dir/old" && $(GO) build -o "$$dir/heartline" .); \
	$(GO) test -count 1 -timeout 30m -v -run TestVersionsTogether ./integration/nodes -nodes -old "$$dir/heartline"

## siege: thousands of clients that mean harm, and what becomes of the others; takes minutes
siege:
	$(GO) run ./integration/siege

## soak: an hour of mixed load with 2,000 devices; fails if anything grows or a delivery has no end. ARGS, such as '-duration 4m -devices 200', choose less
soak:
	$(GO) run ./integration/soak $(ARGS)

## reloads: each kind of reload at half of the rate that this machine reaches, with 5,000 devices; none may drop or be lost; takes minutes
reloads:
	$(GO) run ./integration/soak -reloads -devices 5000 $(ARGS)

## attack: hundreds of attempts to get in, over every transport and mode; each must fail
attack:
	$(GO) test -count 1 -v ./integration/attack

## attack-load: logins and notifications while others attack, printed; takes minutes
attack-load:
	$(GO) run ./integration/attack/load

## fuzz-security: tokens, users file, ACL patterns and PROXY headers, a minute each
fuzz-security:
	@set -e; for at in ./auth:FuzzToken ./auth:FuzzParsePeople ./auth:FuzzACL ./auth:FuzzParseHash ./auth:FuzzParseJWKS ./broker/internal/listener:FuzzProxyHeader; do \
		echo "$$at"; \
		$(GO) test -run '^$$' -fuzz "^$${at#*:}\$$" -fuzztime 1m -fuzzminimizetime 20x $${at%:*}; \
	done

# Each new input is made smaller for up to a minute unless told otherwise, and
# nothing else is tried meanwhile.
## fuzz: every fuzz target for FUZZTIME
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$pkg; \
		done; \
	done

## release: static, reproducible programs for five platforms, a .deb each for Linux, SBOMs and checksums, into dist/
release:
	deploy/release.sh

## release-test: two releases of this commit, built in two places, are the same to the byte on all platforms; takes minutes
release-test:
	deploy/release-test.sh

## first-test: from a release's archive to the first notification, timed in an empty root; as root
first-test:
	deploy/first-test.sh

## package-test: the .deb in a new Debian that systemd boots: installed, upgraded, removed, purged; as root, with debootstrap and systemd-nspawn
package-test:
	deploy/deb/test.sh

## image-test: the image's root file system, run read-only, without a shell, as any user; as root
image-test:
	deploy/docker/test.sh

## nodes-image-test: deploy/docker/nodes/compose.yaml run without a container engine; a node and the primary are lost; as root
nodes-image-test:
	deploy/docker/nodes/test.py

## fresh: the README's two commands in a new clone with an empty home
fresh:
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	git clone --quiet . "$$dir/heartline"; mkdir "$$dir/home"; cd "$$dir/heartline"; \
	export HOME="$$dir/home" XDG_CACHE_HOME= XDG_CONFIG_HOME= GOPATH= GOMODCACHE= GOCACHE= GOFLAGS=-modcacherw; \
	$(GO) run . demo; $(MAKE) test

## example: write heartline.example.yaml again
example:
	$(GO) run . config print --defaults > heartline.example.yaml.new
	mv heartline.example.yaml.new heartline.example.yaml

# The pages need npm and the Node.js that package.json asks for to be built. `go build`
# works without them; the page then says what is missing.
WEB := broker/internal/web
CLIENT := clients/js

## web: the web terminal and the dashboard, into broker/internal/web/dist and dist-dashboard, which the program embeds
web: $(WEB)/dist/index.html

## web-modules: what npm downloads to build it
web-modules: $(WEB)/node_modules/.package-lock.json $(CLIENT)/node_modules/.package-lock.json

## client: the JavaScript client for devices, into clients/js/dist
client: $(CLIENT)/dist/index.js

## client-test: its tests, against the program
client-test: $(CLIENT)/node_modules/.package-lock.json
	cd $(CLIENT) && npm test

$(CLIENT)/dist/index.js: $(CLIENT)/node_modules/.package-lock.json $(CLIENT)/build.mjs $(wildcard $(CLIENT)/tsconfig*.json $(CLIENT)/src/*.ts $(CLIENT)/src/*/*.ts)
	cd $(CLIENT) && npm run --silent build

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(CLIENT)/dist/index.js $(WEB)/build.mjs $(wildcard $(WEB)/*tsconfig.json $(WEB)/src/* $(WEB)/src/icons/* $(WEB)/src/worker/* $(WEB)/dashboard/*)
	cd $(WEB) && npm run --silent check && npm run --silent build

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: apt-get install nodejs npm"; exit 1; }
	cd $* && npm ci --no-audit --no-fund
	@touch $@
