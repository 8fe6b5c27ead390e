#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# What becomes of NVMe devices under load: namespaces that are detached, controllers that are given back,
# taken by the kernel, unplugged; commands that do not end. Every request is answered, other exports go
# on, what is there still or again can be attached anew. usage: nvme_faults.sh pcie|pass: in user space,
# without huge pages; or by passthrough. The guest has a controller with two namespaces, another one of
# its subsystem (of pcie), one that can be unplugged, and one whose commands take seconds.
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
# taken_when_stuck: what is in flight is answered before the device goes; only that is sent
taken_when_stuck() {
	pollux-perf "$(uri slow)" --rw read --requests 16 --iodepth 16 --quiet >/tmp/load.log 2>&1 &
	load=$!
	until_true 60 tells '"inflight":16' connection_get_connections '{"export":"slow"}' || return 1
	unbind "$pci2" || return 1
	wait $load
	cat /tmp/load.log
	grep -q '^errors: 16$' /tmp/load.log && ! grep -q 'requests waited' /tmp/load.log
}

pcie_namespaces() {
	under_load two "a namespace is detached under load" nvme-detach "$helper" detach 2 0
	check "its bdev is gone" until_true 20 gone Nvme0n2
	goes_on one
	goes_on large
	check "it is attached to the controller again" nvme-detach "$helper" attach 2 0
	exports_again two Nvme0n2
}

pcie_controllers() {
	under_load one "a controller is detached under load" works bdev_nvme_detach_controller \
		'{"name":"Nvme0"}'
	check "its bdevs are gone" gone Nvme0
	goes_on large
	check "the controller is attached again" works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")"
	exports_again one Nvme0n1
	under_load one "the kernel takes a device under load" unbind "$pci0"
	check "its bdevs are gone, too" until_true 20 gone Nvme0
	goes_on large
	check "vfio-pci gets it back" give "$pci0" vfio-pci
	check "it is attached once more" works bdev_nvme_attach_controller "$(attach Nvme0 "$pci0")"
	exports_again one Nvme0n1
	under_load large "a device is unplugged under load" monitor "device_del nvme1"
	check "it has left" until_true 60 not test -e "/sys/bus/pci/devices/$pci1"
	check "so have its bdevs" until_true 20 gone Nvme1
	goes_on one
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
	check "the kernel takes it while commands are stuck" taken_when_stuck
	goes_on one
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
	stop "faults"
	check "the IOMMU has nothing to complain of" no_dma_fault
}

$mode
check "no sanitizer has a complaint" no_sanitizer
conclude
