#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Namespaces of the kernel's NVMe driver by passthrough: what is written through NBD is read back through
# NBD and by the kernel's own disk; blocks of 512 and 4096 bytes; flushes, FUA, zeroes, trims; kill -9 under
# load, and a restart; what is refused. usage: nvme_pass.sh polled|interrupts. With poll queues no interrupt is taken for data. The
# third controller's format has metadata, the fourth is mounted.
. /vm/guest.sh

mode=$1
# unwanted WORDS PATH: attaching it is refused in these words
unwanted() {
	says "$1" bdev_nvme_attach_controller "$(attach X "$2")"
}

# Odd places and lengths, FUA, zeroes and holes, behind what copies() has written.
commands() {
	check "$1: every command" qemu_io "$1" -c 'write -P 0x5a 9000003 70001' \
		-c 'write -f -P 0xa5 10M 4k' -c 'write -P 0x33 12M 2M' -c 'write -z 12M 512k' \
		-c 'write -zu 13M 64k' -c 'write -fzu 13M 4k' -c 'discard 11M 512k' -c flush \
		-c 'read -P 0x5a 9000003 70001' -c 'read -P 0xa5 10M 4k' -c 'read -P 0 12M 512k' \
		-c 'read -P 0 13M 64k' -c "read -P 0x33 $((13 * 1048576 + 65536)) 900k"
}

# the device's queues' interrupts, but those of the admin queue
interrupts() {
	awk '/nvme[01]q[1-9]/ { for (i = 2; i <= 3; i++) sum += $i } END { print sum + 0 }' /proc/interrupts
}

# what the kernel's own disk holds; direct: not what its page cache remembers
kernel_sees() {
	dd if="$1" of=/tmp/seen bs=1M count=16 iflag=direct 2>/dev/null
	check "$1 holds what was written through NBD" cmp -n 8388608 /tmp/image /tmp/seen
	check "$1: with FUA" cmp -n 4096 -i 10485760:0 /tmp/seen /tmp/fua
	check "$1: zeroes" cmp -n 524288 -i 12582912:0 /tmp/seen /dev/zero
	rm -f /tmp/seen
}

idle_ticks() {
	set -- $(cut -d ' ' -f 14,15 /proc/$server/stat)
	idle_before=$(($1 + $2))
	sleep 2
	set -- $(cut -d ' ' -f 14,15 /proc/$server/stat)
	[ $(($1 + $2 - idle_before)) -lt 20 ] || { echo "$idle_before, then $1 $2"; return 1; }
}

need "disks appear" until_true 60 test -c /dev/ng0n1 -a -c /dev/ng1n1 -a -b /dev/nvme0n1
dd if=/dev/urandom of=/tmp/image bs=1M count=8 2>/dev/null
head -c 4096 /dev/zero | tr '\0' '\245' >/tmp/fua

# ---- What is refused, and in which words ----
if [ "$mode" = polled ]; then
	need "pollux starts" serve --cores 0 null:1M
	check "no such device" unwanted 'there is no /dev/ng9n1' /dev/ng9n1
	check "not NVMe" unwanted 'no NVMe namespace' /dev/null
	check "a controller, no namespace" unwanted 'no NVMe namespace' /dev/nvme0
	check "a format with metadata" unwanted 'LBA format [0-9]*, blocks of 512 bytes with 8 bytes of metadata' \
		/dev/ng2n1
	mkfs.ext4 -q /dev/nvme1n1
	mount -t ext4 /dev/nvme1n1 /mnt
	check "a disk that is mounted" unwanted 'mounted or in use' /dev/ng1n1
	umount /mnt
	check "not mounted any more" works bdev_nvme_attach_controller "$(attach Nvme7 /dev/nvme1n1)"
	refuses "nobody mounts it meanwhile" mount -t ext4 /dev/nvme1n1 /mnt
	check "its health" tells temperature_celsius bdev_nvme_get_controller_health_info \
		'{"name":"Nvme7"}'
	check "detached" works bdev_nvme_detach_controller '{"name":"Nvme7"}'
	check "it can be mounted again" mount -t ext4 /dev/nvme1n1 /mnt
	umount /mnt
	stop "refusals"
	check "metadata: no way around, but the one that is named" refused \
		'metadata, which is not served: .*; or leave it to .*: file:/dev/nvme2n1' nvme:/dev/ng2n1
	need "metadata: the block layer's way" serve --cores 0 kernels=file:/dev/nvme2n1
	check "metadata: which serves right data" verified kernels --bs 4k --requests 200 --size 4M
	stop "metadata"
fi

# ---- Without an IOMMU ----
if [ "$mode" = interrupts ]; then
	metadata=$(address pollux2)
	modprobe vfio-pci
	refuses "vfio-pci does not take a device" give "$metadata" vfio-pci
	need "pollux starts" serve --cores 0 null:1M
	check "there is no IOMMU" says 'there is no IOMMU.*intel_iommu=on' bdev_nvme_attach_controller \
		"$(attach X "$metadata")"
	stop "no IOMMU"
