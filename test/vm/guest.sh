# SPDX-License-Identifier: BSD-3-Clause
# What scripts in the guest share; sourced as /vm/guest.sh. A script prints "ok NAME" or "not ok NAME"
# for each check, which tap.py on the host counts, and ends by `conclude`.
failures=0

# check NAME COMMAND...: one case; what a failed command has written follows as it is
check() {
	check_name=$1
	shift
	check_status=0
	"$@" >/tmp/check.log 2>&1 || check_status=$?
	if [ $check_status = 0 ]; then
		echo "ok $check_name"
		return 0
	fi
	echo "not ok $check_name"
	echo "status $check_status of: $*"
	cat /tmp/check.log
	failures=$((failures + 1))
	return 1
}

# need NAME COMMAND...: a case without which the rest would say nothing: the script ends
need() {
	check "$@" || conclude
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

# conclude: ends the script; after a failure the log of the target follows
conclude() {
	[ $failures != 0 ] || exit 0
	! [ -e /tmp/pollux.log ] || cat /tmp/pollux.log
	exit 1
}
