#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Installs what is missing, builds Pollux in build/ and serves.
#
# usage: run.sh [pollux's arguments]     default: a memory disk of 1 GiB on 127.0.0.1:10809
# As root (or with sudo) on a fresh Debian 12; as anybody once the packages are there.
set -eu
. "$(dirname "$0")/lib.sh"

case ${1-} in
-h)
	sed -n '3,6s/^# \{0,1\}//p' "$0"
	exit 0
	;;
esac

port=10809

# True if something accepts connections there.
port_in_use() {
	(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# True if the arguments say where to listen.
listens_elsewhere() {
	local arg
	for arg in "$@"; do
		case $arg in
		-l* | --listen | --listen=*) return 0 ;;
		esac
	done
	return 1
}

use_system_python
# shellcheck disable=SC2086
install_packages $build_packages
dir=$root/build
if [ ! -w "$root" ] && [ ! -x "$dir/app/pollux/pollux" ]; then
	# an ordinary user and a tree that is not his
	dir=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pollux/build
	mkdir -p "$dir" || die "$root cannot be written to, and there is no other place to build in"
fi
if [ ! -e "$dir" ] || [ -O "$dir" ]; then
	say "building in $dir"
	[ -f "$dir/build.ninja" ] || configure "$dir" --buildtype=release
	build "$dir" app/pollux/pollux
fi

[ $# -gt 0 ] || set -- malloc:1G
case " $* " in
*" --help "* | *" --version "*) exec "$dir/app/pollux/pollux" "$@" ;;
esac
if ! listens_elsewhere "$@"; then
	if port_in_use "$port"; then
		die "port $port of 127.0.0.1 is in use already (another NBD server? 'ss -ltnp' as root" \
			"tells); stop it, or give another one: run.sh -l tcp://127.0.0.1:10810 $*"
	fi
	cat <<TEXT
Pollux at nbd://127.0.0.1:$port
try:   nbdinfo nbd://127.0.0.1:$port
       qemu-img info nbd://127.0.0.1:$port
       $root/scripts/rpc.py export_get_exports
stop:  Ctrl-C
TEXT
fi
exec "$dir/app/pollux/pollux" "$@"
