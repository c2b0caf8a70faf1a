# What people type. Everything that is missing is installed by scripts/setup.sh.
CARGO  ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
export PATH := $(CURDIR)/build/tools/bin:$(PATH)

# The profile for tests: quick to build, with debug assertions, and fast enough for tests that mount.
PROFILE := ci

.PHONY: all build test modes check demo bench clean docs install static deb help

all: build

help:
	@echo "make build    both programs, optimised, in target/release"
	@echo "make test     every test (as root, with /dev/fuse)"
	@echo "make modes    the mounted tests again in every mode (data, transport)"
	@echo "make check    formatting, lints, documentation"
	@echo "make demo     two real images and a tour of both programs"
	@echo "make bench    the measurements (see benches/)"
	@echo "make install  both programs, links, manual pages and completions to PREFIX ($(PREFIX))"
	@echo "make static   both programs without libraries, in $(STATIC)"
	@echo "make deb      a Debian package of them, build/unionfs.deb"
	@echo "make clean    everything that was built or downloaded"

build:
	$(CARGO) build --release --locked

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --profile $(PROFILE) -- -D warnings
	scripts/semantics.sh
	RUSTDOCFLAGS="-Dwarnings -Arustdoc::private_intra_doc_links" $(CARGO) doc --profile $(PROFILE) --workspace --no-deps --document-private-items --locked --quiet

# TESTS narrows it down, in nextest's words: make test TESTS='-E "test(rename)"'
test:
	scripts/setup.sh
	$(CARGO) test --workspace --doc --locked --quiet --profile $(PROFILE)
	$(CARGO) nextest run --workspace --locked --cargo-profile $(PROFILE) $(TESTS)

# The mounted tests again, in each way to move data and to get requests that this host offers.
modes:
	scripts/setup.sh
	scripts/modes.sh

demo:
	scripts/setup.sh demo
	# The images take as long as the programs: both at once.
	scripts/images.sh & images=$$!; $(CARGO) build --release --locked && wait $$images
	scripts/demo.sh

# BENCH narrows the comparison down: make bench BENCH='--quick --only create,unlink'
bench:
	$(CARGO) bench --workspace --locked
	scripts/bench.sh $(BENCH)

# Manual pages and completions, from the programs' own words.
docs:
	$(CARGO) run --quiet --locked --profile $(PROFILE) -p uctr --example docs -- build/docs

install: build docs
	packaging/install.sh target/release build/docs $(PREFIX) $(DESTDIR)

# Programs that need no library of the host. They are what the package holds.
STATIC := build/static/x86_64-unknown-linux-gnu/release
static:
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target x86_64-unknown-linux-gnu --target-dir build/static

deb: static docs
	packaging/deb.sh $(STATIC) build/docs build/unionfs.deb

clean:
	$(CARGO) clean
	rm -rf build
