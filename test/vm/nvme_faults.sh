#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# What becomes of NVMe devices under load: namespaces that are detached, controllers that are given back,
# taken by the kernel, unplugged; commands that do not end. Every request is answered, other exports go
# on, what is there still or again can be attached anew. usage: nvme_faults.sh pcie|pass: in user space,
# without huge pages; or by passthrough, where an ordinary user's way is tried, too, and namespaces of
# another size than before. The guest has a controller with two namespaces, another one of its subsystem
# (of pcie), one that can be unplugged, and one whose commands take seconds.
. /vm/guest.sh

mode=$1

# too_slow: one request, which the device answers late: the client has its error before
too_slow() {
	pollux-perf "$(uri slow)" --rw read --requests 1 --iodepth 1 --quiet --timeout 60
	[ $? = 2 ]
}

# unbind ADDRESS: from vfio-pci
unbind() {
	timeout 60 sh -c "echo $1 >/sys/bus/pci/drivers/vfio-pci/unbind"
}

# ---- In user space ----
# stuck: sixteen requests are with the slow device; only they are sent
stuck() {
	pollux-perf "$(uri slow)" --rw read --requests 16 --iodepth 16 --quiet >/tmp/load.log 2>&1 &
	load=$!
	until_true 60 tells '"inflight":16' connection_get_connections '{"export":"slow"}'
}

# all_answered: the sixteen, each by an error
all_answered() {
	wait $load
	cat /tmp/load.log
	grep -q '^errors: 16$' /tmp/load.log && ! grep -q 'requests waited' /tmp/load.log
}

# detached_when_stuck: the RPC comes to an end, what is in flight is answered before
detached_when_stuck() {
	stuck && works bdev_nvme_detach_controller '{"name":"Slow"}' && all_answered
}

# taken_when_stuck: what is in flight is answered before the device goes
taken_when_stuck() {
	stuck && unbind "$pci2" && all_answered
}

# stopped: SIGTERM now; pollux ends by itself, within a minute
stopped() {
	kill $server
	stopped_by=$(($(uptime) + 60))
	wait $server && [ "$(uptime)" -le $stopped_by ]
}

# stopped_when_stuck: SIGTERM while sixteen requests are with the device: the client's end comes, too
stopped_when_stuck() {
	stuck && stopped || return 1
	wait $load
	cat /tmp/load.log
}

pcie_namespaces() {
	under_load two one "a namespace is detached under load" nvme-detach "$helper" detach 2 0
	check "its bdev is gone" until_true 20 gone Nvme0n2
	check "it is attached to the controller again" nvme-detach "$helper" attach 2 0
	exports_again two Nvme0n2
}

pcie_controllers() {
	under_load one large "a controller is detached under load" works bdev_nvme_detach_controller \
		'{"name":"Nvme0"}'
	check "its bdevs are gone" gone Nvme0
	check "the controller is attached again" works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")"
	exports_again one Nvme0n1
	under_load one large "the kernel takes a device under load" unbind "$pci0"
	check "its bdevs are gone, too" until_true 20 gone Nvme0
	check "vfio-pci gets it back" give "$pci0" vfio-pci
	check "it is attached once more" works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")"
	exports_again one Nvme0n1
	under_load large one "a device is unplugged under load" monitor "device_del nvme1"
	check "it has left" until_true 60 not test -e "/sys/bus/pci/devices/$pci1"
	check "so have its bdevs" until_true 20 gone Nvme1
	check "what is gone is not attached" says 'no such PCI device' bdev_nvme_attach_controller \
		"$(attach Nvme1 "$pci1")"
}

pcie_slow() {
	check "the slow one is attached" works bdev_nvme_attach_controller "$(attach Slow "$pci2")"
	check "its time-out" works export_create '{"name":"slow","bdev":"Slown1","io_timeout_ms":1000}'
	check "a command that does not end in time is an error" too_slow
	check "it was aborted" tells '"timeouts":1' bdev_nvme_get_controllers
	check "the controller was reset" until_true 30 tells '"state":"live".*"resets":1' \
		bdev_nvme_get_controllers
	check "it is detached while commands are stuck" detached_when_stuck
	check "and attached again" works bdev_nvme_attach_controller "$(attach Slow "$pci2")"
	check "without a time-out" works export_create '{"name":"slow","bdev":"Slown1"}'
	check "the kernel takes it while commands are stuck" taken_when_stuck
	goes_on one
	check "vfio-pci gets the slow one back" give "$pci2" vfio-pci
	check "it is attached" works bdev_nvme_attach_controller "$(attach Slow "$pci2")"
	check "and exported" works export_create '{"name":"slow","bdev":"Slown1"}'
	check "pollux ends though commands are stuck" stopped_when_stuck
}

