#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Prepares a machine for Pollux's own NVMe driver: devices go to vfio-pci, huge pages are allocated.
#
# usage: setup.sh [COMMAND] [PCI_ADDRESS...]
#   config, bind  (default) binds NVMe devices that are not in use to vfio-pci, allocates huge pages
#   reset         gives them back to the kernel's nvme; without addresses, huge pages back as well
#   status        lists NVMe devices and huge pages
#   help          this text
# With addresses (0000:01:00.0 or 01:00.0) only these; that one of them is in use is then an error.
#
# Environment:
#   PCI_ALLOWED      addresses, separated by blanks: only these; "none": no device at all
#   PCI_BLOCKED      addresses that are never touched
#   HUGEMEM          MiB of huge pages (of 2 MiB), 2048 by default; 0: leave them alone
#   NRHUGE           the same as a number of pages
#   HUGENODE         NUMA nodes, "0,1", each of which gets that much, or a number of pages for each,
#                    "nodes_hp[0]=512,nodes_hp[1]=64"; without it the kernel spreads them itself
#   DRIVER_OVERRIDE  a driver to bind to instead of vfio-pci; none: only take them away from nvme
#   TARGET_USER      the user who runs Pollux: owns the devices' VFIO groups afterwards
#
# Devices that are mounted, swapped on, part of a volume, or open are never touched; those with data
# (file systems, partition tables) only if they are named. bind and reset need root. Nothing lasts
# over a reboot.
set -u
shopt -s nullglob extglob
me=${0##*/}

# the roots of what is read and written: tests have trees of their own
: "${SYSFS:=/sys}" "${PROCFS:=/proc}" "${DEVFS:=/dev}" "${STATE:=/run/pollux-setup}"
: "${WAIT_S:=10}" # for a driver to take or to leave a device
: "${HUGEMEM:=2048}" "${NRHUGE:=}" "${HUGENODE:=}" "${DRIVER_OVERRIDE:=vfio-pci}" "${TARGET_USER:=}"
: "${PCI_ALLOWED:=}" "${PCI_BLOCKED:=}"

pci=$SYSFS/bus/pci
page_kib=2048
declare -A opened=() # device node: who has it open
explicit='' failures=0

say() {
	printf '%s\n' "$*"
}

# complain TEXT...: something asked for was not done; the rest goes on
complain() {
	say "$*" >&2
	failures=$((failures + 1))
}

die() {
	say "$me: $*" >&2
	exit 1
}

# value FILE [ELSE]: its first line
value() {
	local line
	if { read -r line <"$1"; } 2>/dev/null || [ -n "${line-}" ]; then
		say "$line"
	else
		say "${2-}"
	fi
}

# target LINK: the last part of where it points to, or nothing
target() {
	local path
	path=$(readlink "$1") && say "${path##*/}"
}

# store VALUE FILE: a write that sysfs may refuse
store() {
	{ printf '%s\n' "$1" >"$2"; } 2>/dev/null
}

# until_true COMMAND...: tries for WAIT_S seconds
until_true() {
	local end=$((SECONDS + WAIT_S))
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# full_addresses WORDS: with their domains, in lower case, in one line
full_addresses() {
	local word address words all=()
	read -ra words <<<"$1"
	for word in "${words[@]}"; do
		address=${word,,}
		[[ $address == *:*:* ]] || address=0000:$address
		[[ $address =~ ^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$ ]] ||
			die "'$word' is not a PCI address such as 0000:01:00.0"
		all+=("$address")
	done
	say "${all[*]-}"
}

# listed ADDRESS LIST
listed() {
	[[ " $2 " == *" $1 "* ]]
}

# is_nvme ADDRESS: class 01, subclass 08, interface 02
is_nvme() {
	local class
	{ read -r class <"$pci/devices/$1/class"; } 2>/dev/null && [ "$class" = 0x010802 ]
}

driver_of() {
	target "$pci/devices/$1/driver"
}

group_of() {
	target "$pci/devices/$1/iommu_group"
}

# chosen: the addresses of the NVMe devices that the command is about
chosen() {
	local path address
	for path in "$pci"/devices/*; do
		address=${path##*/}
		is_nvme "$address" || continue
		! listed "$address" "$PCI_BLOCKED" || continue
		[ -z "$PCI_ALLOWED" ] || listed "$address" "$PCI_ALLOWED" || continue
		[ -z "$explicit" ] || listed "$address" "$explicit" || continue
		say "$address"
	done
}

# check_explicit: what was named must be there and not be excluded elsewhere
check_explicit() {
	local address
	for address in $explicit; do
		[ -e "$pci/devices/$address" ] || die "there is no PCI device $address ($me status lists" \
			"the NVMe devices)"
		is_nvme "$address" || die "$address is not an NVMe device: its class is" \
			"$(value "$pci/devices/$address/class")"
		! listed "$address" "$PCI_BLOCKED" || die "$address is in PCI_BLOCKED"
		[ -z "$PCI_ALLOWED" ] || listed "$address" "$PCI_ALLOWED" ||
			die "$address is not in PCI_ALLOWED"
	done
}

# namespaces ADDRESS: names of block devices. With multipath the path nvme0c1n1 leads to nvme0n1.
namespaces() {
	local path name
	for path in "$pci/devices/$1"/nvme/nvme*/nvme*n*; do
		name=${path##*/}
		case $name in
		nvme+([0-9])c+([0-9])n+([0-9])) name=${name%%c*}n${name##*n} ;;
		nvme+([0-9])n+([0-9])) ;;
		*) continue ;; # nvme0-hwmon and the like
		esac
		[ ! -e "$SYSFS/class/block/$name" ] || say "$name"
	done
}

