#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Installs what is missing, builds Pollux four ways with warnings as errors, and tests each.
#
# usage: test.sh [--full] [-j N] [--filter TEST[:CASE]] [--builds LIST]
#   --full            every crossing of the matrix, long soaks (an hour or more)
#   -j N              tests at a time (default: the number of processors)
#   --filter T[:C]    only tests whose name contains T; of functional ones only cases that contain C
#   --builds LIST     of release,asan,tsan,fuzz (default: all); tsan runs the unit tests of what
#                     threads share, fuzz each fuzzer for a minute (--full: ten)
# The last line is "N passed, N failed[, N skipped]" over all builds; the exit status is 0 if none failed.
set -eu
. "$(dirname "$0")/lib.sh"

fuzz_packages="clang libclang-rt-14-dev"
test_packages="libcmocka-dev libnbd-bin python3-libnbd qemu-utils fio nbd-client strace gnutls-bin valgrind
	qemu-system-x86 busybox-static dash e2fsprogs util-linux socat"
full= jobs=$(nproc) filter= cases= builds=
while [ $# -gt 0 ]; do
	case $1 in
	--full) full=1 ;;
	-j) jobs=${2:?-j needs a number} && shift ;;
	-j*) jobs=${1#-j} ;;
	--filter) filter=${2:?--filter needs a name} && shift ;;
	--filter=*) filter=${1#*=} ;;
	--builds) builds=${2:?--builds needs a list} && shift ;;
	--builds=*) builds=${1#*=} ;;
	-h | --help)
		sed -n '3,12s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	*) die "unknown option $1 (see --help)" ;;
	esac
	shift
done
[ -n "$builds" ] || builds=release,asan,tsan,fuzz
case $filter in
*:*) cases=${filter#*:} filter=${filter%%:*} ;;
esac
export POLLUX_TEST_FULL=${full:-0} POLLUX_TEST_CASES=$cases
# On a busy machine one of thousands of functional cases may fail by its surroundings: it is tried once
# more and named as unsteady. --full, which looks for such flaws, forgives none.
export POLLUX_TEST_RETRIES=${POLLUX_TEST_RETRIES:-$([ -n "$full" ] && echo 0 || echo 1)}

# The tests need many descriptors; the soft limit may be low where the hard one is not.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || :

use_system_python
# shellcheck disable=SC2086
install_packages $build_packages $test_packages

summary() {
	/usr/bin/python3 "$root/test/functional/results.py" "$@"
}

results=()
# test_build DIRECTORY SUITES: runs the tests of a built directory and notes where the results lie.
test_build() {
	local dir=$1 names multiplier=1
	shift
	rm -f "$dir/meson-logs/testlog.json"
	names=$(meson introspect --tests "$dir" | summary --list "$filter" "$@")
	[ -n "$names" ] || return 0
	[ -z "$full" ] || multiplier=20
	say "== testing in ${dir##*/} =="
	# shellcheck disable=SC2086
	meson test -C "$dir" --no-rebuild --num-processes "$jobs" --timeout-multiplier "$multiplier" \
		--print-errorlogs $names >&2 || :
	results+=("$dir")
}

# fuzz_one DIRECTORY NAME SECONDS: runs one fuzzer from its corpus on; prints a line as meson's test log.
fuzz_one() {
	local dir=$1 name=$2 seconds=$3 status=0 result=OK corpus=$root/test/fuzz/corpus/$2
	mkdir -p "$dir/new/$name" "$corpus"
	"$dir/test/fuzz/fuzz-${name//_/-}" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
		-artifact_prefix="$dir/crash-$name-" "$dir/new/$name" "$corpus" \
		>"$dir/$name.log" 2>&1 || status=$?
	if [ $status != 0 ]; then
		result=FAIL
		tail -n 60 "$dir/$name.log" >&2
	fi
	printf '{"name": "fuzz-%s", "result": "%s", "returncode": %d}\n' "$name" "$result" $status
}
export -f fuzz_one
export root

fuzz() {
	local dir=$root/build-fuzz seconds=60 fuzzers=$((2 * jobs)) names
	[ -z "$full" ] || seconds=600 fuzzers=$jobs
	names=$(cd "$root/test/fuzz" && for file in fuzz_*"$filter"*.c; do
		name=${file#fuzz_}
		[ ! -f "$file" ] || echo "${name%.c}"
	done)
	[ -n "$names" ] || return 0
	# shellcheck disable=SC2086
	install_packages $fuzz_packages
	CC=clang configure "$dir" --buildtype=debugoptimized -Dfuzz=true -Db_lundef=false
	say "== building in build-fuzz =="
	# shellcheck disable=SC2046
	build "$dir" $(for name in $names; do echo "test/fuzz/fuzz-${name//_/-}"; done)
	say "== fuzzing for $seconds s each =="
	xargs -P "$fuzzers" -I '{}' bash -c "fuzz_one '$dir' '{}' $seconds" <<<"$names" \
		>"$dir/meson-logs/testlog.json"
	results+=("$dir")
}

for name in ${builds//,/ }; do
	case $name in
	release)
		dir=$root/build
		configure "$dir" --buildtype=release -Dwerror=true
		say "== building in build =="
		build "$dir"
		test_build "$dir"
		;;
	asan)
		dir=$root/build-asan
		configure "$dir" --buildtype=debugoptimized -Dwerror=true -Db_lundef=false \
			-Db_sanitize=address,undefined
		say "== building in build-asan =="
		build "$dir"
		test_build "$dir"
		;;
	tsan)
		dir=$root/build-tsan
		configure "$dir" --buildtype=debugoptimized -Dwerror=true -Db_lundef=false \
			-Db_sanitize=thread
		say "== building in build-tsan =="
		# shellcheck disable=SC2046
		build "$dir" $(meson introspect --tests "$dir" | summary --programs "$dir" "" tsan)
		test_build "$dir" tsan
		;;
	fuzz) fuzz ;;
	*) die "unknown build $name" ;;
	esac
done

[ ${#results[@]} -gt 0 ] || die "no test's name contains '$filter' in the builds $builds"
summary "${results[@]}"
