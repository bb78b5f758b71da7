# make demo    boot Linux to a busybox shell on this terminal (Ctrl-A x quits)
# make test    every test; installs what they use on the host, builds and caches the test kernel first
# make lint    formatting, lints and documentation, all without warnings
# make bench   the benchmarks; results go to benches/results

MAKEFLAGS += --no-builtin-rules --no-print-directory
LINUX = $$(resources/linux/build.sh)

.PHONY: demo test lint bench

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

bench:
	{ date -u +%F; git describe --always --dirty; uname -sr; grep -m1 'model name' /proc/cpuinfo; \
		cargo bench --bench exits | grep -E '^exit/|^ +time:'; } > benches/results/exits.txt
	cargo bench --bench startup -- --rounds 60 --save
	cargo bench --bench snapshot -- --save
	cargo bench --bench requests -- --save
	cargo bench --bench throughput -- --full --save
