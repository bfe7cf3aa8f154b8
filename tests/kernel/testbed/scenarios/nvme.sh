#!/bin/bash
# nvme.sh (QEMU): NVMe/TCP over TLS with pre-shared keys; the target lives in a network name space of its own, so that
# host ("client") and target ("server") have an agent each.
. /testbed/guest/lib.sh
. /testbed/guest/nvmet.sh
setup_net server
setup_target 10.9.0.1
tested_client=${CLIENT_AGENT:-${AGENT:-tlshd}}
tested_server=${SERVER_AGENT:-${AGENT:-tlshd}}
agents -

for hash in 256 384; do
	insert_key "$(new_key $((hash / 128 - 1)))"
	nvme_transfer sha$hash --tls
	drop_keys
done

# The target's port goes away and comes back: the host connects again by itself, with a handshake for each queue.
insert_key "$(new_key 1)"
if step "reset connect" nvme_connect --tls --ctrl-loss-tmo=60 --reconnect-delay=1; then
	until_ok 10 device_is_there
	port_down 1 $SUBSYSTEM
	step "reset noticed" until_ok 20 controller_is connecting
	tls_counters >$T/tls_counters
	port_up 1 $SUBSYSTEM
	step "reset reconnect" until_ok 25 controller_is live
	use_connection reset
fi
drop_keys

# One agent with both roles, as on a machine that is host and target
ADDRESS=127.0.0.1
new_port 2 $ADDRESS required
port_up 2 $SUBSYSTEM client
insert_key "$(new_key 2)"
step "one agent connect" nvme_connect --tls && nvme_disconnect
port_down 2 $SUBSYSTEM
drop_keys
ADDRESS=10.9.0.1

# Secure concatenation: DH-HMAC-CHAP makes the key for TLS. (Where the kernel has no such option, nvme-cli drops it in
# silence, and the connection is in clear.)
if grep -q concat /dev/nvme-fabrics; then
	port_down 1 $SUBSYSTEM
	SUBSYSTEM=nqn.2024-01.test:auth
	secret=$(nvme gen-dhchap-key --hmac=1 --nqn=$HOSTNQN)
	new_subsystem $SUBSYSTEM
	require_authentication $SUBSYSTEM "$secret"
	rmdir $NVMET/ports/1
	new_port 1 $ADDRESS "not required"
	port_up 1 $SUBSYSTEM
	tls_counters >$T/tls_counters
	if step "concat connect" nvme_connect --concat --dhchap-secret="$secret"; then
		step "concat key" grep . "$(controller)"/tls_key
		use_connection concat
	fi
	port_down 1 $SUBSYSTEM
	rmdir $NVMET/ports/1
	SUBSYSTEM=nqn.2024-01.test:sub
	new_port 1 $ADDRESS required
	port_up 1 $SUBSYSTEM
	drop_keys
fi

refuse "no key" nvme_connect --tls
insert_key "$(new_key 1)"
refuse "no TLS on a TLS port" nvme_connect
refuse "another host's NQN" nvme_connect --tls -q ${HOSTNQN%1*}9
# The target finds the right key in .nvme, the host is told to use other bytes by the same identity.
head -c 32 /dev/urandom >$T/psk
host_key $T/psk
refuse "wrong key" connect_with_host_key
drop_keys
refuse "key unknown to the target" connect_with_host_key
insert_key "$(new_key 1)"
possessing keyctl pipe "0x$TARGET_KEY" >$T/psk
host_key $T/psk
step "the host's own copy" connect_with_host_key && nvme_disconnect
expire "$HOST_KEY"
refuse "key expired on the host" connect_with_host_key
host_key $T/psk
expire "0x$TARGET_KEY"
refuse "key expired on the target" connect_with_host_key
drop_keys
insert_key "$(new_key 1)"
step "the right key again" nvme_connect --tls && nvme_disconnect

# With tlshd on the other side; and without an agent on one.
stop_agent server
refuse "no target agent" nvme_connect --tls
SERVER_AGENT=tlshd agent server -
nvme_transfer "tested host sha256" --tls
drop_keys
insert_key "$(new_key 2)"
nvme_transfer "tested host sha384" --tls
stop_agent client
refuse "no host agent" nvme_connect --tls
SERVER_AGENT=$tested_server CLIENT_AGENT=tlshd agents -
nvme_transfer "tested target sha384" --tls
drop_keys
insert_key "$(new_key 1)"
nvme_transfer "tested target sha256" --tls
done_testing
