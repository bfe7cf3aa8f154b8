#!/bin/bash
# record.sh [nfs|nvme]: record handshakes for replay; use with -o DIR. For each case NAME, /out gets
#   NAME.nl-ROLE.pcap    all netlink traffic of that side's network name space (nlmon, link type 253)
#   NAME.tcp.pcap        the TCP connections
#   NAME.keys-ROLE       the TLS secrets, if the agent heeds SSLKEYLOGFILE as tlshd does
#   NAME.log-ROLE        what the agent said
# nvme (QEMU only) has both roles in one name space and agent: they are called server.
. /testbed/guest/lib.sh
modprobe nlmon

capture() {	# ROLE INTERFACE FILE [FILTER]
	in_ns "$1" tcpdump -q -U -Z root --immediate-mode -s 0 -i "$2" -w "$3" ${4:+"$4"} 2>/dev/null &
	CAPTURES+=" $!"
	until_ok 10 test -s "$3"
}
record_case() {	# NAME FILTER CMD...: CMD starts fresh agents, whose first messages belong to the recording
	NAME=$1
	local filter=$2 role
	shift 2
	CAPTURES=
	for role in $ROLES; do
		in_ns "$role" ip link add nlmon0 type nlmon
		in_ns "$role" ip link set nlmon0 up
		capture "$role" nlmon0 "/out/$NAME.nl-$role.pcap"
		: >"$T/$role.log"
		SEEN[$role]=0
	done
	capture server "$DEVICE" "/out/$NAME.tcp.pcap" "$filter"
	"$@"
	sleep 0.5
	for role in $ROLES; do stop_agent "$role"; done
	pkill -P "$(tr ' ' , <<<"${CAPTURES# }")"	# (each is a shell of its own around tcpdump)
	wait $CAPTURES 2>/dev/null
	for role in $ROLES; do
		in_ns "$role" ip link del nlmon0
		cp "$T/$role.log" "/out/$NAME.log-$role"
	done
}
recorded_agents() {	# CLIENT-CERTIFICATE SERVER-CERTIFICATE
	SSLKEYLOGFILE=/out/$NAME.keys-server agent server "$2"
	SSLKEYLOGFILE=/out/$NAME.keys-client agent client "$1"
}

mounted() {	# OPTIONS
	recorded_agents client server
	step "$NAME" nfs_mount 4.2 "$1" && step "$NAME read" grep -q hello /mnt/file
	umount /mnt
}
refused() {	# CLIENT-CERTIFICATE SERVER-CERTIFICATE
	recorded_agents "$1" "$2"
	refuse "$NAME" mount_and_use 4.2 xprtsec=mtls
}
# The kernel's patience is 10 s for the client and 5 s for nfsd. A stopped agent accepts nothing: its side's kernel
# cancels the request; the other side's agent has accepted and sees the connection go.
cancelled() {	# STOPPED-ROLE
	recorded_agents client server
	signal_agent STOP "$1"
	nfs_mount 4.2 xprtsec=tls >$T/mount 2>&1 &
	sleep 16
	pkill -KILL mount.nfs
	wait $!
	signal_agent CONT "$1"
	sleep 2
}
record_nfs() {
	ROLES="client server" DEVICE=srv0
	setup_net
	start_nfsd
	echo hello >/export/file
	record_case nfs-tls "port 2049" mounted xprtsec=tls
	record_case nfs-mtls "port 2049" mounted xprtsec=mtls
	record_case nfs-nconnect4 "port 2049" mounted xprtsec=tls,nconnect=4
	record_case nfs-server-expired "port 2049" refused client server-expired
	record_case nfs-client-otherca "port 2049" refused client-otherca server
	record_case nfs-server-cancel "port 2049" cancelled server
	record_case nfs-client-cancel "port 2049" cancelled client
}

nvme_agent() { SSLKEYLOGFILE=/out/$NAME.keys-server agent server; }
nvme_good() {	# 1 (SHA-256) | 2 (SHA-384)
	nvme_agent
	local key
	key=$(new_key "$1")
	insert_key "$key"
	echo "$key" >"/out/$NAME.key"
	awk '$8 == "psk"' /proc/keys >"/out/$NAME.proc-keys"
	step "$NAME" nvme_connect --tls
	nvme_disconnect
	drop_keys
}
nvme_wrong_key() {
	nvme_agent
	insert_key "$(new_key 1)"
	head -c 32 /dev/urandom >$T/psk
	host_key $T/psk
	refuse "$NAME" connect_with_host_key
	drop_keys
}
nvme_unknown_key() {	# that of nvme_wrong_key
	nvme_agent
	refuse "$NAME" connect_with_host_key
}
record_nvme() {
	ROLES=server DEVICE=lo
	. /testbed/guest/nvmet.sh
	setup_target 127.0.0.1
	record_case nvme-psk-sha256 "port 4420" nvme_good 1
	record_case nvme-psk-sha384 "port 4420" nvme_good 2
	record_case nvme-psk-wrong "port 4420" nvme_wrong_key
	record_case nvme-psk-unknown "port 4420" nvme_unknown_key
}

"record_${1:-nfs}"
done_testing
