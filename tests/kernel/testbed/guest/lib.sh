# Sourced by the scenarios, inside the guest.
#
# Two network name spaces joined by a veth pair, so that the client's and the server's agent are two processes and
# can be two different programs: the server (10.9.0.1, server.test) and the client (10.9.0.2, client.test). One of
# them lives in the initial name space, the other in one of its own (setup_net).
#
# AGENT (default: tlshd) is the word tlshd (on Linux 6.12: trixie's) or a shell command for another agent, which
# stays in the foreground; CLIENT_AGENT and SERVER_AGENT override it for one role. It finds in its environment
# TB_ROLE (client, server), TB_CONF (a configuration file as tlshd takes it) and, for agents that don't read that,
# TB_CERT and TB_KEY (empty: none), TB_CA, TB_KEYRINGS.
#
# A scenario is a list of steps. Each prints "ok NAME" or "not ok NAME" and adds a line to /out/results.jsonl:
#   {"name", "ok", "seconds", "detail", "client", "server", "kernel"}
# detail: what the step's command printed; client, server, kernel: what that role's agent and the kernel have
# logged since the last step.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
set -u
CG=/sys/fs/cgroup
T=/run/tb
export CG T
mkdir -p $T /mnt /export /out
declare -A SEEN		# for client, server, kernel: how many bytes of its log are in the results

# --- running things

in_ns() {	# ROLE CMD...: in that role's network name space
	local role=$1
	shift
	if [ -e "/run/netns/$role" ]; then nsenter --net="/run/netns/$role" -- "$@"; else "$@"; fi
}
incli() { in_ns client "$@"; }
limited() {	# CMD...: for LIMIT (30) seconds at most; in a shell of its own, as CMD may be one of these functions
	# shellcheck disable=SC2046
	export -f $(compgen -A function)
	timeout "${LIMIT:-30}" bash -c '"$@"' bash "$@" >$T/step 2>&1
}
until_ok() {	# SECONDS CMD...
	local end=$(($(now) + $1 * 1000000))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(now)" -lt $end ] || return 1
		sleep 0.05
	done
}
now() { echo "${EPOCHREALTIME/./}"; }	# microseconds
since() {	# TIME: seconds
	local d=$(($(now) - $1))
	printf '%d.%03d' $((d / 1000000)) $((d / 1000 % 1000))
}

# --- steps and their results

