# The whole project in a few words. `make run` and `make test` need nothing
# but a Debian or Ubuntu with Rust: they install the rest by themselves.

SHELL := /bin/bash
.DEFAULT_GOAL := help
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p')
DEBUG := $(TARGET_DIR)/$(TRIPLE)/debug
RELEASE := $(TARGET_DIR)/$(TRIPLE)/release

.PHONY: help setup build release size run test lint unit e2e projects test-vm bench install clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## Install what building, running and testing need
	@scripts/setup.sh

build: ## Debug build of the two binaries
	@cargo build --quiet --bins

release: ## Release build
	@cargo build --release --bins

size: ## The small binary stays below 3,000,000 bytes
	@cargo build --release --quiet -p berth-runtime
	@size=$$(stat -c %s $(RELEASE)/berth-runtime); echo "berth-runtime: $$size bytes"; [ $$size -lt 3000000 ]

run: setup release ## The main job, shown: image, containers, limits, isolation
	@scripts/demo.sh $(RELEASE)

lint: ## Formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

test: setup lint ## All tests: unit, kernel, end to end
	cargo build --quiet --bins
	BERTH_BIN_DIR=$(abspath $(DEBUG)) cargo nextest run --workspace

e2e: build ## Only the end-to-end tests
	BERTH_BIN_DIR=$(abspath $(DEBUG)) cargo nextest run -p berth-e2e

projects: setup build ## Real projects with their tool chains, built and run (needs package registries)
	@scripts/projects.sh $(DEBUG)

test-vm: setup build ## End-to-end tests on cgroup v2, Linux 6.1 and 6.12, in virtual machines
	@scripts/vm.sh $(DEBUG)

bench: setup release ## Figures, side by side with the peers that are installed
	@cargo build --release --quiet -p berth-bench
	@$(RELEASE)/berth-bench --bin-dir $(RELEASE)

install: release ## Install to PREFIX (/usr/local)
	install -D -m 0755 $(RELEASE)/berth $(or $(PREFIX),/usr/local)/bin/berth
	install -D -m 0755 $(RELEASE)/berth-runtime $(or $(PREFIX),/usr/local)/bin/berth-runtime

clean: ## Remove build products
	cargo clean
	rm -rf .cache
