#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Pollux drives emulated NVMe controllers from user space: what is written through NBD is read back through
# NBD and by the kernel's own driver; blocks of 512 and 4096 bytes, two namespaces, two controllers; what
# is refused; a kill and a restart; the kernel taking a device back; a command that does not end. The
# guest has four controllers: one of 512 bytes a block and two namespaces, one of 4096 bytes, one with
# metadata, and one whose commands take seconds.
. /vm/guest.sh

sock=/tmp/nbd.sock
rpc_sock=/tmp/rpc.sock

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

# says WORDS METHOD [PARAMS]: it is refused in these words
says() {
	words=$1
	shift
	rpc "$@" >/tmp/answer
	cat /tmp/answer
	grep '"error"' /tmp/answer | grep -q "$words"
}

attach() {
	echo "{\"name\":\"$1\",\"trtype\":\"PCIe\",\"traddr\":\"$2\"}"
}

uri() {
	echo "nbd+unix:///$1?socket=$sock"
}

# serve OPTIONS AND SPECS
serve() {
	rm -f $sock $rpc_sock
	pollux --memory 32M -r $rpc_sock -l unix://$sock "$@" >>/tmp/pollux.log 2>&1 &
	server=$!
	until_true 60 test -S $rpc_sock && until_true 60 test -S $sock
}

stop() {
	kill $server
	wait $server
	check "$1: pollux ends with status 0" test $? = 0
}

# give ADDRESS DRIVER: changes hands
give() {
	echo "$2" >"/sys/bus/pci/devices/$1/driver_override"
	[ ! -e "/sys/bus/pci/devices/$1/driver" ] || echo "$1" >"/sys/bus/pci/devices/$1/driver/unbind"
	echo "$1" >/sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink "/sys/bus/pci/devices/$1/driver")")" = "$2" ]
}

qemu_io() {
	disk=$1
	shift
	qemu-io -f raw "$@" "$(uri "$disk")" >/tmp/qemu-io.log 2>&1 || { cat /tmp/qemu-io.log; return 1; }
	cat /tmp/qemu-io.log
	! grep -i 'failed\|error' /tmp/qemu-io.log
}

# the pollux-perf run ends well, and has found no wrong data
verified() {
	disk=$1
	shift
	pollux-perf "$(uri "$disk")" --rw randrw --verify --quiet "$@"
}

copies() {
	check "$1: copy in" nbdcopy --flush /tmp/image "$(uri "$1")"
	rm -f /tmp/back
	check "$1: copy out" nbdcopy "$(uri "$1")" /tmp/back
	check "$1: the same" cmp -n 8388608 /tmp/image /tmp/back
	rm -f /tmp/back
}

# Odd places and lengths, FUA, zeroes and holes at the end of the disk, which nothing else uses.
commands() {
	check "$1: every command" qemu_io "$1" -c 'write -P 0x5a 33000003 70001' \
		-c 'write -f -P 0xa5 34M 4k' -c 'write -P 0x33 36M 2M' -c 'write -z 36M 1M' \
		-c 'write -zu 37M 64k' -c 'discard 38M 1M' -c 'write -fzu 37M 4k' -c flush \
		-c 'read -P 0x5a 33000003 70001' -c 'read -P 0xa5 34M 4k' -c 'read -P 0 36M 1M' \
		-c 'read -P 0 37M 64k' -c "read -P 0x33 $((37 * 1048576 + 65536)) 900k"
	check "$1: 1 to 64 blocks" lengths "$1"
}

# the unit tests have each length at each place
lengths() {
	lengths_of=$1
	set --
	for n in 1 2 7 8 9 15 16 17 63 64; do
		set -- "$@" -c "write -P $n $((42000896 + n * 65536)) $((n * 512))" \
			-c "read -P $n $((42000896 + n * 65536)) $((n * 512))"
	done
	qemu_io "$lengths_of" "$@"
}

# reset_under_load DISK: what was in flight is done again, and right
reset_under_load() {
	verified "$1" --bs 16k --requests 600 --offset 16M --size 8M >/tmp/perf.log 2>&1 &
	reset_load=$!
	sleep 1
	works bdev_nvme_reset_controller '{"name":"Nvme0"}' || return 1
	wait $reset_load || { cat /tmp/perf.log; return 1; }
	rpc bdev_nvme_get_controllers '{"name":"Nvme0"}' >/tmp/answer
	cat /tmp/answer
	grep -q '"resets":1' /tmp/answer
}