# parts NAME: a block device and its partitions
parts() {
	local path
	say "$1"
	for path in "$SYSFS/class/block/$1/$1"p*; do
		say "${path##*/}"
	done
}

# find_open: who has which NVMe namespace or VFIO group open. udev looks at whatever appears.
find_open() {
	local path node pid who
	while read -r path node; do
		pid=${path#"$PROCFS/"} pid=${pid%%/*}
		who=$(value "$PROCFS/$pid/comm" "a process")
		case $who in
		*udev-worker* | systemd-udevd | udevd) continue ;;
		esac
		[[ ${opened[$node]-} == *"(pid $pid)"* ]] || opened[$node]="${opened[$node]-} $who (pid $pid)"
	done < <(find "$PROCFS"/[0-9]*/fd -maxdepth 1 \( -lname '/dev/n*' -o -lname '/dev/vfio/*' \) \
		-printf '%p %l\n' 2>/dev/null)
}

# holder NAME: what a device on top of this one is
holder() {
	local uuid name
	uuid=$(value "$SYSFS/class/block/$1/dm/uuid")
	name=$(value "$SYSFS/class/block/$1/dm/name" "$1")
	case $1:$uuid in
	*:LVM-*) say "LVM's volume $name ($1)" ;;
	*:CRYPT-*) say "the encrypted volume $name ($1)" ;;
	*:mpath-*) say "the multipath device $name ($1)" ;;
	dm-*) say "the device-mapper volume $name ($1)" ;;
	md*) say "the array $1" ;;
	*) say "$1" ;;
	esac
}

