#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The kernel's nbd client against Pollux, both in the guest: file systems, discards, flushes, FUA, several
# connections, and what happens when the server goes away.
. /vm/guest.sh

sock=/tmp/nbd.sock
rpc_sock=/tmp/rpc.sock

# counter BDEV NAME: of bdev_get_iostat
counter() {
	echo "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"bdev_get_iostat\",\"params\":{\"name\":\"$1\"}}" |
		socat -t 20 - UNIX-CONNECT:$rpc_sock | sed "s/.*\"$2\":\([0-9]*\).*/\1/"
}

serve() {
	truncate -s 64M /tmp/disk.img
	truncate -s 8M /mnt/real.img
	pollux --cores 0:net,1 -r $rpc_sock -l unix://$sock -l tcp://127.0.0.1:10809 \
		mem=malloc:64M file=/tmp/disk.img real=/mnt/real.img null=null:1G \
		'locked=file:/vm/script?read-only=on' >/tmp/pollux.log 2>&1 &
	server=$!
	# the sockets come one after the other
	until_true 60 test -S $rpc_sock && until_true 60 test -S $sock &&
		until_true 60 nbd-client -l 127.0.0.1
}

# attach NAME DEVICE [nbd-client options]: over the unix socket
attach() {
	export_name=$1 device=$2
	shift 2
	nbd-client -unix $sock -N "$export_name" "$@" "$device" &&
		until_true 20 test -e "/sys/block/${device#/dev/}/pid"
}

detach() {
	nbd-client -d "$1" && until_true 20 test ! -e "/sys/block/${1#/dev/}/pid"
}

# A file system on a disk: what was written is there after a remount, and fsck finds nothing.
file_system() {
	name=$1 device=$2
	need "$name: mkfs.ext4" mkfs.ext4 -q -E lazy_itable_init=0 "$device"
	mkdir -p /tmp/fs
	need "$name: mount" mount -t ext4 "$device" /tmp/fs
	dd if=/dev/urandom of=/tmp/fs/data bs=64k count=100 2>/dev/null
	need "$name: 6.4 MB are written" test "$(stat -c %s /tmp/fs/data)" = 6553600
	sum=$(sha256sum </tmp/fs/data)
	flushes=$(counter "$name" num_flush_ops)
	check "$name: sync" sync -f /tmp/fs/data
	check "$name: sync reaches the disk as a FLUSH" more "$flushes" "$(counter "$name" num_flush_ops)"
	check "$name: unmount" umount /tmp/fs
	check "$name: fsck" e2fsck -fn "$device"
	echo 3 >/proc/sys/vm/drop_caches
	mount -t ext4 "$device" /tmp/fs
	check "$name: the same after a remount" test "$(sha256sum </tmp/fs/data)" = "$sum"
	rm /tmp/fs/data
	sync
	trims=$(counter "$name" num_unmap_ops)
	check "$name: fstrim" fstrim /tmp/fs
	check "$name: fstrim arrives as TRIM" more "$trims" "$(counter "$name" num_unmap_ops)"
	umount /tmp/fs
	blkdiscard_counts "$name" "$device"
}

blkdiscard_counts() {
	trims=$(counter "$1" bytes_unmapped)
	check "$1: blkdiscard" blkdiscard -o 1M -l 8M "$2"
	check "$1: blkdiscard arrives as TRIM" test "$(counter "$1" bytes_unmapped)" = $((trims + 8388608))
	check "$1: what was discarded reads as zeroes" cmp -n 8388608 -i 1048576:0 "$2" /dev/zero
}

# What one client has written through the unix socket, others see by TCP and by the old ioctls.
tcp_and_ioctl() {
	need "TCP: attach" nbd-client -N mem 127.0.0.1 /dev/nbd3
	check "TCP: write" dd if=/usr/bin/busybox of=/dev/nbd3 bs=64k count=16 conv=fsync
	check "TCP: disconnect" detach /dev/nbd3
	need "by ioctl instead of netlink" nbd-client -L -unix $sock -N mem /dev/nbd4
	check "there is a disk" until_true 20 grep -qx 131072 /sys/block/nbd4/size
	check "with the other's data" cmp -n 1048576 /dev/nbd4 /usr/bin/busybox
	check "and it ends" detach /dev/nbd4
}

