#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Pollux on Debian's own kernel, as an ordinary user: unix, TCP and vsock; memory, a file, null; with huge
# pages where the guest has some, and on each of its NUMA nodes.
#
# usage: smoke.sh CORES      what --cores gets
. /vm/guest.sh

cores=$1
sock=/tmp/user/nbd.sock
rpc_sock=/tmp/user/rpc.sock
as_user="setpriv --reuid user --regid user --clear-groups env HOME=/tmp/user XDG_RUNTIME_DIR=/tmp/user"

rpc() {
	echo "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\"}" | socat -t 20 - UNIX-CONNECT:$rpc_sock
}

serve() {
	# shellcheck disable=SC2086
	$as_user pollux --cores "$cores" -r $rpc_sock -l unix://$sock -l tcp://127.0.0.1:10809 \
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

# A disk's contents go in by one transport, come out by each, and are the same.
copies() {
	for transport in unix tcp tcp6 vsock; do
		check "$transport: size of $1" test "$(nbdinfo --size "$(uri $transport "$1")")" = 67108864
		check "$transport: copy to $1" nbdcopy --connections=2 /tmp/image "$(uri $transport "$1")"
		rm -f /tmp/back
		check "$transport: copy from $1" nbdcopy --flush "$(uri $transport "$1")" /tmp/back
		check "$transport: $1 holds what was written" cmp -n 8388608 /tmp/image /tmp/back
	done
	rm -f /tmp/back
}

# Odd lengths and offsets, zeroes and holes, FUA, by a client that uses all commands.
commands() {
	check "$1 $2: every command" qemu-io -f raw -c 'write -P 0x5a 1000003 70001' \
		-c 'write -f -P 0xa5 2M 4k' -c 'write -z 3M 1M' -c 'write -zu 5M 64k' -c 'discard 4M 1M' \
		-c flush -c 'read -P 0x5a 1000003 70001' -c 'read -P 0xa5 2M 4k' -c 'read -P 0 3M 1M' \
		-c 'read -P 0 5M 64k' "$(uri "$1" "$2")"
	# qemu-io ends well though a pattern differs
	check "$1 $2: all as written" not grep -iq 'failed\|error' /tmp/check.log
}

load() {
	check "$1 $2: fio, verified" fio --name=v --ioengine=nbd --uri="$(uri "$1" "$2")" --rw=randrw \
		--bsrange=512-128k --bs_unaligned=0 --iodepth=16 --size=8M --io_size=8M --verify=crc32c \
		--randrepeat=0 --group_reporting --verify_fatal=1
}

# idle_ticks USER SYSTEM USER SYSTEM: before and after, of 10 ms
idle_ticks() {
	[ $(($3 + $4 - $1 - $2)) -lt 20 ] || { echo "$*"; return 1; }
}

image() {
	dd if=/dev/urandom of=/tmp/image bs=1M count=8 && truncate -s 64M /tmp/image
}

mkdir -p /tmp/user
mkfs.ext4 -q /dev/vda
need "a disk of the guest's" mount -t ext4 /dev/vda /mnt
truncate -s 64M /mnt/disk.img /tmp/user/disk.img
chown user:user /tmp/user /tmp/user/disk.img /mnt/disk.img
need "an image" image
free_before=$(sed -n 's/HugePages_Free: *//p' /proc/meminfo)
need "pollux starts as an ordinary user" serve
check "it is not root" test "$(stat -c %u /proc/$server)" = 1000
for disk in mem file tmp; do
	copies $disk
	for transport in unix tcp vsock; do
		commands $transport $disk
	done
done
load unix mem
load vsock file
load tcp tmp
check "null reads zeroes" qemu-io -f raw -c 'read -P 0 0 8M' "$(uri vsock null)"
check "the map of a memory disk" nbdinfo --map "$(uri vsock mem)"
if [ "$free_before" != 0 ]; then
	check "huge pages are used" test "$(sed -n 's/HugePages_Free: *//p' /proc/meminfo)" \
		-lt "$free_before"
fi
check "all reactors have worked" rpc framework_get_reactors
# a client that goes in the middle of what it asked for
timeout -s KILL 1 nbdcopy "$(uri vsock null)" null:
check "a killed vsock client leaves no connection" until_true 30 sh -c \
	"echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"connection_get_connections\"}' |
	socat -t 20 - UNIX-CONNECT:$rpc_sock | grep -q '\"result\":\[\]'"
idle=$(cut -d ' ' -f 14,15 /proc/$server/stat)
sleep 2
idle="$idle $(cut -d ' ' -f 14,15 /proc/$server/stat)"
# shellcheck disable=SC2086
check "an idle target sleeps: under 0.2 s in 2" idle_ticks $idle
kill $server
wait $server
check "pollux ends with status 0" test $? = 0
check "and no sanitizer has a complaint" not grep -q 'ERROR: .*Sanitizer\|runtime error' /tmp/pollux.log
check "nothing of it is an error" not grep -q 'ERROR:' /tmp/pollux.log
conclude