# users_of_part NAME: a line a reason why it must not be taken away
users_of_part() {
	local part=$1 number path source device where
	number=$(value "$SYSFS/class/block/$part/dev" none)
	while read -r _ _ device _ where source; do
		# the device stands behind the variable number of fields that ends with a dash
		source=${source#*- } source=${source#* } source=${source%% *}
		if [ "$device" = "$number" ] || [ "$source" = "/dev/$part" ]; then
			say "$part is mounted on ${where//\\040/ }"
		fi
	done <"$PROCFS/self/mountinfo"
	while read -r source _; do
		[ "$source" != "/dev/$part" ] || say "$part is swapped on"
	done <"$PROCFS/swaps"
	for path in "$SYSFS/class/block/$part/holders"/*; do
		say "$part is held by $(holder "${path##*/}")"
	done
	for path in "$SYSFS"/class/block/loop*/loop/backing_file; do
		[ "$(value "$path")" != "/dev/$part" ] || say "$part is behind a loop device ($path)"
	done
	for path in "$SYSFS"/kernel/config/nvmet/subsystems/*/namespaces/*; do # the kernel claims nothing
		source=$(value "$path/device_path") where=${path%/namespaces/*}
		[ "$(value "$path/enable" 0)" != 1 ] || [ "$(readlink -m "$source")" != "/dev/$part" ] ||
			say "$part is exported by the kernel's NVMe target (${where##*/})"
	done
	for device in "/dev/$part" "/dev/ng${part#nvme}"; do
		[ -z "${opened[$device]-}" ] || say "$device is open in${opened[$device]}"
	done
}

# claimed NAME: whether the kernel or a program has it to itself, in whatever namespace of mounts.
# A dry run of wipefs opens a device exclusively and writes nothing.
claimed() {
	local why
	[ -b "$DEVFS/$1" ] && command -v wipefs >/dev/null || return 1
	why=$(LC_ALL=C wipefs --all --no-act "$DEVFS/$1" 2>&1 >/dev/null) && return 1
	[[ $why == *busy* ]]
}

# data_of ADDRESS: which signatures its namespaces bear (ext4, gpt, LVM2_member, ...)
data_of() {
	local name found='' words
	command -v wipefs >/dev/null || return 0
	for name in $(namespaces "$1"); do
		[ ! -b "$DEVFS/$name" ] || found+=" $(wipefs --noheadings --output TYPE "$DEVFS/$name" 2>/dev/null)"
	done
	read -ra words <<<"${found//$'\n'/ }"
	say "${words[*]-}"
}

# users_of ADDRESS: the same for a whole device; for one with VFIO, who has its group
users_of() {
	local name part found='' lines
	for name in $(namespaces "$1"); do
		for part in $(parts "$name"); do
			lines=$(users_of_part "$part")
			[ -n "$lines" ] || ! claimed "$part" ||
				lines="$part is claimed by the kernel or by a program (mounted in a container?)"
			found+=${lines:+$lines$'\n'}
		done
	done
	if [ "$(driver_of "$1")" = vfio-pci ]; then
		for name in "$(group_of "$1")" "$pci/devices/$1"/vfio-dev/vfio*; do
			name=/dev/vfio/${name/#*\//devices/}
			[ -z "${opened[$name]-}" ] || found+="$name is open in${opened[$name]}"$'\n'
		done
	fi
	printf %s "$found"
}

# in_words LINES: as one line
in_words() {
	local text=${1//$'\n'/, }
	say "${text%, }"
}

# group_obstacle ADDRESS: a group is VFIO's only when no device of it is with another driver
group_obstacle() {
	local path other driver
	for path in "$pci/devices/$1"/iommu_group/devices/*; do
		other=${path##*/}
		driver=$(driver_of "$other")
		[ "$other" != "$1" ] || continue
		[[ $(value "$pci/devices/$other/class") != 0x06* ]] || continue # a bridge
		case $driver in
		'' | vfio-pci | pci-stub) ;;
		nvme) listed "$other" "${batch-}" || say "$other (nvme)" ;; # bound in this very run
		*) say "$other ($driver)" ;;
		esac
	done
}

# load_driver NAME: makes it known to the kernel
load_driver() {
	local why
	[ ! -e "$pci/drivers/$1" ] && [ "$1" != none ] || return 0
	why=$(modprobe "$1" 2>&1)
	[ -e "$pci/drivers/$1" ] || die "the kernel has no driver $1, and modprobe $1 does not bring it:" \
		"${why:-no message}"
}

has_driver() {
	[ "$(driver_of "$1")" = "$2" ]
}

