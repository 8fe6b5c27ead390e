# SPDX-License-Identifier: BSD-3-Clause
# What run.sh and test.sh share: finding and installing what is missing, configuring and building.
# Sourced by bash with `set -eu`; works from any directory. apt is asked only if something is missing.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build_packages="meson ninja-build gcc pkg-config libc6-dev libdpdk-dev liburing-dev libnuma-dev
	libjansson-dev libgnutls28-dev python3"

say() {
	printf '%s\n' "$*" >&2
}

die() {
	say "${0##*/}: $*"
	exit 1
}

# The given packages that are not installed.
missing_packages() {
	local package
	for package in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] ||
			printf '%s ' "$package"
	done
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# Installs those of the given packages that are missing.
install_packages() {
	local missing
	command -v dpkg-query >/dev/null || die "this script installs packages on Debian only; elsewhere" \
		"install the equivalents of: $*"
	missing=$(missing_packages "$@")
	[ -n "$missing" ] || return 0
	say "installing: $missing"
	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		die "not root and no sudo; as root: apt-get install $missing"
	fi
	# the lists may be absent on a fresh machine, or too old for what the mirror still has
	# shellcheck disable=SC2086
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
		$missing >/dev/null 2>&1 && return 0
	as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
	# shellcheck disable=SC2086
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
		$missing >&2 || die "apt-get could not install: $missing"
}

# The system's own Python sees the packages' modules; another one in PATH may not.
use_system_python() {
	PATH=/usr/bin:$PATH
	export PATH
}

# configure DIRECTORY [meson options]: sets up or changes a build directory.
configure() {
	local dir=$1 log
	shift
	log=$(mktemp)
	if [ -f "$dir/build.ninja" ]; then
		meson setup --reconfigure "$dir" "$root" "$@" >"$log" 2>&1
	else
		rm -rf "$dir"
		meson setup "$dir" "$root" "$@" >"$log" 2>&1
	fi || {
		cat "$log" >&2
		rm -f "$log"
		die "meson could not configure $dir"
	}
	rm -f "$log"
}

# build DIRECTORY [ninja arguments]: quiet unless it fails.
build() {
	local dir=$1 log
	shift
	log=$(mktemp)
	if ! ninja --quiet -C "$dir" "$@" >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		die "the build in $dir failed"
	fi
	rm -f "$log"
}
