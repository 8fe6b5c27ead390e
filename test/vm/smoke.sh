#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Pollux on Debian's own kernel, as an ordinary user: unix, TCP and vsock; memory, a file, null; with and
# without huge pages, the roles of cores together and apart. The guest has two NUMA nodes.
. /vm/guest.sh

sock=/tmp/user/nbd.sock
rpc_sock=/tmp/user/rpc.sock
as_user="setpriv --reuid user --regid user --clear-groups env HOME=/tmp/user XDG_RUNTIME_DIR=/tmp/user"

rpc() {
	echo "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\"}" | socat -t 20 - UNIX-CONNECT:$rpc_sock
}

# serve CORES
serve() {
	rm -f $sock $rpc_sock
	# shellcheck disable=SC2086
	$as_user pollux --cores "$1" -r $rpc_sock -l unix://$sock -l tcp://127.0.0.1:10809 \
		-l tcp://[::1]:10810 -l 'vsock://*:10809' mem=malloc:64M file=/mnt/disk.img \
		tmp=/tmp/user/disk.img null=null:1G >/tmp/pollux.log 2>&1 &
	server=$!
	until_true 60 test -S $rpc_sock && until_true 60 nbdinfo --size nbd://127.0.0.1/mem
}

# uri TRANSPORT EXPORT
uri() {
	case $1 in
	unix) echo "nbd+unix:///$2?socket=$sock" ;;
	tcp) echo "nbd://127.0.0.1/$2" ;;
	tcp6) echo "nbd://[::1]:10810/$2" ;;
	vsock) echo "nbd+vsock://1:10809/$2" ;;
	esac
}

# copies DISK TRANSPORT...: contents go in by one transport, come out again, and are the same.
copies() {
	disk=$1
	shift
	for transport; do
		uri=$(uri "$transport" "$disk")
		check "$transport: size of $disk" test "$(nbdinfo --size "$uri")" = 67108864
		check "$transport: zeroes to $disk" nbdcopy /tmp/empty "$uri"
		check "$transport: copy to $disk" nbdcopy --connections=2 --flush /tmp/image "$uri"
		rm -f /tmp/back
		check "$transport: copy from $disk" nbdcopy "$uri" /tmp/back
		check "$transport: $disk holds what was written" cmp /tmp/image /tmp/back
	done
	rm -f /tmp/back
}

# Odd lengths and offsets, zeroes and holes, FUA, by a client that uses all commands.
commands() {
	check "$1 $2: every command" quiet_qemu_io "$(uri "$1" "$2")" \
		-c 'write -P 0x5a 1000003 70001' -c 'write -f -P 0xa5 2M 4k' -c 'write -z 3M 1M' \
		-c 'write -zu 5M 64k' -c 'discard 4M 1M' -c flush -c 'read -P 0x5a 1000003 70001' \
		-c 'read -P 0xa5 2M 4k' -c 'read -P 0 3M 1M' -c 'read -P 0 5M 64k'
}

# qemu-io may end well though a pattern differs
quiet_qemu_io() {
	disk_uri=$1
	shift
	qemu-io -f raw "$@" "$disk_uri" >/tmp/qemu-io.log 2>&1 || { cat /tmp/qemu-io.log; return 1; }
	cat /tmp/qemu-io.log
	! grep -i 'failed\|error' /tmp/qemu-io.log
}

load() {
	check "$1 $2: fio, verified" fio --name=v --ioengine=nbd --uri="$(uri "$1" "$2")" --rw=randrw \
		--bsrange=512-128k --iodepth=16 --size=8M --io_size=8M --verify=crc32c \
		--randrepeat=0 --group_reporting --verify_fatal=1
}

# idle_ticks USER SYSTEM USER SYSTEM: before and after, of 10 ms
idle_ticks() {
	[ $(($3 + $4 - $1 - $2)) -lt 20 ] || { echo "$*"; return 1; }
}

no_connections() {
	rpc connection_get_connections | grep -q '"result":\[\]'
}

image() {
	truncate -s 64M /tmp/empty || return 1
	dd if=/dev/urandom of=/tmp/image bs=1M count=8 && truncate -s 64M /tmp/image
}

free_huge_pages() {
	sed -n 's/HugePages_Free: *//p' /proc/meminfo
}

stop() {
	kill $server
	wait $server
	check "pollux ends with status 0" test $? = 0
	check "no sanitizer has a complaint" not grep 'ERROR: .*Sanitizer\|runtime error' /tmp/pollux.log
	check "nothing of its log is an error" not grep 'ERROR:' /tmp/pollux.log
}

mkdir -p /tmp/user
mkfs.ext4 -q /dev/vda
need "a disk of the guest's" mount -t ext4 /dev/vda /mnt
truncate -s 64M /mnt/disk.img /tmp/user/disk.img
chown user:user /tmp/user /tmp/user/disk.img /mnt/disk.img
need "an image" image

pages=$(free_huge_pages)
need "the guest has huge pages" test "$pages" -gt 0
need "pollux starts as an ordinary user" serve 0-1
check "it is not root" test "$(stat -c %u /proc/$server)" = 1000
copies mem unix tcp tcp6 vsock
check "huge pages are in use" test "$(free_huge_pages)" -lt "$pages"
copies file vsock
copies tmp unix
for disk in mem file tmp; do
	commands unix $disk
done
commands tcp6 file
load unix mem
load vsock file
load tcp tmp
check "null reads zeroes" quiet_qemu_io "$(uri tcp null)" -c 'read -P 0 0 8M'
check "the map of a memory disk" nbdinfo --map "$(uri vsock mem)"
refuses "an export that there is not, over vsock" nbdinfo "$(uri vsock nothing)"
# a client that goes in the middle of what it asked for
timeout -s KILL 1 nbdcopy "$(uri vsock null)" null:
check "a killed vsock client leaves no connection" until_true 30 no_connections
idle=$(cut -d ' ' -f 14,15 /proc/$server/stat)
sleep 2
idle="$idle $(cut -d ' ' -f 14,15 /proc/$server/stat)"
# shellcheck disable=SC2086
check "an idle target sleeps: under 0.2 s in 2" idle_ticks $idle
stop

echo 0 >/proc/sys/vm/nr_hugepages
check "no huge pages are left" test "$(free_huge_pages)" = 0
need "without huge pages, roles apart: it starts" serve 0:net,1:storage
copies mem vsock
copies file tcp
commands unix file
load vsock mem
stop
conclude