fi

# ---- Data ----
need "pollux starts" serve --cores 0-1 small=nvme:/dev/ng0n1 large=nvme:/dev/nvme1n1
for disk in small large; do
	copies $disk
done
# READs and WRITEs, no flushes
before=$(interrupts)
for disk in small large; do
	check "$disk: verified" verified $disk --bs 4k --requests 300 --iodepth 16 --offset 14M --size 2M
	check "$disk: verified, large" verified $disk --bs 1M --requests 6 --iodepth 2 --offset 14M --size 2M
done
after=$(interrupts)
if [ "$mode" = polled ]; then
	check "polled, it says" tells '"polled":true' bdev_nvme_get_controllers
	check "no interrupt is taken for data" test "$after" = "$before"
	check "it warns of Linux 6.1" grep 'ng0n1: this kernel may crash.*poll_queues=0' /tmp/pollux.log
else
	check "by interrupts, it says" tells '"polled":false' bdev_nvme_get_controllers
	check "interrupts count" more "$before" "$after"
fi
commands small
commands large
sums small 25165824
sums large 25165824
check "no error was counted" tells '"generic":0' bdev_get_iostat '{"name":"Nvme0n1"}'
check "an idle target sleeps: under 0.2 s in 2" idle_ticks
if [ "$mode" = polled ]; then
	lengths small 20971520 512 524288
	lengths large 20971520 4096 131072
fi
# Linux 6.1 follows a wrong pointer when polled commands are in flight at a process's end: without load, then
if [ "$mode" = polled ]; then
	kill -9 $server
	wait $server
else
	check "kill -9 under load" killed small 18874368
fi
need "after kill -9: pollux starts" serve --cores 0-1 small=nvme:/dev/ng0n1 large=nvme:/dev/nvme1n1
check "after kill -9: verified" verified small --bs 4k --requests 100 --offset 14M --size 2M
if [ "$mode" = interrupts ]; then
	check "after kill -9: copy out" nbdcopy "$(uri small)" /tmp/back
	check "after kill -9: what was acknowledged is there" acknowledged /tmp/back 18874368
	rm -f /tmp/back
fi
stop data
if [ "$mode" = interrupts ]; then
	check "/dev/nvme0n1 holds what was acknowledged" acknowledged /dev/nvme0n1 18874368
fi
kernel_sees /dev/nvme0n1
kernel_sees /dev/nvme1n1
sums_lasting small 25165824 /dev/nvme0n1
sums_lasting large 25165824 /dev/nvme1n1
if [ "$mode" = polled ]; then
	lasting small 20971520 /dev/nvme0n1
	lasting large 20971520 /dev/nvme1n1
fi

# ---- Without passthrough: the block device, polled where there are queues for that ----
rm /dev/ng0n1
dd if=/dev/urandom of=/tmp/image bs=1M count=8 2>/dev/null
need "without /dev/ng0n1 pollux starts" serve --cores 0 small=nvme:/dev/ng0n1 large=nvme:/dev/ng1n1
case $mode in
	polled) way='with O_DIRECT, polled' ;;
	*) way='with O_DIRECT, by interrupts' ;;
esac
check "the log tells which way was taken" grep \
	"there is no /dev/ng0n1.*; /dev/nvme0n1 is served through the block layer, $way" /tmp/pollux.log
copies small
before=$(interrupts)
check "block device: verified" verified small --bs 4k --requests 300 --iodepth 16 --offset 14M --size 2M
after=$(interrupts)
if [ "$mode" = polled ]; then
	check "block device: no interrupt is taken for data" test "$after" = "$before"
else
	check "block device: interrupts count" more "$before" "$after"
fi
check "block device: verified, large" verified small --bs 1M --requests 6 --iodepth 2 --offset 14M --size 2M
commands small
stop "block device"
kernel_sees /dev/nvme0n1
need "pollux starts once more" serve --cores 0 small=nvme:/dev/nvme0n1
check "no character device: /dev/nvme0n1 leads there, too" tells '"polled":true\|"polled":false' bdev_get_bdevs
pollux-perf "$(uri small)" --rw randread --quiet --time 60 >/tmp/perf.log 2>&1 &
load=$!
sleep 1
check "the device goes away under load" timeout 60 sh -c 'echo 1 >/sys/class/nvme/nvme0/device/remove'
wait $load
check "its clients are told" test $? != 0
check "pollux lives" works rpc_get_methods
stop removal
check "the kernel has nothing to complain of" not sh -c 'dmesg | grep -i "nvme.*\(error\|timeout\)"'

check "no sanitizer has a complaint" no_sanitizer
conclude