new_log() {	# client|server|kernel: what it has logged since it was last recorded, to $T/NAME.new
	touch "$T/$1.log"
	tail -c +$((${SEEN[$1]:-0} + 1)) "$T/$1.log" >"$T/$1.new"
	SEEN[$1]=$((${SEEN[$1]:-0} + $(stat -c %s "$T/$1.new")))
}
record() {	# true|false NAME SECONDS [DETAIL]
	dmesg >$T/kernel.log
	new_log client
	new_log server
	new_log kernel
	jq -nc --argjson ok "$1" --arg name "$2" --argjson seconds "$3" --arg detail "${4:-}" \
		--rawfile client $T/client.new --rawfile server $T/server.new --rawfile kernel $T/kernel.new \
		'$ARGS.named' >>/out/results.jsonl
	if [ "$1" = true ]; then echo "ok $2 ($3 s)"; else echo "not ok $2 ($3 s)"; fi
	[ -z "${4:-}" ] || sed 's/^/#   /' <<<"$4"
	if [ "$1" = false ] || [ -n "${VERBOSE:-}" ]; then
		sed 's/^/#   client agent: /' $T/client.new
		sed 's/^/#   server agent: /' $T/server.new
		sed 's/^/#   kernel: /' $T/kernel.new
	fi
	[ "$1" = true ]
}
step() {	# NAME CMD...: CMD must succeed
	local name=$1 start status
	shift
	start=$(now)
	limited "$@"
	status=$?
	if [ $status = 0 ]; then
		record true "$name" "$(since "$start")" "$(cat $T/step)"
	else
		record false "$name" "$(since "$start")" "exit status $status"$'\n'"$(cat $T/step)"
	fi
}
refuse() {	# NAME CMD...: CMD must fail by itself, not by the time limit nor for want of a program
	local name=$1 start status seconds verdict=true
	shift
	start=$(now)
	limited "$@"
	status=$?
	seconds=$(since "$start")
	sleep 0.3	# for the other side's agent to log its view
	case $status in
		0) verdict=false; echo "it succeeded" >>$T/step ;;
		124) verdict=false; echo "still trying after ${LIMIT:-30} s" >>$T/step ;;
		126 | 127) verdict=false; echo "it did not run" >>$T/step ;;
		*) [ $status -lt 128 ] || verdict=false ;;
	esac
	record $verdict "$name" "$seconds" "exit status $status"$'\n'"$(cat $T/step)"
	# (something refused that was mounted all the same must not stay in the next step's way)
	! mountpoint -q /mnt || umount -f /mnt
	[ $verdict = true ]
}
done_testing() {
	cp $T/*.log /out/
	jq -sr 'map(select(.ok | not).name) | "# \(length) not ok", "#   " + .[]' /out/results.jsonl
	exit "$(jq -s 'if all(.ok) then 0 else 1 end' /out/results.jsonl)"
}

# --- agents

write_conf() {	# ROLE [CERT|-] [CA]: $T/ROLE.conf, and CERT KEY CA
	CERT='' KEY='' CA=/pki/${3:-ca}.pem
	[ "${2:-$1}" = - ] || CERT=/pki/${2:-$1}.pem KEY=/pki/${2:-$1}.key
	{
		printf '[debug]\nloglevel=%s\ntls=%s\nnl=0\n' "${LOGLEVEL:-0}" "${TLSLEVEL:-0}"
		printf '[authenticate]\n'
		[ -z "${KEYRINGS:-}" ] || echo "keyrings=$KEYRINGS"
		local section
		for section in client server; do
			printf '[authenticate.%s]\nx509.truststore=%s\n' $section "$CA"
			[ -z "$CERT" ] || printf 'x509.certificate=%s\nx509.private_key=%s\n' "$CERT" "$KEY"
		done
	} >"$T/$1.conf"
}
agent() {	# ROLE [CERT|-] [CA]: (re)start that role's agent in a cgroup of its own, wait until it listens
	local role=$1 command start
	start=$(now)
	write_conf "$@"
	stop_agent "$role"
	command=${role^^}_AGENT
	command=${!command:-${AGENT:-tlshd}}
	[ "$command" != tlshd ] || command="exec $(tlshd_here) -s -c \$TB_CONF"
	echo "# $role agent (${CERT:-no certificate}): $command"
	mkdir -p "$CG/agent-$role"
	TB_ROLE=$role TB_CONF=$T/$role.conf TB_CERT=$CERT TB_KEY=$KEY TB_CA=$CA TB_KEYRINGS=${KEYRINGS:-} \
		in_ns "$role" setsid bash -c "echo \$\$ >$CG/agent-$role/cgroup.procs; $command" \
		>>"$T/$role.log" 2>&1 </dev/null &
	until_ok 200 listening_or_ended "$role" $!
	listening "$role" || record false "$role agent listens" "$(since "$start")" "$command"
}
agents() {	# [CERT|-]: both at once, which in QEMU saves the half of many seconds
	agent client "$@" &
	agent server "$@" &
	wait
}
tlshd_here() {	# sid's tlshd needs TLS_TX_MAX_PAYLOAD_LEN, which 6.12 has not: there trixie's
	case $(uname -r) in 6.12.*) echo tlshd-1.0 ;; *) echo tlshd ;; esac
}
listening_or_ended() { listening "$1" || ! kill -0 "$2"; }	# ROLE PID
listening() {	# ROLE: is one of its agent's sockets in a generic-netlink multicast group?
	# (by socket, as nfs-utils' rpc.mountd is in such a group too)
	local sockets
	sockets=$(agent_sockets "$1")
	in_ns "$1" awk -v sockets="$sockets" \
		'$2 == 16 && $4 !~ /^0+$/ && index(sockets, "[" $10 "]") { found = 1 } END { exit !found }' /proc/net/netlink
}
agent_sockets() {	# ROLE: "socket:[INODE] ..." and what else its processes have open
	local pid
	for pid in $(agent_pids "$1"); do readlink /proc/"$pid"/fd/*; done 2>/dev/null | tr '\n' ' '
}
agent_pids() { cat "$CG/agent-$1/cgroup.procs" 2>/dev/null; }
no_agent() { [ -z "$(agent_pids "$1")" ]; }
signal_agent() {	# SIGNAL ROLE: to all its processes
	# shellcheck disable=SC2046
	kill "-$1" $(agent_pids "$2")
}
stop_agent() {	# ROLE
	no_agent "$1" || signal_agent TERM "$1"
	until_ok 5 no_agent "$1" || kill_agent "$1"
}
kill_agent() {	# ROLE: all its processes, with SIGKILL
	echo 1 >"$CG/agent-$1/cgroup.kill"
	until_ok 5 no_agent "$1"
}
agent_fds() {	# ROLE: how many descriptors all its processes have open
	local pid
	for pid in $(agent_pids "$1"); do ls "/proc/$pid/fd"; done 2>/dev/null | wc -l
}
until_fds() {	# ROLE COUNT SECONDS: until it has that many open, or fewer
	echo "$1: $(agent_fds "$1") open, was $2"
	until_ok "$3" fds_at_most "$1" "$2" || {
		local pid
		for pid in $(agent_pids "$1"); do ls -l "/proc/$pid/fd"; done
		return 1
	}
	sleep 0.3	# for the agent to log what it has closed
}
fds_at_most() { [ "$(agent_fds "$1")" -le "$2" ]; }
handshaking() {	# ROLE: does its agent hold a TCP connection? (what it has done is the kernel's alone)
	local sockets
	sockets=$(agent_sockets "$1")
	in_ns "$1" awk -v sockets="$sockets" \
		'index(sockets, "[" $10 "]") { found = 1 } END { exit !found }' /proc/net/tcp
}
idle() { ! handshaking "$1"; }	# ROLE
agent_cpu() { awk '$1 == "usage_usec" { printf "%.2f", $2 / 1e6 }' "$CG/agent-$1/cpu.stat"; }	# seconds, with its children
agent_mem() { [ ! -e "$CG/agent-$1/memory.peak" ] || awk '{ printf "%.1f", $1 / 1048576 }' "$CG/agent-$1/memory.peak"; }	# MiB

# --- network and NFS

setup_net() {	# [ROLE]: who gets a network name space of its own (client)
	local own=${1:-client}
	echo +memory +cpu >$CG/cgroup.subtree_control 2>/dev/null	# for agent_cpu and agent_mem
	modprobe veth
	ip netns add "$own"
	in_ns "$own" ip link set lo up
	ip link add srv0 type veth peer name cli0
	case $own in
		client) ip link set cli0 netns client ;;
		server) ip link set srv0 netns server ;;
	esac
	local role device address
	while read -r role device address; do
		in_ns "$role" ip addr add "$address/24" dev "$device"
		in_ns "$role" ip link set "$device" up
	done <<-E
		server srv0 10.9.0.1
		client cli0 10.9.0.2
	E
	dmesg >$T/kernel.log
	new_log kernel	# what booting printed is in nobody's result
}
start_nfsd() {	# [THREADS]: an NFS 3 and 4.2 server on /export; see export_as
	# The UML kernel's nfsd offers pNFS flexible-file layouts even on exports with no_pnfs: data then goes
	# over further NFSv3 connections, one TLS handshake each, and the client may reconnect for ever.
	echo 'install nfs_layout_flexfiles /bin/false' >/etc/modprobe.d/testbed.conf
	modprobe -a tls sunrpc nfsd nfsv4 nfsv3
	# Debian's daemons look for rpc_pipefs in /run. nfsdcld must see it there before nfsd starts: otherwise
	# nfsd has no client tracking, opens a grace period and can grant no OPEN.
	mkdir -p /run/rpc_pipefs /var/lib/nfs/nfsdcld /run/rpcbind
	mount -t nfsd nfsd /proc/fs/nfsd
	mount -t rpc_pipefs pipefs /run/rpc_pipefs
	mount -t tmpfs export /export
	chmod 777 /export
	rpcbind -w 2>/dev/null || rpcbind
	until_ok 5 test -S /run/rpcbind.sock
	nfsdcld
	export_as tls:mtls
	rpc.nfsd -G 10 -L 10 -V 3 -V 4.2 "${1:-8}" || record false "rpc.nfsd" 0
	rpc.mountd
	until_ok 5 grep -q . /proc/fs/nfsd/threads
}
export_as() {	# XPRTSEC: e.g. mtls, tls:mtls
	exportfs -ua 2>/dev/null
	exportfs -o "rw,no_root_squash,insecure,fsid=0,no_subtree_check,xprtsec=$1" '*:/export'
}
nfs_mount() {	# VERSION OPTIONS [HOST]: on /mnt
	case $1 in
		4.2) incli mount -t nfs -o "vers=4.2,$2" "${3:-server.test}:/" /mnt ;;
		3) incli mount -t nfs -o "vers=3,nolock,proto=tcp,mountproto=tcp,$2" "${3:-server.test}:/export" /mnt ;;
	esac
}
mounted_with() {	# XPRTSEC
	grep -q "/mnt nfs.*xprtsec=$1[, ]" /proc/mounts
}
mount_and_use() { nfs_mount "$@" && ls /mnt; }
nfs_write() { cp $T/data /mnt/data && sync -f /mnt/data; }
nfs_read() {	# past the page cache
	sync
	echo 3 >/proc/sys/vm/drop_caches
	(cd /mnt && sha256sum -c $T/data.sum)
}
same_on_server() { (cd /export && sha256sum -c $T/data.sum); }
spread() {	# requests go round a mount's connections; each opens as the first one reaches it
	local i
	for ((i = 0; i < 40; i++)); do [ ! -e "/mnt/none$i" ] || return 1; done
}

tls_counter() { in_ns "$1" awk -v name="$2" '$1 == name { print $2 }' /proc/net/tls_stat; }	# ROLE NAME
tls_counters() {	# "ROLE NAME VALUE" lines: sessions begun so far
	local role name
	for role in client server; do
		for name in TlsTxSw TlsRxSw; do echo "$role $name $(tls_counter $role $name)"; done
	done
}
tls_grew() {	# N: since $T/tls_counters, by N sessions at least, and nothing failed to decrypt
	local role name before errors failed=0
	while read -r role name before; do
		echo "$role $name $before -> $(tls_counter "$role" "$name")"
		[ $(($(tls_counter "$role" "$name") - before)) -ge "$1" ] || failed=1
	done <$T/tls_counters
	for role in client server; do
		errors=$(tls_counter $role TlsDecryptError)
		echo "$role TlsDecryptError $errors"
		[ "$errors" = 0 ] || failed=1
	done
	return $failed
}

transfer() {	# NAME VERSION XPRTSEC CONNECTIONS: mount, write, read back, umount, each a step "NAME ..."
	head -c "${MB:-8}M" /dev/urandom >$T/data
	sed 's,/.*,data,' <<<"$(sha256sum $T/data)" >$T/data.sum
	tls_counters >$T/tls_counters
	export_as "$3"
	step "$1 mount" nfs_mount "$2" "xprtsec=$3,nconnect=$4" || return
	step "$1 is $3" mounted_with "$3"
	step "$1 write" nfs_write
	step "$1 server has it" same_on_server
	step "$1 read back" nfs_read
	spread
	step "$1 tls_stat" tls_grew "$4"
	rm -f /mnt/data
	step "$1 umount" umount /mnt
}

