# One target a check. `make test` needs nothing prepared; the others that need packages share its
# virtual environment (see tests/run.py). PYTHON and CC choose the interpreter and the compiler.

PYTHON ?= python3
ifneq ($(origin CC),default)
export CC
endif

# A command with pyasync_c built and installed in place; one with only the tools.
BUILT = $(PYTHON) tests/run.py --run
TOOLS = $(PYTHON) tests/run.py --tools

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: build
build:  ## build pyasync_c in place
	$(BUILT) python -c 'import pyasync_c._core as core; print(core.__file__)'

.PHONY: test
test:  ## all tests of Python and C
	$(PYTHON) tests/run.py

.PHONY: check
check:  ## every check that is bounded, and a table of them: in at most 35 minutes
	$(PYTHON) tests/check.py

.PHONY: check-deep
check-deep:  ## every check as far as it goes: for a night
	$(PYTHON) tests/check.py --deep

.PHONY: core
core:  ## the C tests and the tutorial alone, with assertions on
	$(PYTHON) tests/run_core.py

.PHONY: release
release:  ## the C tests, optimized as users get the core
	$(PYTHON) tests/run_core.py --mode release

.PHONY: asan
asan:  ## the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(PYTHON) tests/run_core.py --mode asan

.PHONY: tsan
tsan:  ## the C tests that have threads, under ThreadSanitizer
	$(PYTHON) tests/run_core.py --mode tsan

.PHONY: valgrind
valgrind:  ## the C tests under valgrind
	$(PYTHON) tests/run_core.py --mode valgrind

.PHONY: model
model:  ## every interleaving of the core's threads, to a bound; needs relacy-dev
	$(PYTHON) tests/run_models.py

.PHONY: model-quick
model-quick:  ## the same, less far
	$(PYTHON) tests/run_models.py --quick

.PHONY: model-deep
model-deep:  ## the same, further; for hours
	$(PYTHON) tests/run_models.py --deep

.PHONY: mutants
mutants: build  ## plant known mistakes in the sources, and see that tests notice each; about an hour
	$(PYTHON) tests/run_mutants.py

.PHONY: mutants-quick
mutants-quick:  ## the same, as far as C tests notice them
	$(PYTHON) tests/run_mutants.py --quick

.PHONY: sim
sim:  ## 10 000 random programs on the real core in a simulated world, from seeds
	$(PYTHON) tests/sim/run.py

.PHONY: sim-deep
sim-deep:  ## the same, a million of them, and longer ones; for hours
	$(PYTHON) tests/sim/run.py --deep

.PHONY: fuzz
fuzz:  ## the wheel, the queues, the lists, mpsc and the semaphore against oracles; needs clang
	$(PYTHON) tests/fuzz/run.py --seconds 24

.PHONY: fuzz-deep
fuzz-deep:  ## the same, for an hour each
	$(PYTHON) tests/fuzz/run.py --seconds 3600

.PHONY: programs
programs:  ## 10 000 random programs against a model in plain Python, for each tool
	$(BUILT) python tests/run_programs.py

# The tools that are small enough for 10 000 programs in every run of CI, and the others, which get 500.
SMALL_TOOLS = $(addprefix tests/test_,$(addsuffix .py,barrier cancellation_token event lock notify oneshot))
OTHER_TOOLS = $(addprefix tests/test_,$(addsuffix .py,broadcast join join_set mpsc once_cell \
	random_programs rwlock select semaphore watch))

.PHONY: programs-quick
programs-quick:  ## the same for the small tools, 500 for the others
	$(BUILT) python tests/run_programs.py $(SMALL_TOOLS)
	$(BUILT) python tests/run_programs.py --programs 500 $(OTHER_TOOLS)

.PHONY: stress
stress:  ## ten million wakes from other threads, none of them lost
	$(PYTHON) tests/run_core.py --mode release --verbose --argument 10000000 stress_wakes

.PHONY: soak
soak:  ## two hundred thousand connections with faults, and nothing left over
	PAC_SOAK_CONNECTIONS=$${PAC_SOAK_CONNECTIONS:-200000} $(PYTHON) tests/run.py \
		-s -o faulthandler_timeout=0 tests/test_soak.py

.PHONY: net-faults
net-faults:  ## ten thousand connections held at once, and random streams for minutes
	PAC_NET_CONNECTIONS=$${PAC_NET_CONNECTIONS:-10000} $(PYTHON) tests/run.py -s \
		-o faulthandler_timeout=0 tests/test_net_limits.py tests/test_net_hashes.py

.PHONY: tutorial
tutorial:  ## the programs of csrc/tutorial, with what they print
	$(PYTHON) tests/run_core.py --verbose tutorial