# one request, which the device answers late: the client has its error before
too_slow() {
	pollux-perf "$(uri slow)" --rw read --requests 1 --iodepth 1 --quiet --timeout 60
	[ $? = 2 ]
}

# gone NAME: no bdev is called so
gone() {
	rpc bdev_get_bdevs >/tmp/answer
	grep -q '"result"' /tmp/answer && ! grep -q "$1" /tmp/answer
}

lists() {
	works "$1" && grep -q "$2" /tmp/answer
}

# no_interrupts ADDRESS...: none is counted, none is set up
no_interrupts() {
	! grep vfio /proc/interrupts || return 1
	for device in "$@"; do
		[ -z "$(ls "/sys/bus/pci/devices/$device/msi_irqs" 2>/dev/null)" ] || return 1
	done
}

no_fault() {
	dmesg | grep -i 'dmar.*fault\|DMAR:.*PTE' && return 1
	return 0
}

# address SERIAL: of the controller
address() {
	address_of=$(grep -lx "$1 *" /sys/class/nvme/*/serial)
	basename "$(readlink -f "${address_of%/serial}/device")"
}

# refused_user WORDS LIMIT: an ordinary user, with so much memory that may be locked, is told why not
refused_user() {
	(
		ulimit -l "$2"
		setpriv --reuid user --regid user --clear-groups timeout 60 pollux --memory 32M -r none \
			-l unix:///tmp/user.sock --cores 0 "nvme:$pci0/n1"
	) >/tmp/answer 2>&1 && return 1
	cat /tmp/answer
	grep -q "$1" /tmp/answer
}

# sgl_is VALUE: of the one controller
sgl_is() {
	works bdev_nvme_get_controllers && grep -q "\"sgl\":$1" /tmp/answer
}

# without SGLs: there and back over the edges of pages and of MDTS
by_pages() {
	works bdev_nvme_set_options '{"sgl":false,"timeout_us":40000000,"action_on_timeout":"reset"}' &&
		works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")" && sgl_is false &&
		works export_create '{"name":"pages","bdev":"Nvme0n1"}' &&
		qemu_io pages -c 'write -P 7 3584 1M' -c 'write -P 8 2M 4k' -c 'write -P 9 2101248 8k' \
			-c 'read -P 7 3584 1M' -c 'read -P 8 2M 4k' -c 'read -P 9 2101248 8k' &&
		works bdev_nvme_detach_controller '{"name":"Nvme0"}'
}

rescanned() {
	works bdev_nvme_rescan_controller '{"name":"Nvme0"}' && grep -q '"Nvme0n1", *"Nvme0n2"' /tmp/answer
}

# huge_pages_on NODE: of the target's memory
huge_pages_on() {
	grep ' huge ' /proc/$server/numa_maps | sed -n "s/.* N$1=\([0-9]*\).*/\1/p" |
		{ sum=0; while read -r count; do sum=$((sum + count)); done; echo $sum; }
}

pci0=$(address pollux0)
pci1=$(address pollux1)
pci2=$(address slow)
pci3=$(address pollux2)
dd if=/dev/urandom of=/tmp/image bs=1M count=8 2>/dev/null
truncate -s 64M /tmp/image

# ---- What is refused, and in which words ----
need "pollux starts" serve --cores 0 null:1M
check "no address" says 'neither a PCI address' bdev_nvme_attach_controller "$(attach x 0000-01)"
check "no such device" says 'no such PCI device' bdev_nvme_attach_controller "$(attach x 0000:77:00.0)"
check "not an NVMe controller" says 'not an NVMe controller' bdev_nvme_attach_controller \
	"$(attach x 0000:00:00.0)"
check "the kernel's" says 'belongs to the driver nvme.*scripts/setup.sh bind' \
	bdev_nvme_attach_controller "$(attach x "$pci0")"
for address in $pci0 $pci1 $pci2 $pci3; do
	need "$address goes to vfio-pci" give "$address" vfio-pci
done
check "attached" works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")"
check "twice" says 'attached already' bdev_nvme_attach_controller "$(attach Nvme1 "$pci0")"
check "listed" lists bdev_nvme_get_controllers Nvme0n2
check "a format with metadata" says 'metadata' bdev_nvme_attach_controller "$(attach x "$pci3")"
check "detached" works bdev_nvme_detach_controller '{"name":"Nvme0"}'
check "payloads by pages" by_pages
check "payloads by lists" works bdev_nvme_set_options '{"sgl":true}'
check "attached again" works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")"
check "lists are used" sgl_is true
check "its namespaces are looked at" rescanned
stop "attached"
refuses "a namespace that is not there" timeout 60 pollux -r none -l unix://$sock --cores 0 \
	"nvme:$pci0/n7"

check "no permission" refused_user 'no permission to open /dev/vfio/' unlimited
chown user "/dev/vfio/$(basename "$(readlink "/sys/bus/pci/devices/$pci0/iommu_group")")"
check "no memory may be locked" refused_user 'RLIMIT_MEMLOCK.*ulimit -l' 8192

# ---- Data ----
echo 1 >"/sys/bus/pci/devices/$pci1/numa_node" # the firmware tells of no node
need "pollux starts, adaptive" serve "one=nvme:$pci0/n1" "two=nvme:$pci0/n2" "large=nvme:$pci1/n1"
check "its queues' node is the device's" lists bdev_nvme_get_controllers '"numa_id":1,'
# a huge page for the admin queue, and one for each core
check "its queues lie there" test "$(huge_pages_on 1)" -ge 3
for disk in one two large; do
	copies $disk
done
commands one
commands large
check "two: verified" verified two --bs 4k --requests 600 --iodepth 16 --size 8M
check "large: verified, odd blocks" verified large --bs 6k --requests 200 --offset 8M --size 8M
check "no interrupt is even set up" no_interrupts "$pci0" "$pci1"
check "a reset under load" reset_under_load two
copies one
kill -9 $server
wait $server
need "after kill -9: pollux starts, polling" serve --poll --cores 0 "one=nvme:$pci0/n1" \
	"large=nvme:$pci1/n1"
rm -f /tmp/back
check "after kill -9: copy out" nbdcopy "$(uri one)" /tmp/back
check "after kill -9: the same" cmp -n 8388608 /tmp/image /tmp/back
rm -f /tmp/back
check "polling: verified" verified one --bs 8k --requests 300 --offset 16M --size 4M
stop polling

# ---- The kernel's view ----
need "the kernel has them back" give "$pci0" nvme
need "and the other" give "$pci1" nvme
need "disks appear" until_true 60 test -e /dev/nvme0n1 -a -e /dev/nvme0n2 -a -e /dev/nvme1n1
for disk in nvme0n1 nvme1n1; do
	check "$disk holds what was written through NBD" cmp -n 8388608 /tmp/image /dev/$disk
	check "$disk: its zeroes" cmp -n 1048576 -i 37748736:0 /dev/$disk /dev/zero
done

# ---- Faults ----
need "back to vfio-pci" give "$pci0" vfio-pci
need "pollux starts" serve "one=nvme:$pci0/n1"
check "the slow one" works bdev_nvme_attach_controller "$(attach Slow "$pci2")"
check "its time-out" works export_create '{"name":"slow","bdev":"Slown1","io_timeout_ms":1000}'
pollux-perf "$(uri one)" --rw randread --quiet --time 60 >/tmp/perf.log 2>&1 &
load=$!
sleep 2
check "the kernel takes a device under load" timeout 60 sh -c \
	"echo $pci0 >/sys/bus/pci/drivers/vfio-pci/unbind"
wait $load
check "its clients are told" test $? != 0
check "its bdevs are gone" until_true 20 gone Nvme0
check "a command that does not end in time is an error" too_slow
check "it was aborted" lists bdev_nvme_get_controllers '"timeouts":1'
check "the controller was reset" until_true 30 lists bdev_nvme_get_controllers \
	'"state":"live".*"resets":1'
check "pollux lives" works rpc_get_methods
stop "faults"
check "the IOMMU has nothing to complain of" no_fault
check "no sanitizer has a complaint" not grep 'ERROR: .*Sanitizer\|runtime error' /tmp/pollux.log
conclude