# hand_over ADDRESS DRIVER: takes the device from its driver; DRIVER, or if that is empty the one
# that knows such devices, gets it
hand_over() {
	local device=$pci/devices/$1
	store "$2" "$device/driver_override" || return 1
	if [ -e "$device/driver" ]; then
		store "$1" "$device/driver/unbind" || return 1
		until_true has_driver "$1" "" || return 1
	fi
	[ "$2" != none ] || return 0
	store "$1" "$pci/drivers_probe"
	until_true has_driver "$1" "${2:-nvme}"
}

# may_bind ADDRESS: says what stands in the way
may_bind() {
	local driver users others data
	driver=$(driver_of "$1")
	case $driver in
	'' | nvme) ;;
	*)
		complain "$1: it is with the driver $driver; give it back first: $me reset $1"
		return 1
		;;
	esac
	users=$(users_of "$1")
	if [ -n "$users" ]; then
		complain "$1: left with ${driver:-no driver}, it is in use: $(in_words "$users")"
		# a machine may well run from one of its disks: only what was asked for by name fails
		[ -n "$explicit$PCI_ALLOWED" ] || failures=$((failures - 1))
		return 1
	fi
	if [ -z "$explicit$PCI_ALLOWED" ]; then
		data=$(data_of "$1")
		if [ -n "$data" ]; then
			say "$1: left with ${driver:-no driver}, there is data on it ($data); $me bind $1 takes it"
			return 1
		fi
	fi
	[ "$DRIVER_OVERRIDE" = vfio-pci ] || return 0
	if [ -z "$(group_of "$1")" ]; then
		complain "$1: left with ${driver:-no driver}, there is no IOMMU for it. Switch VT-d or AMD-Vi" \
			"on in the firmware's setup, and on Intel boot with intel_iommu=on; in a virtual" \
			"machine add an emulated IOMMU. Without one Pollux reaches it as nvme:/dev/ngXnY."
		return 1
	fi
	others=$(group_obstacle "$1")
	if [ -n "$others" ]; then
		complain "$1: left with ${driver:-no driver}, its IOMMU group $(group_of "$1") is shared with" \
			"$(in_words "$others"); these must go to vfio-pci as well, or the device into" \
			"another slot"
		return 1
	fi
}

bind_one() {
	local before group
	before=$(driver_of "$1")
	if [ "${before:-none}" = "$DRIVER_OVERRIDE" ]; then
		say "$1: is with ${before:-no driver} already"
	else
		may_bind "$1" || return
		load_driver "$DRIVER_OVERRIDE"
		if ! hand_over "$1" "$DRIVER_OVERRIDE"; then
			hand_over "$1" ""
			complain "$1: $DRIVER_OVERRIDE did not take it (dmesg may tell why); it is with" \
				"$(driver_of "$1") again"
			return
		fi
		say "$1: ${before:-no driver} -> $DRIVER_OVERRIDE"
	fi
	group=$(group_of "$1")
	if [ -n "$TARGET_USER" ] && [ -n "$group" ]; then
		until_true [ -e "$DEVFS/vfio/$group" ]
		chown "$TARGET_USER" "$DEVFS/vfio/$group" ||
			complain "$1: $DEVFS/vfio/$group could not be given to $TARGET_USER"
	fi
}

# memlock_note: what VFIO maps for the device counts as locked memory of the process
memlock_note() {
	local limit
	limit=$(ulimit -l)
	[ -n "$TARGET_USER" ] && [ "$TARGET_USER" != root ] && [ "$limit" != unlimited ] || return 0
	say "A process of $TARGET_USER must be allowed to lock all the memory that it maps for a device;" \
		"here the limit is $limit KiB. ulimit -l unlimited, or LimitMEMLOCK=infinity in its unit."
}

# pages_file [NODE]
pages_file() {
	if [ -n "${1-}" ]; then
		say "$SYSFS/devices/system/node/node$1/hugepages/hugepages-${page_kib}kB/nr_hugepages"
	else
		say "$SYSFS/kernel/mm/hugepages/hugepages-${page_kib}kB/nr_hugepages"
	fi
}

