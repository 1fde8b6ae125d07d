# `make demo` shows Labwire at work, `make test` runs every test. Both install what a fresh Debian or Ubuntu machine with Rust
# lacks, as root or with sudo.

CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# A C compiler, libssh2's OpenSSL and pkg-config to find it.
BUILD_PACKAGES := gcc libc6-dev pkg-config libssl-dev
# A real SFTP server and clients, and Python for peers that nobody here wrote.
TEST_PACKAGES := openssh-server openssh-client lftp openssl python3 python3-venv iproute2 e2fsprogs mount

.PHONY: demo test build build-packages test-packages peers

demo: build-packages
	$(CARGO) run --locked --quiet -- demo --once

test: build-packages test-packages peers build
	$(CARGO) test --locked
	target/debug/labwire check channels
	target/debug/labwire test channels

build: build-packages
	$(CARGO) build --locked

build-packages:
	@tests/setup-packages.sh "$(SUDO)" $(BUILD_PACKAGES)

test-packages:
	@tests/setup-packages.sh "$(SUDO)" $(TEST_PACKAGES)

peers: test-packages
	@tests/setup-peers.sh
