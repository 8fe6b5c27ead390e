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

# uptime: whole seconds
uptime() {
	read -r uptime _ </proc/uptime
	echo "${uptime%%.*}"
}

# until_true SECONDS COMMAND...: tries until it succeeds, at least ten times
until_true() {
	until_end=$(($(uptime) + $1))
	until_tries=10
	shift
	until "$@" >/dev/null 2>&1; do
		until_tries=$((until_tries - 1))
		[ $until_tries -gt 0 ] || [ "$(uptime)" -le $until_end ] || return 1
		sleep 0.2
	done
}

# more BEFORE AFTER: the counter has risen
more() {
	[ "$2" -gt "$1" ] || { echo "$1, then $2"; return 1; }
}

# monitor COMMAND: to QEMU's own monitor (run --monitor)
monitor() {
	stty raw -echo </dev/ttyS3
	printf '\n%s\n' "$1" >/dev/ttyS3 # what was echoed before ends with the first
}

# nvme_of SERIAL [CNTLID]: the controller's name, of those that the kernel has
nvme_of() {
	for nvme_of in /sys/class/nvme/*; do
		grep -qx "$1 *" "$nvme_of/serial" && grep -qx "${2:-0}" "$nvme_of/cntlid" || continue
		basename "$nvme_of"
		return 0
	done
	return 1
}

# address SERIAL: of the NVMe controller
address() {
	basename "$(readlink -f "/sys/class/nvme/$(nvme_of "$1")/device")"
}

# give ADDRESS DRIVER: a PCI device changes hands
give() {
	echo "$2" >"/sys/bus/pci/devices/$1/driver_override"
	[ ! -e "/sys/bus/pci/devices/$1/driver" ] || echo "$1" >"/sys/bus/pci/devices/$1/driver/unbind"
	echo "$1" >/sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink "/sys/bus/pci/devices/$1/driver")")" = "$2" ]
}

# ---- A target, its RPCs and its clients; a script that needs it otherwise defines its own ----
sock=/tmp/nbd.sock
rpc_sock=/tmp/rpc.sock

# serve OPTIONS AND SPECS; by $as another user
as=
serve() {
	rm -f $sock $rpc_sock
	$as pollux --memory 32M -r $rpc_sock -l unix://$sock "$@" >>/tmp/pollux.log 2>&1 &
	server=$!
	until_true 60 test -S $rpc_sock && until_true 60 test -S $sock
}

# announce WORDS: when $server has logged them the host is told, and its end is waited for
announce() {
	until_true 100 eval "grep -q '$1' /tmp/pollux.log || ! kill -0 $server"
	grep -q "$1" /tmp/pollux.log || {
		cat /tmp/pollux.log
		exit 1
	}
	echo ready
	wait $server
	cat /tmp/pollux.log
}

# stop NAME
stop() {
	kill $server
	wait $server
	check "$1: pollux ends with status 0" test $? = 0
}

uri() {
	echo "nbd+unix:///$1?socket=$sock"
}

# rpc METHOD [PARAMS]
rpc() {
	rpc_params=${2:-}
	[ -z "$rpc_params" ] || rpc_params=",\"params\":$rpc_params"
	echo "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\"$rpc_params}" |
		socat -t 60 - UNIX-CONNECT:$rpc_sock
}

# works METHOD [PARAMS]: it is answered without an error
works() {
	rpc "$@" >/tmp/answer
	cat /tmp/answer
	grep -q '"result"' /tmp/answer
}

# tells WORDS METHOD [PARAMS]: it works, with these words in the answer
tells() {
	words=$1
	shift
	works "$@" && grep -q "$words" /tmp/answer
}

# says WORDS METHOD [PARAMS]: it is refused in these words
says() {
	words=$1
	shift
	rpc "$@" >/tmp/answer
	cat /tmp/answer
	grep '"error"' /tmp/answer | grep -q "$words"
}

# qemu_io EXPORT OPTIONS: which may end well though a pattern differs
qemu_io() {
	disk=$1
	shift
	qemu-io -f raw "$@" "$(uri "$disk")" >/tmp/qemu-io.log 2>&1 || { cat /tmp/qemu-io.log; return 1; }
	cat /tmp/qemu-io.log
	! grep -i 'failed\|error' /tmp/qemu-io.log
}

# verified EXPORT OPTIONS: the pollux-perf run ends well, and has found no wrong data
verified() {
	disk=$1
	shift
	pollux-perf "$(uri "$disk")" --rw randrw --verify --quiet "$@"
}

# copies EXPORT: the 8 MiB of /tmp/image go there and come back
copies() {
	check "$1: copy in" nbdcopy --flush /tmp/image "$(uri "$1")"
	rm -f /tmp/back
	check "$1: copy out" nbdcopy "$(uri "$1")" /tmp/back
	check "$1: the same" cmp -n 8388608 /tmp/image /tmp/back
	rm -f /tmp/back
}

# attach NAME ADDRESS: what bdev_nvme_attach_controller is given
attach() {
	case $2 in
	/*) attach=passthrough ;;
	*) attach=PCIe ;;
	esac
	echo "{\"name\":\"$1\",\"trtype\":\"$attach\",\"traddr\":\"$2\"}"
}

# gone NAME: no bdev is called so
gone() {
	works bdev_get_bdevs && ! grep -q "$1" /tmp/answer
}

# lengths EXPORT OFFSET BLOCK MDTS: nvme-lengths; all in bytes. lasting() compares what it has left
lengths() {
	check "$1: every length and edge" nvme-lengths $sock "$1" "$2" "$3" "$4" "/tmp/lengths.$1"
}

# lasting EXPORT OFFSET DISK: the kernel's driver reads the same
lasting() {
	dd if="$3" of=/tmp/seen bs=1M skip=$(($2 / 1048576)) count=4 iflag=direct 2>/dev/null
	check "$1: every length and edge, seen by the kernel" cmp "/tmp/lengths.$1" /tmp/seen
	rm -f /tmp/seen
}

# sums EXPORT OFFSET: 4 MiB with checksums go there and come back. sums_lasting() looks at them again
sums() {
	check "$1: fio, verified" fio --name=sums --ioengine=nbd --uri="$(uri "$1")" --iodepth=16 \
		--rw=randwrite --bs=16k --offset="$2" --size=4M --verify=crc32c --verify_fatal=1
}

# sums_lasting EXPORT OFFSET DISK: the kernel's driver reads the same
sums_lasting() {
	check "$1: fio, verified by the kernel" fio --name=sums --ioengine=psync --filename="$3" --direct=1 \
		--rw=randwrite --bs=16k --offset="$2" --size=4M --verify=crc32c --verify_fatal=1 --verify_only
}

# is_loaded EXPORT: some requests have been answered
is_loaded() {
	tells '"requests":[0-9]\{3\}' connection_get_connections "{\"export\":\"$1\"}"
}

# load EXPORT [OPTIONS]: requests until load_ends(); returns when some have been answered
load() {
	load_of=$1
	shift
	[ $# -gt 0 ] || set -- --rw randrw
	pollux-perf "$(uri "$load_of")" --iodepth 16 --quiet --time 200 "$@" >/tmp/load.log 2>&1 &
	load=$!
	until_true 60 is_loaded "$load_of"
}

# load_ends: within a minute, since the target has told it of an error
load_ends() {
	until_true 60 not kill -0 "$load" || { kill "$load"; return 1; }
	cat /tmp/load.log
	wait "$load"
	[ $? = 2 ]
}

# killed EXPORT OFFSET: kill -9 of the target while a client writes there; what that was told it remembers
killed() {
	rm -f /tmp/acked
	nvme-acked write $sock "$1" "$2" /tmp/acked >/tmp/load.log 2>&1 &
	load=$!
	until_true 60 is_loaded "$1" || return 1
	kill -9 $server
	wait $server
	wait $load
	killed=$?
	cat /tmp/load.log
	return $killed
}

# acknowledged IMAGE OFFSET: that is there, in a disk or a copy of one
acknowledged() {
	nvme-acked check "$1" "$2" /tmp/acked
}

# unharmed: the verified load beside has gone on; it ends
unharmed() {
	kill $beside
	wait $beside
	unharmed=$?
	cat /tmp/beside.log
	[ $unharmed = 0 ]
}

# under_load EXPORT OTHER WHAT COMMAND...: happens while there is load on both; the export's client is
# told, the other one's has right data
under_load() {
	under_load_of=$1
	under_load_other=$2
	under_load=$3
	shift 2
	check "$under_load_of is under load" load "$under_load_of"
	pollux-perf "$(uri "$under_load_other")" --rw randrw --verify --quiet --iodepth 4 --size 1M --time 200 \
		>/tmp/beside.log 2>&1 &
	beside=$!
	until_true 60 is_loaded "$under_load_other"
	check "$@"
	check "$under_load: the client is told" load_ends
	check "$under_load: $under_load_other goes on" unharmed
}

# goes_on EXPORT: right data, to the last request
goes_on() {
	check "$1 goes on" verified "$1" --bs 4k --requests 100 --size 8M
}

# exports_again EXPORT BDEV: what is there again has a new bdev, which works
exports_again() {
	check "$2 is there again" until_true 30 tells "\"$2\"" bdev_get_bdevs
	check "$1 is exported again" works export_create "{\"name\":\"$1\",\"bdev\":\"$2\"}"
	goes_on "$1"
}

# refused WORDS SPEC: pollux does not start with it, and says why
refused() {
	$as timeout 60 pollux --memory 32M -r none -l unix:///tmp/refused.sock --cores 0 "$2" \
		>/tmp/answer 2>&1 && return 1
	cat /tmp/answer
	grep -q "$1" /tmp/answer
}

as_user='setpriv --reuid user --regid user --clear-groups'
# refused_user WORDS LIMIT SPEC: an ordinary user, with so much memory that may be locked, is told why not
refused_user() {
	(
		ulimit -l "$2"
		as=$as_user
		refused "$1" "$3"
	)
}

# ---- The end ----

# no_sanitizer: has complained
no_sanitizer() {
	! grep 'ERROR: .*Sanitizer\|runtime error' /tmp/pollux.log
}

# no_dma_fault: no device has reached for memory that the IOMMU does not give it
no_dma_fault() {
	! dmesg | grep -i 'dmar.*fault\|DMAR:.*PTE'
}

# conclude: ends the script; after a failure the log of the target follows
conclude() {
	[ $failures != 0 ] || exit 0
	! [ -e /tmp/pollux.log ] || cat /tmp/pollux.log
	exit 1
}
