# ferrofs: `make demo` shows the main job on a real tree, `make test` sets up and runs every test.
.PHONY: demo test lint setup fuzz soak bench bench-lazy bench-nydus bench-sharing docs test-cachefiles-kernel \
	test-new-kernel

# Builds the release binary, then builds, checks, mounts and compares an image of a real tree.
demo: setup
	scripts/demo.sh

# All that CI runs: format, lints, unit and integration tests through real mounts, a fuzz smoke run.
test: setup lint
	scripts/test.sh
	fuzz/smoke.sh 10

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo metadata --manifest-path fuzz/Cargo.toml --format-version 1 --locked >/dev/null

# Installs what the two commands above need, where it can; says how to get what it cannot.
setup:
	scripts/setup.sh

# Ten minutes a target: what to run before a release.
fuzz:
	fuzz/smoke.sh 600

# Every bit and byte of the damaged images, not a sample, ten minutes of readers with faults, and 200
# kills and faults under mounts that are read on demand.
soak:
	FERROFS_SOAK=200 cargo test --locked -p ferrofs-cli --test cli -- soak::random --nocapture
	FERROFS_EXHAUSTIVE=1 FERROFS_SOAK_SECONDS=600 cargo test --release --locked -p ferrofs-tests --test hostile --test engine

# Side by side with erofs-utils; see bench/README.md for how to get those.
bench:
	cargo build --release --locked -p ferrofs-cli
	bench/compare.py --ferrofs target/release/ferrofs $(BENCH)

# Images read on demand over a slow link; root, /dev/fuse, and 6 GB of disk.
bench-lazy:
	cargo build --release --locked -p ferrofs-cli
	cargo build --release --locked -p ferrofs-tests --example origin
	bench/lazy.py --ferrofs target/release/ferrofs --origin target/release/examples/origin $(BENCH)

# The same side by side with Nydus; see bench/README.md for how to get that. 10 GB of disk.
bench-nydus:
	cargo build --release --locked -p ferrofs-cli
	cargo build --release --locked -p ferrofs-tests --example origin
	bench/nydus.py --ferrofs target/release/ferrofs --origin target/release/examples/origin $(BENCH)

# Two versions of one application side by side, with and without shared page cache; root, /dev/fuse,
# and 12 GB of disk. BENCH='--folder DIR --out DIR NAME...' says where, and which.
bench-sharing:
	cargo build --release --locked -p ferrofs-cli
	cargo build --release --locked -p ferrofs-share --example pool
	bench/sharing/run.py --ferrofs target/release/ferrofs \
		--pool target/release/examples/pool $(BENCH)

# `ferrofs cached` against Linux 6.1 and 6.12 in emulation; builds them unless KERNEL_DIR has them.
test-cachefiles-kernel:
	scripts/cachefiles-kernel/test.sh

# Sharing by the kernel itself, images of every kind and the tests that mount, on the newest Linux of
# Debian in emulation; fetches it. SUITES, PAIRS and more: see the script.
test-new-kernel:
	scripts/new-kernel/test.sh

docs:
	cargo doc --workspace --no-deps