# Everything is three to ten times as slow under them, so the tests' own limits are put further out.
SLOWLY = -o faulthandler_timeout=900 -o timeout=1000
SLOWLY_QUICK = -o faulthandler_timeout=250 -o timeout=300
# What CI takes of both: the files that meet threads, destructors, descriptors and refused memory.
ASAN_QUICK = tests/test_evil.py tests/test_wakers.py tests/test_threads.py \
	tests/test_cancellation_token.py tests/test_datagrams.py tests/test_pipes.py \
	tests/test_out_of_memory.py

.PHONY: asan-python
asan-python:  ## the Python tests: extension under AddressSanitizer and UndefinedBehaviorSanitizer
	PAC_DEBUG=1 PAC_SANITIZE=address,undefined $(PYTHON) tests/run.py $(SLOWLY) \
		--ignore tests/test_core.py

.PHONY: asan-python-quick
asan-python-quick:  ## the same for a few files
	PAC_DEBUG=1 PAC_SANITIZE=address,undefined $(PYTHON) tests/run.py -q $(SLOWLY_QUICK) $(ASAN_QUICK)

.PHONY: tsan-python
tsan-python:  ## Python programs with threads: extension under ThreadSanitizer
	PAC_SANITIZE=thread $(PYTHON) tests/run.py $(SLOWLY) tests/test_threads.py \
		tests/test_capi.py tests/test_wakers.py tests/test_bad_input.py tests/test_mpsc.py \
		tests/test_oneshot.py tests/test_broadcast.py tests/test_watch.py tests/test_semaphore.py

.PHONY: tsan-python-quick
tsan-python-quick:  ## the same for one file, and threads without the GIL
	PAC_SANITIZE=thread $(PYTHON) tests/run.py -q $(SLOWLY_QUICK) tests/test_threads.py \
		tests/test_capi.py::test_many_threads_and_many_promises

.PHONY: stubtest
stubtest:  ## types: mypy over the package, and its stubs against the built module
	$(BUILT) python -m mypy
	$(BUILT) python -m mypy.stubtest pyasync_c --mypy-config-file pyproject.toml \
		--allowlist tests/stubtest-allowlist.txt --ignore-unused-allowlist

C_FILES = $(wildcard csrc/*/*.[ch] tests/core/*.[ch] tests/model/*.[ch]pp tests/capi/*.c \
	tests/sim/*.[ch] tests/fuzz/*.[ch] benchmarks/*.c benchmarks/core/*.[ch] \
	examples/extensions/*/*.c)

.PHONY: lint
lint:  ## formatting and rules of the sources; changes nothing
	$(TOOLS) ruff check .
	$(TOOLS) ruff format --check .
	$(TOOLS) clang-format --dry-run --Werror $(C_FILES)
	$(TOOLS) python -m pytest --quiet --noconftest tests/test_cpylint.py

.PHONY: fmt
fmt:  ## format the sources
	$(TOOLS) ruff check --fix .
	$(TOOLS) ruff format .
	$(TOOLS) clang-format -i $(C_FILES)

.PHONY: bench
bench:  ## compare with asyncio and the other loops
	$(PYTHON) tests/run.py --extra bench --run python -m pyasync_c bench $(BENCH_ARGS)

BENCH_CORE = $(patsubst benchmarks/core/%.c,build/bench-core/%,$(wildcard benchmarks/core/*.c))

.PHONY: bench-core
bench-core: $(BENCH_CORE)  ## time the core alone
	@set -e; for program in $^; do $$program $(BENCH_ARGS); done

.PHONY: callgrind
callgrind: $(BENCH_CORE)  ## count the core benchmark's instructions, function by function
	@set -e; for program in $^; do \
		valgrind --tool=callgrind --callgrind-out-file=$$program.callgrind $$program $(BENCH_ARGS); \
		callgrind_annotate --threshold=90 $$program.callgrind; \
	done

build/bench-core/%: benchmarks/core/%.c $(wildcard benchmarks/core/*.h csrc/core/*.[ch])
	@mkdir -p $(@D)
	$(CC) -std=c11 -O3 -flto -g -Wall -Wextra -Icsrc/core $(filter %.c,$^) -o $@ -lpthread

.PHONY: sdist
sdist:  ## a source distribution in build/dist, installed and tried outside the checkout
	rm -rf build/dist build/sdist
	$(TOOLS) python -m build --quiet --sdist --outdir build/dist .
	$(PYTHON) -m venv build/sdist
	build/sdist/bin/python -m pip install --quiet --disable-pip-version-check build/dist/*.tar.gz
	cp tests/installed.py build/sdist
	cd build/sdist && bin/python installed.py

.PHONY: clean
clean:  ## remove what a build leaves behind
	rm -rf build *.egg-info pyasync_c/*.so