pcie() {
	need "controllers appear" until_true 60 nvme_of slow
	pci0=$(address pollux0)
	pci1=$(address pollux1)
	pci2=$(address slow)
	helper=/dev/$(nvme_of pollux0 1)
	for address in $pci0 $pci1 $pci2; do
		need "$address goes to vfio-pci" give "$address" vfio-pci
	done
	need "pollux starts" serve "one=nvme:$pci0/n1" "two=nvme:$pci0/n2" "large=nvme:$pci1/n1"
	check "it says that there are no huge pages" grep 'no huge pages are free.*scripts/setup.sh' \
		/tmp/pollux.log
	pcie_namespaces
	pcie_controllers
	pcie_slow
	check "the IOMMU has nothing to complain of" no_dma_fault
}

# ---- By passthrough ----
# generic_of SERIAL [CNTLID]: the path of the controller's namespaces, without the number of one
generic_of() {
	generic_of=$(nvme_of "$@") && echo "/dev/ng${generic_of#nvme}"
}

# The kernel lets ordinary users pass no commands; what they may open is served as a block device.
pass_users() {
	check "not the user's" refused_user "no permission to open ${ng0}n1: run pollux as root" \
		8192 "nvme:${ng0}n1"
	chown user "$ng0"n1 "$ng0"n2
	check "nor his disk" refused_user "no permission to open ${disk0}n1.*nor through the block layer" \
		8192 "nvme:${ng0}n1"
	chown user "$disk0"n1 "$disk0"n2
	as=$as_user
	need "a user's pollux starts" serve --cores 0 "small=nvme:${ng0}n1"
	as=
	check "it says what it does" grep "only root.*${disk0}n1 is served through the block layer" \
		/tmp/pollux.log
	check "it passes no commands" says 'lets only root (CAP_SYS_ADMIN)' bdev_nvme_attach_controller \
		"$(attach X "${ng0}n2")"
	goes_on small
	stop "a user's"
}

# rescan: the kernel looks at the namespaces
rescan() {
	echo 1 >"/sys/class/nvme/${disk0#/dev/}/rescan_controller"
}

