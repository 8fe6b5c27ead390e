# SPDX-License-Identifier: BSD-3-Clause
# What scripts in the guest share; sourced as /vm/guest.sh. A script prints "ok NAME" or "not ok NAME"
# for each check, which tap.py on the host counts, and ends by `conclude`.
failures=0

# check NAME COMMAND...: one case; what a failed command has written follows as it is
check() {
	check_name=$1
	shift
	if "$@" >/tmp/check.log 2>&1; then
		echo "ok $check_name"
	else
		echo "not ok $check_name"
		echo "failed ($?): $*"
		cat /tmp/check.log
		failures=$((failures + 1))
	fi
}

# refuses NAME COMMAND...: the command must fail
refuses() {
	refuses_name=$1
	shift
	check "$refuses_name" not "$@"
}

not() {
	! "$@"
}

# until_true SECONDS COMMAND...: tries until it succeeds
until_true() {
	until_left=$(($1 * 5))
	shift
	until "$@" >/dev/null 2>&1; do
		until_left=$((until_left - 1))
		[ $until_left -gt 0 ] || return 1
		sleep 0.2
	done
}

# more BEFORE AFTER: the counter has risen
more() {
	[ "$2" -gt "$1" ] || { echo "$1, then $2"; return 1; }
}

conclude() {
	[ $failures = 0 ] || exit 1
	exit 0
}
