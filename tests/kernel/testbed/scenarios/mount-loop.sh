#!/bin/bash
# mount-loop.sh: MOUNTS (20) mounts and umounts with nconnect=CONNECTIONS (16): the client's agent under load. The
# kernel opens the connections at once, so that many client handshakes meet as many server ones.
. /testbed/guest/lib.sh
setup_net
start_nfsd 64
MOUNTS=${MOUNTS:-20} CONNECTIONS=${CONNECTIONS:-16}
agent server && agent client || exit 1
echo "# kernel $(uname -r) on $TB_VM, $(nproc) CPU, $(free -m | awk '/Mem/{print $2}') MiB"
established() { ss -Htn state established "( sport = :2049 )" | wc -l; }
nfs_mount 4.2 xprtsec=tls && umount /mnt
client_cpu=$(agent_cpu client) server_cpu=$(agent_cpu server)
start=$(now) handshakes=0 failed=0
for ((i = 0; i < MOUNTS; i++)); do
	if limited nfs_mount 4.2 "xprtsec=${XPRTSEC:-tls},nconnect=$CONNECTIONS"; then
		spread
		handshakes=$((handshakes + $(established)))
		umount /mnt
	else
		failed=$((failed + 1))
	fi
done
awk -v mounts="$MOUNTS" -v failed=$failed -v n=$handshakes -v seconds="$(since "$start")" \
	-v client="$client_cpu $(agent_cpu client)" -v server="$server_cpu $(agent_cpu server)" '
	function each(cpu) { split(cpu, v, " "); return 1000 * (v[2] - v[1]) / n }
	BEGIN {
		printf "%d mounts (%d failed), %d connections in %.1f s: %.1f handshakes/s; ", mounts, failed, n, seconds, n / seconds
		printf "CPU for each: client agent %.1f ms, server agent %.1f ms\n", each(client), each(server)
	}'
echo "# peak memory: client agent $(agent_mem client) MiB, server agent $(agent_mem server) MiB"
[ $failed = 0 ]
