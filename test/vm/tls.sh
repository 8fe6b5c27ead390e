#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Kernel TLS: the records of Pollux's connections are made by the guest's kernel. TLS 1.2 and 1.3, the three
# ciphers; all ways in which a session ends; and what is done where the kernel can not.
. /vm/guest.sh

rpc_sock=/tmp/rpc.sock
key=0123456789abcdef0123456789abcdef
uri="nbds://alice@127.0.0.1/mem?tls-psk-file=/tmp/keys"
exchanges=-KX-ALL:+ECDHE-PSK:+PSK
tls13=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:$exchanges
tls12=NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-256-GCM:$exchanges
chacha=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305:$exchanges
chacha12=NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+CHACHA20-POLY1305:$exchanges

rpc() {
	echo "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\"}" | socat -t 20 - UNIX-CONNECT:$rpc_sock
}

# serve [options]
serve() {
	rm -f $rpc_sock
	pollux --cores 0:net,1 --log-level INFO -r $rpc_sock -l tcp://127.0.0.1:10809 \
		-l unix:///tmp/nbd.sock --tls-psk /tmp/keys --tls-kernel "$@" \
		mem=malloc:64M >>/tmp/pollux.log 2>&1 &
	server=$!
	until_true 60 nbdinfo --size "$uri"
}

stop() {
	kill $server 2>/dev/null
	wait $server
	check "pollux ends with status 0" test $? = 0
}

# count NAME: of the kernel's counters
count() {
	sed -n "s/^$1[ \t]*//p" /proc/net/tls_stat
}

# by_kernel NUMBER COMMAND...: so many connections of the command are the kernel's, both ways
by_kernel() {
	by_kernel_tx=$(($(count TlsTxSw) + $1)) by_kernel_rx=$(($(count TlsRxSw) + $1))
	shift
	"$@" || return 1
	[ "$(count TlsTxSw) $(count TlsRxSw)" = "$by_kernel_tx $by_kernel_rx" ] ||
		{ cat /proc/net/tls_stat; return 1; }
}

client() {
	timeout 60 tls-client "$1" "$2" $key
}

logged() {
	until_true 10 grep "$1" /tmp/pollux.log
}

none_open() {
	[ "$(count TlsCurrTxSw) $(count TlsCurrRxSw)" = "0 0" ]
}

no_connections() {
	rpc connection_get_connections | grep -q '"result":\[\]'
}

# What is written by two connections is read by two others.
copies() {
	rm -f /tmp/back
	check "$1: nbdcopy, in" by_kernel 2 timeout 60 nbdcopy --connections=2 --flush /tmp/image "$uri"
	check "$1: nbdcopy, out" by_kernel 2 timeout 60 nbdcopy --connections=2 "$uri" /tmp/back
	check "$1: the same" cmp -n 4194304 /tmp/image /tmp/back
}

verified() {
	check "$1: random load, verified" by_kernel 2 timeout 60 pollux-perf --quiet --tls-psk /tmp/keys \
		--tls-username alice --verify --requests 60 --size 4M --rw randrw --bs 60k --iodepth 8 \
		--connections 2 nbds://127.0.0.1/mem
}

# shown_as_kernel PRIORITY: while a client is there
shown_as_kernel() {
	client slow "$1" &
	slow=$!
	until_true 20 shows '"kernel":true' || return 1
	wait $slow
}

shows() {
	rpc connection_get_connections | grep -q "$1"
}

# kicked: a client that takes nothing of what it asked for is cut off, and gone
kicked() {
	tls-client stubborn "$tls13" $key &
	stubborn=$!
	until_true 20 shows '"inflight":[1-9].*"kernel":true' || return 1
	sleep 0.5
	id=$(rpc connection_get_connections | sed 's/.*"id":\([0-9]*\),"peer.*/\1/')
	echo "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"connection_kick\",\"params\":{\"id\":$id}}" |
		socat -t 20 - UNIX-CONNECT:$rpc_sock | grep '"result":true' && until_true 10 no_connections
	kicked_status=$?
	kill $stubborn
	return $kicked_status
}

# stops_in_order: a client that does nothing is told when the server ends
stops_in_order() {
	client idle "$tls13" &
	idle=$!
	until_true 20 shows '"requests":2.*"kernel":true' || return 1
	kill $server
	wait $idle
}

sessions() {
	for scenario in data bytewise early close; do
		check "$1: $scenario" by_kernel 1 client $scenario "$2"
	done
	check "$1: half a record before the reply to GO: not the kernel's" by_kernel 0 client halves "$2"
}

endings() {
	check "$1: an alert ends it" by_kernel 1 client alert "$2"
	check "$1: a record that is not genuine" by_kernel 1 client forged "$2"
	check "$1: no TLS" by_kernel 1 client rubbish "$2"
	check "$1: cut off in a WRITE" by_kernel 1 client cut "$2"
	check "$1: all are gone" until_true 20 no_connections
}

echo "alice:$key" >/tmp/keys
chmod 600 /tmp/keys
dd if=/dev/urandom of=/tmp/image bs=1M count=4 2>/dev/null
need "pollux starts" serve
check "the kernel's TLS is found" sh -c \
	"! grep -q 'kernel has no TLS' /tmp/pollux.log && grep -q 'makes the records' /tmp/pollux.log"
copies "TLS 1.3"
verified "TLS 1.3"
sessions "TLS 1.3" "$tls13"
sessions "ChaCha20" "$chacha"
check "slow, and told as the kernel's" by_kernel 1 shown_as_kernel "$tls13"
check "ChaCha20, TLS 1.2: data" by_kernel 1 client data "$chacha12"
check "new keys: what came before is answered, and it ends" by_kernel 1 client update "$tls13"
check "and that is told" logged 'changes its keys'
endings "TLS 1.3" "$tls13"
check "an alert is told" logged 'ended TLS with the alert "Internal error"'
check "a forged record is told" logged 'a record that does not decrypt'
check "a unix socket: no kernel TLS, no warning" by_kernel 0 timeout 60 \
	nbdinfo --size "nbds+unix://alice@/mem?socket=/tmp/nbd.sock&tls-psk-file=/tmp/keys"
check "nothing was warned of" not grep 'WARNING' /tmp/pollux.log
# a cipher that the kernel has lost
echo /bin/false >/proc/sys/kernel/modprobe
need "a cipher is taken away" until_true 10 rmmod chacha20poly1305
check "without the cipher: data" by_kernel 0 client data "$chacha"
check "that is told" logged 'WARNING.*no kernel TLS: TLS_RX: No such file'
check "other ciphers: the kernel's" by_kernel 1 client bytewise "$tls13"
check "a client that takes nothing is kicked" by_kernel 1 kicked
check "none is open" until_true 10 none_open
check "at the end an idle client hears close_notify" by_kernel 1 stops_in_order
stop

need "TLS 1.2 alone, by --tls-priority" serve --tls-priority "$tls12"
copies "TLS 1.2"
verified "TLS 1.2"
sessions "TLS 1.2" "$tls12"
check "a second handshake ends it" by_kernel 1 client renegotiate "$tls12"
check "and that is told" logged 'a new handshake in the middle'
endings "TLS 1.2" "$tls12"
stop
check "no sanitizer has a complaint" not grep 'ERROR: .*Sanitizer\|runtime error' /tmp/pollux.log
check "nothing of its log is an error" not grep 'ERROR:' /tmp/pollux.log
conclude