# remember FILE: its number before the first change, for reset
remember() {
	mkdir -p "$STATE" || die "$STATE cannot be written to: run it as root"
	grep -q " $1\$" "$STATE/hugepages" 2>/dev/null || say "$(value "$1" 0) $1" >>"$STATE/hugepages"
}

# available_kib: nine tenths of the memory that can be had: the kernel would give away the last page
available_kib() {
	local key number
	while read -r key number _; do
		[ "$key" != MemAvailable: ] || say $((number * 9 / 10))
	done <"$PROCFS/meminfo"
}

# raise_pages COUNT [NODE]: never less than there are
raise_pages() {
	local file now free where="${2:+ on node $2}"
	file=$(pages_file "${2-}")
	[ -e "$file" ] || { complain "there are no huge pages of $page_kib KiB$where ($file)"; return; }
	now=$(value "$file" 0)
	if [ "$now" -ge "$1" ]; then
		say "huge pages$where: $now of $page_kib KiB are there already"
		return
	fi
	free=$(available_kib)
	if [ $((($1 - now) * page_kib)) -gt "$free" ]; then
		complain "huge pages$where: left at $now, $1 would take more than the $((free / 1024)) MiB that" \
			"are available; set HUGEMEM (MiB)"
		return
	fi
	remember "$file"
	store "$1" "$file" || { complain "huge pages$where: $file cannot be written"; return; }
	now=$(value "$file" 0)
	if [ "$now" -lt "$1" ]; then
		complain "huge pages$where: only $now of $1; the memory is in use or in pieces: free some, try" \
			"again after echo 1 >/proc/sys/vm/compact_memory, or boot with hugepages=$1"
	else
		say "huge pages$where: $now of $page_kib KiB"
	fi
}

# check_pages: finds wrong words before anything is changed; sets nodes, the entries of HUGENODE
check_pages() {
	local word
	for word in "$HUGEMEM" "${NRHUGE:-0}"; do
		[[ $word == +([0-9]) ]] || die "HUGEMEM and NRHUGE are numbers, not '$word'"
	done
	IFS=', ' read -ra nodes <<<"$HUGENODE"
	for word in "${nodes[@]}"; do
		[[ $word == @(+([0-9])|nodes_hp\[+([0-9])\]=+([0-9])) ]] ||
			die "HUGENODE: '$word' is neither a node nor nodes_hp[NODE]=PAGES"
	done
}

allocate_pages() {
	local entry node pages=$NRHUGE
	[ -n "$pages" ] || pages=$(((HUGEMEM * 1024 + page_kib - 1) / page_kib))
	if [ -z "$HUGENODE" ]; then
		[ "$pages" = 0 ] || raise_pages "$pages"
		return
	fi
	for entry in "${nodes[@]}"; do
		case $entry in
		+([0-9])) [ "$pages" = 0 ] || raise_pages "$pages" "$entry" ;;
		nodes_hp\[+([0-9])\]=+([0-9]))
			node=${entry#*\[}
			raise_pages "${entry#*=}" "${node%%\]*}"
			;;
		esac
	done
}

restore_pages() {
	local number file now
	[ -e "$STATE/hugepages" ] || { say "huge pages: none were allocated by $me"; return; }
	while read -r number file; do
		store "$number" "$file" || complain "$file cannot be written"
		now=$(value "$file" 0)
		if [ "$now" -gt "$number" ]; then
			complain "huge pages: $now are left instead of $number ($file)"
		else
			say "huge pages: $now again ($file)"
		fi
	done <"$STATE/hugepages"
	rm -f "$STATE/hugepages"
	rmdir "$STATE" 2>/dev/null
}

need_root() {
	[ -w "$pci/drivers_probe" ] || die "$pci/drivers_probe cannot be written to: run it as root"
}

