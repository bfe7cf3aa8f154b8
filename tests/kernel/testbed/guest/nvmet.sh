# Sourced after lib.sh by the NVMe scenarios (QEMU only): NVMe/TCP targets with one memory-backed null_blk name space,
# keys, and connections.
#
# The host is the role "client", the target "server". The target's sockets belong to the network name space of the
# process that enables the port, the host's to that of `nvme connect`; but the host connects again from a kernel
# worker, in the initial one. So for two agents the target gets a name space of its own (setup_net server), not the
# host. Keyrings know no network name spaces: both agents see the same .nvme.
modprobe -a tls nvme_tcp nvmet_tcp || exit 1
modprobe null_blk nr_devices=1 memory_backed=1 gb=1 || exit 1
mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config
HOSTID=11111111-2222-3333-4444-555555555555
HOSTNQN=nqn.2014-08.org.nvmexpress:uuid:$HOSTID
SUBSYSTEM=nqn.2024-01.test:sub	# what the functions below are about, at
ADDRESS=127.0.0.1		# here
NVMET=/sys/kernel/config/nvmet
KEYRINGS=.nvme
export HOSTID HOSTNQN SUBSYSTEM ADDRESS NVMET

# --- the target

new_subsystem() {	# NQN
	local subsystem=$NVMET/subsystems/$1
	mkdir -p "$subsystem/namespaces/1"
	echo 1 >"$subsystem/attr_allow_any_host"
	echo /dev/nullb0 >"$subsystem/namespaces/1/device_path"
	echo 1 >"$subsystem/namespaces/1/enable"
}
new_port() {	# NUMBER ADDRESS required|"not required": with TLS; the second lets hosts begin without
	local port=$NVMET/ports/$1
	mkdir "$port"
	echo tcp >"$port/addr_trtype"
	echo ipv4 >"$port/addr_adrfam"
	echo "$2" >"$port/addr_traddr"
	echo 4420 >"$port/addr_trsvcid"
	echo tls1.3 >"$port/addr_tsas"
	echo "$3" >"$port/addr_treq"
}
port_up() { in_ns "${3:-server}" ln -s "$NVMET/subsystems/$2" "$NVMET/ports/$1/subsystems/"; }	# NUMBER NQN [ROLE]
port_down() { rm "$NVMET/ports/$1/subsystems/$2"; }	# NUMBER NQN: this closes all connections
setup_target() {	# ADDRESS: $SUBSYSTEM there, with TLS required
	ADDRESS=$1
	new_subsystem $SUBSYSTEM
	new_port 1 "$ADDRESS" required
	port_up 1 $SUBSYSTEM
}
require_authentication() {	# NQN SECRET: by DH-HMAC-CHAP, of this host, which is then the only one allowed
	local host=$NVMET/hosts/$HOSTNQN
	mkdir "$host"
	echo "$2" >"$host/dhchap_key"
	echo ffdhe2048 >"$host/dhchap_dhgroup"
	echo 0 >"$NVMET/subsystems/$1/attr_allow_any_host"
	ln -s "$host" "$NVMET/subsystems/$1/allowed_hosts/"
}

# --- keys

new_key() {	# 1 (SHA-256) | 2 (SHA-384): a configured key in the interchange format, NVMeTLSkey-1:0H:...:
	nvme gen-tls-key --hmac="$1" 2>/dev/null
}
insert_key() {	# KEY: the retained key, under the identity of this host and subsystem, into .nvme; set TARGET_KEY
	TARGET_KEY=$(nvme check-tls-key --keyring=.nvme --subsysnqn=$SUBSYSTEM --hostnqn=$HOSTNQN --identity=1 --insert \
		--keydata="$1" | sed -n 's/^Inserted TLS key //p')
}
identity() { awk -v key="$1" '$1 == key { sub(/^.* psk +/, ""); sub(/: [0-9]+$/, ""); print }' /proc/keys; }	# KEY
possessing() {	# CMD...: with .nvme in a session keyring of its own (the agents must link it themselves)
	keyctl session - bash -c 'keyctl link %:.nvme @s && "$@"' bash "$@" 2>/dev/null
}
drop_keys() {	# from .nvme only: a key that is in another keyring too stays (which invalidating it would not let)
	local key
	for key in $(awk '$8 == "psk" { print $1 }' /proc/keys); do keyctl unlink "0x$key" %:.nvme 2>/dev/null; done
}
host_key() {	# FILE: set HOST_KEY in HOST_RING: FILE's bytes by the identity of TARGET_KEY, for the host alone
	[ -z "${HOST_RING:-}" ] || keyctl unlink "$HOST_RING" @u
	HOST_RING=$(keyctl newring host @u)
	keyctl setperm "$HOST_RING" 0x3f3f0000
	HOST_KEY=$(keyctl padd psk "$(identity "$TARGET_KEY")" "$HOST_RING" <"$1")
	keyctl setperm "$HOST_KEY" 0x3f3f0000
	export HOST_RING HOST_KEY
}
expire() {	# KEY
	possessing keyctl timeout "$1" 1
	sleep 1.5
}

# --- the host

nvme_connect() {	# [OPTIONS of nvme connect]
	nvme connect -t tcp -a "$ADDRESS" -s 4420 -n $SUBSYSTEM -q $HOSTNQN -I $HOSTID --ctrl-loss-tmo=0 "$@"
}
connect_with_host_key() { nvme_connect --tls --keyring="$HOST_RING" --tls-key="$HOST_KEY"; }
nvme_disconnect() { nvme disconnect -n $SUBSYSTEM; }
controller() {	# the connection's folder in /sys
	local controller
	for controller in /sys/class/nvme/nvme*; do
		[ "$(cat "$controller/subsysnqn" 2>/dev/null)" != $SUBSYSTEM ] || { echo "$controller"; return; }
	done
	return 1
}
controller_is() { [ "$(cat "$(controller)/state")" = "$1" ]; }	# STATE: live, connecting, ...
nvme_device() {	# the block device of the connection's name space
	local name
	name=$(basename "$(controller)"/nvme*n1) && echo "/dev/${name/c[0-9]*n/n}"	# nvme1c1n1 -> nvme1n1
}
device_is_there() { [ -b "$(nvme_device)" ]; }
new_data() { head -c 4M /dev/urandom >$T/data; }
nvme_write() { dd if=$T/data of="$(nvme_device)" bs=1M oflag=direct conv=fsync; }
nvme_read() { dd if="$(nvme_device)" bs=1M count=4 iflag=direct | cmp - $T/data; }
same_on_target() {	# past the page cache, which answers for what nvmet has since overwritten
	blockdev --flushbufs /dev/nullb0
	cmp -n 4194304 $T/data /dev/nullb0
}
use_connection() {	# NAME: write, compare, read, disconnect: each a step "NAME ..."
	until_ok 10 device_is_there
	new_data
	step "$1 write" nvme_write
	step "$1 target has it" same_on_target
	step "$1 read back" nvme_read
	step "$1 tls_stat" tls_grew 2
	step "$1 disconnect" nvme_disconnect
}
nvme_transfer() {	# NAME [OPTIONS of nvme connect]
	local name=$1
	shift
	tls_counters >$T/tls_counters
	! step "$name connect" nvme_connect "$@" || use_connection "$name"
}
