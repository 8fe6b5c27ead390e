#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The guest of test_power.py, until it is killed. usage: power.sh MOUNTS ADDRESSES SPEC...
# MOUNTS: block devices with a file system, "vdc vdd", mounted on /mnt/vdc and so on. ADDRESSES: PCI devices
# that go to vfio-pci.
. /vm/guest.sh

for disk in $1; do
	mkdir -p "/mnt/$disk"
	mount -t ext4 "/dev/$disk" "/mnt/$disk" || exit 3
done
for address in $2; do
	echo vfio-pci >"/sys/bus/pci/devices/$address/driver_override"
	echo "$address" >"/sys/bus/pci/devices/$address/driver/unbind"
	echo "$address" >/sys/bus/pci/drivers_probe
done
shift 2
pollux --cores 0-1 -l 'tcp://0.0.0.0:10809' "$@" >/tmp/pollux.log 2>&1 &
server=$!
# how often each disk was flushed: the 16th field
socat TCP-LISTEN:10810,fork,reuseaddr SYSTEM:'grep . /sys/block/*/stat' &
announce 'listening on tcp'
