# Two commands do everything on a new machine: `make image` and `make boot`. Each target sets up what it needs itself.
#   make image [MODEL=minilm|tiny|path.gguf] [TYPE=F16|F32|Q8_0]   builds the image in build/, by default with the settings of
#                                                                  the last build there
#   make disk                                                      the same, and the disk build/vector_boot.img for UEFI firmware
#   make boot                                                      boots what build/ holds and opens a prompt
#   make demo                                                      boots it, changes its weights while it runs, rolls them back
#   make man                                                       writes the manual page vboot(1) to build/
#   make aarch64-tools                                             installs what the tests for aarch64 need
#   make test | check | bench | fuzz | torture | together | deps
#   make clean                                                     removes what was built, but no run of `vboot evolve`
#   make distclean                                                 removes those too
#
# Values given on make's command line reach the recipes as environment variables with the prefix VBOOT_. Neither make nor
# the shell interprets them, so they may contain any character. Environment variables without the prefix, such as another
# program's MODEL, are ignored.
define pass_on
ifeq ($$(origin $(1)),command line)
override $(1) := $$(value $(1))
export VBOOT_$(1) := $$(value $(1))
endif
endef
$(foreach name,MODEL TYPE FUZZ_SECONDS CYCLES CUTS SEED HOURS MINUTES,$(eval $(call pass_on,$(name))))

VENV := .venv
PY := $(VENV)/bin/python
CARGO := $(firstword $(shell command -v cargo 2>/dev/null) cargo)
CARGO_FLAGS := --quiet --locked --manifest-path vector_boot/Cargo.toml

.PHONY: image disk boot demo test check fuzz bench torture together deps clean distclean aarch64-tools man FORCE
.DEFAULT_GOAL := image

deps:
	@sh builder/install_deps.sh

# The script compares contents, not times, and ends at once when there is nothing to do.
$(VENV)/.ready: FORCE | deps
	@sh builder/make_venv.sh $(VENV)

image: deps $(VENV)/.ready
	@$(PY) -m builder build

disk: deps $(VENV)/.ready
	@$(PY) -m builder build --format disk

demo: deps $(VENV)/.ready
	@$(PY) -m builder demo

boot: deps $(VENV)/.ready
	@$(PY) -m builder boot

test: deps $(VENV)/.ready fuzz
	@$(CARGO) test $(CARGO_FLAGS) --features standalone
	@$(PY) -m builder build --model tiny --output build/test/tiny >/dev/null
	@$(PY) -m pytest -n auto --dist loadfile --max-worker-restart 0 tests/unit tests/e2e tests/boot

# A short, coverage-guided fuzz of every parser; a finding is left in vector_boot/fuzz/artifacts.
fuzz: deps
	@vector_boot/fuzz/run_all.sh "$${VBOOT_FUZZ_SECONDS:-15}"

check: deps $(VENV)/.ready
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/mypy --no-error-summary
	@mkdir -p build
	@$(VENV)/bin/lint-imports --no-logo --no-cache >build/imports.log || { cat build/imports.log; exit 1; }
	@$(CARGO) fmt --manifest-path vector_boot/Cargo.toml --check
	@$(CARGO) clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	@$(CARGO) clippy $(CARGO_FLAGS) --all-targets --features standalone -- -D warnings
	@echo "check: clean"

bench: deps $(VENV)/.ready
	@$(PY) -m tests.bench

# Crash tests on the host and power cuts (docs/proof.md; CUTS=1000), then random mutations and rollbacks, of which every result is compared
# with a prediction, byte by byte. CYCLES=100000 SEED=1; HOURS=N runs for N hours instead of a number of cycles.
torture: deps $(VENV)/.ready
	@$(PY) -m builder build --model tiny --output build/test/tiny >/dev/null
	@$(PY) -m tests.torture.host $${VBOOT_SEED:+--seed "$$VBOOT_SEED"}
	@$(PY) -m tests.torture.readers --devices 4000
	@$(PY) -m tests.torture.cut_faults
	@$(PY) -m tests.torture.cut_writes
	@$(PY) -m tests.torture.cuts --listen
	@$(PY) -m tests.torture.reloads
	@$(PY) -m tests.torture.reloads --state
	@$(PY) -m tests.torture.cuts --jobs 2 $${VBOOT_CUTS:+--cuts "$$VBOOT_CUTS"} $${VBOOT_SEED:+--seed "$$VBOOT_SEED"}
	@$(PY) -m tests.torture $${VBOOT_CYCLES:+--cycles "$$VBOOT_CYCLES"} $${VBOOT_SEED:+--seed "$$VBOOT_SEED"} \
		$${VBOOT_HOURS:+--hours "$$VBOOT_HOURS"}

# The manual page, for man and packagers.
man: deps $(VENV)/.ready
	@mkdir -p build
	@$(PY) -m builder help man >build/vboot.1
	@echo "build/vboot.1: read it with \`man -l build/vboot.1\`"

# Two shells, an embed loop and an evolve run on one booted machine: each must make progress without an error. MINUTES=10
together: deps $(VENV)/.ready
	@$(PY) -m tests.torture.together $${VBOOT_MINUTES:+--minutes "$$VBOOT_MINUTES"}

aarch64-tools:
	@tests/support/aarch64_tools.sh

# Everything that was made, but for the runs of `vboot evolve` and the folders of machines that run.
clean:
	@sh builder/clean.sh

distclean:
	@sh builder/clean.sh --all