# Data goes in by several queues and is compared by another client.
several_connections() {
	need "four connections" attach mem /dev/nbd1 -C 4
	# the kernel uses no more queues than there are processors
	check "a queue for each processor" test "$(ls /sys/block/nbd1/mq | wc -l)" = "$(nproc)"
	check "they count" test "$(connections)" = 4
	dd if=/dev/urandom of=/tmp/random bs=1M count=16 2>/dev/null
	split_write() {
		for part in 0 1 2 3; do
			dd if=/tmp/random of=/dev/nbd1 bs=64k count=64 skip=$((part * 64)) \
				seek=$((part * 64)) oflag=direct conv=notrunc 2>/dev/null &
			writers="$writers $!"
		done
		for writer in $writers; do
			wait "$writer" || return 1
		done
	}
	check "four writers at once" split_write
	check "read back by the kernel" cmp -n 16777216 /tmp/random /dev/nbd1
	nbdcopy "nbd+unix:///mem?socket=$sock" /tmp/copy
	check "read back by libnbd" cmp -n 16777216 /tmp/random /tmp/copy
	rm -f /tmp/copy /tmp/random
	check "disconnect" detach /dev/nbd1
	check "all connections are gone" until_true 10 test_connections 0
}

connections() {
	echo '{"jsonrpc":"2.0","id":1,"method":"connection_get_connections"}' |
		socat -t 20 - UNIX-CONNECT:$rpc_sock | grep -o '"export":"mem"' | wc -l
}

test_connections() {
	[ "$(connections)" = "$1" ]
}

fua() {
	check "FUA is announced to the kernel" test "$(cat /sys/block/nbd0/queue/fua)" = 1
	check "a cache that must be flushed, too" \
		test "$(cat /sys/block/nbd0/queue/write_cache)" = "write back"
	mount -t tracefs tracefs /sys/kernel/tracing
	echo 1 >/sys/kernel/tracing/events/block/block_rq_issue/enable
	before=$(counter real num_write_ops)
	check "O_DIRECT and O_DSYNC: a write with FUA" \
		dd if=/vm/script of=/dev/nbd0 bs=4k count=1 oflag=direct,dsync
	echo 0 >/sys/kernel/tracing/events/block/block_rq_issue/enable
	# 43 is nbd; W, then F: a write with FUA, not one and a flush
	check "the kernel sent it as one" grep -q 'block_rq_issue: 43,0 WF' /sys/kernel/tracing/trace
	check "the write has arrived" more "$before" "$(counter real num_write_ops)"
	check "and is in the file" cmp -n 4096 /vm/script /mnt/real.img
}

read_only() {
	need "a read-only export" attach locked /dev/nbd2
	check "is a read-only disk" test "$(cat /sys/block/nbd2/ro)" = 1
	refuses "that refuses writes" dd if=/dev/zero of=/dev/nbd2 bs=512 count=1 oflag=direct
	check "and reads" cmp -n 512 /dev/nbd2 /vm/script
	detach /dev/nbd2
}

# Pollux is killed under a mounted file system: errors, and nothing in the guest hangs.
killed() {
	need "attached again" attach mem /dev/nbd0 -timeout 5
	mkfs.ext4 -q /dev/nbd0
	need "mounted again" mount -t ext4 /dev/nbd0 /tmp/fs
	(while dd if=/dev/zero of=/tmp/fs/load bs=64k count=64 conv=fsync 2>/dev/null; do :; done) &
	load=$!
	sleep 2
	check "there is load" kill -0 $load
	kill -9 $server
	check "the writer ends with an error" until_true 60 not kill -0 $load
	refuses "reads fail" timeout 60 dd if=/dev/nbd0 of=/dev/null bs=4k count=1 iflag=direct
	check "it can be unmounted" timeout 60 umount /tmp/fs
	check "nothing is stuck" test -z "$(ps -o stat,comm | grep '^D')"
	check "and detached" detach /dev/nbd0
	rm -f $sock $rpc_sock
	need "pollux starts again" serve
	need "a new server on the same device" attach file /dev/nbd0
	check "serves it" cmp -n 4194304 /dev/nbd0 /tmp/disk.img
	check "and ends in order" detach /dev/nbd0
}

mkfs.ext4 -q /dev/vda
need "a disk of the guest's" mount -t ext4 /dev/vda /mnt
need "pollux starts" serve
for export_name in mem file real null locked; do
	check "nbd-client -l lists $export_name" sh -c "nbd-client -l 127.0.0.1 | grep -x $export_name"
done
need "unix: attach mem" attach mem /dev/nbd0
file_system mem /dev/nbd0
check "disconnect mem" detach /dev/nbd0
need "unix: attach file" attach file /dev/nbd0 -C 2
file_system file /dev/nbd0
check "disconnect file" detach /dev/nbd0
need "attach a file that is on a disk" attach real /dev/nbd0
fua
detach /dev/nbd0
several_connections
tcp_and_ioctl
read_only
killed
kill $server
wait $server
check "pollux ends with status 0" test $? = 0
check "and no sanitizer has a complaint" not grep -q 'ERROR: .*Sanitizer\|runtime error' /tmp/pollux.log
conclude