config() {
	local address batch nodes count=0
	need_root
	check_explicit
	check_pages
	batch=$(chosen) batch=${batch//$'\n'/ }
	find_open
	for address in $batch; do
		bind_one "$address"
		count=$((count + 1))
	done
	[ $count -gt 0 ] || say "no NVMe device to bind"
	allocate_pages
	[ $count = 0 ] || memlock_note
}

reset_one() {
	local driver override users
	driver=$(driver_of "$1")
	override=$(value "$pci/devices/$1/driver_override")
	case $driver:$override in
	nvme: | 'nvme:(null)') return ;;
	esac
	users=$(users_of "$1")
	if [ "$driver" != nvme ] && [ -n "$users" ]; then
		complain "$1: left with $driver, it is in use: $(in_words "$users")"
	elif [ "$driver" = nvme ]; then
		store "" "$pci/devices/$1/driver_override"
	elif hand_over "$1" ""; then
		say "$1: ${driver:-no driver} -> nvme"
	else
		complain "$1: the kernel's nvme did not take it (dmesg may tell why); is the module loaded?"
	fi
}

reset() {
	local address
	need_root
	check_explicit
	[ -e "$pci/drivers/nvme" ] || modprobe nvme 2>/dev/null
	find_open
	for address in $(chosen); do
		reset_one "$address"
	done
	[ -n "$explicit" ] || restore_pages
}

status_pages() {
	local node folder found=
	say "Huge pages"
	printf '%-5s %-9s %9s %9s\n' Node Size Free Total
	for node in "$SYSFS"/devices/system/node/node+([0-9]); do
		for folder in "$node"/hugepages/hugepages-*kB; do
			found=1
			printf '%-5s %-9s %9s %9s\n' "${node##*node}" "${folder##*-}" \
				"$(value "$folder/free_hugepages" 0)" "$(value "$folder/nr_hugepages" 0)"
		done
	done
	[ -z "$found" ] || return
	for folder in "$SYSFS"/kernel/mm/hugepages/hugepages-*kB; do
		printf '%-5s %-9s %9s %9s\n' - "${folder##*-}" "$(value "$folder/free_hugepages" 0)" \
			"$(value "$folder/nr_hugepages" 0)"
	done
}

status() {
	local address device names users vendor id format='%-12s %-6s %-6s %-4s %-10s %-11s %-15s %s\n'
	check_explicit
	find_open
	status_pages
	say ""
	say "NVMe devices"
	# shellcheck disable=SC2059
	printf "$format" Address Vendor Device NUMA Driver "IOMMU group" "Block devices" "In use"
	for address in $(chosen); do
		device=$pci/devices/$address
		names=$(namespaces "$address")
		users=$(users_of "$address")
		vendor=$(value "$device/vendor" -) id=$(value "$device/device" -)
		# shellcheck disable=SC2059
		printf "$format" "$address" "${vendor#0x}" "${id#0x}" "$(value "$device/numa_node" -)" \
			"$(driver_of "$address" || say -)" "$(group_of "$address" || say -)" \
			"${names:+${names//$'\n'/ }}" "$(in_words "$users")"
	done
	for address in "$SYSFS"/kernel/iommu_groups/*; do
		return
	done
	say "There is no IOMMU at work: vfio-pci cannot be used (see $me config)."
}

for name in HUGEPGSZ HUGE_EVEN_ALLOC CLEAR_HUGE SHRINK_HUGE UNBIND_ENTIRE_IOMMU_GROUP; do
	[ -z "${!name-}" ] || say "$me: $name, which SPDK's has, is not known here and changes nothing" >&2
done
command=config
case ${1-} in
'') shift $# ;;
*:*) ;; # an address: as with config
*) command=$1 && shift ;;
esac
explicit=$(full_addresses "$*") || exit 1
[ "$PCI_ALLOWED" = none ] || PCI_ALLOWED=$(full_addresses "$PCI_ALLOWED") || exit 1
PCI_BLOCKED=$(full_addresses "$PCI_BLOCKED") || exit 1
case $command in
config | bind) config ;;
reset | status) $command ;;
help | -h | --help) sed -n '3,/^set -u/s/^# \{0,1\}//p' "$0" ;;
*) die "unknown command '$command' (see $me help)" ;;
esac
[ $failures = 0 ]
