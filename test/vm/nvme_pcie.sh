#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Pollux drives emulated NVMe controllers from user space: what is written through NBD is read back through
# NBD and by the kernel's own driver, at each length and edge, with PRPs and SGLs; blocks of 512 and 4096
# bytes, two namespaces, two controllers; what is refused; kill -9 under load, and a restart. The guest has three
# controllers: one of 512 bytes a block and two namespaces, one of 4096 bytes, one with metadata.
. /vm/guest.sh

# Odd places and lengths, FUA, zeroes and holes at the end of the disk, which nothing else uses.
commands() {
	check "$1: every command" qemu_io "$1" -c 'write -P 0x5a 33000003 70001' \
		-c 'write -f -P 0xa5 34M 4k' -c 'write -P 0x33 36M 2M' -c 'write -z 36M 1M' \
		-c 'write -zu 37M 64k' -c 'discard 38M 1M' -c 'write -fzu 37M 4k' -c flush \
		-c 'read -P 0x5a 33000003 70001' -c 'read -P 0xa5 34M 4k' -c 'read -P 0 36M 1M' \
		-c 'read -P 0 37M 64k' -c "read -P 0x33 $((37 * 1048576 + 65536)) 900k"
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

# no_interrupts ADDRESS...: none is counted, none is set up
no_interrupts() {
	! grep vfio /proc/interrupts || return 1
	for device in "$@"; do
		[ -z "$(ls "/sys/bus/pci/devices/$device/msi_irqs" 2>/dev/null)" ] || return 1
	done
}

# enters EXPORT: how many system calls the reactor makes for 500 READs, one after the other, says the kernel
enters() {
	calls=/sys/kernel/tracing/events/raw_syscalls/sys_enter
	[ -e $calls ] || mount -t tracefs tracefs /sys/kernel/tracing
	for thread in /proc/$server/task/*; do
		! grep -q rte-worker "$thread/comm" || break
	done
	hist="hist:keys=common_pid if common_pid == ${thread##*/}"
	echo "$hist" >$calls/trigger
	pollux-perf "$(uri "$1")" --rw randread --bs 4k --iodepth 1 --requests 500 --size 4M --quiet >&2 || return 1
	sed -n 's/^ *Hits: *//p' $calls/hist
	echo "!$hist" >$calls/trigger
}

# enters_no_more EXPORT THAN: a twentieth is for what the watch costs
enters_no_more() {
	enters_one=$(enters "$1") && enters_than=$(enters "$2") || return 1
	echo "$1: $enters_one, $2: $enters_than"
	[ "$enters_one" -ge 500 ] && [ $((enters_one * 20)) -le $((enters_than * 21)) ]
}

# by_pages: two exports without SGLs
by_pages() {
	works bdev_nvme_set_options '{"sgl":false,"timeout_us":40000000,"action_on_timeout":"reset"}' &&
		works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")" &&
		works bdev_nvme_attach_controller "$(attach Nvme1 "$pci1")" &&
		tells '"sgl":false.*"sgl":false' bdev_nvme_get_controllers &&
		works export_create '{"name":"pages","bdev":"Nvme0n1"}' &&
		works export_create '{"name":"large-pages","bdev":"Nvme1n1"}'
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
pci2=$(address pollux2)
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
for address in $pci0 $pci1 $pci2; do
	need "$address goes to vfio-pci" give "$address" vfio-pci
done
check "attached" works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")"
check "twice" says 'attached already' bdev_nvme_attach_controller "$(attach Nvme1 "$pci0")"
check "twice, spelt otherwise" says 'attached already' bdev_nvme_attach_controller \
	"$(attach Nvme1 "${pci0#000}")"
check "listed" tells Nvme0n2 bdev_nvme_get_controllers
check "a format with metadata" says 'metadata' bdev_nvme_attach_controller "$(attach x "$pci2")"
check "its health, whole" tells "model_number.*\"traddr\": *\"$pci0\".*num_err_log.*critical_composite_temp" \
	bdev_nvme_get_controller_health_info '{"name":"Nvme0"}'
check "detach: it is not there" says "is at $pci0" bdev_nvme_detach_controller \
	'{"name":"Nvme0","trtype":"PCIe","traddr":"0000:77:00.0"}'
check "detach: not in this way" says 'is attached by PCIe' bdev_nvme_detach_controller \
	'{"name":"Nvme0","trtype":"passthrough"}'
check "detached" works bdev_nvme_detach_controller \
	"{\"name\":\"Nvme0\",\"trtype\":\"pcie\",\"traddr\":\"${pci0#0000:}\"}"
check "attached again" works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")"
check "its namespaces are looked at" rescanned
stop "attached"
check "a namespace that is not there" refused 'has no namespace 7' "nvme:$pci0/n7"
check "one of several" refused 'has several namespaces: say which one' "nvme:$pci0"
check "no permission" refused_user 'no permission to open /dev/vfio/' unlimited "nvme:$pci0/n1"
chown user "/dev/vfio/$(basename "$(readlink "/sys/bus/pci/devices/$pci0/iommu_group")")"
check "no memory may be locked" refused_user 'RLIMIT_MEMLOCK.*ulimit -l' 8192 "nvme:$pci0/n1"

# ---- Data ----
echo 1 >"/sys/bus/pci/devices/$pci1/numa_node" # the firmware tells of no node
need "pollux starts, adaptive" serve "one=nvme:$pci0/n1" "two=nvme:$pci0/n2" "large=nvme:$pci1/n1"
check "its queues' node is the device's" tells '"numa_id":1,' bdev_nvme_get_controllers
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
check "kill -9 under load" killed one 16777216
need "after kill -9: pollux starts, polling" serve --poll --cores 0 "one=nvme:$pci0/n1" \
	"large=nvme:$pci1/n1" null=null:64M
rm -f /tmp/back
check "after kill -9: copy out" nbdcopy "$(uri one)" /tmp/back
check "after kill -9: the same" cmp -n 8388608 /tmp/image /tmp/back
check "after kill -9: what was acknowledged is there" acknowledged /tmp/back 16777216
rm -f /tmp/back
check "polling: verified" verified one --bs 8k --requests 300 --offset 16M --size 4M
check "a lone READ enters the kernel no more often than one of null" enters_no_more one null
check "payloads by lists" tells '"sgl":true.*"sgl":true' bdev_nvme_get_controllers
lengths one 50331648 512 131072
lengths large 50331648 4096 524288
sums one 58720256
sums large 58720256
stop polling
need "pollux starts without controllers" serve --cores 0 null:1M
need "payloads by pages" by_pages
lengths pages 54525952 512 131072
lengths large-pages 54525952 4096 524288
stop "by pages"

# ---- The kernel's view ----
need "the kernel has them back" give "$pci0" nvme
need "and the other" give "$pci1" nvme
need "disks appear" until_true 60 test -e /dev/nvme0n1 -a -e /dev/nvme0n2 -a -e /dev/nvme1n1
for disk in nvme0n1 nvme1n1; do
	check "$disk holds what was written through NBD" cmp -n 8388608 /tmp/image /dev/$disk
	check "$disk: its zeroes" cmp -n 1048576 -i 37748736:0 /dev/$disk /dev/zero
done
lasting one 50331648 /dev/nvme0n1
lasting large 50331648 /dev/nvme1n1
lasting pages 54525952 /dev/nvme0n1
lasting large-pages 54525952 /dev/nvme1n1
sums_lasting one 58720256 /dev/nvme0n1
sums_lasting large 58720256 /dev/nvme1n1

check "the IOMMU has nothing to complain of" no_dma_fault
check "no sanitizer has a complaint" no_sanitizer
conclude
