# make demo    boot Linux to a busybox shell on this terminal (Ctrl-A x quits)
# make test    every test; installs what they use on the host, builds and caches the test kernel first
# make lint    formatting, lints and documentation, all without warnings
# make bench   the benchmarks; results go to benches/results, and the README's figures with them
# make bench-readme   the README's figures from benches/results/bench.json

MAKEFLAGS += --no-builtin-rules --no-print-directory
LINUX = $$(resources/linux/build.sh)
BANTAM = target/x86_64-unknown-linux-gnu/release/bantam

.PHONY: demo test lint bench bench-readme

demo:
	linux=$(LINUX) && exec cargo run --release -- run --memory 32M \
		--kernel "$$linux/vmlinux" --initrd "$$linux/initramfs.cpio" \
		--cmdline "quiet $$(cat resources/linux/cmdline)"

test:
	-resources/linux/host-tools.sh
	linux=$(LINUX) && BANTAM_LINUX="$$linux" cargo test

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# On a machine with nothing else to do: a quarter of an hour. The Linux is the test's own.
bench:
	cargo build --release
	linux=$(LINUX) && $(BANTAM) bench all --full --output target/bench.json \
		--kernel "$$linux/vmlinux" --initrd "$$linux/initramfs.cpio" --marker "bantam: linux is up" \
		--cmdline "quiet $$(cat resources/linux/cmdline)" --folder target
	cp target/bench.json benches/results/bench.json
	cargo bench --bench requests -- --save
	$(MAKE) bench-readme

bench-readme:
	BANTAM_WRITE_README=yes cargo test --test readme
