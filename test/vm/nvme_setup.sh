#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# scripts/setup.sh with real devices: what it lists, whom it refuses to take a device from, vfio-pci and
# back. The guest has two NVMe controllers, the second with two namespaces, an IOMMU, two NUMA nodes.
. /vm/guest.sh

address_of() {
	basename "$(readlink -f "/sys/block/$1/device/device")"
}

driver_of() {
	basename "$(readlink "/sys/bus/pci/devices/$1/driver")"
}

# says WORDS COMMAND...: it succeeds, and its output has them
says() {
	words=$1
	shift
	"$@" >/tmp/says.log 2>&1 || { cat /tmp/says.log; return 1; }
	cat /tmp/says.log
	grep -qF -e "$words" /tmp/says.log
}

# denies WORDS COMMAND...: it fails, and its output has them
denies() {
	words=$1
	shift
	! "$@" >/tmp/says.log 2>&1 || { cat /tmp/says.log; return 1; }
	cat /tmp/says.log
	grep -qF -e "$words" /tmp/says.log
}

# refused WHAT WORDS: it is left where it is, and said why
refused() {
	check "$1: refused" denies "$first: left with nvme, it is in use: $2" setup.sh bind "$first"
	check "$1: still with nvme" test "$(driver_of "$first")" = nvme
}

pages() {
	cat "/sys/devices/system/node/node$1/hugepages/hugepages-2048kB/nr_hugepages"
}

status() {
	group=$(basename "$(readlink "/sys/bus/pci/devices/$first/iommu_group")")
	check "status: runs" setup.sh status
	setup.sh status | tr -s ' ' >/tmp/status
	check "status: the first controller" grep -x "$first 1b36 0010 -1 nvme $group nvme0n1 \?" /tmp/status
	check "status: the second has two namespaces" grep "^$second .* nvme1n1 nvme1n2 \?$" /tmp/status
	check "status: huge pages of both nodes" test "$(grep -c '^[01] 2048kB 0 0' /tmp/status)" = 2
}

in_use() {
	mkfs.ext4 -q /dev/nvme0n1
	mount -t ext4 /dev/nvme0n1 /mnt
	echo "what was there" >/mnt/file
	refused mounted "nvme0n1 is mounted on /mnt"
	check "status tells" says "nvme0n1 is mounted on /mnt" setup.sh status
	# nobody is named: the used one is left out, the other is bound
	check "the machine's own disk is no failure" says "nvme0n1 is mounted on /mnt" setup.sh
	check "the other one is bound" test "$(driver_of "$second")" = vfio-pci
	check "and is back" setup.sh reset "$second"
	umount /mnt

	unshare -m --propagation private sh -c 'mount -t ext4 /dev/nvme0n1 /mnt && exec sleep 1000' &
	elsewhere=$!
	until_true 20 grep -q nvme0n1 /proc/$elsewhere/mountinfo
	refused "mounted elsewhere" "nvme0n1 is claimed by the kernel or by a program"
	kill $elsewhere
	wait $elsewhere
	until_true 20 mount -t ext4 /dev/nvme0n1 /mnt
	umount /mnt

	exec 9</dev/nvme0n1
	refused open "/dev/nvme0n1 is open in"
	exec 9<&-
	exec 9</dev/ng0n1
	refused "open for passthrough" "/dev/ng0n1 is open in"
	exec 9<&-

	modprobe loop
	losetup /dev/loop0 /dev/nvme0n1
	refused "behind a loop device" "nvme0n1 is behind a loop device"
	losetup -d /dev/loop0

	dd if=/dev/nvme0n1 of=/tmp/before bs=1M count=64 2>/dev/null
	mkswap /dev/nvme1n2 >/dev/null
	swapon /dev/nvme1n2
	check "swap: refused" denies "$second: left with nvme, it is in use: nvme1n2 is swapped on" \
		setup.sh config "$second"
	check "swap: still with nvme" test "$(driver_of "$second")" = nvme
	swapoff /dev/nvme1n2
}

bind() {
	check "an ordinary user is told" denies "run it as root" setpriv --reuid user --regid user \
		--clear-groups env PATH="$PATH" setup.sh bind
	check "data on it, not named" says "$first: left with nvme, there is data on it (ext4)" setup.sh bind
	check "data, not named: still with nvme" test "$(driver_of "$first") $(driver_of "$second")" = "nvme nvme"
	check "bind" says "$first: nvme -> vfio-pci" env HUGEMEM=16 HUGENODE=0,1 TARGET_USER=user \
		setup.sh bind "$first" "$second"
	check "it is with vfio-pci" test "$(driver_of "$first")" = vfio-pci
	check "so is the other" test "$(driver_of "$second")" = vfio-pci
	check "no block device is left" not test -e /sys/block/nvme0n1
	check "the group is the user's" test "$(stat -c %U "/dev/vfio/$group")" = user
	check "huge pages on both nodes" test "$(pages 0) $(pages 1)" = "8 8"
	check "once more" says "is with vfio-pci already" setup.sh bind "$first"
	check "status: the driver" says vfio-pci setup.sh status "$first"
}

reset() {
	exec 9<>"/dev/vfio/$group"
	check "served: not given back" denies "/dev/vfio/$group is open in" setup.sh reset "$first"
	check "served: still with vfio-pci" test "$(driver_of "$first")" = vfio-pci
	exec 9<&-
	check "reset of one" says "$first: vfio-pci -> nvme" setup.sh reset "${first#0000:}"
	check "the other stays" test "$(driver_of "$second")" = vfio-pci
	check "huge pages stay" test "$(pages 0)" = 8
	check "back as a block device" until_true 20 test -b /dev/nvme0n1
	check "with its contents" cmp -n 67108864 /tmp/before /dev/nvme0n1
	check "that can be mounted" mount -t ext4 /dev/nvme0n1 /mnt
	check "the file is there" grep "what was there" /mnt/file
	umount /mnt
	check "reset of all" says "$second: vfio-pci -> nvme" setup.sh reset
	check "both namespaces are back" until_true 20 test -b /dev/nvme1n1 -a -b /dev/nvme1n2
	check "huge pages are given back" test "$(pages 0) $(pages 1)" = "0 0"
	check "more huge pages than there is memory" denies "MiB that are available" env HUGEMEM=4096 setup.sh bind "$first"
	check "and back again" setup.sh reset
	check "none are left" test "$(pages 0) $(pages 1)" = "0 0"
}

export HUGEMEM=0
first=$(address_of nvme0n1)
second=$(address_of nvme1n1)
status
in_use
bind
reset
conclude