# find_second: where the second namespace is; not as before if the kernel has not quite let go of that
find_second() {
	for second in "/sys/class/nvme/${disk0#/dev/}/${disk0#/dev/}"n*; do
		grep -qx 2 "$second/nsid" || continue
		second=${ng0}n${second##*n}
		[ -c "$second" ]
		return
	done
	return 1
}

pass_namespaces() {
	under_load second small "a namespace is detached under load" nvme-detach "$disk0" detach 2 0
	check "its bdev is gone" until_true 20 gone Nvme1n2
	rescan # by itself it overlooks a change that follows another one at once
	check "the kernel sees that it is gone" until_true 60 not test -e "${ng0}n2"
	check "it is attached to the controller again" nvme-detach "$disk0" attach 2 0
	rescan
	check "the kernel has it back" until_true 60 find_second
	check "it is attached again" works bdev_nvme_attach_controller "$(attach Second "$second")"
	exports_again second Secondn2
}

pass_controllers() {
	under_load second large "a controller is detached under load" works bdev_nvme_detach_controller \
		'{"name":"Second"}'
	check "its bdevs are gone" gone Second
	check "the controller is attached again" works bdev_nvme_attach_controller \
		"$(attach Second "$second")"
	exports_again second Secondn2
	under_load large small "a device is unplugged under load" monitor "device_del nvme1"
	check "it has left" until_true 60 not test -e "${ng1}n1"
	check "so have its bdevs" until_true 20 gone Nvme2
	check "what is gone is not attached" says "there is no ${ng1}n1.*modprobe nvme" \
		bdev_nvme_attach_controller "$(attach Large "${ng1}n1")"
}

# What is done about a command that takes too long is the kernel's.
pass_slow() {
	check "times are set" works bdev_nvme_set_options '{"timeout_us":1000000}'
	check "the slow one is attached" works bdev_nvme_attach_controller "$(attach Slow "$slow")"
	check "its time-out" works export_create '{"name":"slow","bdev":"Slown1","io_timeout_ms":1000}'
	check "a command that does not end in time is an error" too_slow
	check "the kernel has aborted it" sh -c 'dmesg | grep "nvme nvme.*timeout, aborting"'
	goes_on small
	check "the kernel resets the controller" until_true 60 sh -c 'dmesg | grep "timeout, reset controller"'
	check "it is live again" until_true 60 grep -x live "/sys/class/nvme/$(nvme_of slow)/state"
	check "it is detached" works bdev_nvme_detach_controller '{"name":"Slow"}'
	check "times are long" works bdev_nvme_set_options '{"timeout_us":60000000}'
	check "it is attached again" works bdev_nvme_attach_controller "$(attach Slow "$slow")"
	check "without a time-out" works export_create '{"name":"slow","bdev":"Slown1"}'
	check "behind the reset it answers" pollux-perf "$(uri slow)" --rw read --requests 1 --iodepth 1 --quiet
}

# A namespace of the kernel's own target: QEMU's never change in size.
target=/sys/kernel/config/nvmet
make_target() {
	modprobe nvmet-tcp && modprobe nvme-tcp && mount -t configfs none /sys/kernel/config &&
		mkdir $target/subsystems/sized $target/subsystems/sized/namespaces/1 $target/ports/1 &&
		echo 1 >$target/subsystems/sized/attr_allow_any_host &&
		echo sized >$target/subsystems/sized/attr_serial && truncate -s 32M /tmp/sized &&
		cd $target/subsystems/sized/namespaces/1 && echo 1 >buffered_io && echo -n /tmp/sized >device_path && echo 1 >enable &&
		cd $target/ports/1 && echo tcp >addr_trtype && echo ipv4 >addr_adrfam &&
		echo 127.0.0.1 >addr_traddr && echo 4420 >addr_trsvcid &&
		ln -s $target/subsystems/sized subsystems/sized && cd /tmp &&
		echo transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn=sized >/dev/nvme-fabrics
}

# resize SIZE: and the kernel is told
resize() {
	truncate -s "$1" /tmp/sized
	echo 1 >$target/subsystems/sized/namespaces/1/revalidate_size
}

# beyond_the_end: requests to what is not there any more are errors, which tell Pollux of it. READs only:
# WRITEs that come in time let the file grow again
beyond_the_end() {
	load sized --rw randread || return 1
	resize 16M
	until_true 20 tells '"size_bytes":16777216' bdev_get_bdevs '{"name":"Sizedn1"}' || return 1
	kill $load
	wait $load
	cat /tmp/load.log
	grep -q '^errors: [1-9]' /tmp/load.log
}

pass_sizes() {
	need "the kernel's target" make_target
	sized=$(generic_of sized 1)n1
	need "its namespace appears" until_true 60 test -c "$sized"
	check "it is attached" works bdev_nvme_attach_controller "$(attach Sized "$sized")"
	check "it is exported" works export_create '{"name":"sized","bdev":"Sizedn1"}'
	resize 48M
	check "rescanned" until_true 10 works bdev_nvme_rescan_controller '{"name":"Sized"}'
	check "it has grown" tells '"size_bytes":50331648' bdev_get_bdevs '{"name":"Sizedn1"}'
	check "what has come is of use" qemu_io sized -c 'write -P 7 47M 64k' -c 'read -P 7 47M 64k'
	check "it shrinks under load" beyond_the_end
	check "what is left is of use" verified sized --bs 4k --requests 100 --size 8M
	under_load sized small "it is disabled under load" sh -c \
		"echo 0 >$target/subsystems/sized/namespaces/1/enable"
	check "its bdev is gone, too" until_true 20 gone Sized
	goes_on small
}

pass() {
	need "controllers appear" until_true 120 nvme_of slow
	disk0=/dev/$(nvme_of pollux0)
	ng0=$(generic_of pollux0)
	ng1=$(generic_of pollux1)
	slow=$(generic_of slow)n1
	need "disks appear" until_true 120 test -c "${ng0}n2" -a -c "${ng1}n1" -a -c "$slow" -a -b "${disk0}n2"
	pass_users
	need "pollux starts" serve "small=nvme:${ng0}n1" "second=nvme:${ng0}n2" "large=nvme:${ng1}n1"
	pass_namespaces
	pass_controllers
	pass_slow
	pass_sizes
	check "pollux ends though a command is stuck" stopped_when_stuck
}

$mode
check "no sanitizer has a complaint" no_sanitizer
conclude
